"""The judges that were trained on ImageNet: the 2015 Inception network of published scores, and torchvision's."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import inception_v3

from callbacks.instruments.downloads import fetch
from callbacks.instruments.judges import Judge
from foundation.checkpoints import load_plain
from foundation.errors import UserError

SIDE = 299  # pixels that the networks look at


class Inception(Judge):
    """The base of the judges from ImageNet, which take any size and repeat a grey image as red, green and blue.

    Args:
        weights: a file of a state_dict.
        download: fetch the published weights to that place where it does not exist.
    """

    url: str
    """Its file's name ends with the beginning of its sha256."""

    def __init__(self, weights: str, download: bool = True) -> None:
        super().__init__()
        self.weights, self.download = Path(weights), download
        self.sha256 = ""

    def unavailable_because(self) -> str | None:
        if self.weights.exists() or self.download:
            return None
        return f"its weights are not at {self.weights}"

    def fetch(self) -> str | None:
        reason = fetch(self.url, self.weights)
        return reason and f"its weights are not at {self.weights}, and {self.url} could not be downloaded ({reason})"

    def load(self) -> None:
        with torch.random.fork_rng():
            try:
                self.build(load_plain(self.weights))
            except (RuntimeError, AttributeError) as error:  # of load_state_dict
                reason = str(error).splitlines()[-1].strip()
                raise UserError(f"{self.weights} does not hold this judge's weights: {reason}") from None
        self.requires_grad_(False).eval()
        self.sha256 = hashlib.sha256(self.weights.read_bytes()).hexdigest()

    @abstractmethod
    def build(self, state: dict[str, Tensor]) -> None:
        """Make the network with these weights."""

    def refusal(self, image_shape: Sequence[int]) -> str | None:
        if image_shape[0] in (1, 3):
            return None
        return f"it looks at grey or colour images, and the module makes {image_shape[0]} channels"

    def describe_for_record(self) -> dict[str, Any]:
        return {"network": type(self).__name__, "weights": self.weights.name, "weights_sha256": self.sha256}


class Inception2015(Inception):
    """The network that published scores and distances are of, ported to torch by torch-fidelity.

    TensorFlow's ``inception-2015-12-05``: it scales images itself as TensorFlow 1 did, its logits are 1008 and without
    their bias. Distances are of its 2048 pooled features.
    """

    score, distance = "inception_score", "frechet_inception_distance"
    classes, features = 1008, 2048
    url = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"

    def unavailable_because(self) -> str | None:
        if find_spec("torch_fidelity") is None:
            return "torch-fidelity is not installed: pip install '.[fidelity]'"
        return super().unavailable_because()

    def build(self, state: dict[str, Tensor]) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # It unpickles the file without a check, of which load_plain has seen that it holds tensors alone.
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(self.weights)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(in_color(images))
        return logits, features


class TorchvisionInception(Inception):
    """torchvision's inception_v3, trained anew: its scores are other numbers and never stand beside published ones.

    Images are scaled to 299 pixels bilinearly.
    """

    score, distance = "torchvision_inception_score", "torchvision_frechet_inception_distance"
    classes, features = 1000, 2048
    url = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"

    def build(self, state: dict[str, Tensor]) -> None:
        self.network = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
        self.network.load_state_dict(state)
        self.last, self.network.fc = self.network.fc, nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = in_color(images).float() / 127.5 - 1
        size = (SIDE, SIDE)
        features = self.network(interpolate(pixels, size=size, mode="bilinear", align_corners=False))
        return self.last(features), features


def in_color(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)
