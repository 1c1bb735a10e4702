"""Endings for texts, written by the run of a language model: a pool for adversarial filtering.

    python -m finished.endings outputs/language_model_hellaswag/<folder> --out pool.jsonl  # of the fold it has not seen
    python -m finished.endings <folder> --contexts mine.jsonl --context text --ending next --out pool.jsonl
    python -m finished.endings <folder> --pool others.jsonl --out scored.jsonl             # its nats of others' endings

What a line of a pool holds is told in ``datamodules/text/pools.py``. Ending j of a text depends on the run, the seed,
the text's number in its file and j alone. The right ending is written as the run's vocabulary writes it, lower case for
one, so that it is not told from the others by its spelling; texts whose right ending is longer or shorter than
candidates may be are left out.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from datamodules.image_files import say, shown
from datamodules.text.contexts import Context, Layout
from datamodules.text.continuations import ContinuationsDataModule
from datamodules.text.pools import Pooled, read_pool, spelled
from datamodules.text.tokens import WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError, told_as_sentences
from foundation.evaluation import evaluating
from foundation.protocols import ContinuesText, serves
from foundation.security import split_trust, trusting
from foundation.whole_files import whole
from launch.command_line import check_writable
from launch.runs import load_on_device

LONGEST = 100
AT_ONCE = 512
"""Endings that are scored by themselves together."""


class Writer:
    """A run's module with its vocabulary.

    Args:
        longest, shortest: tokens of an ending; None: 100, or half of what the module reads.
    """

    def __init__(self, run: Path, checkpoint: str, accelerator: str, *, longest: int | None, shortest: int) -> None:
        self.finished = load_on_device(run, checkpoint, accelerator)
        self.module: Any = self.finished.module
        if not serves(self.module, ContinuesText):
            raise UserError(
                f"{run} is a run of {type(self.module).__name__}, which writes no endings: give a language model's, "
                "such as one of experiment=language_model_hellaswag."
            )
        data = self.finished.datamodule
        assert isinstance(data, WordPieceDataModule)
        self.data, self.tokenizer = data, data.tokenizer
        if longest is None:
            longest = LONGEST if self.module.max_length is None else min(LONGEST, self.module.max_length // 2)
        self.longest, self.shortest = longest, shortest
        self.room = math.inf if self.module.max_length is None else self.module.max_length - longest - 1
        if self.room < 1:
            raise UserError(f"--longest is {longest}, and the run reads {self.module.max_length} tokens: give fewer.")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.ids_of(texts)

    def context(self, ids: Sequence[int]) -> list[int]:
        """With the mark of a beginning; of a long text its end."""
        kept = ids if len(ids) < self.room else ids[len(ids) - int(self.room) + 1 :]
        return [self.tokenizer.cls, *kept]

    def write(
        self, contexts: Sequence[list[int]], keys: Sequence[int], count: int, **how: Any
    ) -> list[list[list[int]]]:
        """Those of ``count`` drawn endings that came to an end, without its mark, each once and none too short."""
        tokenizer = self.tokenizer
        marks = [tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.mask]
        never = [*marks, *range(len(tokenizer), self.module.vocabulary_size)]
        with evaluating(self.module):
            drawn = self.module.continuations(
                *padded(contexts, self.module.device), keys, count, longest=self.longest + 1, ends=[tokenizer.sep],
                never=never, **how,
            )  # fmt: skip
        ended = [[tuple(row[:-1]) for row in rows if row[-1] == tokenizer.sep] for rows in drawn]
        return [[list(row) for row in dict.fromkeys(rows) if len(row) >= self.shortest] for rows in ended]

    def nats(self, contexts: Sequence[list[int]], endings: Sequence[list[list[int]]]) -> list[list[list[float]]]:
        """Of each ending behind its text, by itself, and of the mark of its end behind both."""
        marked = [[[*it, self.tokenizer.sep] for it in of_text] for of_text in endings]
        most = max(map(len, marked))
        filled = [[*of_text, *[[self.tokenizer.sep]] * (most - len(of_text))] for of_text in marked]
        ids, lengths = padded([it for of_text in filled for it in of_text], self.module.device)
        shape = (len(contexts), most)
        with evaluating(self.module):
            behind = self.module.ending_nats(
                *padded(contexts, self.module.device), ids.view(*shape, -1), lengths.view(shape)
            )
            alone = self.alone([it for of_text in marked for it in of_text])
        ends = behind.gather(2, lengths.view(*shape, 1) - 1).squeeze(2)
        given, ends = (behind.sum(2) - ends).tolist(), ends.tolist()
        return [
            [[given[row][place], next(alone), ends[row][place]] for place in range(len(of_text))]
            for row, of_text in enumerate(endings)
        ]

    def alone(self, marked: Sequence[list[int]]) -> Iterator[float]:
        """The nats of endings that go on with nothing, without their marks."""
        start = torch.tensor([[self.tokenizer.cls]], device=self.module.device)
        for first in range(0, len(marked), AT_ONCE):
            ids, lengths = padded(marked[first : first + AT_ONCE], self.module.device)
            of_tokens = self.module.ending_nats(start, torch.ones_like(start[0]), ids[None], lengths[None])[0]
            yield from (of_tokens.sum(1) - of_tokens.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)).tolist()

    def of_texts(self, contexts: Sequence[list[int]]) -> list[float]:
        """The nats of texts themselves."""
        return list(self.alone([[*it[1:], self.tokenizer.sep] for it in contexts]))

    def spelling(self, ids: Sequence[int]) -> str:
        return as_text(self.tokenizer, ids)


def as_text(tokenizer: WordPiece, ids: Sequence[int]) -> str:
    """Pieces put together to words, with punctuation where it is written."""
    from tokenizers import decoders

    return decoders.WordPiece().decode(tokenizer.decode(ids))


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """[N, L] with zeros behind, and the lengths."""
    lengths = torch.tensor([len(it) for it in rows], dtype=torch.int64)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for row, it in zip(ids, rows, strict=True):
        row[: len(it)] = torch.tensor(it, dtype=torch.int64)
    return ids.to(device), lengths.to(device)


def write_pool(
    writer: Writer, contexts: Sequence[Context], generator: str, out: Path, *, count: int, texts: int | None,
    batch: int, p: float, temperature: float,
) -> dict[str, int]:  # fmt: skip
    """Write the file; returns counts of what it holds and of what was left out."""
    of_contexts, of_endings = writer.ids([it.text for it in contexts]), writer.ids([it.ending for it in contexts])
    kept = [number for number, ids in enumerate(of_endings) if writer.shortest <= len(ids) <= writer.longest]
    if not kept:
        raise UserError(
            f"No right ending of {len(contexts):,} texts has {writer.shortest} to {writer.longest} tokens: set "
            "--shortest and --longest."
        )
    left_out, kept = len(contexts) - len(kept), kept[:texts]
    kept.sort(key=lambda it: len(of_contexts[it]))  # texts of like lengths together
    lines: dict[int, str] = {}

    def in_batches() -> Iterator[int]:
        for first in range(0, len(kept), batch):
            numbers = kept[first : first + batch]
            read = [writer.context(of_contexts[it]) for it in numbers]
            drawn = writer.write(read, [contexts[it].item for it in numbers], count, p=p, temperature=temperature)
            rows = rows_of(writer, read, [of_endings[it] for it in numbers], drawn)
            for number, row in zip(numbers, rows, strict=True):
                it = contexts[number]
                told = {"item": it.item, "group": it.group, "context": writer.spelling(of_contexts[number])}
                lines[number] = json.dumps(told | {"generator": generator} | row, ensure_ascii=False)
            yield len(numbers)

    for _ in shown(in_batches(), len(kept), "writing endings", "texts"):
        pass
    with whole(out) as unfinished:
        unfinished.write_text("".join(f"{lines[it]}\n" for it in sorted(lines)), encoding="utf-8")
    written = sum(len(json.loads(it)["candidates"]) for it in lines.values())
    return {"texts": len(lines), "left out": left_out, "candidates": written, "drawn": len(lines) * count}


def rows_of(
    writer: Writer, contexts: Sequence[list[int]], endings: Sequence[list[int]], drawn: Sequence[list[list[int]]]
) -> Iterator[dict[str, Any]]:
    """What a line says of endings: each once, however it came about, and their nats."""
    chosen = []
    for ending, candidates in zip(endings, drawn, strict=True):
        by_spelling = {spelled(writer.spelling(it)): it for it in reversed(candidates)}
        by_spelling.pop(spelled(writer.spelling(ending)), None)
        chosen.append([ending, *reversed(by_spelling.values())])
    nats, of_texts = writer.nats(contexts, chosen), writer.of_texts(contexts)
    for (ending, *candidates), numbers, of_text in zip(chosen, nats, of_texts, strict=True):
        rounded = [[round(it, 4) for it in of_ending] for of_ending in numbers]
        yield {
            "ending": writer.spelling(ending),
            "candidates": [writer.spelling(it) for it in candidates],
            "nats": {"context": round(of_text, 4), "ending": rounded[0], "candidates": rounded[1:]},
        }


def score_pool(writer: Writer, pool: Sequence[Pooled], out: Path) -> dict[str, int]:
    """Write the same texts and endings with this run's nats in place of any that are there."""

    def scored(file: TextIO) -> Iterator[int]:
        for it in pool:
            endings = [ids[: writer.longest] or [writer.tokenizer.unknown] for ids in
                       writer.ids([it.ending, *it.candidates])]  # fmt: skip
            context = writer.context(writer.ids([it.context])[0])
            (numbers,), (of_text,) = writer.nats([context], [endings]), writer.of_texts([context])
            nats = {"context": of_text, "ending": numbers[0], "candidates": numbers[1:]}
            file.write(json.dumps(row_of(it) | {"nats": nats}, ensure_ascii=False) + "\n")
            yield 1

    with whole(out) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        for _ in shown(scored(file), len(pool), "scoring endings", "texts"):
            pass
    return {"texts": len(pool), "candidates": sum(len(it.candidates) for it in pool)}


