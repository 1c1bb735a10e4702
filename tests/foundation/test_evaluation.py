"""Nothing that happens inside the door to evaluation is seen afterwards."""

import random

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from foundation.evaluation import evaluating


def network() -> nn.Sequential:
    """Its first layer frozen, its batch norm in evaluation mode while the rest trains, gradients in all others."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    made[0].requires_grad_(False)
    made[1].eval()
    made(torch.randn(3, 4)).sum().backward()
    return made


def traces(module: nn.Module) -> dict[str, Tensor | bool | None]:
    """All that an evaluation could leave behind."""
    torch_state, numpy_state = torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("int64"))  # noqa: NPY002  # type: ignore
    found: dict[str, Tensor | bool | None] = {"torch": torch_state, "numpy": numpy_state}
    found["python"] = torch.tensor(random.getstate()[1])
    found["enabled"] = torch.is_grad_enabled()
    for name, part in module.named_modules():
        found[f"mode of {name}"] = part.training
    for name, it in module.named_buffers():
        found[name] = it.clone()
    for name, it in module.named_parameters():
        found |= {name: it.detach().clone(), f"{name} needs": it.requires_grad}
        found[f"{name} has"] = None if it.grad is None else it.grad.clone()
    return found


def assert_no_trace(module: nn.Module, before: dict[str, Tensor | bool | None]) -> None:
    after = traces(module)
    assert after.keys() == before.keys()
    for name, it in before.items():
        assert torch.equal(it, after[name]) if isinstance(it, Tensor) else it is after[name], name  # type: ignore


def draw_everywhere() -> None:
    torch.rand(10)
    np.random.rand(10)  # noqa: NPY002
    random.random()


def test_evaluation_leaves_no_trace():
    module = network()
    before = traces(module)
    with evaluating(module):
        assert not any(part.training for part in module.modules())
        images = torch.randn(5, 4, requires_grad=True)
        assert not module(images).requires_grad
        draw_everywhere()
        module.zero_grad()
    assert_no_trace(module, before)


@pytest.mark.parametrize("surroundings", [torch.enable_grad, torch.no_grad])
def test_an_attack_gets_gradients_by_its_inputs_and_leaves_no_trace(surroundings):
    module = network()
    before = traces(module)
    with surroundings(), evaluating(module, gradients=True):
        images = torch.randn(5, 4, requires_grad=True)
        module(images).square().sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        (alone,) = torch.autograd.grad(module(images[:1]).square().sum(), images)
        torch.testing.assert_close(alone[0], images.grad[0])  # evaluation mode: an image does not depend on others
        assert not any(it.requires_grad for it in module.parameters())
        draw_everywhere()
        module.zero_grad()
    assert_no_trace(module, before)


def test_doors_within_doors():
    module = network()
    before = traces(module)
    with evaluating(module):
        with evaluating(module, gradients=True):
            assert torch.is_grad_enabled()
            with evaluating(module):
                assert not torch.is_grad_enabled()
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
    assert_no_trace(module, before)


@pytest.mark.parametrize("gradients", [True, False])
def test_all_is_as_it_was_after_an_error_too(gradients):
    module = network()
    before = traces(module)
    with pytest.raises(KeyError), evaluating(module, gradients=gradients):
        module.zero_grad()
        raise KeyError
    assert_no_trace(module, before)


def test_an_attack_inside_a_training_step_leaves_its_gradients_alone():
    """As adversarial training has it: forward, attack, forward, one backward; in half precision, whose casts of weights
    are kept for a whole step."""
    gradients = []
    for attacks in (False, True):
        torch.manual_seed(1)
        layer = nn.Linear(4, 4)
        images = torch.randn(3, 4)
        with torch.autocast("cpu", torch.bfloat16):
            first = layer(images).sum()
            if attacks:
                with evaluating(layer, gradients=True):
                    moved = images.clone().requires_grad_(True)
                    layer(moved).square().sum().backward()
            second = layer(images).square().sum()
        (first + second).backward()
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)


class Attacked(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = network(), []

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert not torch.is_grad_enabled()
        before = traces(self)
        with evaluating(self, gradients=True):
            images = batch[0].clone().requires_grad_(True)
            self.network(images).square().sum().backward()
        assert_no_trace(self, before)
        self.seen.append(images.grad)


def test_lightning_s_test_loop_may_attack():
    module = Attacked()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      enable_checkpointing=False, inference_mode=False)  # fmt: skip
    trainer.test(module, DataLoader(TensorDataset(torch.randn(6, 4)), batch_size=3), verbose=False)
    assert [float(it.abs().sum()) > 0 for it in module.seen] == [True, True]


# --- what parts say of themselves ------------------------------------------------------------------------------
