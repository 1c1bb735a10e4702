"""A method with rounds, as small as one can be: what a new method, and data that changes, ask of the house.

After each round it leaves out the training images that its network is surest of, and begins anew with other weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.digits import DigitsDataModule
from datamodules.images import ImageTable
from foundation.evaluation import evaluating
from foundation.randomness import keyed_generator
from lightning_modules.image_classifier import ImageClassifier

NODES: dict[str, Any] = {
    "lightning_module": {
        "_target_": "tests.contract.rounds.Rounds",
        "network": {"_target_": "tests.contract.rounds.Perceptron", "dropout": 0.1},
        "mean": [0.3],
        "std": [0.4],
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01},
        "epochs_a_round": 2,
        "left_out": 0.3,
        "seed": 0,
    },
    "datamodule": {"_target_": "tests.contract.rounds.ShrinkingDigits", "batch_size": 256, "val_size": 200, "seed": 0},
}
EPOCHS = ["trainer.max_steps=-1", "trainer.max_epochs=6"]


class Perceptron(nn.Module):
    """Images [B, 1, 8, 8] -> logits [B, 10]."""

    image_shape, num_classes = (1, 8, 8), 10

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def begin(self, generator: torch.Generator) -> None:
        """Draw new weights."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)


class ShrinkingDigits(DigitsDataModule):
    """Digits, of which some may be left out of training; which ones is its state."""

    def __init__(self, **splits: Any) -> None:
        super().__init__(**splits)
        self.kept: Tensor | None = None

    def cut(self, loaded: dict[str, ImageTable]) -> dict[str, ImageTable]:
        tables = super().cut(loaded)
        self.whole = tables["train"]
        return tables

    def keep(self, kept: Tensor) -> None:
        """Train on these, positions in the whole split; the others are left out."""
        self.kept = kept
        self.replace("train", self.whole.take(kept))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.kept is None else {"kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.keep(state_dict["kept"])


class Rounds(ImageClassifier):
    """A classifier whose rounds are whole epochs.

    Args:
        epochs_a_round: a round's epochs.
        left_out: the share of a round's examples that the next one is without.
    """

    def __init__(self, network: Perceptron, *, epochs_a_round: int, left_out: float, **classifier: Any) -> None:
        super().__init__(network, **classifier)
        self.epochs_a_round, self.left_out = epochs_a_round, left_out

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        number, epoch = divmod(self.current_epoch, self.epochs_a_round)
        if number and not epoch:
            self.leave_out_the_easiest()
            self.begin_anew(number)

    def leave_out_the_easiest(self) -> None:
        datamodule: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        table = datamodule.tables["train"]
        with evaluating(self):
            logits = self.class_logits(table.images.to(self.device, self.dtype) / 255)
        sureness = logits.softmax(1).cpu().gather(1, table.labels.unsqueeze(1)).squeeze(1)
        hardest = sureness.argsort()[: len(table) - int(self.left_out * len(table))].sort().values
        before = torch.arange(len(table)) if datamodule.kept is None else datamodule.kept
        datamodule.keep(before[hardest])

    def begin_anew(self, number: int) -> None:
        network: Any = self.network
        network.begin(keyed_generator(self.seed, "round", number))
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()


class RoundsThatEnd(Rounds):
    """The same with what separates two rounds at the end of the first of them."""

    def on_train_epoch_start(self) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        number, epoch = divmod(self.current_epoch + 1, self.epochs_a_round)
        if not epoch:
            self.leave_out_the_easiest()
            self.begin_anew(number)
