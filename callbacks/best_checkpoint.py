"""The best checkpoint by a validation metric, whichever direction of it is better."""

from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.instruments.monitored import direction_of


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, which keeps the best by the direction that the metric declares.

    Args:
        monitor: the metric, measured in validation.
        mode: max or min, which must be the metric's own direction; None follows it.
        lightning: what Lightning's takes.
    """

    for_training_only = True

    def __init__(self, monitor: str, mode: Literal["max", "min"] | None = None, **lightning: Any) -> None:
        self.lightning = {"monitor": monitor, **lightning}
        super().__init__(**self.lightning, mode=mode or "min")
        self.mode = mode  # pyright: ignore[reportAttributeAccessIssue]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.mode is None:  # Lightning decides by it as it is made
            super().__init__(**self.lightning, mode=direction_of(self.lightning["monitor"], trainer, pl_module))
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's forgets the best of a run whose folder has been moved, and the score that it saw last."""
        here = {"dirpath": self.dirpath, "best_k_models": {}}
        for path, score in state_dict.get("best_k_models", {}).items():
            here["best_k_models"][self._at_home(path)] = score
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            here[name] = self._at_home(state_dict.get(name, ""))
        super().load_state_dict({**state_dict, **here})
        self.current_score = state_dict.get("current_score")

    def _at_home(self, path: str) -> str:
        assert self.dirpath is not None
        return str(Path(self.dirpath) / Path(path).name) if path else ""

    def _generate_state_key(self, **of: Any) -> str:
        return f"{ModelCheckpoint.__qualname__}{of!r}"  # under which the checkpoints of before have its state
