"""What a filter leaves behind: the filtered texts, the accuracy of each round, and examples before and after."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.instruments.pictures import log_picture, log_table, save_figure
from callbacks.instruments.tables import write_table
from foundation.errors import UserError
from foundation.protocols import FiltersEndings
from foundation.whole_files import whole, write_whole


class FilteringOutcome(Callback):
    """Writes, at the end of a test, ``filtered.jsonl`` (HellaSwag's layout, with the origin and the round of each
    ending), ``rounds.csv`` and ``rounds.png`` (accuracy before and after each round's exchange, by its own
    discriminator on texts that this one has not learnt from), and ``examples.txt``.

    Args:
        folder: where they go.
        examples: texts that are shown with their endings before and after.
    """

    requires_data = FiltersEndings

    def __init__(self, folder: str, examples: int = 10) -> None:
        if examples < 0:
            raise UserError(f"callbacks.filtering.examples is {examples}: give 0 or more.")
        self.folder, self.examples = Path(folder), examples

    def pictures(self, module: Any) -> set[str]:
        return {"test/rounds"}

    def tables(self, module: Any) -> set[str]:
        return {"test/rounds_table"}

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        before, after = list(datamodule.outcome(first=True)), list(datamodule.outcome())
        with whole(self.folder / "filtered.jsonl") as unfinished:
            lines = (json.dumps(it, ensure_ascii=False) + "\n" for it in after)
            unfinished.write_text("".join(lines), encoding="utf-8")
        changed = [number for number, it in enumerate(after) if any(it["rounds"])][: self.examples]
        shown = (example(before[number], after[number]) for number in changed)
        write_whole(self.folder / "examples.txt", "\n".join(shown))
        if not datamodule.history:
            return
        table, picture = self.folder / "rounds.csv", self.folder / "rounds.png"
        write_table(table, [list(datamodule.history[0]), *(list(it.values()) for it in datamodule.history)])
        draw_rounds(datamodule.history, 1 / (datamodule.shown + 1), picture)
        log_picture(trainer, "test/rounds", picture)
        log_table(trainer, "test/rounds_table", table)


def example(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A text with its right ending and what stood, and stands, beside it."""

    def listed(told: Mapping[str, Any]) -> list[str]:
        numbered = zip(told["endings"], told["origins"], told["rounds"], strict=True)
        return [f"    {ending}  ({origin}, round {since})" for place, (ending, origin, since) in enumerate(numbered)
                if place != told["label"]]  # fmt: skip

    right = after["endings"][after["label"]]
    parts = [after["ctx"], f"  right: {right}", "  before:", *listed(before), "  after:", *listed(after), ""]
    return "\n".join(parts)


def draw_rounds(history: Sequence[Mapping[str, float]], chance: float, path: Path) -> None:
    with save_figure(path, width=6.0, height=4.0) as axes:
        rounds = [it["round"] for it in history]
        for key, label in (("accuracy_before", "before the exchange"), ("accuracy_after", "behind it")):
            axes.plot(rounds, [it[key] for it in history], marker="o", markersize=3, label=label)
        axes.axhline(chance, color="grey", linestyle=":", label="chance")
        axes.set(xlabel="round", ylabel="accuracy on texts not learnt from", ylim=(-0.02, 1.02),
                 title="What each round's discriminator tells")  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
