"""What a run says of a person's own texts: labels of a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.text.tokens import TokensDataModule, TokenTable
from finished.predictions import Likeliest, Predictions
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.runs import Finished

SHOWN = 60  # characters of a text on the terminal


@dataclass
class Texts:
    """The lines of a file."""

    texts: list[str]

    @property
    def names(self) -> list[str]:
        """What a line of the terminal has of them."""
        return [it if len(it) <= SHOWN else f"{it[: SHOWN - 3]}..." for it in self.texts]


def read_texts(source: str) -> Texts:
    """One line, one text; none is left out silently."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"input={source}: this run reads texts. Give a file of them, one a line.")
    lines = path.read_bytes().rstrip(b"\r\n").splitlines()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            raise UserError(
                f"input={source}, line {number} is no UTF-8 ({error.reason} at byte {error.start}): give a file of "
                "texts, one a line, saved as UTF-8."
            ) from None
        if not texts[-1]:
            raise UserError(f"input={source}, line {number} is empty: give one text a line.")
    if not texts:
        raise UserError(f"input={source} is empty: give one text a line.")
    return Texts(texts)


def classify_texts(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    """The likeliest classes of each text: with few classes all of them."""
    if config["invert"]:
        raise UserError("invert=true is for images, and this run reads texts: leave it out.")
    module: Any = finished.module
    if not isinstance(finished.datamodule, TokensDataModule):
        raise UserError(f"The run's {type(finished.datamodule).__name__} does not say how a text becomes token ids.")
    table, likeliest = TokenTable.of(finished.datamodule.encode(asked.texts)), Likeliest(module)
    for positions in torch.arange(len(table)).split(config["batch_size"]):
        batch = table[positions]
        with evaluating(module):
            likeliest.add(module.class_logits(batch["input_ids"].to(module.device), batch["lengths"].to(module.device)))
    kept = finished.datamodule.max_length
    record = {"max_length": kept, "of_that_length": int((table.known_lengths == kept).sum())}
    record |= {"predicted": likeliest.counts()}
    return Predictions(likeliest.rows("text", asked.texts), likeliest.captions(), record, lambda folder: None)
