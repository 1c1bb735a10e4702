"""InfoGAN: interpretable representations by information-maximising GANs (Chen et al. 2016, arXiv:1606.03657).

    python train.py experiment=infogan_digits        # under a minute on two cores
    python train.py experiment=infogan_mnist trainer=gpu

The generator G(z, c) gets noise z and codes c. A network Q, which shares its trunk with the discriminator D,
reads the codes back from an image, and its log-likelihood bounds the mutual information I(c; G(z, c)) from
below. Maximising the bound keeps G from ignoring c, and without a label the categories come to stand for
classes. What is reached and each departure from the paper: docs/methods/infogan.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softplus

from foundation.errors import UserError
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import (
    ChoosesCodes,
    MapsLatents,
    MovesLatents,
    SamplesImages,
    TraversesLatents,
    WeighsClustersOfImages,
    check_codes,
)
from foundation.randomness import keyed_generator
from lightning_modules.across_ranks import share
from lightning_modules.information_maximization import RealImageTerms, drawn_motions, real_image_bonus
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.dcgan import Discriminator, Generator
from lightning_modules.networks.motion import matrices, moved
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, Told
from lightning_modules.two_player import TwoPlayer

LOG_VARIANCE_RANGE = (-8.0, 4.0)


@dataclass(frozen=True)
class Code:
    """One code c: a category out of ``size``, or ``size`` independent numbers uniform in [-1, 1]."""

    kind: Literal["categorical", "continuous"]
    size: int
    mutual_information_weight: float = 1.0
    """lambda of eq. 6."""

    @property
    def posterior_size(self) -> int:
        """Q's outputs: a logit a category, or a mean and a log-variance a number."""
        return self.size if self.kind == "categorical" else 2 * self.size

    @property
    def entropy(self) -> float:
        """H(c) in nats: log K, or log 2 for each number uniform in [-1, 1]."""
        return math.log(self.size) if self.kind == "categorical" else self.size * math.log(2)


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z, c)))], eq. 1 as minimised by D. Logits: [B]; D = sigmoid(logit)."""
    return softplus(-real_logit).mean() + softplus(fake_logit).mean()


def generator_loss(fake_logit: Tensor) -> Tensor:
    """-E[log D(G(z, c))], the non-saturating form of eq. 1. Logits: [B]."""
    return softplus(-fake_logit).mean()


def categorical_log_likelihood(logits: Tensor, category: Tensor) -> Tensor:
    """log Q(c|x) of a category. logits: [B, K]; category: [B] int64; result: [B] <= 0."""
    return log_softmax(logits, dim=1).gather(1, category.unsqueeze(1)).squeeze(1)


def gaussian_log_likelihood(mean: Tensor, log_variance: Tensor | None, value: Tensor) -> Tensor:
    """log Q(c|x) of a factored Gaussian, summed over its numbers. All: [B, size]; result: [B].

    log_variance: None for a variance of 1.
    """
    squared_error = (value - mean) ** 2
    if log_variance is None:
        return -0.5 * (math.log(2 * math.pi) + squared_error).sum(dim=1)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squared_error * torch.exp(-log_variance)).sum(dim=1)


def mutual_information_lower_bound(log_likelihood: Tensor, entropy: float) -> Tensor:
    """L_I = E[log Q(c|x)] + H(c) <= I(c; G(z, c)) in nats (eq. 4-5). log_likelihood: [B]."""
    return log_likelihood.mean() + entropy


class InfoGAN(TwoPlayer):
    """min over G, Q and max over D of V(D, G) - lambda L_I(G, Q) (eq. 6).

    Args:
        generator, discriminator: networks with the attributes and methods of those in ``networks/dcgan.py``.
        noise_size: length of z, uniform in [-1, 1].
        codes: the layout of c. The generator's input is z, then each code in this order.
        learned_variance: Q's variance of a continuous code: learned, or 1 (the original on MNIST).
        q_optimizer: who moves Q. ``with_d``: the bound stands in both losses, and D's optimiser moves Q and the
            trunk with it (the authors' code). ``with_g``: the bound stands in G's loss alone and G's optimiser
            moves Q (eq. 6 to the letter). ``own``: a third turn moves G, trunk and Q by the bound alone (as
            widely re-implemented); its optimiser is made like D's.
        real_images: terms on Q's categories of real images that stand in D's loss beside the bound; not in the
            paper, where Q learns from generated images alone. Needs ``with_d``.
        mutual_information_weight: multiplies every lambda where G maximises the bound. At 0 G is an ordinary GAN's
            and Q, with ``with_d``, still learns to read the codes: figure 1's comparison.
        mutual_information_warmup: iterations over which every lambda rises linearly from 0; not in the paper.
    """

    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        optimizer_g: OptimizerFactory,
        optimizer_d: OptimizerFactory,
        codes: Sequence[Code | Mapping[str, Any]],
        noise_size: int,
        learned_variance: bool = False,
        q_optimizer: Literal["with_d", "with_g", "own"] = "with_d",
        real_images: RealImageTerms | Mapping[str, Any] | None = None,
        mutual_information_weight: float = 1.0,
        mutual_information_warmup: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(generator, discriminator, optimizer_g=optimizer_g, optimizer_d=optimizer_d, **base)
        self.codes = [code if isinstance(code, Code) else Code(**code) for code in codes]
        self.noise_size, self.learned_variance, self.q_optimizer = noise_size, learned_variance, q_optimizer
        self.real_images = RealImageTerms(**real_images) if isinstance(real_images, Mapping) else real_images
        self.mutual_information_weight = mutual_information_weight
        self.mutual_information_warmup = mutual_information_warmup
        self.num_clusters = [code.size for code in self.codes if code.kind == "categorical"]
        self.image_shape = tuple(generator.image_shape)
        self._check_sizes()

    # --- the losses ------------------------------------------------------------------------------------------

    def draws(self, iteration: int, size: int) -> Inputs:
        """For each player what G gets and the codes in it; what every lambda is; how images are moved."""
        drawn = {name: self.draw(size, f"codes of {name}", iteration) for name in self.turns}
        inputs = drawn | {"weights": self.code_weights(iteration)}
        if self.real_images is None:
            return inputs
        motions = share(self.trainer, drawn_motions(size, self.seed, iteration))
        return inputs | {"motion": matrices(motions, self.real_images, *self.image_shape[1:])}

    def discriminator_loss(self, inputs: Inputs) -> Told:
        latents, codes = self.drawn(inputs["d"])
        with torch.no_grad():
            fake = self.generator(latents)
        told: Told = {}
        if self.real_images is None:
            real_logit, bonus = at_least_single(self.discriminator.real_logit(inputs["image"])), 0.0
        else:
            real_logit, bonus = self.judge_real_images(inputs["image"], inputs["motion"], self.real_images)
            told["real_image_bonus_nats"] = bonus
        if self.q_optimizer == "with_d":
            fake_logit, posterior = self.discriminator(fake)
            information, _ = self.weighted_bound(posterior, codes, inputs["weights"])
        else:
            fake_logit, information = self.discriminator.real_logit(fake), 0.0
        fake_logit = at_least_single(fake_logit)
        told |= {"real_probability": real_logit.sigmoid().mean(), "fake_probability": fake_logit.sigmoid().mean()}
        return told | {"loss": discriminator_loss(real_logit, fake_logit) - information - bonus}

    def generator_loss(self, inputs: Inputs) -> Told:
        latents, codes = self.drawn(inputs["g"])
        fake = self.generator(latents)
        if self.q_optimizer == "own":
            return {"loss": generator_loss(at_least_single(self.discriminator.real_logit(fake)))}
        fake_logit, posterior = self.discriminator(fake)
        information, bounds = self.weighted_bound(posterior, codes, inputs["weights"])
        loss = generator_loss(at_least_single(fake_logit)) - self.mutual_information_weight * information
        return {"loss": loss, **self.told_of(bounds)}

    def information_loss(self, inputs: Inputs) -> Told:
        latents, codes = self.drawn(inputs["q"])
        posterior = self.discriminator.code_posterior(self.generator(latents))
        information, bounds = self.weighted_bound(posterior, codes, inputs["weights"])
        return {"loss": -self.mutual_information_weight * information, **self.told_of(bounds)}

    def judge_real_images(self, images: Tensor, motion: Tensor, terms: RealImageTerms) -> tuple[Tensor, Tensor]:
        """D's logits [B] and what Q's categories earn by the terms. images: [B, C, H, W]; motion: of ``matrices``."""
        moved_images = moved(images, motion)
        real_logit, posterior = map(at_least_single, self.discriminator(images))
        moved_posterior = at_least_single(self.discriminator.code_posterior(moved_images))
        outputs = zip(self.codes, self.split(posterior), self.split(moved_posterior), strict=True)
        bonuses = [real_image_bonus(logits, of_moved, terms, self.global_mean)
                   for code, logits, of_moved in outputs if code.kind == "categorical"]  # fmt: skip
        return real_logit, sum(bonuses[1:], bonuses[0]) if bonuses else torch.zeros_like(posterior[0, 0])

    def players(self) -> dict[str, Player]:
        g, d, q = self.generator, self.discriminator, list(self.discriminator.posterior.parameters())
        trunk_and_head = [*d.trunk.parameters(), *d.head.parameters()]
        of_d = trunk_and_head + (q if self.q_optimizer == "with_d" else [])
        of_g = list(g.parameters()) + (q if self.q_optimizer == "with_g" else [])
        players = {
            "d": Player(of_d, self.optimizer_d, self.discriminator_loss, sees_means=self.real_images is not None),
            "g": Player(of_g, self.optimizer_g, self.generator_loss),
        }
        if self.q_optimizer == "own":
            of_q = [*g.parameters(), *d.trunk.parameters(), *q]
            players["q"] = Player(of_q, self.optimizer_d, self.information_loss)
        return players

    # --- codes -----------------------------------------------------------------------------------------------

    def code_weights(self, iteration: int) -> dict[str, Tensor]:
        """lambda of each code in an iteration, as precise as losses are."""
        risen = min(1.0, iteration / self.mutual_information_warmup) if self.mutual_information_warmup else 1.0
        weights = [risen * code.mutual_information_weight for code in self.codes]
        assert isinstance(self.dtype, torch.dtype)
        dtype = torch.promote_types(self.dtype, torch.float32)
        return {f"code{number}": torch.tensor(it, dtype=dtype) for number, it in enumerate(weights)}

    def weighted_bound(
        self, posterior: Tensor, codes: list[Tensor], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The sum of lambda L_I over the codes, in nats, and L_I of each.

        posterior: Q's outputs [B, posterior_size]; weights: of ``code_weights``.
        """
        outputs = self.split(at_least_single(posterior))
        bounds = [
            mutual_information_lower_bound(self.log_likelihood(code, output, value), code.entropy)
            for code, output, value in zip(self.codes, outputs, codes, strict=True)
        ]
        first, *others = (weights[f"code{number}"] * bound for number, bound in enumerate(bounds))
        return sum(others, first), bounds

    def told_of(self, bounds: list[Tensor]) -> dict[str, Tensor]:
        """What L_I and the cross-entropy are of each kind of code. bounds: of ``weighted_bound``."""
        told: dict[str, Tensor] = {}
        for kind in dict.fromkeys(code.kind for code in self.codes):
            of_kind = [number for number, code in enumerate(self.codes) if code.kind == kind]
            bound = sum((bounds[number] for number in of_kind[1:]), bounds[of_kind[0]])
            entropy = sum(self.codes[number].entropy for number in of_kind)
            told |= {f"mutual_information_{kind}_nats": bound, f"cross_entropy_{kind}_nats": entropy - bound}
        return told

    def split(self, posterior: Tensor) -> tuple[Tensor, ...]:
        """Q's outputs code by code. posterior: [B, posterior_size]."""
        return posterior.split([code.posterior_size for code in self.codes], dim=1)

    def log_likelihood(self, code: Code, output: Tensor, value: Tensor) -> Tensor:
        """log Q(c|x), [B]. output: [B, posterior_size of the code]."""
        if code.kind == "categorical":
            return categorical_log_likelihood(output, value)
        mean, log_variance = output.chunk(2, dim=1)
        return gaussian_log_likelihood(
            mean, log_variance.clamp(*LOG_VARIANCE_RANGE) if self.learned_variance else None, value
        )

    def draw(self, size: int, stream: str, iteration: int) -> dict[str, Tensor]:
        """This rank's share of what G gets, and of the codes in it, drawn for a global batch of that size."""
        noise, codes = self.draw_prior(size, keyed_generator(self.seed, stream, iteration))
        named = {"latents": self.joined(noise, codes)} | {f"code{number}": code for number, code in enumerate(codes)}
        return {name: share(self.trainer, values) for name, values in named.items()}

    def drawn(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """G's input [B, input_size] and the codes of what ``draw`` has named."""
        return inputs["latents"], [inputs[f"code{number}"] for number in range(len(self.codes))]

    def draw_prior(self, size: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """z [size, noise_size] in [-1, 1]; a category [size] int64 or numbers [size, code.size] for each code."""
        noise = torch.rand(size, self.noise_size, generator=generator) * 2 - 1
        codes = [
            torch.randint(code.size, (size,), generator=generator)
            if code.kind == "categorical"
            else torch.rand(size, code.size, generator=generator) * 2 - 1
            for code in self.codes
        ]
        return noise, codes

    def generate(self, noise: Tensor, codes: list[Tensor]) -> Tensor:
        """G(z, c): images [B, C, H, W] in [0, 1]."""
        return self.generator(self.joined(noise, codes))

    def joined(self, noise: Tensor, codes: list[Tensor]) -> Tensor:
        """As the generator reads them, [B, size]; a category is one-hot."""
        inputs = [
            one_hot(value, code.size).to(noise.dtype) if code.kind == "categorical" else value.to(noise.dtype)
            for code, value in zip(self.codes, codes, strict=True)
        ]
        return torch.cat([noise, *inputs], dim=1).to(self.dtype)

    # --- what callbacks ask ----------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        of_categories = {WeighsClustersOfImages} if self.num_clusters else set()
        return {SamplesImages, TraversesLatents, ChoosesCodes, MapsLatents, MovesLatents} | of_categories

    def metrics(self, stage: str) -> Directions:
        if stage != "train":
            return {}
        names: dict[str, Direction] = {"real_probability": None, "fake_probability": None}
        for code in self.codes:
            names |= {f"mutual_information_{code.kind}_nats": "max", f"cross_entropy_{code.kind}_nats": "min"}
        names |= {"real_image_bonus_nats": "max"} if self.real_images else {}
        return {**super().metrics(stage), **in_stage(stage, names)}

    def sample(self, indices: Tensor) -> Tensor:
        return self.sample_with_codes(indices, {})

    @torch.no_grad()
    def sample_with_codes(self, indices: Tensor, codes: Mapping[str, Any]) -> Tensor:
        check_codes(codes, self.code_ranges())
        noise, drawn = self.latents(indices)
        columns = self.columns(drawn)
        for name, value in codes.items():
            if value is not None:
                columns[name].fill_(value)
        return self.generate(noise, drawn).float()

    def latent_layout(self) -> list[dict[str, Any]]:
        """As ``generate`` joins them."""
        uniform = "numbers, in training uniform in [-1, 1]"
        layout: list[dict[str, Any]] = [{"name": "noise", "size": self.noise_size, "values": uniform}]
        for position, code in enumerate(self.codes):
            values = "one-hot" if code.kind == "categorical" else uniform
            layout.append({"name": f"code{position}_{code.kind}", "size": code.size, "values": values})
        return layout

    def draw_latents(self, indices: Tensor) -> Tensor:
        return self.joined(*self.latents(indices))

    def images_of_latents(self, latents: Tensor) -> Tensor:
        return self.generator(latents)

    def free_latents(self) -> Tensor:
        sizes = [(self.noise_size, True), *((code.size, code.kind == "continuous") for code in self.codes)]
        return torch.cat([torch.full((size,), free) for size, free in sizes])

    def latent_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def code_ranges(self) -> dict[str, range | None]:
        ranges: dict[str, range | None] = {}
        for position, code in enumerate(self.codes):
            if code.kind == "categorical":
                ranges[f"code{position}_categorical"] = range(code.size)
            else:
                ranges |= dict.fromkeys(f"code{position}_continuous{number}" for number in range(code.size))
        return ranges

    def columns(self, codes: list[Tensor]) -> dict[str, Tensor]:
        """Views of each category and each number of c, [B], by name; to be written to."""
        columns = [column for values in codes for column in (values.unbind(1) if values.ndim == 2 else [values])]
        return dict(zip(self.code_ranges(), columns, strict=True))

    @torch.no_grad()
    def assign_clusters(self, images: Tensor) -> Tensor:
        return torch.stack([output.argmax(1) for output in self.category_logits(images)], dim=1)

    @torch.no_grad()
    def cluster_probabilities(self, images: Tensor) -> list[Tensor]:
        return [output.softmax(1) for output in self.category_logits(images)]

    def category_logits(self, images: Tensor) -> list[Tensor]:
        """Q's outputs for each categorical code, [B, K]."""
        outputs = self.split(at_least_single(self.discriminator.code_posterior(images)))
        return [it for code, it in zip(self.codes, outputs, strict=True) if code.kind == "categorical"]

    @torch.no_grad()
    def traversals(self, rows: int) -> dict[str, Tensor]:
        """Categories 0 to K-1, or -2 to 2 in ten steps (trained on [-1, 1]); row r shows category r elsewhere."""
        noise, fixed = self.latents(torch.arange(rows))
        for code, value in zip(self.codes, fixed, strict=True):
            if code.kind == "categorical":
                value.copy_(torch.arange(rows, device=value.device) % code.size)
        images = {}
        for name, categories in self.code_ranges().items():
            columns = torch.arange(len(categories)) if categories else torch.linspace(-2, 2, 10)
            codes = [value.repeat_interleave(len(columns), dim=0) for value in fixed]
            self.columns(codes)[name].copy_(columns.repeat(rows))
            grid = self.generate(noise.repeat_interleave(len(columns), dim=0), codes).float()
            images[name] = grid.unflatten(0, (rows, len(columns)))
        return images

    def latents(self, indices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Noise and codes of samples, those of sample i drawn from (seed, i) alone."""
        drawn = [self.draw_prior(1, keyed_generator(self.seed, "sample", int(index))) for index in indices]
        noise = torch.cat([noise for noise, _ in drawn]).to(self.device)
        return noise, [torch.cat(values).to(self.device) for values in zip(*(codes for _, codes in drawn), strict=True)]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self.test_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        seen = {key: batch[key] for key in ("index", "label") if key in batch}
        return seen | ({"cluster": self.assign_clusters(batch["image"])} if self.num_clusters else {})

    def _check_sizes(self) -> None:
        if self.real_images and self.q_optimizer != "with_d":
            raise UserError(
                f"lightning_module.real_images teaches Q in D's turn, but with q_optimizer={self.q_optimizer} Q does "
                "not move there: set lightning_module.q_optimizer=with_d, or lightning_module.real_images=null."
            )
        input_size = self.noise_size + sum(code.size for code in self.codes)
        posterior_size = sum(code.posterior_size for code in self.codes)
        if (given := self.generator.input_size) != input_size:
            raise UserError(
                f"noise_size {self.noise_size} and the codes make {input_size} inputs, but the generator takes "
                f"{given}: set lightning_module.generator.input_size={input_size}."
            )
        if (given := self.discriminator.posterior_size) != posterior_size:
            raise UserError(
                f"The codes need {posterior_size} outputs of Q, but the discriminator has {given}: "
                f"set lightning_module.discriminator.posterior_size={posterior_size}."
            )
        if (given := tuple(self.discriminator.image_shape)) != self.image_shape:
            raise UserError(
                f"The generator makes images of shape {self.image_shape}, the discriminator reads {given}: "
                f"make lightning_module.discriminator.image_shape agree with the generator's base and channels."
            )
