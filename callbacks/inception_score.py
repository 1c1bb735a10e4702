"""The Inception Score of generated images by a judge, and beside it the Fréchet distance to real ones."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from callbacks.instruments.confident_samples import ConfidentSamples, draw_confident
from callbacks.instruments.frechet_distance import Gaussian, GaussianMetric, fingerprint, frechet_distance, kept
from callbacks.instruments.judges import Judge, Judged
from callbacks.instruments.pictures import as_8_bit
from callbacks.progress import counted
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions
from foundation.protocols import HoldsImages, SamplesImages
from foundation.published import stage_name
from foundation.randomness import keyed_generator


class InceptionScoreMetric(Metric):
    """exp(E[KL(p(y|x) || p(y))]) (Salimans et al. 2016, arXiv:1606.03498, section 4), p(y) the mean over a split.

    The split of image g is decided by g alone, through a permutation, so that images that come sorted by class do not
    lie in splits of one class. Each split keeps three sums in double precision: images, sum of p log p, and p by
    class. The score needs no more, so neither batches nor ranks nor order change it beyond its last digits.

    Args:
        classes: the judge's outputs.
        images: how many there will be; each is shown once.
    """

    full_state_update = False
    examples: Tensor
    certainty: Tensor
    classes: Tensor

    def __init__(self, classes: int, images: int, splits: int = 10, **metric: Any) -> None:
        super().__init__(**metric)
        if images < splits:
            raise UserError(f"{images} images cannot be divided into {splits} splits: give fewer splits.")
        place = torch.randperm(images, generator=keyed_generator(0, "splits"))
        ends = torch.arange(1, splits + 1) * images // splits
        self.split = torch.searchsorted(ends, place, right=True)
        self.add_state("examples", torch.zeros(splits, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("certainty", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("classes", torch.zeros(splits, classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, index: Tensor) -> None:
        """logits: [B, K]; index: [B] int64, the images' numbers."""
        p = logits.double().softmax(dim=1)
        splits = torch.arange(len(self.examples)).unsqueeze(1)
        member = (self.split[index.cpu()] == splits).to(p)  # [splits, B]
        self.examples += member.sum(dim=1).long()
        self.certainty += member @ torch.xlogy(p, p).sum(dim=1)  # 0 log 0 = 0, which xlogy keeps
        self.classes += member @ p

    def compute(self) -> dict[str, float]:
        """By the ends of their names: mean and population deviation over the splits, and all images as one split."""
        assert int(self.examples.sum()) == len(self.split), "each image counts once"
        scores = inception_score(self.examples, self.certainty, self.classes)
        whole = inception_score(self.examples.sum(0), self.certainty.sum(0), self.classes.sum(0))
        return {"": float(scores.mean()), "_std": float(scores.std(correction=0)), "_all": float(whole)}


def inception_score(examples: Tensor, certainty: Tensor, classes: Tensor) -> Tensor:
    """exp(mean of p log p - m log m), m being the mean of p. examples, certainty: [...]; classes: [..., K]."""
    marginal = classes / examples.unsqueeze(-1)
    return (certainty / examples - torch.xlogy(marginal, marginal).sum(dim=-1)).exp()


