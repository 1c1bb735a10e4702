"""The Inception Score of generated images by a judge, and beside it the Fréchet distance to real ones."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.confident_samples import ConfidentSamples, draw_confident
from callbacks.frechet_distance import Gaussian, GaussianMetric, frechet_distance, read_gaussian, write_gaussian
from callbacks.judges import Judge
from callbacks.pictures import log_picture
from callbacks.progress import counted
from callbacks.protocols import HoldsImages, SamplesImages, evaluating
from launch.errors import UserError
from launch.randomness import keyed_generator


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
        scores = score(self.examples, self.certainty, self.classes)
        whole = score(self.examples.sum(0), self.certainty.sum(0), self.classes.sum(0))
        return {"": float(scores.mean()), "_std": float(scores.std(correction=0)), "_all": float(whole)}


def score(examples: Tensor, certainty: Tensor, classes: Tensor) -> Tensor:
    """exp(mean of p log p - m log m), m being the mean of p. examples, certainty: [...]; classes: [..., K]."""
    marginal = classes / examples.unsqueeze(-1)
    return (certainty / examples - torch.xlogy(marginal, marginal).sum(dim=-1)).exp()


class InceptionScore(Callback):
    """Logs ``<stage>/<score>``, ``_std`` and ``_all``, and the distance to real images where the judge has features.

    The names are the judge's. Images are those of ``sample``, rounded to 8 bits as a file has them. In the test the
    samples that the judge is surest of are drawn, too. Where its weights cannot be had, one line says so, nothing is
    logged and the run goes on.

    Args:
        folder: where ``confident_samples-<score>.png`` goes.
        judge: of ``judges.py``.
        cache_dir: where mean and covariance of the reference's features are kept.
        val_images, test_images: how many to generate in a validation and in the test; 0 for none.
            ``trainer.limit_val_batches`` and ``limit_test_batches`` make them fewer.
        splits: as many as images are divided into for mean and deviation.
        batch_size: images at once.
        reference: the split whose images, not augmented, distances are to.
        real_images: log ``test/real_<score>`` too: that of the real test images.
    """

    requires = SamplesImages
    requires_data = HoldsImages

    def __init__(
        self,
        folder: str,
        judge: Judge,
        cache_dir: str,
        val_images: int = 5000,
        test_images: int = 50000,
        splits: int = 10,
        batch_size: int = 100,
        reference: Literal["train", "test"] = "train",
        real_images: bool = False,
    ) -> None:
        self.folder, self.judge, self.cache_dir = Path(folder), judge, Path(cache_dir)
        self.images = {"val": val_images, "test": test_images}
        self.splits, self.batch_size, self.reference, self.real_images = splits, batch_size, reference, real_images
        self.least = max(splits, 2)
        self._check()
        self.lack = judge.lack()
        self.is_ready = self.lack_is_told = False
        self.reference_gaussian: Gaussian | None = None
        self.measured: dict[str, int] = {}

    # --- what is promised ------------------------------------------------------------------------------------

    def metrics(self, stage: str) -> set[str]:
        return set() if self.lack else self._names(stage)

    def left_out(self, stage: str) -> set[str]:
        """The keys that it would log, had its judge what it needs."""
        return self._names(stage) if self.lack else set()

    def _names(self, stage: str) -> set[str]:
        if not self.images.get(stage):
            return set()
        scores = [self.judge.score] + ([f"real_{self.judge.score}"] if self.real_images and stage == "test" else [])
        names = {f"{it}{end}" for it in scores for end in ("", "_std", "_all")}
        return {f"{stage}/{it}" for it in names | ({self.judge.distance} if self.judge.distance else set())}

    def pictures(self, module: Any) -> set[str]:
        return {f"images/confident_samples-{self.judge.score}"}

    def refusal(self, module: Any) -> str | None:
        """Why this module's images cannot be judged, before anything starts."""
        shape = getattr(module, "image_shape", None)
        return self.judge.refusal(shape) if shape else None

    def account(self) -> dict[str, Any]:
        """What a record says: by whom, and of how many images."""
        if not self.is_ready:
            return {self.judge.score: {"left_out": self.lack}} if self.lack else {}
        to = self.reference_gaussian
        distance = {"distance_to": f"{to.images} images of {self.reference}"} if to else {}
        how = {"images": dict(self.measured), "splits": self.splits, **distance}
        return {self.judge.score: {"judge": self.judge.account(), **how}}

    # --- the run ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.lack and not self.is_ready:
            self.lack = fetched(self.judge, trainer)
        if self.lack:
            self._leave_out(trainer)
            return
        if not self.is_ready:
            self.judge.load()
            self.is_ready = True
        self.judge.to(trainer.strategy.root_device)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and self.metrics("val"):
            count = limited(self.images["val"], trainer.limit_val_batches, self.batch_size, self.least)  # pyright: ignore
            self._measure(trainer, pl_module, "val", count)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metrics("test"):
            count = limited(self.images["test"], trainer.limit_test_batches, self.batch_size, self.least)  # pyright: ignore
            self._measure(trainer, pl_module, "test", count)

    def _measure(self, trainer: Trainer, module: Any, stage: str, count: int) -> None:
        score, gaussian, confident = self._made_for(trainer, count)
        with evaluating(module):
            images = self._seen(trainer, lambda index: as_8_bit(module.sample(index)), count, f"judging {count} samples")
            for index, logits, features in images:
                score.update(logits, index)
                confident.update(logits, index)
                if gaussian:
                    gaussian.update(features)
            figures = {f"{self.judge.score}{end}": value for end, value in score.compute().items()}
            if gaussian:
                figures[str(self.judge.distance)] = frechet_distance(gaussian.compute(), self._reference(trainer))
            if stage == "test":
                figures |= self._of_real_images(trainer) if self.real_images else {}
                surest = confident.compute()
                if trainer.is_global_zero:
                    path = self.folder / f"confident_samples-{self.judge.score}.png"
                    draw_confident(module, surest, path)
                    log_picture(trainer, f"images/{path.stem}", path)
        self.measured[stage] = count
        module.log_dict({f"{stage}/{name}": value for name, value in figures.items()})

    def _made_for(self, trainer: Trainer, count: int) -> tuple[Any, Any, Any]:
        device, judge = trainer.strategy.root_device, self.judge
        score = InceptionScoreMetric(judge.classes, count, self.splits).to(device)
        gaussian = GaussianMetric(judge.features).to(device) if judge.distance else None
        return score, gaussian, ConfidentSamples(judge.classes).to(device)

    def _seen(
        self, trainer: Trainer, images_at: Callable[[Tensor], Tensor], count: int, doing: str
    ) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """Numbers, logits and features of this rank's images. A batch is the same on any number of ranks."""
        batches = torch.arange(count).split(self.batch_size)[trainer.global_rank :: trainer.world_size]
        for index in counted(trainer, batches, doing):
            yield index, *self.judge(images_at(index).to(trainer.strategy.root_device))

    def _of_real_images(self, trainer: Any) -> dict[str, float]:
        table = trainer.datamodule.tables["test"]
        count = limited(len(table), trainer.limit_test_batches, self.batch_size, self.least)
        score, *_ = self._made_for(trainer, count)
        for index, logits, _ in self._seen(trainer, lambda it: table[it]["image"], count, f"judging {count} real images"):
            score.update(logits, index)
        self.measured["real test"] = count
        return {f"real_{self.judge.score}{end}": value for end, value in score.compute().items()}

    def _reference(self, trainer: Any) -> Gaussian:
        """Of all images of the reference, seen once for a judge's weights and then kept."""
        if self.reference_gaussian is None:
            table = trainer.datamodule.tables[self.reference]
            key = hashlib.sha256(f"{self.judge.account()} {fingerprint(table)}".encode()).hexdigest()[:16]
            path = self.cache_dir / f"{self.judge.distance}-{key}.npz"
            kept = trainer.strategy.broadcast(read_gaussian(path) if trainer.is_global_zero else None)
            if kept is None:
                _, gaussian, _ = self._made_for(trainer, len(table))
                doing = f"judging {len(table)} images of {self.reference}"
                for _, _, features in self._seen(trainer, lambda it: table[it]["image"], len(table), doing):
                    gaussian.update(features)
                kept = gaussian.compute()
                if trainer.is_global_zero:
                    write_gaussian(kept, path)
            self.reference_gaussian = kept
        return self.reference_gaussian

    def _leave_out(self, trainer: Any) -> None:
        """Say once that there will be no score; what would go by it cannot go on."""
        if trainer.is_global_zero and not self.lack_is_told:
            print(f"{self.judge.score} is left out: {self.lack}.", flush=True)
        self.lack_is_told = True
        for callback in trainer.callbacks:
            monitor = getattr(callback, "monitor", None) or ""
            if monitor.partition("/")[2].startswith(self.judge.score):
                raise UserError(f"{type(callback).__name__} goes by {monitor}, which is left out: {self.lack}.")

    def _check(self) -> None:
        name = f"callbacks.{self.judge.score}"
        for key in ("splits", "batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"{name}.{key} is {getattr(self, key)}: give 1 or more.")
        for stage, count in self.images.items():
            if count and count < self.least:
                raise UserError(f"{name}.{stage}_images is {count}: give {self.least} or more, or 0 for none.")


def fetched(judge: Judge, trainer: Trainer) -> str | None:
    """Bring a judge's weights to each machine; why that was not possible, the same on every rank."""
    reason = judge.fetch() if trainer.local_rank == 0 else None
    reasons = [None] * trainer.world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_gather_object(reasons, reason)  # a meeting, too: nobody reads before it is there
    else:
        reasons = [reason]
    return next((it for it in reasons if it), None)


def limited(count: int, limit: int | float, batch_size: int, least: int) -> int:
    """Fewer images where the trainer is told to see a number or a share of an evaluation's batches."""
    fewer = limit * batch_size if isinstance(limit, int) else int(limit * count)
    return min(count, max(fewer, least))


def as_8_bit(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] of images in [0, 1]: what a file of them would hold, whatever else is in the batch."""
    if not images.isfinite().all():
        raise UserError("The module's samples are not finite, so no judge can score them.")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def fingerprint(table: Any) -> str:
    sha256 = hashlib.sha256()
    for index in torch.arange(len(table)).split(1000):
        sha256.update(table[index]["image"].cpu().contiguous().numpy().data)
    return sha256.hexdigest()
