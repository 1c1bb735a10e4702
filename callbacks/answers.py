"""How well questions are answered by a part of a text: SQuAD's exact match and F1."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from callbacks.instruments.rows_of_ranks import rows_of
from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.protocols import FindsSpans, HoldsQuestions

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Lower case, without punctuation, articles and more than one space, as in SQuAD's own scripts."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(told: str, answers: Sequence[str]) -> float:
    """1 where it is one of the answers; without answers, where nothing is told."""
    return float(normalized(told) in map(normalized, answers or [""]))


def f1(told: str, answers: Sequence[str]) -> float:
    """The best F1 of words over the answers; without answers 1 where nothing is told."""
    if not answers:
        return float(not normalized(told))
    return max(f1_of(normalized(told).split(), normalized(it).split()) for it in answers)


def f1_of(told: list[str], answer: list[str]) -> float:
    """0 of two texts without words."""
    common = (Counter(told) & Counter(answer)).total()
    return 2 * common / (len(told) + len(answer)) if common else 0.0


def with_words(answers: Sequence[str]) -> list[str]:
    """Those that SQuAD 2.0's script counts: an answer that is an article or a mark alone, and no other, is none."""
    return [it for it in answers if normalized(it)]


def best_spans(logits: Tensor, may_start: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest answer of each window, of at most ``longest`` tokens: its score, first and last token, [B] each.

    logits: [B, 2, L]; may_start: [B, L], where an answer may begin.
    """
    length = logits.shape[2]
    starts = logits[:, 0].masked_fill(may_start == 0, float("-inf"))
    is_span = torch.ones(length, length, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    scores = (starts.unsqueeze(2) + logits[:, 1].unsqueeze(1)).masked_fill(~is_span, float("-inf")).flatten(1)
    score, place = scores.max(1)
    return score, place // length, place % length


class AnswersMetric(Metric):
    """Keeps of each window its likeliest answer, so that a question's is the best of all its windows on all ranks."""

    full_state_update = False
    windows: list[Tensor]
    scores: list[Tensor]

    def __init__(self, longest: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.longest = longest
        self.add_state("windows", [], dist_reduce_fx="cat")  # window, question, first and last token
        self.add_state("scores", [], dist_reduce_fx="cat")  # of the answer, and of none

    def update(self, index: Tensor, question: Tensor, may_start: Tensor, logits: Tensor) -> None:
        """[B], [B], [B, L] and [B, 2, L]."""
        score, start, end = best_spans(logits.double(), may_start, self.longest)
        self.windows.append(torch.stack([index, question, start, end], 1))
        self.scores.append(torch.stack([score, logits[:, :, 0].double().sum(1)], 1))

    def compute(self) -> dict[int, tuple[tuple[int, int, int], float]]:
        """Of each question: its answer's window, first and last token, and by how much none has a higher score."""
        windows, scores = rows_of(self.windows), rows_of(self.scores)
        if windows is None or scores is None:
            return {}
        best: dict[int, tuple[float, tuple[int, int, int]]] = {}
        nothing: dict[int, float] = {}
        rows = zip(windows.tolist(), scores.tolist(), strict=True)
        for (window, question, start, end), (score, of_none) in sorted(rows, key=lambda it: it[0]):
            if question not in best or score > best[question][0]:
                best[question] = score, (window, start, end)
            if question not in nothing or of_none < nothing[question]:
                nothing[question] = of_none
        return {question: (place, nothing[question] - score) for question, (score, place) in best.items()}


class Answers(Measurement):
    """Logs ``<stage>/exact_match`` and ``f1`` of the questions of SQuAD's files, as SQuAD's own scripts compute them.

    Where some questions have no answer, the file is SQuAD 2.0's: none is given where the score of none is higher, and
    an answer without words is no answer. SQuAD 1.1's script gives a text without words no F1, whatever the answer is.

    Args:
        longest: tokens of an answer.
    """

    metric: AnswersMetric
    requires = FindsSpans
    requires_data = HoldsQuestions
    needs_labels = True

    def __init__(self, longest: int = 30) -> None:
        if longest < 1:
            raise UserError(f"callbacks.answers.longest is {longest}: give a number of tokens, 1 or more.")
        self.longest = longest
        self.table: Any = None

    def metrics(self, module: Any, stage: str) -> Directions:
        names: Directions = {"exact_match": "max", "f1": "max"}
        return {} if stage == "train" else in_stage(stage, names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.metric = AnswersMetric(self.longest).to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.table = trainer.datamodule.tables["test" if trainer.testing else "val"]  # pyright: ignore
        self.metric.update(outputs["index"], batch["question"], batch["may_start"], outputs["span_logits"])

    def figures(self) -> dict[str, float]:
        found = self.metric.compute()
        may_lack = any(not it.answers for it in self.table.questions) if found else False
        told = []
        for number, (place, above) in found.items():
            answers = self.table.questions[number].answers
            text = "" if may_lack and above > 0 else self.table.span(*place)
            told.append((text, with_words(answers) if may_lack else answers))
        count = max(len(told), 1)
        return {
            "exact_match": sum(exact_match(*it) for it in told) / count,
            "f1": sum(f1(*it) for it in told) / count,
        }
