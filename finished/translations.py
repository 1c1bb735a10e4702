"""What a run makes of texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.text.pairs import PairsDataModule
from datamodules.text.words import UNKNOWN
from finished.predictions import Predictions
from finished.texts import Texts, batches, encoded, looked_at
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.runs import Finished

TRANSLATIONS = "translations.txt"


def translate(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    """A text for each, in the table and, a line each, in a file of their own."""
    module, data = looked_at(finished, config), finished.datamodule
    if not isinstance(data, PairsDataModule):
        raise UserError(f"The run's {type(data).__name__} does not say how ids become a text.")
    table, made = encoded(finished, asked), list[str]()
    for _, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            ids, lengths = (it.tolist() for it in module.translate(**batch))
        made += [data.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]

    def write(folder: Path) -> None:
        (folder / TRANSLATIONS).write_text("".join(f"{it}\n" for it in made), encoding="utf-8")

    record = {"unknown_tokens": int((table.token_ids == UNKNOWN).sum()), "tokens": int(table.known_lengths.sum())}
    return Predictions(asked.table([["output"], *([it] for it in made)]), made, record, write)
