"""Where a run stops that was asked to; tests/test_resume.py has what it goes on from."""

import os
import signal

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from callbacks.checkpoint import Checkpoint, Interrupted


class Counts(LightningModule):
    """Logs the number of each iteration."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.validated = 0

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch, batch_idx):
        self.log("iteration", float(self.trainer.global_step))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated += 1


class Rows(DummyLogger):
    def __init__(self):
        super().__init__()
        self.seen: list[float] = []

    def log_metrics(self, metrics, step=None, **_):
        self.seen += [metrics["iteration"]] if "iteration" in metrics else []


class Interrupts(Callback):
    def __init__(self, iteration):
        self.iteration = iteration

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("iteration", [2, 3, 5])  # inside an epoch of 6, before a validation, at the epoch's end
def test_what_the_last_iteration_measured_is_logged_before_the_run_stops(tmp_path, iteration):
    module, rows = Counts(), Rows()
    checkpoint = Checkpoint(str(tmp_path))
    trainer = Trainer(accelerator="cpu", max_steps=100, max_epochs=-1, log_every_n_steps=1, val_check_interval=4,
                      num_sanity_val_steps=0, logger=rows, callbacks=[checkpoint, Interrupts(iteration)],
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    data = DataLoader(torch.zeros(6, 1))
    with pytest.raises(Interrupted) as stopped:
        trainer.fit(module, data, data)
    assert rows.seen == list(range(iteration + 1))
    assert stopped.value.iteration == iteration + 1
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert saved["global_step"] == iteration + 1
    assert module.validated == (6 if iteration == 5 else 0)  # the one after four iterations