def row_of(it: Pooled) -> dict[str, Any]:
    """A line of a pool, without nats."""
    same = len(set(it.generators)) == 1
    return {
        "item": it.item, "group": it.group, "context": it.context, "ending": it.ending, "candidates": it.candidates,
        "generator": it.generators[0] if same else it.generators,
    }  # fmt: skip


def contexts_of(writer: Writer, given: Any) -> list[Context]:
    """The texts of the file that is named, or those that the run has not been trained on."""
    if given.contexts is not None:
        columns = {"context": given.context, "ending": given.ending, "group": given.group}
        return Layout(**columns, prefix="--").read(given.contexts, "contexts")
    if not isinstance(writer.data, ContinuationsDataModule):
        raise UserError(
            f"The run's data, {writer.data.name}, have no fold that was held out: give --contexts a file of texts with "
            "their endings."
        )
    return writer.data.held_out()


def checked(given: Any) -> None:
    for name, least in {"count": 1, "longest": 1, "shortest": 1, "batch": 1, "texts": 1}.items():
        if (value := getattr(given, name)) is not None and value < least:
            raise UserError(f"--{name} is {value}: give {least} or more.")
    if not 0 < given.top_p <= 1:
        raise UserError(f"--top-p is {given.top_p}: give a share above 0, up to 1.")
    if not 0 < given.temperature < math.inf:
        raise UserError(f"--temperature is {given.temperature}: give a number above 0.")


