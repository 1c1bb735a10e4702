"""What a run says of questions about texts, and of the words of sentences, in files as it was trained on."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from callbacks.answers import AnswersMetric
from callbacks.instruments.entities import entities
from datamodules.text.questions import Question, QuestionsDataModule, WindowTable, read_squad
from datamodules.text.token_labels import DOCUMENT, TokenLabelsDataModule
from datamodules.text.tokens import TokenTable
from finished.predictions import STANDARD_INPUT, Predictions
from finished.texts import batches, begun, content_of, decoded_lines, file_of, finite, looked_at
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.runs import Finished

LONGEST = 30  # tokens of an answer, where the run's config has no callback that says


# --- questions -------------------------------------------------------------------------------------------------------


@dataclass
class Questions:
    questions: list[Question]

    @property
    def names(self) -> list[str]:
        return [begun(it.question) for it in self.questions]


def read_questions(source: str, finished: Finished) -> Questions:
    path = None if source == STANDARD_INPUT else file_of(source)
    if path is None:
        raise UserError(
            f"input={source}: this run answers questions. Give a file of them in SQuAD's format (.json), each beside "
            "its text; answers may be missing."
        )
    return Questions(read_squad(path, answered=False))


def answer_questions(finished: Finished, asked: Questions, config: Mapping[str, Any]) -> Predictions:
    """Of each question the likeliest part of its text; none in a file like SQuAD 2.0's where that is likelier.

    ``answers.json`` is what SQuAD's own scripts evaluate.
    """
    module, data = looked_at(finished, config), finished.datamodule
    if not isinstance(data, QuestionsDataModule):
        raise UserError(f"The run's {type(data).__name__} does not say how a question and its text become token ids.")
    node = next((it for it in finished.config["callbacks"].values() if "longest" in it), {})
    table = WindowTable.of(data.windows_of(asked.questions), asked.questions)
    metric = AnswersMetric(node.get("longest", LONGEST))
    for positions in torch.arange(len(table)).split(config["batch_size"]):
        batch = {name: it.to(module.device) for name, it in table[positions].items()}
        with evaluating(module):
            logits = module.span_logits(batch).cpu()
        if logits.isnan().any():
            raise UserError("The run's weights give scores that are not numbers: name another with checkpoint=.")
        metric.update(positions, batch["question"].cpu(), batch["may_start"].cpu(), logits)
    found = metric.compute()
    rows, told = [["id", "question", "answer", "score_above_none"]], {}
    for number, question in enumerate(asked.questions):
        place, above = found[number]
        told[question.id] = "" if question.may_lack and above > 0 else table.span(*place)
        rows.append([question.id, question.question, told[question.id], f"{-above:.6g}"])

    def write(folder: Path) -> None:
        (folder / "answers.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    captions = [it or "(no answer)" for it in told.values()]
    return Predictions(rows, captions, {"answered": sum(map(bool, told.values()))}, write)


# --- words of sentences ----------------------------------------------------------------------------------------------


@dataclass
class Sentences:
    """lines: where each begins in the source."""

    source: str
    words: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [begun(" ".join(it)) for it in self.words]


def read_words(source: str, finished: Finished) -> Sentences:
    """A word a line, what follows it left out, and a blank line between sentences, as CoNLL's files are."""
    data = finished.datamodule
    column = data.word_column if isinstance(data, TokenLabelsDataModule) else 0
    if source != STANDARD_INPUT and file_of(source) is None:
        raise UserError(
            f"input={source}: this run tags words. Give a file of them, one a line, a blank line between sentences."
        )
    found, begins = Sentences(source), True
    for number, line in decoded_lines(source, content_of(source)):
        cells = line.split()
        if not cells or cells[0] == DOCUMENT:
            begins = True
            continue
        if begins:
            found.words.append([])
            found.lines.append(number)
        word = cells[column] if -len(cells) <= column < len(cells) else cells[0]
        found.words[-1].append(word)
        begins = False
    if not found.words:
        raise UserError(f"input={source} has no words: give one a line, with a blank line between sentences.")
    return found


def tag_words(finished: Finished, asked: Sentences, config: Mapping[str, Any]) -> Predictions:
    """A tag for each word; ``tagged.txt`` has them as CoNLL's files do."""
    module, data = looked_at(finished, config), finished.datamodule
    if not isinstance(data, TokenLabelsDataModule):
        raise UserError(f"The run's {type(data).__name__} does not say how words become token ids.")
    names = module.class_names or [str(number) for number in range(module.num_classes)]
    encoded = data.encode_words(asked.words)
    for line, (row, _) in zip(asked.lines, encoded, strict=True):
        if len(row) >= data.max_length:
            raise UserError(
                f"input={asked.source}: the sentence that begins in line {line} has {len(row) + 1} tokens, and this "
                f"run reads {data.max_length}: part it by a blank line."
            )
    table = TokenTable.of([*row, data.tokenizer.sep] for row, _ in encoded)
    rows, tags = [["sentence", "word", "tag", "probability"]], []
    for positions, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            best = module.tag_logits(**batch).softmax(2).max(2)
        for number, values, labels in zip(positions.tolist(), finite(best.values), best.indices.cpu(), strict=True):
            places = torch.tensor(encoded[number][1])
            tags.append([names[it] for it in labels[places].tolist()])
            told = zip(asked.words[number], tags[-1], values[places].tolist(), strict=True)
            rows += [[str(number + 1), word, tag, f"{value:.6g}"] for word, tag, value in told]

    def write(folder: Path) -> None:
        told = [
            "".join(f"{word} {tag}\n" for word, tag in zip(*it, strict=True))
            for it in zip(asked.words, tags, strict=True)
        ]
        (folder / "tagged.txt").write_text("\n".join(told), encoding="utf-8")

    captions = [found_in(*it) for it in zip(asked.words, tags, strict=True)]
    counts = Counter(kind for it in tags for kind, *_ in entities(it))
    return Predictions(rows, captions, {"names": dict(sorted(counts.items()))}, write)


def found_in(words: list[str], tags: list[str]) -> str:
    """The names of a sentence with their types."""
    return ", ".join(f"{' '.join(words[first:behind])} ({kind})" for kind, first, behind in entities(tags)) or "no name"
