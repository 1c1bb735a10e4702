"""Train one experiment, measure it, and say where everything lies.

python train.py experiment=infogan_digits
python train.py experiment=infogan_mnist trainer=gpu seed=1
python train.py -m experiment=infogan_digits seed=0,1,2
python train.py --help
"""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError, not_written, told_as_sentences
from foundation.security import trusting_as_typed
from foundation.whole_files import write_whole
from launch.command_line import check_command_line, readable, split_arguments
from launch.composition import OF_MAIN
from launch.config_check import TrainConfig, check_config, plain
from launch.goes_on import begun, is_finished, is_single, last_checkpoint, no_empty_folder, told_as_finished, way_on
from launch.processes import folder_of_rank_zero_alone, guard, wait_for_ranks
from launch.sweeps import ending_with_a_table, run_job


def train(config: dict[str, Any], checkpoint: Path | None = None) -> float | None:
    """Check, build, fit (from a checkpoint where a run is resumed), test; returns the metric that a sweep optimises."""
    check_config(config, TrainConfig)
    from callbacks.instruments.signals import answered_at_once  # after the check: importing torch takes seconds

    with answered_at_once():
        return train_checked(config, checkpoint)


def train_checked(config: dict[str, Any], checkpoint: Path | None) -> float | None:
    from callbacks.instruments.signals import Interrupted
    from callbacks.run_record import mark_failed
    from finished.run_in_words import ending, heading
    from launch.runs import build
    from launch.wandb_run import end_as_failed, wandb_run

    run = build(config, resumes=checkpoint is not None)
    folder = Path(config["paths"]["run_dir"])
    if checkpoint is not None:
        from launch.resume import take_up

        take_up(run, checkpoint)
    if run.trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        print(heading(config, run), flush=True)

    def note_failure(reason: str) -> None:
        mark_failed(folder, reason)
        end_as_failed(run.trainer)

    guard(run.trainer, note_failure)
    try:
        with wandb_run(run):
            metrics = fit_and_test(run, checkpoint, config["test"])
            wait_for_ranks(run.trainer, note_failure)
    except Interrupted:
        if run.trainer.is_global_zero:
            print(f"\n{way_on(run.trainer, folder)}", file=sys.stderr)
        raise
    except (OSError, RuntimeError) as error:
        if (reason := not_written(error)) is None:
            raise
        if run.trainer.is_global_zero:
            mark_failed(folder, reason)
        raise UserError(f"{reason} {last_checkpoint(folder)}") from None
    if run.trainer.is_global_zero:
        print(ending(config, run, metrics, folder))
    return metrics.get(config["optimized_metric"] or "")


def fit_and_test(run: Any, checkpoint: Path | None, tests: bool) -> dict[str, float]:
    """All final metrics under the keys they were logged with."""
    from launch.resume import telling_unfit

    with telling_unfit(run.trainer, checkpoint):
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    metrics = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    if not tests:
        return metrics
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False, weights_only=True)
    return metrics | {key: float(value) for key, value in run.trainer.callback_metrics.items()}


@hydra.main(**OF_MAIN, config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    config.paths.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    with told_as_sentences(), no_empty_folder(Path(config.paths.run_dir)):
        return run_job(train, plain(config))


if __name__ == "__main__":
    with trusting_as_typed():
        with told_as_sentences():
            resumed, others = split_arguments(readable("train", sys.argv[1:]))
            configs = []
            if not resumed:
                configs = check_command_line("train", others)
                former = begun(others, configs[0]) if len(configs) == 1 and is_single(others) else None
                if former and is_finished(former):
                    print(told_as_finished(former))
                    sys.exit()
                resumed, others = (str(former), []) if former else (None, others)
            if resumed:
                from launch.resume import prepare

                train(*prepare(resumed, others))
        if not resumed:
            sys.argv[1:] = folder_of_rank_zero_alone(others)
            with ending_with_a_table(configs):
                main()
