"""How often a language model's run finds the right one of several endings that it was never trained to choose.

    python -m finished.choices outputs/language_model_transformer/<folder> --context ctx --file hellaswag_val.jsonl
    python -m finished.choices <folder> --context ctx --file outputs/filtering_hellaswag_weak/<folder>/filtered.jsonl

Two figures that are not to be mixed: ``acc`` takes the ending with the largest log p(ending | text), ``acc_norm`` the
one with the largest by the number of its letters, which long endings gain by. Of ties the first is taken. A row without
a right ending, such as one with a hidden label of -1, is refused: it would be right by chance or always.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.image_files import say, shown
from datamodules.text.rows import Rows
from finished.endings import Writer
from foundation.errors import UserError, told_as_sentences
from foundation.security import split_trust, trusting
from foundation.whole_files import write_whole


def acc_and_acc_norm(
    nats: Sequence[Sequence[float]], letters: Sequence[Sequence[int]], labels: Sequence[int]
) -> dict[str, float]:
    """nats: -log p(ending | text) of a text's endings; letters: of each, spaces among them; labels: the right ones."""
    plain, by_letters = 0, 0
    for of_text, lengths, label in zip(nats, letters, labels, strict=True):
        by_length = [one / length for one, length in zip(of_text, lengths, strict=True)]
        plain += of_text.index(min(of_text)) == label
        by_letters += by_length.index(min(by_length)) == label
    return {"acc": plain / len(labels), "acc_norm": by_letters / len(labels)}


def choose(writer: Writer, file: str, *, context: str, endings: str, label: str, batch: int) -> dict[str, Any]:
    rows = Rows(file, "--file")
    texts, choices, labels = [], [], []
    for row in rows:
        among = rows.cell(row, endings, "--endings")
        if not isinstance(among, list) or len(among) < 2 or not all(isinstance(it, str) and it.strip() for it in among):
            raise rows.refused(f"{endings} is {among!r:.80}, which is no list of two texts or more")
        told = str(rows.cell(row, label, "--label"))
        if not told.isdecimal() or int(told) >= len(among):
            raise rows.refused(f"{label} is {told!r}, which says no right ending: hidden labels are not scored")
        texts.append(rows.text(row, context, "--context"))
        choices.append(among)
        labels.append(int(told))
    if not labels:
        raise UserError(f"--file={file} has no rows.")
    of_texts = writer.ids(texts)
    of_endings = [
        [ids[: writer.longest] or [writer.tokenizer.unknown] for ids in writer.ids(among)] for among in choices
    ]
    nats: list[list[float]] = [[] for _ in texts]
    order = sorted(range(len(texts)), key=lambda it: len(of_texts[it]))

    def in_batches() -> Iterator[int]:
        for first in range(0, len(order), batch):
            some = order[first : first + batch]
            found = writer.nats([writer.context(of_texts[it]) for it in some], [of_endings[it] for it in some])
            for number, of_text in zip(some, found, strict=True):
                nats[number] = [given for given, _, _ in of_text]
            yield len(some)

    for _ in shown(in_batches(), len(texts), "reading endings", "texts"):
        pass
    letters = [[len(it) for it in among] for among in choices]
    chance = sum(1 / len(it) for it in choices) / len(choices)
    return {"texts": len(texts), **acc_and_acc_norm(nats, letters, labels), "chance": chance}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a language model's run")
    parser.add_argument("--file", required=True, help="texts with several endings, .jsonl, packed (.gz) or not")
    parser.add_argument("--context", default="context", help="its column of texts")
    parser.add_argument("--endings", default="endings", help="its column of lists of endings")
    parser.add_argument("--label", default="label", help="its column of the right ending's number, from 0")
    parser.add_argument("--out", type=Path, help="also write the figures into this file, .json")
    parser.add_argument("--batch", type=int, default=16, help="texts at once")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument("--accelerator", default="auto", help="a GPU where there is one; cpu, gpu, ...")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    if given.batch < 1:
        raise UserError(f"--batch is {given.batch}: give 1 or more.")
    with trusting(names):
        writer = Writer(given.run, given.checkpoint, given.accelerator, longest=None, shortest=1)
        columns = {"context": given.context, "endings": given.endings, "label": given.label}
        found = choose(writer, given.file, **columns, batch=given.batch)
    told = {"run": given.run.name, "file": Path(given.file).name, **found}
    if given.out is not None:
        write_whole(given.out, json.dumps(told, indent=2) + "\n")
    say(", ".join(f"{key} {it:.4f}" if isinstance(it, float) else f"{key} {it}" for key, it in told.items()))
    return told


if __name__ == "__main__":
    with told_as_sentences():
        main()
