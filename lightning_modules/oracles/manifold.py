"""A generator as an oracle: what it makes of codes that are near is alike."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, MovesLatents, serves
from lightning_modules.attacks.norms import drawn_in_ball, into_ball, size
from lightning_modules.oracles.oracle import Oracle


class ManifoldOracle(Oracle):
    """Points are codes z, inputs G(z), d2 = ||z - z'||_2: what moves stays on the generator's manifold.

    A generator that has categories (InfoGAN) says itself what stays alike: they are held fixed. What they stand for is
    not said, so that the net is held to its own decision on G(z), and its accuracy is not known. Of another generator,
    and where one is named, a judge's class of G(z) is the label: what is found does not count where the judge changes
    its mind, too.

    Args:
        generator: the module of a finished run of InfoGAN, Improved GAN or DRAW.
        judge: a classifier of the same images; None where the generator has categories.
        second_judge: another, who is asked about what was found; nothing depends on it.
    """

    own_points = True
    norm = "l2"

    def __init__(
        self, generator: nn.Module, judge: nn.Module | None = None, second_judge: nn.Module | None = None
    ) -> None:
        if not serves(generator, MovesLatents):
            raise UserError(
                f"generator of ManifoldOracle is {type(generator).__name__}, which makes no images of codes: give a "
                "run of InfoGAN, of Improved GAN or of DRAW."
            )
        self.generator: Any = generator.eval().requires_grad_(False)
        self.judge: Any = judge_of(judge, "judge", self.generator)
        self.other: Any = judge_of(second_judge, "second_judge", self.generator)
        if self.judge is not None and self.other is not None and same_weights(self.judge, self.other):
            raise UserError(
                "second_judge of ManifoldOracle is the judge itself, which would never disagree: name another run."
            )
        self.free: Tensor = self.generator.free_latents()
        if judge is None and bool(self.free.all()):
            raise UserError(
                f"judge of ManifoldOracle is null, and {type(generator).__name__} has no category that could be held "
                "fixed: give a finished classifier's run."
            )
        self.judges_class = self.judge is not None
        self.keeps_label = self.judge is None
        self.second_opinion = self.other is not None
        self.box = self.generator.latent_range()

    def to(self, device: torch.device) -> Self:
        for module in (self.generator, self.judge, self.other):
            if module is not None:
                module.to(device)
        self.free = self.free.to(device)
        return super().to(device)

    def refusal(self, shape: Any) -> str | None:
        made = tuple(self.generator.image_shape)
        if tuple(shape) == made:
            return None
        return f"the generator of ManifoldOracle makes images of {made}, and the classifier reads {tuple(shape)}"

    def draw_points(self, indices: Tensor) -> Tensor:
        return self.generator.draw_latents(indices)

    def see(self, points: Tensor) -> Tensor:
        like = next(self.generator.parameters())
        return self.generator.images_of_latents(points.to(like)).to(points.dtype)

    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        if self.judge is None:
            return points[:, ~self.free].argmax(1)
        return self._decision(self.judge, points)

    def _decision(self, judge: Any, points: Tensor) -> Tensor:
        with torch.no_grad():
            return judge.class_logits(self.see(points).to(next(judge.parameters()))).argmax(1)

    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        return size((moved - points)[:, self.free], "l2")

    def draw(self, shape: Any, generator: torch.Generator) -> Tensor:
        """Uniform in the ball of radius 1."""
        rows = [drawn_in_ball(tuple(shape[1:]), "l2", generator) for _ in range(shape[0])]
        return torch.stack(rows) if rows else torch.zeros(*shape)

    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        return self.project(points + delta * drawn, points, delta)

    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        limit = torch.full((len(points),), delta, device=points.device, dtype=points.dtype)
        inside = points + into_ball(self.along(moved - points, delta), "l2", limit)
        inside = inside if self.box is None else inside.clamp(*self.box)
        return torch.where(self.free, inside, points)

    def along(self, gradient: Tensor, delta: float) -> Tensor:
        return torch.where(self.free, gradient, 0.0)

    def disagrees(self, moved: Tensor, points: Tensor) -> Tensor:
        return self._decision(self.other, moved) != self._decision(self.other, points)

    def describe(self) -> dict[str, Any]:
        by = "the judge's class" if self.judges_class else "the category, held fixed"
        return super().describe() | {"generator": type(self.generator).__name__, "label": by}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(it, others[name]) for name, it in mine.items())


def judge_of(judge: nn.Module | None, key: str, generator: Any) -> nn.Module | None:
    if judge is None:
        return None
    if not serves(judge, ClassifiesImages):
        raise UserError(f"{key} of ManifoldOracle is {type(judge).__name__}, which is no classifier of images.")
    reads, makes = tuple(judge.image_shape), tuple(generator.image_shape)  # pyright: ignore
    if reads != makes:
        raise UserError(f"{key} of ManifoldOracle reads images of {reads}, and its generator makes {makes}.")
    return judge.eval().requires_grad_(False)
