"""How often a language model finds the right one of several endings that it was never trained to choose.

    python -m finished.choices outputs/language_model_transformer/<folder> --context ctx --file hellaswag_val.jsonl
    python -m finished.choices outputs/language_model_hellaswag/<folder>   # those texts that it was not trained on
    python -m finished.choices <a released GPT-2's folder> --context ctx --file hellaswag_val.jsonl
    python -m finished.choices <folder> --context ctx --file outputs/filtering_hellaswag_weak/<folder>/filtered.jsonl

Two figures that are not to be mixed: ``acc`` takes the ending with the largest log p(ending | text), ``acc_norm`` the
one with the largest by the number of its letters, which long endings gain by. Of ties the first is taken. A row without
a right ending, such as one with a hidden label of -1, is refused: it would be right by chance or always. With ``--out``
what is done lies in ``<out>.begun`` until all is, and the same command goes on behind it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.image_files import say
from datamodules.text.continuations import ContinuationsDataModule
from datamodules.text.rows import Rows, found
from finished.endings import of_all, parts_of
from finished.writer import Writer, writer_of
from foundation.errors import UserError, told_as_sentences
from foundation.security import split_trust, trusting
from foundation.whole_files import write_whole
from launch.command_line import check_writable


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


@dataclass(frozen=True)
class Asked:
    """A text with its endings, and the place of the right one."""

    text: str
    endings: list[str]
    label: int


def read_choices(file: str, *, context: str, endings: str, label: str) -> list[Asked]:
    rows, read = Rows(file, "--file"), []
    for row in rows:
        among = rows.cell(row, endings, "--endings")
        if not isinstance(among, list) or len(among) < 2 or not all(isinstance(it, str) and it.strip() for it in among):
            raise rows.refused(f"{endings} is {among!r:.80}, which is no list of two texts or more")
        told = str(rows.cell(row, label, "--label"))
        if not told.isdecimal() or int(told) >= len(among):
            raise rows.refused(f"{label} is {told!r}, which says no right ending: hidden labels are not scored")
        read.append(Asked(rows.text(row, context, "--context"), among, int(told)))
    if not read:
        raise UserError(f"--file={file} has no rows.")
    return read


def asked_of(writer: Writer, given: Any) -> tuple[dict[str, str], list[Asked]]:
    """The texts of the file that is named, or those of the run's own that it has not been trained on; and what they
    are, in words."""
    run, data = {"run": given.run.resolve().name}, writer.data
    own = data if isinstance(data, ContinuationsDataModule) else None
    if given.file is not None:
        columns = {"context": given.context, "endings": given.endings, "label": given.label}
        if own is not None and found(given.file, "--file").samefile(found(own.file, "datamodule.file")):
            say("The run has learnt from right endings of this file: leave --file out to ask for the others.")
        return run | {"file": Path(given.file).name}, read_choices(given.file, **columns)
    if own is None or own.layout.ending or own.layout.start or not isinstance(own.layout.endings, str):
        raise UserError(
            f"--file is missing, and {given.run} holds no texts with several endings out: name a file of such."
        )
    layout, kept = own.layout, {it.item for it in own.held_out()}
    columns = {"context": layout.context, "endings": own.layout.endings, "label": layout.label}
    every = read_choices(own.file, **columns)
    return run | {"file": Path(own.file).name, "split": own.test_name}, [every[it] for it in sorted(kept)]


def choose(writer: Writer, asked: Sequence[Asked], batch: int, out: Path | None, of: dict[str, Any]) -> dict[str, Any]:
    """The figures, behind what they are ``of``; also written into ``out``."""
    of_texts = writer.ids([it.text for it in asked])
    writer.read_endings_of(writer.longest_possible)
    of_endings = [writer.ids_of_endings(it.endings) for it in asked]
    writer.read_endings_of(max(len(ids) for among in of_endings for ids in among))
    order = sorted(range(len(asked)), key=lambda it: len(of_texts[it]))

    def nats_from(first: int) -> list[Any]:
        some = order[first : first + batch]
        found = writer.nats_given_texts([writer.context(of_texts[it]) for it in some], [of_endings[it] for it in some])
        return list(zip(some, found, strict=True))

    decides = {"file": of_all(asked)} | writer.decides()
    with parts_of(out, decides, batch, len(asked), nats_from, "reading endings") as rows:
        nats = dict(rows)
        letters = [[len(ending) for ending in it.endings] for it in asked]
        measured = acc_and_acc_norm([nats[it] for it in range(len(asked))], letters, [it.label for it in asked])
        chance = sum(1 / len(it.endings) for it in asked) / len(asked)
        told = {**of, "texts": len(asked), **measured, "chance": chance}
        if out is not None:
            write_whole(out, json.dumps(told, indent=2) + "\n")
    return told


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a language model's run, or the folder of a released GPT-2")
    parser.add_argument("--file", help="texts with several endings, .jsonl; unless given, those the run held out")
    parser.add_argument("--context", default="context", help="its column of texts")
    parser.add_argument("--endings", default="endings", help="its column of lists of endings")
    parser.add_argument("--label", default="label", help="its column of the right ending's number, from 0")
    parser.add_argument("--texts", type=int, help="at most so many, the first")
    parser.add_argument("--out", type=Path, help="also write the figures into this file, .json")
    parser.add_argument("--batch", type=int, default=16, help="texts at once")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument("--accelerator", default="auto", help="a GPU where there is one; cpu, gpu, ...")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    for name in ("batch", "texts"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}: give 1 or more.")
    if given.out is not None:
        check_writable("--out", given.out.parent)
    with trusting(names):
        writer = writer_of(given.run, given.checkpoint, given.accelerator)
        of, asked = asked_of(writer, given)
        told = choose(writer, asked[: given.texts], given.batch, given.out, of)
    say(", ".join(f"{key} {it:.4f}" if isinstance(it, float) else f"{key} {it}" for key, it in told.items()))
    return told


if __name__ == "__main__":
    with told_as_sentences():
        main()
