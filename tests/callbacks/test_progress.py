"""What a long measurement shows where no terminal is there."""

import pytest
import torch
from lightning import Trainer

from callbacks import progress
from callbacks.progress import Progress, counted


@pytest.mark.parametrize(("patience", "said"), [(-1, ["judging: 3 of 5", "judging: 5 of 5"]), (1000, [])])
def test_a_measurement_says_how_far_it_is_now_and_then(monkeypatch, capsys, patience, said):
    monkeypatch.setattr(progress, "SECONDS_A_LINE", patience)
    trainer = Trainer(accelerator="cpu", callbacks=[Progress()], logger=False, enable_checkpointing=False)
    batches = list(torch.arange(5).split(3))
    capsys.readouterr()
    assert list(counted(trainer, batches, "judging")) == batches
    assert capsys.readouterr().out.splitlines() == said
    trainer.progress_bar_callback.disable()  # type: ignore  # as Lightning does on other ranks than 0
    assert list(counted(trainer, batches, "judging")) == batches
    assert capsys.readouterr().out == ""
