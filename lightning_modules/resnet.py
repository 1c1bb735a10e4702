"""Deep residual learning (He, Zhang, Ren & Sun 2016, arXiv:1512.03385).

    python train.py experiment=resnet_cifar10 trainer=gpu
    python train.py experiment=resnet_cifar10_fast

A block learns what to add to its input (eq. 1), so that a deeper net is no harder to train than a shallow one; the
nets are in ``networks/resnet.py``, the loss in ``classifier.py``. This file holds the recipe: learning rates by
iterations, and weights of nets that were trained elsewhere. Departures from the paper: pixels are normalised by
channel means and deviations where the paper subtracts the mean image, and the warm-up of the 110-layer net lasts a
number of iterations instead of until the training error is below 80 %. What it reaches: docs/methods/resnet.md.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.classifier import Classifier
from lightning_modules.networks.resnet import TorchvisionResNet


def learning_rate_factor(
    iteration: int, drops: Sequence[int], drop: float = 0.1, warmup: int = 0, warmup_factor: float = 0.1
) -> float:
    """What the base rate is multiplied by in an iteration, counted from 0 (section 4.2).

    ``drop`` for each of ``drops`` that is reached; ``warmup_factor`` in the first ``warmup`` iterations.
    """
    if iteration < warmup:
        return warmup_factor
    return drop ** sum(iteration >= it for it in drops)


class Drops(LRScheduler):
    """``learning_rate_factor`` as a schedule.

    It is computed from the iteration alone. The public implementations set the warm-up's rate by hand and leave it to
    torch's chained schedule to undo that, which since torch 1.4 it does not: their rate stays at a tenth.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        drops: Sequence[int],
        drop: float = 0.1,
        warmup: int = 0,
        warmup_factor: float = 0.1,
    ) -> None:
        if list(drops) != sorted(set(drops)):
            raise ValueError(f"drops are {list(drops)}: give iterations in ascending order")
        self.drops, self.drop, self.warmup, self.warmup_factor = list(drops), drop, warmup, warmup_factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        factor = learning_rate_factor(self.last_epoch, self.drops, self.drop, self.warmup, self.warmup_factor)
        return [base * factor for base in self.base_lrs]


class Triangle(LRScheduler):
    """From 0 up to the base rate in the first ``warmup`` of ``iterations``, then down to 0; linear both ways.

    A run that is too short for the warm-up (``debug=steps``) rises until its last iteration.
    """

    def __init__(self, optimizer: Optimizer, iterations: int, warmup: int) -> None:
        if warmup < 0:
            raise ValueError(f"warmup is {warmup}: give a number of iterations, 0 or more")
        self.iterations, self.warmup = iterations, min(warmup, iterations - 1)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        done = self.last_epoch
        up, down = (done + 1) / (self.warmup + 1), (self.iterations - done) / (self.iterations - self.warmup)
        return [base * max(min(up, down), 0.0) for base in self.base_lrs]


class ResNet(Classifier):
    """A classifier whose network may start from weights that were trained elsewhere.

    Args:
        network: of ``networks/resnet.py``; one with ``weights`` gets them before the first iteration.
    """

    def __init__(self, network: nn.Module, **classifier: Any) -> None:
        super().__init__(network, **classifier)
        self.pretrained = network if isinstance(network, TorchvisionResNet) and network.weights else None

    def prepare_data(self) -> None:
        if self.pretrained is not None and self.is_new():
            self.pretrained.read_weights()  # downloads them, once a machine

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.pretrained is not None and stage == "fit" and self.is_new():
            self.pretrained.load_weights()

    def is_new(self) -> bool:
        """Whether training begins here: a checkpoint brings all weights itself."""
        return self.trainer.state.fn == "fit" and self.trainer.ckpt_path is None  # pyright: ignore
