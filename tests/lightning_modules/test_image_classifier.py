"""The loss by hand, the logits of normalised pixels, and a net that learns."""

from functools import partial

import pytest
import torch
from lightning import Trainer
from torch import nn

from callbacks.classification import Classification
from datamodules.digits import DigitsDataModule
from foundation.errors import UserError
from foundation.protocols import ClassifiesImages
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.resnet import CifarResNet

# Overrides with which each experiment of this method runs in seconds (tests/contract).
TINY = {
    "oracle_deepcloak_cifar10": ["datamodule.batch_size=8", "lightning_module.network.depth=11",
                                 "lightning_module.network.width=2", "trainer.precision=32-true",
                                 "callbacks.deepcloak={shares: [10], score_examples: 5, examples: 2}",
                                 "callbacks.deepcloak.attacks.pgd_linf.steps=2"],
}  # fmt: skip


class Mean(nn.Module):
    """Logits that are the image's mean and minus it."""

    image_shape, num_classes = (2, 4, 4), 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        assert images.is_contiguous(memory_format=torch.channels_last) or images.is_contiguous()
        mean = images.mean(dim=(1, 2, 3)) * self.weight
        return torch.stack([mean, -mean], dim=1)


def classifier(network=None, **changes) -> ImageClassifier:
    given = {"mean": [0.5], "std": [0.25], "optimizer": partial(torch.optim.SGD, lr=0.1)} | changes
    return ImageClassifier(network or Mean(), **given)  # type: ignore


def test_pixels_are_normalised_channel_by_channel():
    images = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(images[:, 0] - 0.5) / 0.25, (images[:, 1] - 0.2) / 2], dim=1).mean(dim=(1, 2, 3))
    found = classifier(mean=[0.5, 0.2], std=[0.25, 2.0]).class_logits(images)
    torch.testing.assert_close(found, torch.stack([expected, -expected], dim=1))


def test_channels_last_changes_the_layout_alone():
    images, network = torch.rand(3, 3, 32, 32), CifarResNet(8, width=4).eval()
    expected = classifier(network).class_logits(images)
    torch.testing.assert_close(classifier(network, channels_last=True).class_logits(images), expected)


def test_serves_classifies():
    module = classifier()
    assert isinstance(module, ClassifiesImages)
    assert module.capabilities() == {ClassifiesImages}
    assert module.num_classes == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_by_hand(smoothing):
    module = classifier(label_smoothing=smoothing)
    images = torch.rand(5, 2, 4, 4)
    label = torch.tensor([0, 1, 1, 0, 1])
    seen = module.loss({"index": torch.arange(5), "image": images, "label": label})
    probabilities = torch.stack([((images.mean(dim=(1, 2, 3)) - 0.5) / 0.25 * sign).exp() for sign in (1, -1)], dim=1)
    logs = (probabilities / probabilities.sum(dim=1, keepdim=True)).log()
    target = (1 - smoothing) * nn.functional.one_hot(label, 2) + smoothing / 2
    torch.testing.assert_close(seen["loss"], -(target * logs).sum(dim=1).mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5] * 3}, r"lightning_module.mean has 3 values for images of 2 channel"),
        ({"std": [0.0]}, r"lightning_module.std is \[0.0\]: give numbers above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0: give a share from 0 to below 1"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        classifier(**changes)


def test_a_small_net_learns_the_digits(tmp_path):
    torch.manual_seed(0)
    network = CifarResNet(8, width=8, image_shape=(1, 8, 8))
    module = classifier(network, optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9))
    trainer = Trainer(accelerator="cpu", max_steps=60, logger=False, enable_progress_bar=False, log_every_n_steps=20,
                      enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
                      callbacks=[Classification(str(tmp_path))])  # fmt: skip
    datamodule = DigitsDataModule(batch_size=128)
    with torch.no_grad():
        start = nn.functional.cross_entropy(module.class_logits(torch.rand(256, 1, 8, 8)), torch.arange(256) % 10)
    assert 2 < float(start) < 6  # ln 10 = 2.3 and what a linear layer of He's deviations adds
    trainer.fit(module, datamodule)
    trainer.test(module, datamodule, verbose=False)
    assert float(trainer.callback_metrics["test/accuracy"]) > 0.9
    assert module.class_names is None  # digits are called by their numbers
