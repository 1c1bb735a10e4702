"""One checkpoint that a run can go on from or be measured with, also when it is interrupted."""

import random
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.instruments.run_clock import gradient_is_unfinished, was_the_last
from callbacks.instruments.signals import Interrupted, watched
from foundation.errors import UserError

RANKS_ASK_EVERY = 10  # iterations between two times that ranks tell one another of a signal


class Checkpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: every ``every_n_train_steps`` iterations, at the end, and when asked to stop.

    Ctrl-C, SIGTERM and a scheduler's signal are answered after the iteration in progress, so what is saved is between
    two iterations (where batches accumulate, after the last of them), and on one rank after the batch of validation in
    progress, which a resume begins anew; a second Ctrl-C ends the run at once. Beside what Lightning saves, a
    checkpoint holds the state of the global random generators of every rank. Weights that are not finite are not
    saved: the former checkpoint stays. For the best checkpoint by a validation metric, add ``best_checkpoint`` to the
    experiment's callbacks.
    """

    for_training_only = True

    def __init__(self, folder: str, every_n_train_steps: int = 1000) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"callbacks.checkpoint.every_n_train_steps is {every_n_train_steps}: give 1 or more.")
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.path = Path(folder) / "last.ckpt"
        self.saved_at: int | None = None  # the iteration of the checkpoint that is there
        self.signal: int | None = None
        self.asked_to_stop = 0  # the signal, once it is answered with a checkpoint
        self.before_validation: dict[str, Any] | None = None  # what it changes
        self.stands_before: dict[str, Any] | None = None  # the same, of a checkpoint that is written in its midst
        self.others: dict[int, Any] = {}  # handlers of signals outside of training
        self.restored: dict[str, Any] | None = None

    # --- saving ----------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if gradient_is_unfinished(trainer):
            return  # no checkpoint holds one
        signum, last = self._signal_on_any_rank(trainer), was_the_last(trainer)
        # After the last iteration, but before Lightning closes the epoch: a longer run can go on inside it.
        if signum or last or trainer.global_step % self._every_n_train_steps == 0:
            self._save(trainer, pl_module)
        self.asked_to_stop = signum
        if last:
            self._answer_at_once()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)
        if trainer.world_size == 1 and not trainer.sanity_checking:
            loops: Any = deepcopy(trainer.fit_loop.state_dict())
            for count in ("total", "current"):  # as behind the batch, so that launch/fit_loop.py makes up for the rest
                loops["epoch_loop.batch_progress"][count]["completed"] -= 1
            self.before_validation = {"random_states": [random_state()], "fit_loop": loops}

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.signal and self.before_validation is not None:
            if self.saved_at != trainer.global_step:
                self.stands_before = self.before_validation
                self._save(trainer, pl_module)
            raise Interrupted(self.signal, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        asked = self.signal if self.before_validation is not None else None
        self.before_validation = None
        # What callbacks have learned of it (the best so far, that it is enough) belongs to this iteration's checkpoint.
        if asked or trainer.should_stop or self.saved_at == trainer.global_step:
            self._save(trainer, pl_module)
        if asked:
            raise Interrupted(asked, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)
        if was_the_last(trainer) and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, pl_module)  # what the module does at the end of an epoch is part of what it ends with

    def _stop_if_asked(self, trainer: Trainer) -> None:
        # Whichever hook is the first after an iteration: Lightning has by then logged what the iteration measured.
        if self.asked_to_stop:
            raise Interrupted(self.asked_to_stop, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.saved_at != trainer.global_step:  # whatever else has ended it
            self._save(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, random_state())
        checkpoint["random_states"] = states
        if self.stands_before is not None:
            checkpoint["random_states"] = self.stands_before["random_states"]
            checkpoint["loops"]["fit_loop"] = self.stands_before["fit_loop"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("random_states", [])
        self.restored = states[trainer.global_rank] if len(states) == trainer.world_size else None
        self.saved_at = checkpoint["global_step"]

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        if self._is_good(trainer, module):
            trainer.save_checkpoint(self.path)
            self.saved_at = trainer.global_step

    def _is_good(self, trainer: Trainer, module: LightningModule) -> bool:
        if weights_are_finite(module):
            return True
        if trainer.is_global_zero:
            print(f"a weight is not finite after iteration {trainer.global_step}: {self.path} stays as it was.")
        return False

    # --- signals -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.restored is not None:
            set_random_state(self.restored)
            self.restored = None
        self.others = {it: signal.signal(it, self._note) for it in watched()}

    def _answer_at_once(self) -> None:
        """As callbacks/instruments/signals.py does."""
        for signum, handler in self.others.items():
            signal.signal(signum, handler)
        self.asked_to_stop = self.asked_to_stop or self.signal or 0

    def _note(self, signum: int, frame: Any) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signum  # schedulers send more than one, which is no more haste

    def _signal_on_any_rank(self, trainer: Trainer) -> int:
        if trainer.world_size == 1:
            return self.signal or 0
        if trainer.global_step % RANKS_ASK_EVERY:
            return 0
        highest = torch.tensor(self.signal or 0, device=trainer.strategy.root_device)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        return int(highest)


def weights_are_finite(module: LightningModule) -> bool:
    """Parameters alone, since these are the same on every rank; the host waits once for all of them."""
    found = [parameter.isfinite().all() for parameter in module.parameters()]
    return not found or bool(torch.stack(found).all())


def random_state() -> dict[str, Any]:
    """The global generators of this process, as tensors and plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global one is what libraries draw from)
    numpy_state = [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached]
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy_state, "python": random.getstate()}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    random.setstate(state["python"])
