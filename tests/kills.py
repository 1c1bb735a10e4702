"""Kills at every write of a run: ``python -m tests.kills <folder> <experiment> [every] [first]``.

A process that is killed leaves its folder as it is at that moment. So one run is enough: before each of its writes its
folder is copied, and once more with that write begun and not ended (an empty file; half a line at the end of one that
grows). Each copy is then put in the run's place and resumed, in a fork that has imported torch already, and what it ends
with is compared with what the run itself has left. Prints a line of JSON: how many kills, and which differ in what.
"""

import csv
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from launch.command_line import compose_job
from tests.interruption import in_a_fork
from tests.lightning_modules import (
    test_bert,
    test_draw,
    test_faster_rcnn,
    test_improved_gan,
    test_infogan,
    test_resnet,
    test_wrm,
)
from train import train

TINY = test_improved_gan.TINY | test_infogan.TINY | test_resnet.TINY | test_draw.TINY | test_wrm.TINY
TINY |= test_faster_rcnn.TINY | test_bert.TINY
ALL = ["trainer=cpu", "logger=csv", "trainer.max_steps=10", "trainer.log_every_n_steps=2", "~callbacks.progress",
       "+trainer.enable_progress_bar=false", "callbacks.checkpoint.every_n_train_steps=4"]  # fmt: skip
VALIDATED = ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=3"]
EXPERIMENTS = {
    "infogan_digits": [*VALIDATED, "callbacks=[default,cluster_accuracy,image_grid,best_checkpoint]",
                       "optimized_metric=val/cluster_accuracy", "datamodule.val_size=100", "datamodule.batch_size=256",
                       "callbacks.image_grid.every_n_steps=5"],
    "improved_gan_digits": ["datamodule.batch_size=400", "callbacks.image_grid.every_n_steps=3"],
    "resnet_digits": [*VALIDATED, "callbacks=[default,classification,best_checkpoint,early_stopping,averaged_weights]",
                      "optimized_metric=val/error", "datamodule.val_size=100", "datamodule.batch_size=256",
                      "trainer.precision=32-true", "lightning_module.scheduler.warmup=1"],
    "draw_digits": ["datamodule.batch_size=256"],
    "wrm_digits": ["datamodule.batch_size=256"],
    "faster_rcnn_shapes": ["trainer.precision=32-true"],
    "rpn_shapes": ["trainer.precision=32-true"],  # which saves proposals as its test ends
    # An epoch has fewer instances than ten batches, so that kills fall into the middle of the first and of the second.
    "bert_tiny_text": [*VALIDATED, "callbacks=[default,language_model,text_pictures,best_checkpoint]",
                       "optimized_metric=val/mlm_nats", "datamodule.val_size=8", "datamodule.batch_size=48"],
}  # fmt: skip
OF_TIME = re.compile(r"(_s|_per_s|_time)$")  # figures that no two runs share
CLOCKS = ("RunClock", "Throughput")
RECORDED = ("status", "experiment", "seed", "metrics", "iterations", "epochs", "weights", "weights_sha256", "judges",
            "data", "data_at_start", "directions", "asked", "precision", "parameters", "inputs")  # fmt: skip


def config_of(experiment: str, folder: Path) -> dict[str, Any]:
    overrides = [f"experiment={experiment}", *TINY[experiment], *EXPERIMENTS[experiment], *ALL]
    config = compose_job("train", overrides, str(folder))
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    return config


# --- the run, and what kills would leave of it --------------------------------------------------------------------


def train_copying(config: dict[str, Any], copies: Path) -> None:
    """Train, with a copy of the run's folder before each write to it and in the middle of it."""
    folder = Path(config["paths"]["run_dir"])
    count, busy = 0, False

    def keep(name: str, written: Path | None = None, grows: bool = False) -> None:
        copy = copies / f"{count:03d}-{name}"
        shutil.copytree(folder, copy)
        if written is not None:
            place = copy / written.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a" if grows else "w") as file:
                file.write("0.5,0." if grows else "")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, busy
        if busy or event not in ("open", "os.rename", "os.remove"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not isinstance(arguments[0], str | os.PathLike) or not (path := Path(arguments[0])).is_relative_to(folder):
            return
        busy = True
        try:
            if not (folder / "checkpoints" / "last.ckpt").exists():
                return
            count += 1
            what = f"{event.removeprefix('os.')}-{path.name}"
            keep(f"before-{what}")
            if event == "open":
                keep(f"within-{what}", path, bool(arguments[2] & os.O_APPEND))
        finally:
            busy = False

    sys.addaudithook(watch)
    train(config)
    watch("os.rename", (folder,))  # killed after its last write


def resume(folder: Path) -> None:
    from launch.resume import prepare

    sys.argv = ["train.py", f"resume={folder}"]
    train(*prepare(str(folder), []))


# --- what a run has left ---------------------------------------------------------------------------------------------


def left_by(folder: Path) -> dict[str, Any]:
    """All that two runs of the same command have in common, by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name.startswith((".hydra", "resumes", "config.yaml")) or path.suffix == ".patch":
            continue
        if path.suffix == ".ckpt":
            found |= {f"{name}: {key}": value for key, value in in_checkpoint(path).items()}
        elif name == "metrics.csv":
            rows = [*csv.DictReader(path.open(newline=""))]
            found[name] = [{key: it for key, it in row.items() if it and not OF_TIME.search(key)} for row in rows]
        elif name == "record.json":
            record = json.loads(path.read_text())
            record["metrics"] = {key: it for key, it in record["metrics"].items() if not OF_TIME.search(key)}
            found |= {f"{name}: {key}": record.get(key) for key in RECORDED}
        else:
            found[name] = path.read_bytes()
    return found


def in_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    for state in checkpoint["callbacks"].values():
        for key in [key for key in state if OF_TIME.search(key) or key == "seconds"]:
            del state[key]
    for name in checkpoint.keys() & {"metrics", "row"}:
        checkpoint[name] = {key: it for key, it in checkpoint[name].items() if not OF_TIME.search(key)}
    return checkpoint


def differ(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype != other.dtype or not torch.equal(one.nan_to_num(7e7), other.nan_to_num(7e7))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(differ(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(differ(*pair) for pair in zip(one, other, strict=True))
    return one != other and not (one != one and other != other)


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [name for name in expected | found if differ(found.get(name), expected.get(name))]


def main(place: Path, experiment: str, every: int = 1, first: int = 0) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    place = place.absolute()
    run, copies = place / "run", place / "copies"
    copies.mkdir(parents=True)
    config = config_of(experiment, run)
    sys.argv = ["train.py"]
    assert in_a_fork(train_copying, config, copies) == 0
    expected = left_by(run)
    shutil.copytree(run, place / "whole")
    tried = sorted(copies.iterdir())[first::every]
    wrong: dict[str, list[str]] = {}
    for copy in tried:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        finished = json.loads((run / "record.json").read_text())["status"] == "finished"
        status = 0 if finished else in_a_fork(resume, run)
        if status:
            wrong[copy.name] = [f"exit code {status}"]
        elif found := differences(left_by(run), expected):
            wrong[copy.name] = found
            if "KEEP" in os.environ:
                shutil.copytree(run, place / "wrong" / copy.name)
    print(json.dumps({"kills": len(tried), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
