"""Tables that change while a trainer is at work: what it is served, what it counts, and what it refuses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from datamodules.splits import SplitDataModule, Table, sent
from foundation.errors import UserError


class Numbers(SplitDataModule):
    """Row i is the number i; a smaller table has the numbers from ``first`` on."""

    name = "numbers"
    num_classes = None

    def __init__(self, **splits: Any) -> None:
        super().__init__(**{"batch_size": 4, "val_size": 0} | splits)
        self.state: dict[str, tuple[int, int]] = {}

    def load(self) -> dict[str, Table]:
        return {split: Table({"number": torch.arange(size)}) for split, size in (("train", 24), ("test", 10))}

    def become(self, split: str, first: int, count: int) -> None:
        self.state[split] = first, count
        self.replace(split, Table({"number": torch.arange(first, first + count)}))

    def state_dict(self) -> dict[str, Any]:
        return {split: list(rows) for split, rows in self.state.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for split, rows in state_dict.items():
            self.become(split, *rows)


class Listener(LightningModule):
    """Notes the numbers of each epoch's batches, and calls ``change`` with the hook's name and the epoch."""

    def __init__(self, change: Callable[[Numbers, str, int], None]) -> None:
        super().__init__()
        self.weight, self.change = nn.Linear(1, 1), change
        self.seen: dict[tuple[str, int], list[list[int]]] = {}
        self.counted: list[float] = []

    def note(self, stage: str, batch: dict[str, Tensor]) -> None:
        self.seen.setdefault((stage, self.current_epoch), []).append(batch["number"].tolist())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.note("train", batch)
        if batch_idx == 0:
            self.counted.append(self.trainer.num_training_batches)
        return self.weight(batch["number"].float().unsqueeze(1)).sum() * 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.note("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.note("test", batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def tell(self, hook: str) -> None:
        self.change(self.trainer.datamodule, hook, self.current_epoch)  # type: ignore

    def on_train_start(self) -> None:
        self.tell("train_start")

    def on_train_epoch_start(self) -> None:
        self.tell("epoch_start")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tell(f"batch_{batch_idx}_end")

    def on_validation_start(self) -> None:
        self.tell("validation_start")

    def on_validation_epoch_end(self) -> None:
        self.tell("validation_end")

    def on_train_epoch_end(self) -> None:
        self.tell("epoch_end")

    def on_test_start(self) -> None:
        self.tell("test_start")


def fitted(change: Callable[[Numbers, str, int], None], datamodule: Numbers | None = None, **trainer) -> Listener:
    module = Listener(change)
    settings = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
                "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
                "num_sanity_val_steps": 0} | trainer  # fmt: skip
    Trainer(**settings).fit(module, datamodule=datamodule or Numbers())
    return module


def when(hook: str, epoch: int, *change: Any) -> Callable[[Numbers, str, int], None]:
    def make(datamodule: Numbers, now: str, current_epoch: int) -> None:
        if (now, current_epoch) == (hook, epoch):
            datamodule.become(*change)

    return make


HOOKS = [("epoch_start", 1), ("epoch_end", 0), ("batch_5_end", 0)]


@pytest.mark.parametrize(("hook", "epoch"), HOOKS)
@pytest.mark.parametrize("count", [9, 24, 41])
def test_the_next_epoch_is_of_the_new_table_and_as_long(hook, epoch, count):
    module = fitted(when(hook, epoch, "train", 100, count))
    batches = count // 4
    assert sorted(sum(module.seen["train", 0], [])) == list(range(24))
    for later in (1, 2):
        assert len(module.seen["train", later]) == batches
        numbers = sum(module.seen["train", later], [])
        assert set(numbers) <= set(range(100, 100 + count))
        assert len(set(numbers)) == 4 * batches
    assert module.seen["train", 1] != module.seen["train", 2]
    assert module.counted == [6, batches, batches]


@pytest.mark.parametrize("hook", ["train_start", "epoch_start"])
def test_the_first_epoch_may_be_of_another_table(hook):
    module = fitted(when(hook, 0, "train", 100, 9))
    assert [len(module.seen["train", epoch]) for epoch in range(3)] == [2, 2, 2]
    assert min(sum(module.seen["train", 0], [])) >= 100


def test_an_order_is_a_function_of_seed_epoch_and_size():
    late = fitted(when("epoch_start", 2, "train", 0, 16)).seen["train", 2]
    early = fitted(when("epoch_start", 0, "train", 0, 16)).seen["train", 2]
    assert late == early


def test_a_limit_stays_one():
    module = fitted(when("epoch_start", 1, "train", 0, 40), limit_train_batches=0.5)
    assert module.counted == [3, 5, 5]
    module = fitted(when("epoch_start", 1, "train", 0, 8), limit_train_batches=3)
    assert module.counted == [3, 2, 2]


@pytest.mark.parametrize(("hook", "epoch"), [("epoch_start", 1), ("epoch_end", 0), ("validation_end", 0)])
def test_validation_is_of_its_new_table(hook, epoch):
    module = fitted(when(hook, epoch, "val", 100, 7), Numbers(val_size=4, eval_batch_size=3))
    assert len(sum(module.seen["val", 0], [])) == 4
    for later in (1, 2):
        assert module.seen["val", later] == [[100, 101, 102], [103, 104, 105], [106]]


def test_validation_still_ends_a_shorter_epoch():
    module = fitted(when("epoch_end", 0, "train", 0, 8), Numbers(val_size=4))
    assert [len(module.seen["val", epoch]) for epoch in range(3)] == [1, 1, 1]
    assert module.counted == [5, 2, 2]


def test_a_test_is_of_the_table_as_training_left_it():
    module, datamodule = Listener(when("epoch_end", 0, "test", 50, 3)), Numbers()
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, datamodule=datamodule)
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert [*module.seen.values()][-1] == [[50, 51, 52]]
    assert datamodule.describe()["test"] == 3


@pytest.mark.parametrize(
    ("hook", "split", "reader"),
    [("batch_2_end", "train", "an epoch"), ("validation_start", "val", "an evaluation")],
)
def test_a_change_in_the_middle_is_refused(hook, split, reader):
    with pytest.raises(ValueError, match=f"Numbers changes its table of {split} in the middle of {reader}: change it"):
        fitted(when(hook, 1, split, 0, 12), Numbers(val_size=4))


def test_training_that_ends_within_an_epoch_may_change_it():
    fitted(when("epoch_end", 0, "train", 0, 12), max_epochs=-1, max_steps=4)


def test_a_change_that_no_checkpoint_would_hold_is_refused():
    class Forgetful(Numbers):
        state_dict = SplitDataModule.state_dict

    with pytest.raises(
        ValueError, match="Forgetful changes its table of train, which a checkpoint has to know: say in"
    ):
        fitted(when("epoch_end", 0, "train", 0, 12), Forgetful())


def test_fewer_batches_than_an_interval_between_validations_is_told():
    with pytest.raises(UserError, match="`val_check_interval` \\(5\\) must be less than or equal to the number"):
        fitted(when("epoch_end", 0, "train", 0, 12), Numbers(val_size=4), val_check_interval=5)


def test_a_table_without_a_batch_is_told():
    with pytest.raises(UserError, match="The training split has 3 examples, fewer than one batch of 4"):
        fitted(when("epoch_end", 0, "train", 0, 3))


def test_tables_are_changed_by_one_method():
    datamodule = Numbers()
    datamodule.setup()
    with pytest.raises(TypeError):
        datamodule.tables["train"] = datamodule.tables["test"]  # type: ignore
    with pytest.raises(ValueError, match="numbers has no table of trian: did you mean 'train'"):
        datamodule.replace("trian", datamodule.tables["test"])
    with pytest.raises(ValueError, match="datamodule.val_size=0 leaves no validation, so that numbers cannot"):
        datamodule.replace("val", datamodule.tables["test"])
    tables = dict(datamodule.tables)
    datamodule.tables = tables | {"test": tables["train"].take(torch.arange(6))}
    assert [len(datamodule.tables[split]) for split in ("train", "test")] == [24, 6]
    before = datamodule.describe()
    datamodule.become("train", 0, 5)
    now = datamodule.describe()
    assert (before["train"], now["train"]) == (24, 5)
    assert before["sha256"] != now["sha256"]


def test_a_state_waits_until_there_are_tables():
    datamodule = Numbers()
    datamodule.restore({"train": [3, 5]})
    datamodule.setup()
    assert datamodule.tables["train"].columns["number"].tolist() == [3, 4, 5, 6, 7]
    datamodule.restore({"train": [3, 2]})
    datamodule.setup()
    assert datamodule.tables["train"].columns["number"].tolist() == [3, 4]


def out_of_memory() -> Tensor:
    return torch.empty(2**60)


def broken() -> Tensor:
    raise RuntimeError("a fault of ours")


def test_data_that_no_memory_holds_are_told_and_other_faults_are_not_hidden(monkeypatch):
    data = Numbers()
    monkeypatch.setattr(data, "load", out_of_memory)
    with pytest.raises(UserError, match=r"does not fit into this machine's memory \(.*allocate.*give a smaller size"):
        data.setup()
    monkeypatch.setattr(data, "load", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        data.setup()


# --- on a device -----------------------------------------------------------------------------------------------------


class Recorded:
    """Stands for a tensor in ordinary memory."""

    is_cpu = True

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pin_memory(self) -> "Recorded":
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Recorded":
        self.calls.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "calls"),
    [("cuda", ["pinned", ("cuda", True)]), ("meta", [("meta", True)]), ("cpu", [("cpu", False)])],
)
def test_the_host_waits_for_no_copy_to_a_gpu(device, calls):
    values: Any = Recorded()
    sent(values, torch.device(device))
    assert values.calls == calls


def test_rows_are_made_where_a_table_lies():
    table = Table({"number": torch.arange(24)}).to(torch.device("meta"))
    batch = table[torch.tensor([3, 1])]
    assert {key: it.device.type for key, it in batch.items()} == {"index": "meta", "number": "meta"}


class Stays(Table):
    def to(self, device: torch.device) -> "Stays":
        return self


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_of_a_table_that_stays_on_the_host_are_pinned(device, pinned):
    data = Numbers()
    data.tables = {"train": Stays({"number": torch.arange(24)})}
    strategy = SimpleNamespace(root_device=torch.device(device))
    loop = SimpleNamespace(epoch_loop=None)
    trainer: Any = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, fit_loop=loop)
    data.trainer = trainer
    assert data.train_dataloader().pin_memory == pinned
