"""Deep residual learning (He, Zhang, Ren & Sun 2016, arXiv:1512.03385).

    python train.py experiment=resnet_cifar10 trainer=gpu
    python train.py experiment=resnet_cifar10_fast

A block learns what to add to its input (eq. 1), so that a deeper net is no harder to train than a shallow one; the
nets are in ``networks/resnet.py``, the loss in ``classifier.py``, the learning rates of section 4.2 in
``schedules.py``. Departure from the paper: pixels are normalised by channel means and deviations where the paper
subtracts the mean image. What it reaches: docs/methods/resnet.md.
"""

from lightning_modules.image_classifier import ImageClassifier


class ResNet(ImageClassifier):
    """A classifier by a network of ``networks/resnet.py``."""

    initial_prefixes = (("", "network."), ("", "network.net."))  # of a network's own state_dict, and torchvision's
