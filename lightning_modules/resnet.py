"""Deep residual learning (He, Zhang, Ren & Sun 2016, arXiv:1512.03385).

    python train.py experiment=resnet_cifar10 trainer=gpu
    python train.py experiment=resnet_cifar10_fast

A block learns what to add to its input (eq. 1), so that a deeper net is no harder to train than a shallow one; the
nets are in ``networks/resnet.py`` and ``networks/imagenet_resnet.py``, the loss in ``classifier.py``, the learning
rates of sections 3.4 and 4.2 in ``schedules.py``. Departure from the paper: pixels are normalised by channel means and
deviations where the paper subtracts the mean image. What it reaches: docs/methods/resnet.md.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from foundation.errors import UserError
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.imagenet_resnet import ImageNetResNet

TORCHVISION_S = re.compile(r"resnet(50|101|152)-[0-9a-f]{8}\.pth")  # files of published weights


class ResNet(ImageClassifier):
    """A classifier by a network of ``networks/resnet.py`` or ``networks/imagenet_resnet.py``."""

    initial_prefixes = (("", "network."), ("", "network.net."))  # of a network's own state_dict, and torchvision's

    def from_elsewhere(self, weights: dict[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Tensor]:
        self._check_halving("the run", ((config or {}).get("network") or {}).get("halves_in"))
        return weights

    def adopted(self, weights: dict[str, Tensor], file: str, class_names: Sequence[str] | None) -> dict[str, Tensor]:
        self._check_halving(file, "3x3" if TORCHVISION_S.fullmatch(file) else None)
        return weights

    def _check_halving(self, source: str, there: str | None) -> None:
        """Refuse weights that fit by their shapes and were trained in a net that halves images elsewhere."""
        network = self.network
        if not isinstance(network, ImageNetResNet) or there in (None, network.halves_in):
            return
        if network.has_bottlenecks:
            raise UserError(
                f"init_from: {source} was trained in a net that halves an image in a bottleneck's {there} "
                f"convolution: set lightning_module.network.halves_in={there}."
            )
