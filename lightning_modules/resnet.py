"""Deep residual learning (He, Zhang, Ren & Sun 2016, arXiv:1512.03385).

    python train.py experiment=resnet_cifar10 trainer=gpu
    python train.py experiment=resnet_cifar10_fast

A block learns what to add to its input (eq. 1), so that a deeper net is no harder to train than a shallow one; the
nets are in ``networks/resnet.py``, the loss in ``classifier.py``, the learning rates of section 4.2 in
``schedules.py``. This file holds what is left: weights of nets that were trained elsewhere. Departures from the paper:
pixels are normalised by channel means and deviations where the paper subtracts the mean image, and the warm-up of the
110-layer net lasts a number of iterations instead of until the training error is below 80 %. What it reaches:
docs/methods/resnet.md.
"""

from typing import Any

from torch import nn

from lightning_modules.classifier import Classifier
from lightning_modules.networks.resnet import TorchvisionResNet


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
