import math

import pytest
import torch

from foundation.protocols import WeighsClustersOfImages
from lightning_modules.infogan import Code
from lightning_modules.information_maximization import (
    InformationMaximization,
    RealImageTerms,
    balance,
    confidence,
    consistency,
    real_image_bonus,
)
from lightning_modules.networks.dcgan import Discriminator
from tests.lightning_modules.alone import alone
from tests.lightning_modules.test_infogan import ADAM, TERMS, infogan

# Overrides with which each experiment of this module runs in seconds (tests/contract).
TINY = {
    "infogan_mnist_terms_alone": [
        "datamodule.batch_size=8", "datamodule.val_size=8", "trainer.precision=32-true",
        "lightning_module.discriminator.channels=[4,8]", "lightning_module.discriminator.hidden=[16]",
    ],
}  # fmt: skip

STILL = RealImageTerms(balance=1, confidence=1, consistency=1, rotation=0, shift=0, scale=0, shear=0)


def moved(**ranges):
    return RealImageTerms(**(vars(STILL) | ranges))


def test_balance_is_log_k_where_all_categories_are_used_and_zero_where_one_is():
    assert float(balance(torch.full((10,), 0.1))) == pytest.approx(math.log(10))
    assert float(balance(torch.tensor([1.0, 0, 0]))) == pytest.approx(0, abs=1e-6)


def test_confidence_is_zero_where_sure_and_minus_log_k_where_not():
    sure = torch.log_softmax(torch.eye(4) * 50, dim=1)
    assert float(confidence(sure)) == pytest.approx(0, abs=1e-6)
    assert float(confidence(torch.full((3, 4), 0.25).log())) == pytest.approx(-math.log(4))


def test_balance_plus_confidence_is_the_mutual_information_of_image_and_category():
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    mean = probabilities.mean(0)
    by_hand = sum(
        p / 2 * math.log(p / m) for row in probabilities.tolist() for p, m in zip(row, mean.tolist(), strict=True)
    )
    assert float(balance(mean) + confidence(probabilities.log())) == pytest.approx(by_hand)


def test_consistency_is_minus_torch_s_kl_and_moves_the_moved_image_s_answer_alone():
    first, second = torch.randn(2, 5, 3)
    first, second = first.log_softmax(1).requires_grad_(), second.log_softmax(1).requires_grad_()
    value = consistency(first, second)
    torch.testing.assert_close(
        value, -torch.nn.functional.kl_div(second, first, log_target=True, reduction="batchmean")
    )
    value.backward()
    assert first.grad is None
    assert second.grad is not None
    assert float(consistency(first, first)) == 0


def test_the_bonus_is_the_weighted_sum():
    logits, moved_logits = torch.randn(2, 6, 4)
    terms = moved(balance=3.0, confidence=0.5, consistency=2.0)
    first, second = logits.log_softmax(1), moved_logits.log_softmax(1)
    expected = 3 * balance(first.exp().mean(0)) + 0.5 * confidence(first) + 2 * consistency(first, second)
    torch.testing.assert_close(real_image_bonus(logits, moved_logits, terms, lambda mean: mean), expected)


# --- the terms alone -------------------------------------------------------------------------------------------


def terms_alone(world_size=1, rank=0) -> InformationMaximization:
    torch.manual_seed(0)
    network = Discriminator([1, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=3)
    return alone(InformationMaximization(network, terms=TERMS, optimizer=ADAM).eval(), world_size, rank)


def images(size=6):
    return torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def motion(module, given, iteration=3):
    return module.host_inputs({"image": given}, iteration)["motion"]


def test_the_loss_is_what_the_same_terms_earn_in_infogan():
    module, beside = terms_alone(), infogan(codes=[Code("categorical", 3)], real_images=TERMS).eval()
    beside.discriminator.load_state_dict(module.discriminator.state_dict())
    _, bonus = beside.judge_real_images(images(), motion(beside, images()), beside.real_images)  # type: ignore
    told = module.loss(module.host_inputs({"image": images()}, 3))
    torch.testing.assert_close(told["loss"], -bonus)
    torch.testing.assert_close(told["real_image_bonus_nats"], bonus)


def test_trunk_and_q_learn_and_the_head_of_d_does_not():
    module = terms_alone()
    module.loss(module.host_inputs({"image": images()}, 0))["loss"].backward()
    (group,) = module.trainer.optimizers[0].param_groups
    moved_by_it = set(map(id, group["params"]))
    parts = {name: list(part.parameters()) for name, part in module.discriminator.named_children()}
    assert all(it.grad is not None and id(it) in moved_by_it for it in parts["trunk"] + parts["posterior"])
    assert all(it.grad is None and id(it) not in moved_by_it for it in parts["head"])


def test_two_ranks_move_their_shares_as_one_rank_moves_the_whole():
    whole = motion(terms_alone(), images())
    shares = [motion(terms_alone(2, rank), it) for rank, it in enumerate(images().tensor_split(2))]
    torch.testing.assert_close(torch.cat(shares), whole)
    assert not torch.equal(whole, motion(terms_alone(), images(), iteration=4))


def test_serves_what_measures_clusters():
    module = terms_alone()
    assert isinstance(module, WeighsClustersOfImages)
    assert module.capabilities() == {WeighsClustersOfImages}
    assert module.num_clusters == [3]
    (probabilities,) = module.cluster_probabilities(images())
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(6))
    assert torch.equal(module.assign_clusters(images()), probabilities.argmax(dim=1, keepdim=True))
