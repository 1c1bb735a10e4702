"""The average by hand, in TwoPlayer's manual optimisation, in checkpoints, and across a resume."""

import json

import pytest
import torch
from lightning import Callback

from callbacks.averaged_weights import AveragedWeights
from callbacks.run_record import RunRecord
from foundation.checkpoints import weights_in
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.resume import take_up
from launch.runs import build
from tests.lightning_modules.test_infogan import TINY

DECAY = 0.5


class Remembers(Callback):
    """The weights after each iteration, and those that are validated, tested and there at the end of training."""

    def __init__(self):
        self.trained, self.seen = [], {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained.append(state(pl_module))

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.seen[f"val {trainer.global_step}"] = state(pl_module)

    def on_test_batch_end(self, trainer, pl_module, *_):
        self.seen["test"] = state(pl_module)


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def made(folder, steps, *extra):
    overrides = ["trainer=cpu", "logger=none", f"trainer.max_steps={steps}", "+callbacks@callbacks=averaged_weights",
                 f"callbacks.averaged_weights.decay={DECAY}", *TINY["infogan_digits"], "datamodule.batch_size=512",
                 "datamodule.val_size=50", *extra]  # fmt: skip
    run = build(compose_job("train", overrides, str(folder)))
    remembers = Remembers()
    run.trainer.callbacks.append(remembers)  # type: ignore
    return run, remembers


def fit(run, checkpoint=None):
    run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    return run


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def averages(trained):
    """e_1 = w_1, e_t = decay e_(t-1) + (1 - decay) w_t, of parameters and running statistics."""
    found = [trained[0]]
    for weights in trained[1:]:
        found.append({name: DECAY * found[-1][name] + (1 - DECAY) * weights[name] for name in weights})
    return [{name: tensor for name, tensor in it.items() if trained[0][name].is_floating_point()} for it in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Seven iterations of two an epoch, with a validation after each epoch; then the test."""
    folder = tmp_path_factory.mktemp("whole")
    run, remembers = made(folder, 7)
    fit(run)
    end = state(run.module)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return folder, run, remembers, end


def test_validation_and_test_measure_the_average(whole):
    _, _, remembers, end = whole
    expected = averages(remembers.trained)
    assert set(remembers.seen) == {"val 0", "val 2", "val 4", "val 6", "test"}
    for when, iteration in {"val 2": 2, "val 4": 4, "val 6": 6, "test": 7}.items():
        for name, tensor in expected[iteration - 1].items():
            torch.testing.assert_close(remembers.seen[when][name], tensor)
    assert_equal(remembers.seen["test"], end)
    statistics = [name for name in expected[-1] if "running_mean" in name]
    assert statistics
    assert not torch.equal(end[statistics[0]], remembers.trained[-1][statistics[0]])


def test_a_bias_corrected_average_against_a_loop(tmp_path):
    """e_t = decay e_(t-1) + (1 - decay) w_t from zero, and what is used is e_t / (1 - decay^t); across a resume, too."""
    corrected = "callbacks.averaged_weights.bias_corrected=true"
    run, remembers = made(tmp_path / "whole", 7, corrected)
    fit(run)
    for steps in (4, 7):
        begun = {name: torch.zeros_like(it) for name, it in remembers.trained[0].items() if it.is_floating_point()}
        for weights in remembers.trained[:steps]:
            begun = {name: DECAY * it + (1 - DECAY) * weights[name] for name, it in begun.items()}
        expected = {name: it / (1 - DECAY**steps) for name, it in begun.items()}
        found = remembers.seen["val 4"] if steps == 4 else state(run.module)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)
    saved = json.loads((tmp_path / "whole" / "record.json").read_text())
    assert saved["weights"] == f"averaged (decay {DECAY}, bias-corrected)"
    fit(made(tmp_path / "part", 3, corrected)[0])
    resumed, _ = made(tmp_path / "part", 7, corrected)
    assert_equal(state(fit(resumed, tmp_path / "part" / "checkpoints" / "last.ckpt").module), state(run.module))


def test_training_goes_on_from_the_trained_weights(whole, tmp_path):
    """An average that is only looked at changes nothing of the training."""
    _, _, remembers, _ = whole
    run, plain = made(tmp_path, 7, "~callbacks.averaged_weights")
    fit(run)
    for found, expected in zip(remembers.trained, plain.trained, strict=True):
        assert_equal(found, expected)


def test_a_checkpoint_is_measured_by_its_average_and_says_so(whole):
    folder, run, remembers, end = whole
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert_equal(saved["state_dict"], end)
    assert_equal(saved["current_model_state"], remembers.trained[-1])
    assert weights_in(folder / "checkpoints" / "last.ckpt") == "averaged"
    assert any(isinstance(it, RunRecord) for it in run.callbacks)
    assert json.loads((folder / "record.json").read_text())["weights"] == f"averaged (decay {DECAY})"


def test_a_resumed_run_ends_as_if_nothing_had_happened(whole, tmp_path):
    _, _, remembers, end = whole
    fit(made(tmp_path, 3)[0])
    run, after = made(tmp_path, 7)
    fit(run, tmp_path / "checkpoints" / "last.ckpt")
    assert_equal(after.trained[-1], remembers.trained[-1])
    assert_equal(state(run.module), end)


def test_a_checkpoint_after_the_last_epoch_keeps_both(whole, tmp_path):
    """It is written when the average has taken its place."""
    _, _, remembers, _ = whole
    run, _ = made(tmp_path, 7, "trainer.max_epochs=2")
    fit(run)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert_equal(saved["current_model_state"], remembers.trained[3])
    assert_equal(saved["state_dict"], state(run.module))


def test_parts_that_are_not_named_stay_as_trained(tmp_path):
    """In what is measured, in every checkpoint, and across a resume."""
    discriminator = "callbacks.averaged_weights.parts=[discriminator]"
    run, remembers = made(tmp_path / "whole", 7, discriminator)
    fit(run)
    expected = averages(remembers.trained)
    for found, iteration in ((remembers.seen["val 4"], 4), (state(run.module), 7)):
        for name, tensor in expected[iteration - 1].items():
            trained = remembers.trained[iteration - 1][name]
            torch.testing.assert_close(found[name], tensor if name.startswith("discriminator.") else trained)
    generator = next(name for name in expected[-1] if name.startswith("generator."))
    assert not torch.allclose(expected[-1][generator], remembers.trained[-1][generator])
    saved = json.loads((tmp_path / "whole" / "record.json").read_text())
    assert saved["weights"] == f"averaged (decay {DECAY}, discriminator alone)"
    fit(made(tmp_path / "part", 3, discriminator)[0])
    halfway = torch.load(tmp_path / "part" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(halfway[generator], remembers.trained[2][generator])
    resumed, _ = made(tmp_path / "part", 7, discriminator)
    assert_equal(state(fit(resumed, tmp_path / "part" / "checkpoints" / "last.ckpt").module), state(run.module))


def test_going_on_without_the_average_is_refused(whole, tmp_path):
    folder, _, _, _ = whole
    run, _ = made(tmp_path, 9, "~callbacks.averaged_weights")
    with pytest.raises(
        UserError, match="holds averaged weights, and the run to go on has no callbacks.averaged_weights"
    ):
        take_up(run, folder / "checkpoints" / "last.ckpt")


def test_a_decay_that_forgets_nothing_is_refused():
    with pytest.raises(UserError, match=r"callbacks.averaged_weights.decay is 1.0: give a number from 0 to below 1"):
        AveragedWeights(decay=1.0)
    with pytest.raises(UserError, match=r"callbacks.averaged_weights.parts is empty: name a part of the module"):
        AveragedWeights(parts=[])
