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

from launch.config_check import TrainConfig, check_command_line, check_config, plain
from launch.errors import told_as_sentences


def train(config: dict[str, Any]) -> float | None:
    """Check, build, fit, test; returns the metric that a sweep optimises."""
    check_config(config, TrainConfig)
    from launch.runs import build  # after the check, since importing torch and lightning takes seconds

    run = build(config)
    folder = Path(config["paths"]["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    if run.trainer.is_global_zero:
        print(heading(config, run), flush=True)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    metrics = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False, weights_only=True)
    metrics |= {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    if run.trainer.is_global_zero:
        print(summary(config, metrics, folder))
    return metrics.get(config["optimized_metric"] or "")


def heading(config: dict[str, Any], run: Any) -> str:
    trainer = run.trainer
    length = f"{trainer.max_steps} iterations" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
    return f"{config['name']}, seed {config['seed']}: {length} on {devices}, into {config['paths']['run_dir']}"


def summary(config: dict[str, Any], metrics: dict[str, float], folder: Path) -> str:
    """What a person wants to know at the end: the figures, the paper's beside them, and where to look."""
    paper = config["paper"] or {}
    lines = [f"{config['name']}, seed {config['seed']}:"]
    for key, value in sorted(metrics.items()):
        if key.startswith("test/"):
            published = f"   (paper: {paper['value']})" if key == paper.get("metric") and paper.get("value") else ""
            lines.append(f"  {key:<32}{value:.4f}{published}")
    places = {
        "pictures": "images",
        "metrics": "metrics.csv",
        "checkpoint": "checkpoints/last.ckpt",
        "record": "record.json",
    }
    lines += [f"  {name:<12}{folder / place}" for name, place in places.items() if (folder / place).exists()]
    return "\n".join(["", *lines])


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    config.paths.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    with told_as_sentences():
        return train(plain(config))


if __name__ == "__main__":
    with told_as_sentences():
        check_command_line("train", sys.argv[1:])
    main()
