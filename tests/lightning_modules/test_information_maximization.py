import math

import pytest
import torch

from lightning_modules.information_maximization import (
    RealImageTerms,
    balance,
    confidence,
    consistency,
    real_image_bonus,
)

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
