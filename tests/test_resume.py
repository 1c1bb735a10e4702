"""Interrupted plus resumed equals uninterrupted, bit for bit."""

import pytest
import torch

from launch.config_check import compose_job
from launch.runs import build
from tests.lightning_modules.test_infogan import TINY


def trained(folder, max_steps, ckpt_path=None):
    overrides = [
        "trainer=cpu",
        "logger=none",
        f"trainer.max_steps={max_steps}",
        *TINY["infogan_digits"],
        "datamodule.batch_size=512",
    ]
    run = build(compose_job("train", overrides, str(folder)))
    run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=ckpt_path, weights_only=True)
    assert run.trainer.global_step == max_steps
    optimizers = [optimizer.state_dict() for optimizer in run.trainer.optimizers]
    return run.module.state_dict(), optimizers


@pytest.mark.parametrize("interrupted_after", [3, 4])
def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path, interrupted_after):
    """An epoch has two batches: three iterations end inside the second epoch, four at its end."""
    whole, whole_optimizers = trained(tmp_path / "whole", 7)
    trained(tmp_path / "first", interrupted_after)
    resumed, optimizers = trained(tmp_path / "second", 7, tmp_path / "first" / "checkpoints" / "last.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    torch.testing.assert_close(whole_optimizers, optimizers, rtol=0, atol=0)
