"""Where the host would wait for a GPU: an iteration that is not logged reads nothing that was computed there."""

import traceback
from collections import defaultdict
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from launch.command_line import compose_job
from launch.runs import build
from tests.launch.test_capture import METHODS, tiny

LOGGED_EVERY, ITERATIONS = 5, 14
MOST_READS = 40
"""In a logged iteration: rates, metrics of the guard and the loggers, tokens, pictures."""
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive"}
READS_OF_PYTHON = {"tolist", "numpy", "cpu", "__array__"}  # which no operator shows where a tensor is on the host
WATCHING = {"_target_": "lightning_modules.schedules.WarmUpUntilAndDrops", "_partial_": True, "drops": [9],
            "below": 0.99, "over": LOGGED_EVERY}  # fmt: skip


class Reads(TorchDispatchMode):
    """What the host reads of tensors that a GPU would hold: of the module, its optimisers, callbacks and batches, and
    of whatever is made of these."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # else a place could be another tensor's later
        self.places: set[int] = set()
        self.iteration = 0
        self.found: dict[int, list[str]] = defaultdict(list)

    def hold(self, values: Any) -> None:
        for it in tree_leaves(values):
            if isinstance(it, Tensor):
                self.kept.append(it)
                self.places.add(it.untyped_storage().data_ptr())

    def holds(self, values: Any) -> bool:
        return any(
            it.untyped_storage().data_ptr() in self.places for it in tree_leaves(values) if isinstance(it, Tensor)
        )

    def note(self, name: str) -> None:
        frames = [it for it in traceback.extract_stack() if it.filename != __file__]
        own = next(it for it in reversed(frames) if "site-packages" not in it.filename)
        if "one_hot(" not in str(own.line):  # it looks at its input on a CPU alone
            self.found[self.iteration].append(f"{name} in {own.filename}:{own.lineno}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.holds((args, kwargs)):
            name = func.overloadpacket.__name__
            masks = [it for it in tree_leaves(args[1:2]) if isinstance(it, Tensor) and it.dtype == torch.bool]
            if name in READS or (name in ("index", "index_put", "index_put_") and masks):
                self.note(name)
            self.hold(out)
        return out


class ReadsOfPython(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := getattr(func, "__name__", "")) in READS_OF_PYTHON and self.reads.holds(args[0]):
            self.reads.note(name)
        return func(*args, **(kwargs or {}))


class Bounds(Callback):
    """Before all others: an iteration ends where the next one begins, with all that loops and loggers do between."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.reads.iteration = trainer.global_step + 1
        parts = [pl_module, *(it for callback in trainer.callbacks for it in vars(callback).values())]
        self.reads.hold([[*it.parameters(), *it.buffers()] for it in parts if isinstance(it, nn.Module)])
        self.reads.hold([[*it.state.values(), it.param_groups] for it in trainer.optimizers])
        self.reads.hold({key: it for key, it in batch.items() if key != "index"})  # which may be the loader's own

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.reads.iteration = ITERATIONS + 1


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("resnet_digits", ["+callbacks=averaged_weights"]),
        ("infogan_digits", [f"callbacks.image_grid.every_n_steps={LOGGED_EVERY}"]),
        ("improved_gan_digits", ["+callbacks=averaged_weights", "callbacks.averaged_weights.bias_corrected=true"]),
        ("bert_tiny_text", METHODS["bert_tiny_text"]),
    ],
)
def test_the_host_waits_in_logged_iterations_alone(experiment, overrides, tmp_path):
    """With all that a run has by default, its progress among it."""
    lengths = [
        f"trainer.max_steps={ITERATIONS}",
        f"trainer.log_every_n_steps={LOGGED_EVERY}",
        "trainer.max_epochs=null",
    ]
    words = [f"experiment={experiment}", *tiny(experiment), "trainer=cpu", "logger=csv", "trainer.capture=rehearse",
             "trainer.limit_val_batches=0", "trainer.precision=32-true", *lengths, *overrides]  # fmt: skip
    config = compose_job("train", words, str(tmp_path))
    if experiment == "resnet_digits":
        config["lightning_module"]["scheduler"] = WATCHING  # which looks at the error now and then
    run: Any = build(config)
    assert run.captured == "rehearsed"
    reads = Reads()
    run.trainer.callbacks.insert(0, Bounds(reads))
    with ReadsOfPython(reads), reads:
        run.trainer.fit(run.module, datamodule=run.datamodule)
    for iteration in range(1, ITERATIONS):
        found = reads.found[iteration]
        if iteration % LOGGED_EVERY:
            assert found == [], iteration
        else:
            assert 1 <= len(found) <= MOST_READS, found
