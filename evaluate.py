"""Measure a finished run again, composed from the config saved in its own folder.

    python evaluate.py run=outputs/infogan_digits/<folder>
    python evaluate.py run=<folder> trainer=ddp_cpu trainer.devices=3
    python evaluate.py run=<folder> callbacks=[nearest_neighbours]    # by what the run was trained without, too

Everything but the hardware is the run's own, and callbacks that are named take the place of its own of that name.
Metrics and pictures go to <folder>/evaluations/<time>, which `make record` takes like a run's folder.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from foundation.errors import told_as_sentences
from foundation.security import trusting_as_typed
from launch.command_line import check_command_line, check_writable, readable
from launch.composition import OF_MAIN
from launch.config_check import EvaluateConfig, check_config, plain
from launch.goes_on import no_empty_folder
from launch.packed import with_folders


def evaluate(config: dict[str, Any], folder: Path) -> dict[str, float]:
    """Measure ``config["run"]`` and write what was found to ``folder``; returns the metrics."""
    check_config(config, EvaluateConfig)
    from callbacks.instruments.signals import answered_at_once

    with answered_at_once():
        return evaluate_checked(config, folder)


def evaluate_checked(config: dict[str, Any], folder: Path) -> dict[str, float]:
    from callbacks.instruments.chosen_precision import keep_precision
    from callbacks.run_record import describe_run, judges_of, measured_again, write_json
    from foundation.checkpoints import fingerprint, read_checkpoint, weights_in
    from foundation.errors import UserError
    from launch.inputs import tell_changes
    from launch.runs import build, for_training_only, load_checkpoint
    from launch.saved_config import saved_config

    saved = saved_config(config["run"], run_dir=folder)
    precision = config["precision"] or saved["trainer"]["precision"]
    added = config.get("callbacks") or {}
    if unfit := sorted(name for name, node in added.items() if for_training_only(node)):
        raise UserError(f"callbacks={unfit} make a run and measure nothing: leave them out.")
    callbacks = {name: node for name, node in saved["callbacks"].items() if not for_training_only(node)} | added
    trainer = config["trainer"] | {"precision": precision}
    trainer |= {} if "progress" in callbacks else {"enable_progress_bar": False}  # Lightning's own floods a log
    goes_by_none = {"optimized_metric": None, "paper": None}  # whoever measures by other callbacks has other figures
    measured = saved | {"trainer": trainer, "callbacks": callbacks, "logger": None} | goes_by_none
    run = build(measured, trains=False)
    checkpoint = load_checkpoint(run.module, config["run"], config["checkpoint"], run.datamodule)
    if config["precision"] is None:
        keep_precision(run.trainer, read_checkpoint(checkpoint), Path(config["run"]))
    recorded = run.trainer.is_global_zero and (Path(config["run"]) / "record.json").exists()
    now = describe_run(folder) | {"inputs": run.inputs} if recorded else {}
    if recorded:
        tell_changes(Path(config["run"]), run.inputs)
    started = time.monotonic()
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    metrics = {key: float(value) for key, value in sorted(run.trainer.callback_metrics.items())}
    if run.trainer.is_global_zero:
        weights = weights_in(checkpoint)
        how = {"checkpoint": checkpoint.name, "weights": weights, "precision": run.trainer.precision}
        how |= {"weights_sha256": fingerprint(read_checkpoint(checkpoint)["state_dict"])}
        write_json(folder / "metrics.json", how | {"inputs": run.inputs} | judges_of(run.trainer) | metrics)
        if recorded:
            found = measured_again(Path(config["run"]), now, run.trainer, how, time.monotonic() - started)
            write_json(folder / "record.json", found)
        print(
            f"{checkpoint}, {weights} weights:",
            *(f"  {key:<31} {value:.4f}" for key, value in metrics.items()),
            f"  {folder}",
            sep="\n",
        )
    return metrics


@hydra.main(**OF_MAIN, config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    folder = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    config.paths.run_dir = str(folder)
    with told_as_sentences(), no_empty_folder(folder):
        evaluate(plain(config), folder)


if __name__ == "__main__":
    with trusting_as_typed():
        with told_as_sentences():
            sys.argv[1:] = readable("evaluate", with_folders(sys.argv[1:]), ["run"])
            for asked in check_command_line("evaluate", sys.argv[1:]):
                check_writable("run", Path(asked["run"]))
                from launch.saved_config import saved_config

                saved_config(asked["run"])  # before Hydra makes a folder in what may be no run
        main()
