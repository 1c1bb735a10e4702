"""What a resume may not change, by name."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from launch.changed_settings import check_optimizers, refuse_changed_settings

RUN = {
    "name": "x",
    "seed": 0,
    "trainer": {"max_steps": 4, "limit_train_batches": 1.0, "precision": "32-true"},
    "datamodule": {"_target_": "a.B", "batch_size": 8, "val_size": 0, "augment": {"pad": 1}, "split_seed": 0, "eval_batch_size": 9},
    "lightning_module": {
        "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]},
        "network": {"weights": None, "depth": 8},
        "trunk": {"_target_": "launch.runs.load_module", "run": "a"},
        "seed": 0,
    },
    "callbacks": {
        "early_stopping": {"_target_": "callbacks.early_stopping.EarlyStopping", "monitor": "val/a", "mode": None, "patience": 3},
        "averaged_weights": {"_target_": "callbacks.averaged_weights.AveragedWeights", "decay": 0.9, "start": 0, "parts": None},
        "best_checkpoint": {"_target_": "callbacks.best_checkpoint.BestCheckpoint", "mode": "max", "every_n_epochs": 1},
        "judge": {"_target_": "callbacks.x.Judge", "judge": {"_target_": "launch.runs.load_module", "run": "a"}},
    },
}  # fmt: skip
BEGUN = {"averaging_state": {"n_averaged": torch.tensor(3)}}


def changed(key: str, value: object) -> dict:
    def put(node: dict, words: list[str]) -> dict:
        return node | {words[0]: put(node[words[0]], words[1:]) if words[1:] else value}

    return put(RUN, key.split("."))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("seed", 1, "keeps its seeds and its experiment"),
        ("name", "y", "keeps its seeds and its experiment"),
        ("lightning_module.seed", 1, "keeps its seeds"),
        ("datamodule.split_seed", 1, "keeps its seeds"),
        ("datamodule.batch_size", 16, "what it is trained on, and in which order, stays"),
        ("datamodule.val_size", 3, "what it is trained on"),
        ("datamodule._target_", "a.C", "what it is trained on"),
        ("trainer.limit_train_batches", 0.5, "its place in the epoch is counted in batches of before"),
        ("lightning_module.network.weights", "file.pt", "it decides what a training begins with"),
        ("lightning_module.trunk.run", "b", "a checkpoint has the weights that came from there"),
        ("callbacks.early_stopping.monitor", "val/b", "what was the best so far was found by it"),
        ("callbacks.best_checkpoint.mode", "min", "what was the best so far was found by it"),
        ("callbacks.averaged_weights.start", 9, "the average has begun"),
        ("callbacks.averaged_weights.parts", ["network"], "the average has begun"),
    ],
)  # fmt: skip
def test_what_could_not_hold_is_refused_by_name(key, value, reason):
    with pytest.raises(
        UserError, match=rf"^{re.escape(key)} is .* in this run, and .* cannot hold in a resume: .*{reason}"
    ):
        refuse_changed_settings(RUN, changed(key, value), BEGUN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_steps", 8),
        ("trainer.precision", "bf16-mixed"),
        ("datamodule.augment", None),
        ("datamodule.augment.pad", 2),
        ("datamodule.eval_batch_size", 3),
        ("lightning_module.optimizer.lr", 0.3),
        ("lightning_module.optimizer.betas", [0.5, 0.9]),
        ("lightning_module.network.depth", 9),  # refused by the shapes of its weights
        ("callbacks.early_stopping.patience", 9),
        ("callbacks.early_stopping.mode", "max"),  # the metric's own direction, or refused when it is built
        ("callbacks.averaged_weights.decay", 0.5),
        ("callbacks.best_checkpoint.every_n_epochs", 2),
        ("callbacks.judge.judge.run", "b"),
        ("lightning_module.trunk.run", "elsewhere/a"),  # moved
        ("callbacks", {}),
    ],
)
def test_what_can_hold_may_change(key, value):
    refuse_changed_settings(RUN, changed(key, value), BEGUN)
    refuse_changed_settings(changed(key, value), RUN, BEGUN)


def test_an_average_that_has_not_begun_may_begin_at_another_time():
    refuse_changed_settings(RUN, changed("callbacks.averaged_weights.start", 9), {"averaging_state": {"n_averaged": 0}})


def trained(optimizer) -> dict:
    """The optimiser's state after a step."""
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))]
    made = optimizer(parameters)
    sum(it.sum() for it in parameters).backward()
    made.step()
    return made.state_dict()


SGD, ADAM = partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.Adam, lr=0.1)


@pytest.mark.parametrize(
    ("before", "now", "lacking"),
    [
        (SGD, partial(SGD, nesterov=True, lr=0.2, weight_decay=1e-4), None),
        (partial(SGD, momentum=0.0), SGD, None),  # whose momentum begins with the next gradient
        (ADAM, partial(ADAM, betas=(0.5, 0.9), weight_decay=1.0), None),
        (partial(ADAM, fused=True), ADAM, None),
        (ADAM, partial(ADAM, amsgrad=True), "max_exp_avg_sq"),
        (SGD, ADAM, "exp_avg"),
        (ADAM, partial(torch.optim.RMSprop), "square_avg"),
    ],
)  # fmt: skip
def test_an_optimizer_that_could_not_go_on_is_refused(tmp_path, before, now, lacking):
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))]
    module = SimpleNamespace(configure_optimizers=lambda: ([now(parameters)], []))
    if lacking is None:
        check_optimizers(module, [trained(before)], tmp_path)  # type: ignore
        now(parameters).load_state_dict(trained(before))
        return
    with pytest.raises(UserError, match=f"asked for now goes by {lacking} of each parameter, which .* does not hold"):
        check_optimizers(module, [trained(before)], tmp_path)  # type: ignore


def test_other_parameters_are_refused(tmp_path):
    module = SimpleNamespace(configure_optimizers=lambda: ([SGD([nn.Parameter(torch.ones(1))])], []))
    with pytest.raises(
        UserError, match=r"holds optimizers of \[\[2\]\] parameters, and those of the run to go on move \[\[1\]\]"
    ):
        check_optimizers(module, [trained(SGD)], tmp_path)  # type: ignore
