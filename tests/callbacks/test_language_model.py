"""Figures by hand, of any cut into batches and ranks, and of nothing at all."""

import math
from types import SimpleNamespace

import pytest
import torch

from callbacks.language_model import LanguageModel, LanguageModelMetric

IDS = torch.tensor([[3, 5, -100], [3, 3, 6], [5, -100, -100]])
NATS = torch.tensor([[0.5, 1.0, 0.0], [0.25, 0.25, 2.0], [1.0, 0.0, 0.0]])
GUESSES = torch.tensor([[3, 4, 0], [3, 5, 6], [5, 0, 0]])
LOGITS = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
RANDOM = torch.tensor([0, 1, 1])


def shown(*parts: slice) -> dict[str, float]:
    metric = LanguageModelMetric(8)
    for part in parts:
        metric.update(IDS[part], NATS[part], GUESSES[part])
        metric.update_pairs(RANDOM[part], LOGITS[part])
    return metric.compute()


def test_figures_are_over_tokens_and_pairs():
    shares = [3 / 6, 2 / 6, 1 / 6]
    found = shown(slice(None))
    assert found == {
        "nats": pytest.approx(5 / 6), "accuracy": pytest.approx(4 / 6), "nsp_accuracy": pytest.approx(2 / 3),
        "unigram_nats": pytest.approx(-sum(it * math.log(it) for it in shares)),
    }  # fmt: skip
    assert shown(slice(0, 1), slice(1, 3)) == found
    assert shown(slice(0, 0), slice(0, 3)) == found


def test_of_nothing_there_are_figures_too():
    assert set(LanguageModelMetric(8).compute().values()) == {0.0}


def test_perplexities_are_of_tokens_and_of_words():
    """Ids 5 and 6 go on with a word: three words of six tokens. The data's vocabulary may be smaller than the net's."""
    metric = LanguageModelMetric(8)
    metric.update(IDS, NATS, GUESSES)
    found = metric.perplexities(torch.tensor([False, False, False, False, False, True, True]))
    assert found == {"perplexity": pytest.approx(math.exp(5 / 6)), "word_perplexity": pytest.approx(math.exp(5 / 3))}


def test_names_are_the_module_s():
    callback = LanguageModel()
    module = SimpleNamespace(guess="lm", predicts_next_sentence=False)
    assert callback.metrics(module, "test") == {
        "test/lm_nats": "min", "test/lm_accuracy": "max", "test/lm_unigram_nats": None,
        "test/lm_perplexity": "min", "test/lm_word_perplexity": "min",
    }  # fmt: skip
    module = SimpleNamespace(guess="mlm", predicts_next_sentence=True)
    assert callback.metrics(module, "val")["val/nsp_accuracy"] == "max"
    assert callback.metrics(module, "train") == {}