def sentence_of(counts: Mapping[str, int]) -> str:
    told = f"{counts['candidates']:,} endings for {counts['texts']:,} texts"
    if "drawn" in counts:
        told += f", of {counts['drawn']:,} that were drawn"
    return f"{told}; {counts['left out']:,} texts left out" if counts.get("left out") else told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a language model's run")
    parser.add_argument("--out", type=Path, required=True, help="the pool to write, .jsonl")
    parser.add_argument("--contexts", help="a file of texts with their endings; unless given, the fold held out")
    parser.add_argument("--context", default="context", help="its column of texts")
    parser.add_argument("--ending", default="ending", help="its column of right endings")
    parser.add_argument("--group", help="its column of what texts share")
    parser.add_argument("--pool", help="score the endings of this pool, and write none")
    parser.add_argument("--count", type=int, default=32, help="endings that are drawn for each text")
    parser.add_argument("--longest", type=int, default=25, help="tokens of an ending")
    parser.add_argument("--shortest", type=int, default=5, help="tokens of an ending")
    parser.add_argument("--texts", type=int, help="at most so many texts, the first of the file")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens with this probability")
    parser.add_argument("--temperature", type=float, default=1.0, help="logits are divided by it")
    parser.add_argument("--batch", type=int, default=16, help="texts at once")
    parser.add_argument("--seed", type=int, help="of what is drawn; unless given, the run's")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument("--accelerator", default="auto", help="a GPU where there is one; cpu, gpu, ...")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    checked(given)
    check_writable("--out", given.out.parent)
    with trusting(names):
        writer = Writer(given.run, given.checkpoint, given.accelerator, longest=given.longest, shortest=given.shortest)
        if given.seed is not None:
            writer.module.seed = given.seed
        if given.pool is not None:
            counts = score_pool(writer, read_pool(given.pool, "--pool"), given.out)
        else:
            generator = f"{writer.finished.config['name']} {given.run.name}"
            counts = write_pool(
                writer, contexts_of(writer, given), generator, given.out, count=given.count, texts=given.texts,
                batch=given.batch, p=given.top_p, temperature=given.temperature,
            )  # fmt: skip
    say(f"{given.out}: {sentence_of(counts)}.")


if __name__ == "__main__":
    with told_as_sentences():
        main()
