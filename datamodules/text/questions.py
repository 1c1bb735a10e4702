"""Questions about a text, answered by a span of it: SQuAD 1.1 and 2.0."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.image_files import say
from datamodules.text.groups import split_by_group
from datamodules.text.rows import found
from datamodules.text.tokens import PairTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError

FEWEST = 16  # tokens that a window has for the text, at least


@dataclass(frozen=True)
class Question:
    """Args:
    id: of the file.
    article: its number in the file.
    answers: right ones, as text; none where the text has no answer.
    start: of the first one in ``context``, in characters; -1 without one.
    may_lack: the file says of each question whether it has an answer (SQuAD 2.0).
    """

    id: str
    article: int
    question: str
    context: str
    answers: list[str]
    start: int
    may_lack: bool = False


@dataclass
class Windows:
    """What ``WindowTable`` is made of, window by window."""

    ids: list[list[int]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    may_start: list[list[bool]] = field(default_factory=list)
    characters: list[list[tuple[int, int]]] = field(default_factory=list)


class WindowTable(PairTable):
    """Windows over texts, each ``[CLS] question [SEP] part of the text [SEP]``. A batch is as of ``PairTable``, and has

    - ``question`` [B] int64, the question's number in the table's ``questions``; a long text has several windows,
    - ``start``, ``end`` [B] int64, the answer's first and last token in the row; 0, which is [CLS], where it is not in
      this window,
    - ``may_start`` [B, L] int64, 1 at tokens of the text of which no other window sees more on their narrower side:
      answers that begin at others are left to that window.

    Args:
        characters: int32 [all tokens, 2], where each begins and ends in its question's context; 0, 0 of others.
        columns: of the table.
    """

    def __init__(
        self, token_ids: Tensor, columns: Mapping[str, Tensor], allowed: Tensor, characters: Tensor,
        questions: Sequence[Question],
    ) -> None:  # fmt: skip
        super().__init__(token_ids, columns["starts"], columns["lengths"], None, columns["first"])
        self.columns = dict(columns)
        self.allowed, self.characters, self.questions = allowed, characters, questions

    @classmethod
    def of(cls, windows: Windows, questions: Sequence[Question]) -> "WindowTable":
        lengths = torch.tensor([len(it) for it in windows.ids])
        columns = {"starts": lengths.cumsum(0) - lengths, "lengths": lengths}
        columns |= {key: torch.tensor(getattr(windows, key)) for key in ("first", "question", "start", "end")}
        flat = torch.tensor([it for row in windows.ids for it in row], dtype=torch.int32)
        allowed = torch.tensor([it for row in windows.may_start for it in row], dtype=torch.int8)
        characters = torch.tensor([it for row in windows.characters for it in row], dtype=torch.int32)
        return cls(flat, columns, allowed, characters, questions)

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        starts = self.columns["starts"][batch["index"]].unsqueeze(1)
        places = torch.arange(batch["input_ids"].shape[1], device=starts.device)
        is_text = places < batch["lengths"].unsqueeze(1)
        may_start = self.allowed[torch.where(is_text, starts + places, 0)].long() * is_text
        return batch | {"may_start": may_start}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "WindowTable":
        return WindowTable(self.token_ids, columns, self.allowed, self.characters, self.questions)

    def to(self, device: torch.device) -> "WindowTable":
        columns = {name: column.to(device) for name, column in self.columns.items()}
        return WindowTable(self.token_ids.to(device), columns, self.allowed.to(device), self.characters, self.questions)

    def span(self, window: int, start: int, end: int) -> str:
        """The text from one token of a window to another, as it stands in the question's context; empty where either
        is no token of it, or the end is before the start."""
        row = int(self.columns["starts"][window])
        inside = range(int(self.columns["first"][window]), int(self.columns["lengths"][window]) - 1)
        if start not in inside or end not in inside or end < start:
            return ""
        begin, behind = int(self.characters[row + start, 0]), int(self.characters[row + end, 1])
        return self.questions[int(self.columns["question"][window])].context[begin:behind]

    def contents(self) -> Iterator[Tensor]:
        yield from super().contents()
        yield from (self.allowed, self.characters)


class QuestionsDataModule(WordPieceDataModule):
    """SQuAD's questions, and others in its format; a batch is as ``WindowTable`` says.

    ``tables[split].questions`` are the questions of the file, with their answers.

    Args:
        file, test_file: SQuAD's JSON files, packed (``.gz``) or not, which need not be said.
        max_length: tokens of a window.
        stride: tokens that the next window of a text is further on.
        max_question_length: tokens of a question that are kept.
        vocabulary, lowercase: see ``TextFilesDataModule``.
        name, test_name: what a record calls the data, and what it is tested on.
        splits: see ``SplitDataModule``; ``val_size`` windows or a few more, so that articles stay whole.
    """

    num_classes = 0

    def __init__(
        self,
        *,
        file: str,
        test_file: str,
        vocabulary: str,
        stride: int = 128,
        max_question_length: int = 64,
        lowercase: bool = True,
        name: str = "squad",
        test_name: str = "dev",
        max_length: int = 384,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        for key, size in {"stride": stride, "max_question_length": max_question_length}.items():
            if size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of tokens, 1 or more.")
        if max_length < max_question_length + 3 + FEWEST:
            raise UserError(
                f"datamodule.max_length={max_length} leaves a text fewer than {FEWEST} tokens beside a question of "
                f"datamodule.max_question_length={max_question_length}: set a larger or a smaller one."
            )
        self.file, self.test_file, self.stride, self.max_question_length = file, test_file, stride, max_question_length
        self.name, self.test_name = name, test_name
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    def load(self) -> dict[str, WindowTable]:
        whole = self._table("file", self.file)
        articles = [whole.questions[it].article for it in whole.columns["question"].tolist()]
        rows = split_by_group(articles, {"val": self.val_size}, self.split_seed, self.name, "article")
        test = {"test": self._table("test_file", self.test_file)}
        return {split: whole.take(positions) for split, positions in rows.items()} | test

    def cut(self, loaded: dict[str, WindowTable]) -> dict[str, WindowTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return loaded

    def _table(self, key: str, file: str) -> WindowTable:
        questions = read_squad(found(file, f"datamodule.{key}"))
        windows, unfound = self.windows_of(questions), [it.id for it in questions if is_elsewhere(it)]
        if unfound:
            quiet = self.trainer is not None and self.trainer.global_rank > 0
            what = "whose answer does not stand where it says, and are learnt as without one"
            say(f"{self.name}: {len(unfound):,} questions of {file} {what}: {', '.join(unfound[:5])}.", quiet)
        return WindowTable.of(windows, questions)

    def windows_of(self, questions: Sequence[Question]) -> Windows:
        """Of every question in order, from its text's beginning to its end."""
        contexts = list(dict.fromkeys(it.context for it in questions))
        encoded = self.tokenizer.tokenizer.encode_batch(contexts, add_special_tokens=False)
        texts = {context: (it.ids, it.offsets) for context, it in zip(contexts, encoded, strict=True)}
        asked = self.tokenizer.ids_of([it.question for it in questions])
        windows = Windows()
        for number, (question, ids) in enumerate(zip(questions, asked, strict=True)):
            self._add(windows, number, question, ids[: self.max_question_length], *texts[question.context])
        return windows

    def _add(
        self, windows: Windows, number: int, question: Question, asked: list[int], ids: list[int],
        characters: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        room, first = self.max_length - len(asked) - 3, len(asked) + 2
        begins = [0]
        while begins[-1] + room < len(ids):
            begins.append(begins[-1] + min(self.stride, room))
        best = best_windows(begins, room, len(ids))
        answer = tokens_of_answer(question, characters)
        for window, begin in enumerate(begins):
            part = slice(begin, begin + room)
            size = len(ids[part])
            windows.ids.append([cls, *asked, sep, *ids[part], sep])
            windows.first.append(first)
            windows.question.append(number)
            inside = answer is not None and begin <= answer[0] and answer[1] < begin + size
            start, end = (first + it - begin for it in answer) if answer is not None and inside else (0, 0)
            windows.start.append(start)
            windows.end.append(end)
            windows.may_start.append([False] * first + [it == window for it in best[part].tolist()] + [False])
            windows.characters.append([(0, 0)] * first + characters[part] + [(0, 0)])

    def describe(self) -> dict[str, Any]:
        """Also how windows are cut, and how many questions they are of."""
        counts = {split: int(it.columns["question"].unique().numel()) for split, it in self.tables.items()}
        how = {"stride": self.stride, "max_question_length": self.max_question_length}
        return super().describe() | how | {"questions": counts}


def best_windows(begins: Sequence[int], room: int, length: int) -> np.ndarray:
    """Which window sees most on the narrower side of each token of a text; the longer window, then the first, of two.

    [length] int64. As in the released script for SQuAD, each hundredth of a window's length breaks ties.
    """
    places, begin = np.arange(length), np.asarray(begins)[:, None]
    behind = np.minimum(begin + room, length)
    seen = np.minimum(places - begin, behind - 1 - places) + 0.01 * (behind - begin)
    return np.where((places >= begin) & (places < behind), seen, -np.inf).argmax(axis=0)


def tokens_of_answer(question: Question, characters: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token of the first answer."""
    if not question.answers or is_elsewhere(question):
        return None
    begin, behind = question.start, question.start + len(question.answers[0])
    inside = [number for number, (left, right) in enumerate(characters) if left < behind and right > begin]
    return (inside[0], inside[-1]) if inside else None


def is_elsewhere(question: Question) -> bool:
    answer = question.answers[0] if question.answers else ""
    return question.context[question.start : question.start + len(answer)] != answer if answer else False


def read_squad(path: Path, answered: bool = True) -> list[Question]:
    """All questions of a file of SQuAD 1.1 or 2.0; a UserError names the file and what is wrong.

    answered: else answers may be missing, and ids, in whose place questions are counted.
    """
    try:
        content = path.read_bytes()
        told = json.loads(gzip.decompress(content) if path.name.endswith(".gz") else content)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): give SQuAD's own file.") from None
    questions = []
    try:
        for number, article in enumerate(told["data"]):
            for paragraph in article["paragraphs"]:
                for it in paragraph["qas"]:
                    known = answered or "answers" in it
                    answers = it["answers"] if known and not it.get("is_impossible") else []
                    start = int(answers[0]["answer_start"]) if answers else -1
                    texts = [str(answer["text"]) for answer in answers]
                    name = str(it["id"] if answered else it.get("id", len(questions) + 1))
                    questions.append(
                        Question(name, number, str(it["question"]), str(paragraph["context"]), texts, start,
                                 "is_impossible" in it)
                    )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not laid out as SQuAD, question {len(questions) + 1}: {error!r}.") from None
    if not questions:
        raise UserError(f"{path} has no questions.")
    return questions
