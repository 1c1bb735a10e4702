"""Errors by averaged class probabilities: over views of an image, over finished runs, or over both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.classification import ClassificationMetric
from callbacks.progress import counted
from datamodules.views import KINDS, Kind, Views
from foundation.checkpoints import fingerprint
from foundation.errors import UserError, did_you_mean
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import ClassifiesImages, ShowsViews, said, serves
from foundation.published import key_for

KEY = "callbacks.averaged_predictions"


class AveragedPredictions(Callback):
    """Logs ``test/error``, ``accuracy`` and ``cross_entropy_nats`` of averages, with what they are of behind the name:
    ``_mirrored``, ``_ten_crops``, ``_scales_<short sides>``, ``_<n>_runs``, or views and runs.

    Of every image the probabilities of each view by each run weigh the same (Krizhevsky et al. 2012, section 4.1).
    Crops and whole images are seen with their mirror images. A network sees a whole image as it is: its last layers
    average over as many places as that has. Batches are whole and the same on any number of ranks, so that figures
    are equal to the bit.

    Args:
        views: ``single`` (the test's own), ``mirrored``, ``ten_crops`` or ``scales``, see ``datamodules.views``.
        scales: short sides in pixels.
        top_k: also log ``error_top<k>``.
        batch_size: images of which all views are seen at once.
        others: runs beside this one, by their folders.
    """

    requires = ClassifiesImages
    requires_data = ShowsViews
    needs_labels = True

    def __init__(
        self,
        views: Kind = "single",
        scales: Sequence[int] = (),
        top_k: int | None = None,
        batch_size: int = 32,
        others: Mapping[str, nn.Module] | None = None,
    ) -> None:
        if views not in KINDS:
            raise UserError(f"{KEY}.views: {did_you_mean(str(views), KINDS)}")
        if views == "scales" and (not scales or min(scales) < 1 or list(scales) != sorted(set(scales))):
            raise UserError(f"{KEY}.scales is {list(scales)}: give short sides in pixels in ascending order.")
        if views == "single" and not others:
            raise UserError(
                f"{KEY} has nothing to average: set its views to mirrored, ten_crops or scales, or name further runs "
                f"by {KEY}.others.runs=[<folder>,...]."
            )
        if top_k is not None and top_k < 2:
            raise UserError(f"{KEY}.top_k is {top_k}: give 2 or more, or null.")
        if batch_size < 1:
            raise UserError(f"{KEY}.batch_size is {batch_size}: give a number of images, 1 or more.")
        self.views = Views(views, tuple(scales) if views == "scales" else ())
        self.top_k, self.batch_size = top_k, batch_size
        self.others: dict[str, Any] = dict(others or {})
        for run, module in self.others.items():
            if not serves(module, ClassifiesImages):
                raise UserError(f"{KEY}.others.runs: {run} is a {type(module).__name__}, which classifies no images.")
            module.requires_grad_(False)
        self.measured = 0

    # --- what it says of itself ------------------------------------------------------------------------------

    @property
    def suffix(self) -> str:
        """What the names of its metrics end with."""
        words = [] if self.views.kind == "single" else [self.views.kind, *map(str, self.views.scales)]
        words += [f"{len(self.others) + 1}_runs"] if self.others else []
        return "_" + "_".join(words)

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage != "test":
            return {}
        names: dict[str, Direction] = {"accuracy": "max", "error": "min", "cross_entropy_nats": "min"}
        names |= {f"error_top{self.top_k}": "min"} if self.top_k else {}
        return in_stage(stage, {f"{name}{self.suffix}": direction for name, direction in names.items()})

    def describe_for_record(self) -> dict[str, Any]:
        if not self.measured:
            return {}
        scales = {"scales": list(self.views.scales)} if self.views.kind == "scales" else {}
        told = {"views": self.views.kind, **scales, "runs": len(self.others) + 1, "images": self.measured}
        return {f"predictions{self.suffix}": told}

    # --- whether it can ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if reason := datamodule.unfit_views(self.views):
            raise UserError(f"{KEY}.views is {self.views.kind}, of which there are none: {reason}.")
        self._check_classes(pl_module, datamodule)
        if stage == "test":
            for other in self.others.values():
                other.to(device=trainer.strategy.root_device, dtype=pl_module.dtype).eval()
            self._check_weights(pl_module)
            self._check_sizes(trainer, pl_module)

    def _check_classes(self, module: Any, datamodule: Any) -> None:
        if self.top_k is not None and self.top_k >= module.num_classes:
            raise UserError(
                f"{KEY}.top_k is {self.top_k}, and there are {module.num_classes} classes: give fewer, or null."
            )
        names = list(module.class_names or said(datamodule, "class_names") or ())
        for run, other in self.others.items():
            theirs = list(said(other, "class_names") or ())
            if other.num_classes != module.num_classes or (names and theirs and names != theirs):
                raise UserError(
                    f"{KEY}.others.runs: {run} tells other classes apart ({in_words(theirs, other.num_classes)}) than "
                    f"the run that is measured ({in_words(names, module.num_classes)}): name runs of the same classes."
                )
            if tuple(other.image_shape) != tuple(module.image_shape):
                raise UserError(
                    f"{KEY}.others.runs: {run} sees images of (channels, height, width) "
                    f"{tuple(other.image_shape)}, and the run that is measured "
                    f"{tuple(module.image_shape)}: name runs of the same images."
                )

    def _check_weights(self, module: LightningModule) -> None:
        """A run that is averaged with itself would count twice."""
        seen = {fingerprint(module.state_dict()): "the run that is measured"} if self.others else {}
        for run, other in self.others.items():
            same = seen.setdefault(fingerprint(other.state_dict()), run)
            if same != run:
                raise UserError(f"{KEY}.others.runs: {run} has the weights of {same}: name each run once.")

    def _check_sizes(self, trainer: Trainer, module: Any) -> None:
        """Before the first image is read, whether the networks see images of these sizes at all."""
        for run, each in self._members(module):
            for side in self.views.scales:
                image = torch.zeros(1, each.image_shape[0], side, side, device=module.device, dtype=module.dtype)
                try:
                    with evaluating(each), trainer.precision_plugin.test_step_context():
                        each.class_logits(image)
                except RuntimeError as error:
                    reason = str(error).splitlines()[0]
                    raise UserError(
                        f"{KEY}.scales has {side}, and {run} sees no images of that size ({reason}): leave it out, or "
                        "set views to ten_crops or mirrored."
                    ) from None

    def _members(self, module: Any) -> Iterator[tuple[str, Any]]:
        yield f"this {type(module).__name__}", module
        yield from self.others.items()

    # --- measuring ---------------------------------------------------------------------------------------------

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        datamodule, device = trainer.datamodule, trainer.strategy.root_device  # pyright: ignore[reportAttributeAccessIssue]
        metric = ClassificationMetric(pl_module.num_classes, self.top_k or 1).to(device)  # pyright: ignore
        self.measured = examples_of(trainer)
        batches = torch.arange(self.measured).split(self.batch_size)[trainer.global_rank :: trainer.world_size]
        doing = f"averaging predictions of {self.measured} images"
        with evaluating(pl_module), trainer.precision_plugin.test_step_context():
            for positions, seen in zip(
                counted(trainer, batches, doing), datamodule.viewed("test", self.views, batches), strict=True
            ):
                label = seen["label"].to(device)
                assert torch.equal(seen["index"].cpu(), positions)
                metric.update(self._log_probabilities(pl_module, seen["groups"], len(label)), label)
        figures = {f"test/{name}{self.suffix}": value for name, value in metric.compute().items()}
        declared = self.metrics(pl_module, "test")
        pl_module.log_dict({key_for(key, datamodule): value for key, value in figures.items() if key in declared})

    def _log_probabilities(self, module: Any, groups: Any, count: int) -> Tensor:
        """[B, K] float64: of the mean over all views and runs."""
        device = module.device
        sums = torch.zeros(count, module.num_classes, dtype=torch.float64, device=device)
        views = torch.zeros(count, 1, dtype=torch.float64, device=device)
        for places, pixels in groups:
            places = places.to(device)
            images = scaled(pixels.to(device), module.dtype)
            for shown in (images,) if self.views.kind == "single" else (images, images.flip(-1)):
                for _, each in self._members(module):
                    sums.index_add_(0, places, each.class_logits(shown).double().softmax(dim=1))
                    views.index_add_(0, places, views.new_ones(len(places), 1))
        return (sums / views).clamp_min(torch.finfo(torch.float64).tiny).log()


def scaled(pixels: Tensor, dtype: Any) -> Tensor:
    """uint8 to [0, 1], as DataModules do it."""
    return pixels.to(torch.promote_types(dtype, torch.float32)).div_(255).to(dtype)


def examples_of(trainer: Any) -> int:
    """How many a test sees, ``trainer.limit_test_batches`` included."""
    datamodule, limit = trainer.datamodule, trainer.limit_test_batches
    total, at_once = len(datamodule.tables["test"]), datamodule.eval_batch_size
    batches = limit if isinstance(limit, int) else int(limit * -(-total // at_once))
    return min(total, batches * at_once)


def in_words(names: Sequence[str], count: int) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else f"{count} without names"
