"""A sheet on which people say which endings go on with a text, and what they said read back: both papers' last step.

    python -m finished.raters sheet outputs/filtering_hellaswag_weak/<folder>/filtered.jsonl --out sheet.csv --texts 100
    python -m finished.raters read outputs/.../filtered.jsonl --sheet sheet.csv --out rated.jsonl

The sheet has a line an ending, in an order that is drawn, and does not say which is the right one; a rater writes 1
(goes on with the text), 2 (could) or 3 (does not) into ``verdict``. Read back, written endings that a rater took for
likely (1) are dropped, and so are texts whose right ending none did; several sheets are several raters.
"""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.instruments.tables import write_table
from datamodules.image_files import say
from datamodules.text.rows import Rows
from foundation.errors import UserError, told_as_sentences
from foundation.randomness import keyed_generator
from foundation.whole_files import whole

COLUMNS = ["item", "place", "context", "ending", "verdict"]
VERDICTS = {"1", "2", "3"}
Verdicts = dict[tuple[int, int], list[str]]
"""Of each ending, by its text's number and its place."""


def read_filtered(file: str) -> list[dict[str, Any]]:
    rows = Rows(file, "the filtered file")
    found = []
    for row in rows:
        if not isinstance(row.get("endings"), list) or not isinstance(row.get("label"), int) or "ind" not in row:
            raise rows.refused("it is no line of a filtered.jsonl: ind, ctx, endings and label stand in each")
        found.append(row)
    return found


def sheet_of(texts: Sequence[Mapping[str, Any]], seed: int, most: int | None) -> list[list[Any]]:
    """The heading, and a line for each ending."""
    chosen = torch.randperm(len(texts), generator=keyed_generator(seed, "rated texts")).tolist()[:most]
    lines: list[list[Any]] = [COLUMNS]
    for number in sorted(chosen):
        it = texts[number]
        order = torch.randperm(len(it["endings"]), generator=keyed_generator(seed, "rated endings", number)).tolist()
        lines += [[it["ind"], place, it["ctx"], it["endings"][place], ""] for place in order]
    return lines


def read_sheets(files: Sequence[str]) -> Verdicts:
    verdicts: Verdicts = {}
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--sheet={file} is no file: give a sheet that was filled in.")
        with open(path, newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if missing := set(COLUMNS) - set(reader.fieldnames or []):
                raise UserError(f"{file} has no column {min(missing)!r}: leave the sheet's columns as they were.")
            for row in reader:
                verdict = (row["verdict"] or "").strip()
                if not verdict:
                    continue
                if verdict not in VERDICTS:
                    raise UserError(f"{file}, line {reader.line_num}: verdict is {verdict!r}: give 1, 2 or 3, or none.")
                if not row["item"].isdecimal() or not row["place"].isdecimal():
                    raise UserError(f"{file}, line {reader.line_num}: item or place is no number: leave them.")
                verdicts.setdefault((int(row["item"]), int(row["place"])), []).append(verdict)
    if not verdicts:
        raise UserError(f"{', '.join(files)}: no ending has a verdict.")
    return verdicts


def rated(texts: Sequence[Mapping[str, Any]], verdicts: Verdicts) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The texts that were rated, without what was dropped; and how much that is."""
    known = {(it["ind"], place) for it in texts for place in range(len(it["endings"]))}
    if unknown := verdicts.keys() - known:
        item, place = min(unknown)
        raise UserError(f"The sheet has ending {place} of item {item}, which the filtered file has not: give its own.")
    kept, counts = [], {"texts": 0, "rated texts": 0, "dropped texts": 0, "dropped endings": 0}
    for it in texts:
        said = [verdicts.get((it["ind"], place), []) for place in range(len(it["endings"]))]
        if not any(said):
            continue
        counts["rated texts"] += 1
        stays = [place == it["label"] or "1" not in one for place, one in enumerate(said)]
        counts["dropped endings"] += stays.count(False)
        right = said[it["label"]]
        if (right and "1" not in right) or sum(stays) < 2:
            counts["dropped texts"] += 1
            continue
        lists = {key: [one for one, stay in zip(value, stays, strict=True) if stay]
                 for key, value in it.items() if isinstance(value, list) and len(value) == len(stays)}  # fmt: skip
        kept.append({**it, **lists, "label": sum(stays[: it["label"]])})
    counts["texts"] = len(kept)
    return kept, counts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sheet", "read"])
    parser.add_argument("filtered", help="a filtered.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the sheet, or what is left")
    parser.add_argument("--sheet", nargs="+", default=[], help="sheets that were filled in")
    parser.add_argument("--texts", type=int, help="how many are drawn; unless given, all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    texts = read_filtered(given.filtered)
    if given.what == "sheet":
        if given.texts is not None and given.texts < 1:
            raise UserError(f"--texts is {given.texts}: give 1 or more.")
        write_table(given.out, sheet_of(texts, given.seed, given.texts))
        say(f"{given.out}: write 1 (goes on with the text), 2 (could) or 3 (does not) into the last column.")
        return
    if not given.sheet:
        raise UserError("read needs --sheet, one or several that were filled in.")
    kept, counts = rated(texts, read_sheets(given.sheet))
    with whole(given.out) as unfinished:
        unfinished.write_text("".join(json.dumps(it, ensure_ascii=False) + "\n" for it in kept), encoding="utf-8")
    say(f"{given.out}: " + ", ".join(f"{it:,} {key}" for key, it in counts.items()) + ".")


if __name__ == "__main__":
    with told_as_sentences():
        main()
