"""Attacks on nets whose worst perturbation is known, and on one on which another library's figures were taken."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from lightning_modules.attacks.auto_pgd import AutoPGD, TargetedAutoPGD, checkpoints, targeted_ratio
from lightning_modules.attacks.gradient import Examples, FastGradient, IteratedFastGradient, ProjectedGradient
from lightning_modules.attacks.norms import size
from lightning_modules.attacks.search import search

WEIGHT = torch.tensor(
    [[1.0, -2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64
)  # its rows' difference: norm 3
ATTACKS = [
    FastGradient("l2"), IteratedFastGradient("l2", 5), ProjectedGradient("l2", 10, 0.25, random_start=False), AutoPGD("l2", 20),
    FastGradient("linf"), IteratedFastGradient("linf", 5), ProjectedGradient("linf", 10, 0.25, random_start=False), AutoPGD("linf", 20),
]  # fmt: skip


def linear(images):
    """Two classes; class 0 where 1 x1 - 2 x2 + 2 x3 > .2."""
    return images.flatten(1) @ WEIGHT.T + torch.tensor([0.0, 0.2], dtype=torch.float64)


def four_pixels(*rows):
    images = torch.tensor(rows, dtype=torch.float64).view(-1, 1, 2, 2)
    return Examples(images, torch.zeros(len(rows), dtype=torch.int64), torch.arange(len(rows)))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda it: it.name)
def test_a_linear_net_is_fooled_just_beyond_its_margin(attack):
    """The margin is (w x - .2) / ||w||, in L2 by 3, in L-infinity by the sum 5."""
    examples = four_pixels([0.5, 0.5, 0.6, 0.5])  # 0.5 - 1 + 1.2 - 0.2 = 0.5
    margin = 0.5 / (3 if attack.norm == "l2" else 5)
    for budget, fooled in ((0.98 * margin, False), (1.02 * margin, True)):
        found = search(attack, linear, examples, [budget])
        assert found.wrong.tolist() == [[fooled]]
        assert float(size(found.images - examples.images, attack.norm)) <= budget + 1e-12


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda it: it.name)
def test_bisections_come_to_the_margin_and_what_is_wrong_or_out_of_reach_is_said(attack):
    examples = four_pixels([0.5, 0.5, 0.6, 0.5], [0.1, 0.9, 0.1, 0.5], [1.0, 0.0, 1.0, 0.5])
    found = search(attack, linear, examples, [0.05, 0.2], bisections=12)
    margin = 0.5 / (3 if attack.norm == "l2" else 5)
    assert float(found.smallest[0]) == pytest.approx(margin, rel=2e-3)
    assert found.smallest[1:].tolist() == [0.0, torch.inf]  # wrong as it is; not found up to .2
    assert found.wrong.tolist() == [[False, True, False], [True, True, False]]
    assert torch.equal(found.images[1:], examples.images[1:])


def test_fgm_steps_along_the_normalised_gradient_and_stays_in_the_box():
    examples = four_pixels([0.5, 0.5, 0.05, 0.5])
    moved = FastGradient("l2")(linear, examples, torch.tensor([0.3], dtype=torch.float64))
    # The loss of class 0 rises along -(1, -2, 2, 0) / 3; the third pixel is stopped at 0.
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.4, 0.7, 0.0, 0.5], dtype=torch.float64))


class SmallNet(nn.Module):
    """8x8 digits, seeded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, images):
        return self.layers(images)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    return images, torch.tensor(data.target, dtype=torch.int64)


