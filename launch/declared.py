"""What a run of a config would log, asked of its parts: nothing is trained, and no data is looked for."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from foundation.metrics import STAGES, Direction
from foundation.protocols import declared_metrics, said
from foundation.published import key_for
from foundation.security import FUNCTIONS, nodes_in
from launch.parts_check import metrics_of_run
from launch.runs import instantiate, with_classes


@dataclass
class Parts:
    """Those that log something. In place of the DataModule stands what its config says of it."""

    module: Any
    datamodule: Any
    callbacks: list[Any]

    @classmethod
    def of(cls, config: dict[str, Any], device: str = "cpu") -> "Parts":
        """Without callbacks that ask for a finished run and leave open for which: a person names it.

        Args:
            device: ``meta`` builds a module of any size without its weights.
        """
        with torch.device(device):
            # How many classes there are, where the data say it, changes nothing of what is logged.
            module = instantiate(with_classes(config["lightning_module"], 1))
        callbacks = [instantiate(node) for node in config["callbacks"].values() if not lacks_a_run(node)]
        told = config["datamodule"]
        on_training_data = told.get("test_split") == "train"
        val_size = told.get("val_size")  # null, as left out: some, as many as the data say
        datamodule = SimpleNamespace(
            val_size=1 if val_size is None else val_size, tests_on_training_data=on_training_data
        )
        return cls(module, datamodule, callbacks)

    def metrics(self) -> dict[str, Direction]:
        return metrics_of_run(self.module, self.datamodule, self.callbacks)

    def shown(self, what: str) -> set[str]:
        """The keys of ``pictures`` or ``tables``."""
        keys: set[str] = set().union(*(said(it, what)(self.module) for it in self.callbacks))
        return {key_for(key, self.datamodule) for key in keys}

    def direction(self, metric: str) -> Direction:
        """Of a metric that is logged, or would be if nothing were unavailable here."""
        unavailable = [said(it, "unavailable_metrics")(self.module, stage) for it in self.callbacks for stage in STAGES]
        known = declared_metrics(self.module, self.callbacks)
        for it in unavailable:
            known |= it
        directions: dict[str, Direction] = {key_for(key, self.datamodule): it for key, it in known.items()}
        return directions.get(metric)


def lacks_a_run(node: dict[str, Any]) -> bool:
    return any("run" in it and it["run"] is None for _, it in nodes_in(node, "") if it["_target_"] in FUNCTIONS)
