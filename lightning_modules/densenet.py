"""Densely connected nets (Huang, Liu, van der Maaten & Weinberger 2017, arXiv:1608.06993).

    python train.py experiment=densenet_cifar10 trainer=gpu
    python train.py experiment=densenet_digits

A layer sees what all layers before it in its block have made (eq. 2); the nets are in ``networks/densenet.py``, the
loss in ``classifier.py``, the learning rates in ``schedules.py``. Departures from the paper: an epoch has whole batches
alone. What it reaches: docs/methods/densenet.md.
"""

from lightning_modules.image_classifier import ImageClassifier


class DenseNet(ImageClassifier):
    """A classifier by a network of ``networks/densenet.py``."""
