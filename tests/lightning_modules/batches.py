"""A batch for any module, of small sizes, without a DataModule."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.adversarial_filtering import AdversarialFiltering
from lightning_modules.bert_fine_tuning import BertChooser
from lightning_modules.language_model import LanguageModel

CHOICES, LENGTH, MASKED = 4, 8, 2


def batch_for(module: Any, size: int = 4, generator: torch.Generator | None = None) -> dict[str, Any]:
    """What the module reads, all of it drawn but the numbers of its examples."""
    if getattr(module, "vocabulary_size", None) or isinstance(module, AdversarialFiltering):
        return texts(module, size, generator)
    labels = {"label": torch.randint(getattr(module, "num_classes", 2), (size,), generator=generator)}
    if getattr(module, "point_size", None):
        return {
            "point": torch.randn(size, module.point_size, generator=generator),
            "index": torch.arange(size),
        } | labels

    def images() -> dict[str, Tensor]:
        image = torch.rand(size, *module.image_shape, generator=generator)
        return {"image": image, "index": torch.arange(size)}

    if getattr(module, "needs_streams", False):
        known = {"labelled": images() | labels} if module.labelled_weight else {}
        return known | {"unlabelled": images(), "for_generator": images()}
    return images() | labels


def texts(module: Any, size: int, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Rows with all that one of the methods of texts asks for, of one width."""

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    of_choices = (size, CHOICES) if isinstance(module, (AdversarialFiltering, BertChooser)) else (size,)
    lengths = whole(4, LENGTH + 1, *of_choices)
    places = torch.arange(LENGTH)
    is_token = places < lengths.unsqueeze(-1)
    ids = whole(5, 60, *of_choices, LENGTH) * is_token
    rows = {"index": torch.arange(size), "input_ids": ids, "lengths": lengths}
    if isinstance(module, LanguageModel):
        return rows
    positions = whole(1, 4, size, MASKED)
    return rows | {
        "segment_ids": ((places >= lengths.unsqueeze(-1) // 2) & is_token).long(),
        "features": torch.randn(*of_choices, 6, generator=generator),
        "label": whole(0, 2, size), "start": whole(0, 4, size), "end": whole(0, 4, size),
        "token_label": torch.where(is_token & (places % 3 > 0), whole(0, 3, *of_choices, LENGTH), -100),
        "masked_positions": positions, "masked_ids": torch.where(positions == 1, -100, whole(5, 60, size, MASKED)),
        "is_random_next": whole(0, 2, size),
    }  # fmt: skip
