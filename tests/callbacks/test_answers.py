"""SQuAD's scores by its rules, and the answer that is read out of scores of tokens."""

import pytest
import torch

from callbacks.answers import AnswersMetric, best_spans, exact_match, f1, normalized, with_words

LOW = -9.0


@pytest.mark.parametrize(
    ("told", "answers", "em", "score"),
    [
        ("The Eiffel  Tower!", ["eiffel tower"], 1, 1),
        ("a big red house", ["the red house", "garden"], 0, 2 * 2 / (3 + 2)),
        ("red red house", ["red house house"], 0, 2 * 2 / (3 + 3)),
        ("x", ["y"], 0, 0),
        ("", [], 1, 1),  # SQuAD 2.0: there is no answer
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("the", ["a"], 1, 0),  # no words are left of either: SQuAD 1.1's script counts none in common
        ("The", [], 1, 1),
    ],
)
def test_scores_are_squad_s(told, answers, em, score):
    assert exact_match(told, answers) == em
    assert f1(told, answers) == pytest.approx(score)


def test_an_answer_without_words_is_none_of_squad_2_s():
    assert with_words(["the", "The Who", "..."]) == ["The Who"]
    assert with_words(["an"]) == []


def test_only_whole_words_are_articles():
    assert normalized("A theory, an  anthem: THE end") == "theory anthem end"


def test_the_likeliest_span_begins_where_it_may_and_ends_behind_that():
    start = torch.tensor([[5.0, LOW, 4.0, 3.0, LOW, LOW]])
    end = torch.tensor([[5.0, 6.0, LOW, 1.0, LOW, 3.0]])
    may = torch.tensor([[0, 1, 1, 1, 1, 1]])
    logits = torch.stack([start, end], 1)
    assert [it.tolist() for it in best_spans(logits, may, 30)] == [[7.0], [2], [5]]
    assert [it.tolist() for it in best_spans(logits, may, 3)] == [[6.0], [3], [5]]


def test_a_question_s_answer_is_the_best_of_its_windows_whatever_their_order():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, 7, generator=generator)
    question, index, may = torch.tensor([0, 0, 1, 1, 1]), torch.arange(5), torch.ones(5, 7)
    may[:, 0] = 0
    found = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        metric = AnswersMetric(longest=3)
        for part in torch.tensor(order).split(2):
            metric.update(index[part], question[part], may[part], logits[part])
        found.append(metric.compute())
    assert found[0] == found[1]
    scores, starts, ends = best_spans(logits, may, 3)
    window = 2 + int(scores[2:].argmax())
    place, above = found[0][1]
    assert place == (window, int(starts[window]), int(ends[window]))
    nothing = logits[2:, :, 0].double().sum(1).min() - scores[window].double()
    assert above == pytest.approx(nothing.item(), abs=1e-6)