@pytest.fixture(scope="module")
def net(digits):
    images, labels = digits[0].double(), digits[1]  # in double precision: the figures below are of these weights
    net = SmallNet().double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(net(images[256:]), labels[256:]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.float().requires_grad_(False)


@pytest.fixture(scope="module")
def examples(digits):
    return Examples(digits[0][:256], digits[1][:256], torch.arange(256))


STRONG = [
    ProjectedGradient("l2", 10, 0.25, restarts=2), AutoPGD("l2", 10), TargetedAutoPGD("l2", 10, targets=3),
    ProjectedGradient("linf", 10, 0.25, restarts=2), AutoPGD("linf", 10), TargetedAutoPGD("linf", 10, targets=3),
]  # fmt: skip


@pytest.mark.parametrize("attack", STRONG, ids=lambda it: it.name)
def test_an_example_s_result_depends_on_neither_its_batch_nor_its_place(attack, net, examples):
    budget = torch.full((256,), 0.1 if attack.norm == "linf" else 0.5)
    whole = attack(net, examples, budget)
    chosen = torch.tensor([200, 3, 77])
    torch.testing.assert_close(attack(net, examples[chosen], budget[:3]), whole[chosen], atol=1e-5, rtol=0)
    assert float(size(whole - examples.images, attack.norm).max()) <= float(budget[0]) + 1e-6
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


@pytest.mark.parametrize("attack", [*ATTACKS[:4], *STRONG], ids=lambda it: it.name)
def test_attacks_leave_the_random_state_and_the_parameters_alone(attack, net, examples):
    before = torch.get_rng_state()
    attack(net, examples[torch.arange(4)], torch.full((4,), 0.2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(it.grad is None for it in net.parameters())


def test_the_error_never_falls_with_the_budget_and_begins_at_the_clean_one(net, examples):
    found = search(ProjectedGradient("linf", 5, 0.5), net, examples, [0.0, 0.02, 0.05, 0.1, 0.2])
    errors = found.wrong.float().mean(1)
    assert float(errors[0]) == float((net(examples.images).argmax(1) != examples.labels).float().mean())
    assert (errors.diff() >= 0).all()
    assert float(errors[-1]) > 0.9


def test_stronger_attacks_find_at_least_as_many(net, examples):
    def error(attack):
        return float(search(attack, net, examples, [0.08]).wrong.float().mean())

    fgm, pgd = error(FastGradient("linf")), error(ProjectedGradient("linf", 20))
    apgd, targeted = error(AutoPGD("linf", 20)), error(TargetedAutoPGD("linf", 20))
    assert fgm <= pgd <= max(apgd, targeted) + 1 / 256


@pytest.mark.parametrize(
    ("attack", "budget", "fooled"),
    [
        (FastGradient("linf"), 0.06, 87), (ProjectedGradient("linf", 10, 0.25, random_start=False), 0.06, 96),
        (AutoPGD("linf", 20), 0.06, 96), (TargetedAutoPGD("linf", 20), 0.06, 99),
        (ProjectedGradient("l2", 10, 0.25, random_start=False), 0.4, 131), (AutoPGD("l2", 20), 0.4, 135),
    ],
    ids=lambda it: getattr(it, "name", it),
)  # fmt: skip
def test_as_many_are_fooled_as_by_torchattacks(attack, budget, fooled, net, examples):
    """Of 256, by FGSM, PGD, APGD, APGDT and PGDL2 of torchattacks 3.5.1 with the same steps; one more or less where
    the random starts are others."""
    ours = int(search(attack, net, examples, [budget]).wrong.sum())
    assert abs(ours - fooled) <= isinstance(attack, AutoPGD | TargetedAutoPGD)


def test_periods_become_shorter():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]  # .22, .41, .57, .70, .80, .87, .93, .99


def test_the_ratio_by_hand_does_not_depend_on_the_logits_scale():
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    label, target = torch.tensor([0]), torch.tensor([1])
    # (1 - 4) / (4 - (2 + 1) / 2)
    assert float(targeted_ratio(logits, label, target)) == pytest.approx(-3 / 2.5)
    assert float(targeted_ratio(1000 * logits, label, target)) == pytest.approx(-3 / 2.5)


def test_what_cannot_be_is_refused(net):
    with pytest.raises(UserError, match="steps of ProjectedGradient is 0"):
        ProjectedGradient("l2", steps=0)
    with pytest.raises(UserError, match="would all be the same"):
        ProjectedGradient("l2", restarts=2, random_start=False)
    with pytest.raises(UserError, match="apgd_dlr needs four classes or more, and the module tells 2 apart"):
        TargetedAutoPGD("l2", 5)(linear, four_pixels([0.5, 0.5, 0.6, 0.5]), torch.tensor([0.1], dtype=torch.float64))
