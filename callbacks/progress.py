"""One bar for the whole training, in iterations, and one for a test; plain lines where no terminal is there."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor
from tqdm import tqdm

from callbacks.instruments.run_clock import clock_of, counted_iterations
from foundation.length import clock
from foundation.logged_iterations import is_logged

SECONDS_A_LINE = 20


class Progress(ProgressBar):
    """Iterations done (of a run by wall time: seconds), iterations a second, time left and the latest logged metrics.

    Lightning's own bars start anew with every epoch, of which small data sets have hundreds, and write control
    characters into log files. In a terminal this is one bar; elsewhere it is one line every tenth of the way.

    Args:
        show: metrics to show, as logged; a prefix such as ``train/loss`` shows all that begin with it.
    """

    def __init__(self, show: list[str] | None = None) -> None:
        super().__init__()
        self.show = tuple(show or ["train/loss"])
        self.bar: tqdm | None = None
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first, self.started, self.logged = trainer.global_step, time.monotonic(), 0
        done, total, unit = way(trainer)
        self.tenth = tenths(done, total)
        if self.enabled and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc="training", unit=unit, dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done, total, unit = way(trainer)
        logs = is_logged(trainer, trainer.global_step)
        self.logged = trainer.global_step if logs else self.logged
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if logs:
                self.bar.set_postfix_str(self._shown(trainer), refresh=False)
        elif self.enabled and tenths(done, total) > self.tenth:
            self.tenth = tenths(done, total)
            rate = (trainer.global_step - self.first) / max(time.monotonic() - self.started, 1e-9)
            far = f"{done}/{total} iterations"
            if unit == "s":
                far = f"{clock(done)} of {clock(total)}, {trainer.global_step} iterations"
            # What was logged before the last line is no news.
            shown, self.logged = self._shown(trainer) if self.logged else "", 0
            print(f"{far}, {rate:.1f}/s  {shown}".rstrip(), flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.enabled and sys.stderr.isatty():
            self.bar = tqdm(total=sum(map(float, trainer.num_test_batches)), desc="testing", leave=False)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self.bar is not None:
            self.bar.update()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _shown(self, trainer: Trainer) -> str:
        values = {key: value for key, value in trainer.callback_metrics.items() if key.startswith(self.show)}
        return "  ".join(f"{key.partition('/')[2]} {float(value):.3f}" for key, value in sorted(values.items()))


def way(trainer: Trainer) -> tuple[int, int, str]:
    """How far a training is, of how much (0: not known), and whether in iterations (it) or seconds (s)."""
    run_clock, total = clock_of(trainer), counted_iterations(trainer)
    if not math.isinf(total):
        return trainer.global_step, int(total), "it"
    if run_clock and run_clock.length.seconds:
        budget = int(run_clock.length.seconds)
        return min(int(run_clock.seconds()), budget), budget, "s"
    return trainer.global_step, 0, "it"


def tenths(done: int, total: int) -> int:
    return 10 * done // total if total else 0


def counted(trainer: Trainer, batches: Sequence[Tensor], doing: str) -> Iterator[Tensor]:
    """Passes batches on while a measurement takes its time; shown where the run shows its progress.

    In a terminal a bar counts their examples, elsewhere a line does now and then.
    """
    progress = trainer.progress_bar_callback
    if not isinstance(progress, Progress) or not progress.enabled:
        yield from batches
        return
    total, done, said = sum(map(len, batches)), 0, time.monotonic()
    terminal = sys.stderr.isatty()
    with tqdm(total=total, desc=doing, unit="example", leave=False, dynamic_ncols=True, disable=not terminal) as bar:
        for batch in batches:
            yield batch
            done += len(batch)
            bar.update(len(batch))
            if not terminal and time.monotonic() - said > SECONDS_A_LINE:
                said = time.monotonic()
                print(f"{doing}: {done} of {total}", flush=True)
