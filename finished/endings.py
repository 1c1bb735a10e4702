"""Endings for texts, written by a language model, a run or a released GPT-2: a pool for adversarial filtering.

    python -m finished.endings outputs/language_model_hellaswag/<folder> --out pool.jsonl  # of the fold it has not seen
    python -m finished.endings <folder> --contexts mine.jsonl --context text --ending next --out pool.jsonl
    python -m finished.endings <folder> --pool others.jsonl --out scored.jsonl             # its nats of others' endings
    python -m finished.endings <a GPT-2's folder> --contexts mine.jsonl --out pool.jsonl   # finished/writer.py

What a line of a pool holds is told in ``datamodules/text/pools.py``. Ending j of a text depends on the run, the seed,
the text's number in its file and j alone. The right ending is written as the run's vocabulary writes it, lower case for
one, so that it is not told from the others by its spelling; texts whose right ending is longer or shorter than
candidates may be are left out. What is done lies in ``<out>.begun`` until all is: the same command, killed at any time,
goes on behind it and writes the same file.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from datamodules.image_files import say, shown
from datamodules.text.contexts import Context, Layout
from datamodules.text.continuations import ContinuationsDataModule
from datamodules.text.pools import Pooled, read_pool, spelled
from finished.writer import Writer, writer_of
from foundation.errors import UserError, told_as_sentences
from foundation.kept_parts import KeptParts
from foundation.security import split_trust, trusting
from foundation.whole_files import whole
from launch.command_line import check_writable


def write_pool(
    writer: Writer, contexts: Sequence[Context], out: Path, *, count: int, texts: int | None, batch: int, p: float,
    temperature: float,
) -> dict[str, int]:  # fmt: skip
    """Write the file; returns counts of what it holds and of what was left out."""
    of_contexts = writer.ids([it.text for it in contexts])
    of_endings = writer.vocabulary.ids_of_endings([it.ending for it in contexts])
    kept = [number for number, ids in enumerate(of_endings) if writer.shortest <= len(ids) <= writer.longest]
    if not kept:
        raise UserError(
            f"No right ending of {len(contexts):,} texts has {writer.shortest} to {writer.longest} tokens: set "
            "--shortest and --longest."
        )
    left_out, kept = len(contexts) - len(kept), kept[:texts]
    kept.sort(key=lambda it: len(of_contexts[it]))  # texts of like lengths together

    def rows_from(first: int) -> list[dict[str, Any]]:
        numbers = kept[first : first + batch]
        read = [writer.context(of_contexts[it]) for it in numbers]
        drawn = writer.write(read, [contexts[it].item for it in numbers], count, p=p, temperature=temperature)
        rows = rows_of(writer, read, [of_endings[it] for it in numbers], drawn)
        of_texts = zip((contexts[it] for it in numbers), (of_contexts[it] for it in numbers), rows, strict=True)
        return [
            {"item": it.item, "group": it.group, "context": writer.spelling(ids), "generator": writer.name, **row}
            for it, ids, row in of_texts
        ]

    asked = {"count": count, "top-p": p, "temperature": temperature, "seed": writer.module.seed}
    of = asked | {"contexts": of_all([contexts[it] for it in kept])} | writer.decides()
    with parts_of(out, of, batch, len(kept), rows_from, "writing endings") as rows:
        write_rows(out, sorted(rows, key=lambda it: it["item"]))
    written = sum(len(it["candidates"]) for it in rows)
    return {"texts": len(rows), "left out": left_out, "candidates": written, "drawn": len(rows) * count}


@contextmanager
def parts_of(
    out: Path | None, of: Mapping[str, Any], batch: int, total: int, rows_from: Callable[[int], list[Any]], doing: str
) -> Iterator[list[Any]]:
    """The rows of all texts, those kept by a command that was killed among them; forgotten once ``out`` is written.

    Args:
        out: where nothing is to be written, nothing is kept.
        of: what decides the rows beside the batch.
        rows_from: those of the ``batch`` texts from this one on.
    """
    with ExitStack() as stack:
        kept = None if out is None else stack.enter_context(KeptParts(out, {**of, "batch": batch}))
        parts = [] if kept is None else kept.parts
        if (behind := min(len(parts) * batch, total)) and kept is not None:
            say(f"{kept.path} has {behind:,} of {total:,} texts: going on behind them.")

        def in_batches() -> Iterator[int]:
            for first in range(behind, total, batch):
                (parts.append if kept is None else kept.add)(rows_from(first))
                yield min(batch, total - first)

        for _ in shown(in_batches(), total - behind, doing, "texts"):
            pass
        yield [row for part in parts for row in part]
        if kept is not None:
            kept.done()


def of_all(things: Sequence[Any]) -> str:
    """A fingerprint."""
    return hashlib.sha256(repr(things).encode()).hexdigest()


def write_rows(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with whole(out) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(it, ensure_ascii=False) + "\n" for it in rows)


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


def score_pool(writer: Writer, pool: Sequence[Pooled], out: Path, batch: int) -> dict[str, int]:
    """Write the same texts and endings with this model's nats in place of any that are there."""

    def scored(it: Pooled) -> dict[str, Any]:
        context = writer.context(writer.ids([it.context])[0])
        endings = writer.ids_of_endings([it.ending, *it.candidates])
        (numbers,), (of_text,) = writer.nats([context], [endings]), writer.of_texts([context])
        nats = {"context": of_text, "ending": numbers[0], "candidates": numbers[1:]}
        return row_of(it) | {"nats": nats}

    def rows_from(first: int) -> list[dict[str, Any]]:
        return [scored(it) for it in pool[first : first + batch]]

    of = {"pool": of_all([row_of(it) for it in pool])} | writer.decides()
    with parts_of(out, of, batch, len(pool), rows_from, "scoring endings") as rows:
        write_rows(out, rows)
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
        whose = "A released model has" if writer.data is None else f"The run's data, {writer.data.name}, have"
        raise UserError(f"{whose} no fold that was held out: give --contexts a file of texts with their endings.")
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
    parser.add_argument("run", type=Path, help="a language model's run, or the folder of a released GPT-2")
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
        writer = writer_of(
            given.run, given.checkpoint, given.accelerator, longest=given.longest, shortest=given.shortest
        )
        if given.seed is not None:
            writer.module.seed = given.seed
        if given.pool is not None:
            counts = score_pool(writer, read_pool(given.pool, "--pool"), given.out, given.batch)
        else:
            counts = write_pool(
                writer, contexts_of(writer, given), given.out, count=given.count, texts=given.texts,
                batch=given.batch, p=given.top_p, temperature=given.temperature,
            )  # fmt: skip
    say(f"{given.out}: {sentence_of(counts)}.")


if __name__ == "__main__":
    with told_as_sentences():
        main()
