"""Two figures of one answer, on hand-made scores; and that they are the same in whatever batches."""

import pytest
import torch

from callbacks.choices import ChoicesMetric
from finished.choices import acc_and_acc_norm

SCORES = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]])
LETTERS = torch.tensor([[10, 10], [1, 100], [3, 3]])


def measured(label: list[int], *parts: list[int]) -> dict[str, float]:
    metric = ChoicesMetric()
    for part in parts or ([0, 1, 2],):
        metric.update(SCORES[part], LETTERS[part], torch.tensor(label)[part])
    return metric.compute()


def test_a_long_ending_is_chosen_by_letters_alone():
    """Of the second text log p is -0.31 of one letter, and -1.31 of a hundred; of the third both are the same."""
    assert measured([0, 0, 0]) == {"acc": 1.0, "acc_norm": pytest.approx(2 / 3)}
    assert measured([1, 1, 1]) == {"acc": 0.0, "acc_norm": pytest.approx(1 / 3)}
    assert measured([0, 0, 0], [2], [1, 0], []) == measured([0, 0, 0])


def test_they_are_those_of_a_language_model_with_these_nats():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=generator)
    letters = torch.randint(1, 60, (200, 4), generator=generator)
    label = torch.randint(4, (200,), generator=generator)
    metric = ChoicesMetric()
    metric.update(logits, letters, label)
    nats = (-logits.double().log_softmax(1)).tolist()
    assert metric.compute() == acc_and_acc_norm(nats, letters.tolist(), label.tolist())


def test_an_ending_without_letters_divides_by_nothing():
    metric = ChoicesMetric()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[0, 5]]), torch.tensor([1]))
    assert metric.compute() == {"acc": 0.0, "acc_norm": 1.0}