class InceptionScore(Judged):
    """Logs ``<stage>/<score>``, ``_std`` and ``_all``, and the distance to real images where the judge has features.

    The names are the judge's. Images are those of ``sample``, rounded to 8 bits as a file has them. In the test the
    samples that the judge is surest of are drawn, too. Where its weights cannot be had, one line says so, nothing is
    logged and the run goes on.

    Args:
        folder: where ``confident_samples-<score>.png`` goes.
        judge: of ``instruments``, or a classifier such as that of a finished run.
        cache_dir: where mean and covariance of the reference's features are kept.
        val_images, test_images: how many to generate in a validation and in the test; 0 for none.
            ``trainer.limit_val_batches`` and ``limit_test_batches`` make them fewer.
        splits: as many as images are divided into for mean and deviation.
        batch_size: images at once.
        reference: the split whose images, not augmented, distances are to; None for no distance.
        real_images: log ``test/real_<score>`` too, that of the real images of a split, not augmented, and of how many
            as ``test/real_<score>_images``; true stands for the test images.
    """

    requires = SamplesImages
    requires_data = HoldsImages

    def __init__(
        self,
        folder: str,
        judge: Judge | nn.Module,
        cache_dir: str,
        val_images: int = 5000,
        test_images: int = 50000,
        splits: int = 10,
        batch_size: int = 100,
        reference: Literal["train", "test"] | None = "train",
        real_images: bool | Literal["train", "test"] = False,
    ) -> None:
        super().__init__(judge)
        self.folder, self.cache_dir = Path(folder), Path(cache_dir)
        self.images = {"val": val_images, "test": test_images}
        self.splits, self.batch_size, self.reference = splits, batch_size, reference
        self.real_images = "test" if real_images is True else real_images or None
        self.distance = self.judge.distance if reference else None
        self.least = max(splits, 2)
        self._check()
        self.reference_gaussian: Gaussian | None = None
        self.measured: dict[str, int] = {}

    def names(self, stage: str) -> Directions:
        if not self.images.get(stage):
            return {}
        score = self.judge.score
        names: dict[str, Direction] = {score: "max", f"{score}_std": None, f"{score}_all": "max"}
        if self.real_images and stage == "test":  # of the data, whatever the module is worth
            names |= {f"real_{name}": None for name in (*names, f"{score}_images")}
        if self.distance:
            names[self.distance] = "min"
        return names

    def how(self) -> dict[str, Any]:
        to = self.reference_gaussian
        distance = {"distance_to": f"{to.images} images of {self.reference}"} if to else {}
        return {"images": dict(self.measured), "splits": self.splits, **distance}

    def pictures(self, module: Any) -> set[str]:
        return {f"images/confident_samples-{self.judge.score}"}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and self.metrics(pl_module, "val"):
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metrics(pl_module, "test"):
            self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Any, module: Any, stage: str) -> None:
        count = self._limited(self.images[stage], trainer, stage)
        score, gaussian, confident = self._made_for(trainer, count)
        # On a GPU convolutions would be rounded to 10 bits.
        with evaluating(module), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            seen = self._judged(trainer, lambda it: as_8_bit(module.sample(it)), count, "samples")
            for index, logits, features in seen:
                score.update(logits, index)
                confident.update(logits, index)
                if gaussian is not None:
                    gaussian.update(features)
            figures = {f"{self.judge.score}{end}": value for end, value in score.compute().items()}
            if gaussian is not None:
                figures[str(self.distance)] = frechet_distance(gaussian.compute(), self._reference(trainer))
            if stage == "test" and self.real_images:
                figures |= self._of_real_images(trainer, self.real_images)
            surest = confident.compute()
            if stage == "test" and trainer.is_global_zero:
                path = self.folder / f"confident_samples-{self.judge.score}.png"
                draw_confident(trainer, module, surest, path)
        self.measured[stage] = count
        stage = stage_name(stage, trainer.datamodule)
        module.log_dict({f"{stage}/{name}": value for name, value in figures.items()})

    def _made_for(self, trainer: Any, count: int) -> tuple[Any, Any, Any]:
        device, judge = trainer.strategy.root_device, self.judge
        score = InceptionScoreMetric(judge.classes, count, self.splits).to(device)
        gaussian = GaussianMetric(judge.features or 0).to(device) if self.distance else None
        return score, gaussian, ConfidentSamples(judge.classes).to(device)

    def _judged(
        self, trainer: Any, images_at: Callable[[Tensor], Tensor], count: int, what: str
    ) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """Numbers, logits and features of this rank's images. A batch is the same on any number of ranks."""
        batches = torch.arange(count).split(self.batch_size)[trainer.global_rank :: trainer.world_size]
        for index in counted(trainer, batches, f"judging {count} {what}"):
            yield index, *self.judge(images_at(index).to(trainer.strategy.root_device))

    def _of_real_images(self, trainer: Any, split: str) -> dict[str, float]:
        table = trainer.datamodule.tables[split]
        count = self._limited(len(table), trainer, "test")
        score, *_ = self._made_for(trainer, count)
        for index, logits, _ in self._judged(trainer, lambda it: table[it]["image"], count, "real images"):
            score.update(logits, index)
        self.measured[f"real {split}"] = count
        found = {f"real_{self.judge.score}{end}": value for end, value in score.compute().items()}
        return found | {f"real_{self.judge.score}_images": float(count)}

    def _reference(self, trainer: Any) -> Gaussian:
        """Of all images of the reference, seen once for a judge's weights."""
        table = trainer.datamodule.tables[self.reference]

        def measure() -> Gaussian:
            _, gaussian, _ = self._made_for(trainer, len(table))
            for *_, features in self._judged(
                trainer, lambda it: table[it]["image"], len(table), f"images of {self.reference}"
            ):
                gaussian.update(features)
            return gaussian.compute()

        if self.reference_gaussian is None:
            key = hashlib.sha256(f"{self.judge.describe_for_record()} {fingerprint(table)}".encode()).hexdigest()[:16]
            self.reference_gaussian = kept(self.cache_dir / f"{self.distance}-{key}.npz", trainer, measure)
        return self.reference_gaussian

    def _limited(self, count: int, trainer: Any, stage: str) -> int:
        """Fewer images where the trainer is told to see a number or a share of an evaluation's batches."""
        limit = trainer.limit_val_batches if stage == "val" else trainer.limit_test_batches
        fewer = limit * self.batch_size if isinstance(limit, int) else int(limit * count)
        return min(count, max(fewer, self.least))

    def _check(self) -> None:
        name = f"callbacks.{self.judge.score}"
        for key in ("splits", "batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"{name}.{key} is {getattr(self, key)}: give 1 or more.")
        for stage, count in self.images.items():
            if count and count < self.least:
                raise UserError(f"{name}.{stage}_images is {count}: give {self.least} or more, or 0 for none.")
