"""DRAW: a recurrent network that draws an image over time (Gregor et al. 2015, arXiv:1502.04623).

    python train.py experiment=draw_digits        # under two minutes on two cores
    python train.py experiment=draw_mnist trainer=gpu

An encoder looks at the image and at what the drawing still lacks, a latent z_t says what to do next, and a decoder adds
it to a canvas; both may attend to a part of the image, through a grid of Gaussian filters that they place, stretch and
blur. Trained as a variational auto-encoder over T steps. The time step (eq. 3-8) and the attention (eq. 17-29) are in
``networks/draw.py``; this file holds the recurrence, the bound (eq. 9-12) and drawing from the prior (eq. 13-16).
What is reached and each departure from the paper: docs/methods/draw.md.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.protocols import BoundsLikelihoodOfImages, Drawing, DrawsStepwise, MovesLatents, SamplesImages
from foundation.randomness import keyed_generator
from lightning_modules.across_ranks import share
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.draw import ConvolutionalClassifier, DrawNetwork, GlimpseClassifier, State, Window
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.unrolled import unrolled
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told

COMPILE_MODES = (None, "default", "max-autotune-no-cudagraphs")


def reconstruction_loss(logits: Tensor, images: Tensor) -> Tensor:
    """L^x = -log P(x | c_T) in nats, summed over pixels (eq. 9). Both: [B, ...]; images in [0, 1]; result: [B].

    Of pixels between 0 and 1 it is a cross-entropy, and no likelihood.
    """
    logits, images = at_least_single(logits), at_least_single(images)
    return binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def latent_loss(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """KL(Q(Z_t | h_t) || N(0, 1)) in nats, summed over latents (eq. 10-11). Both: [..., latent]; result: [...].

    The constant is -1/2 for each latent of each step; without it, or with another, the bound is none.
    """
    mean, log_deviation = at_least_single(mean), at_least_single(log_deviation)
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 2 * log_deviation - 1).sum(-1)


def gaussian_log_density(value: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log N(value; mean, deviation^2), summed over the last dimension."""
    standard = (value - mean) * (-log_deviation).exp()
    return (-0.5 * standard.square() - log_deviation - 0.5 * math.log(2 * math.pi)).sum(-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log 1/K sum_k w_k <= log p(x) in expectation (Burda et al. 2016, arXiv:1509.00519, eq. 8), which rises to it
    with K. log_weights: log p(x, z_k) - log q(z_k | x), [K, B]; result: [B]."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


@dataclass
class Pass:
    """What the recurrence leaves behind when it reads images."""

    canvas: Tensor
    """c_T, logits: [B, H, C, W]."""
    means: Tensor
    log_deviations: Tensor
    """Of Q(Z_t): [T, B, latent]."""
    steps: list[State]
    """After each step, the beginning first; empty unless asked for."""

    def logits(self) -> Tensor:
        """c_T as images: [B, C, H, W]."""
        return as_images(self.canvas)


def as_images(canvas: Tensor) -> Tensor:
    """[..., H, C, W] -> [..., C, H, W]."""
    return canvas.transpose(-3, -2)


class Draw(TakesTurns):
    """Minimises L = L^x + L^z, an upper bound on -log p(x) (eq. 12).

    Args:
        network: images [B, C, H, W] in [0, 1]; its ``forward`` is one time step.
        optimizer: makes an optimiser out of parameters.
        gradient_clip_norm: largest norm of all gradients together; None leaves them alone.
        compile_mode: of ``torch.compile``, for one time step; None leaves it as it is.
        turns: see ``TakesTurns``.
    """

    def __init__(
        self,
        network: DrawNetwork,
        *,
        optimizer: OptimizerFactory,
        gradient_clip_norm: float | None = 10.0,
        compile_mode: str | None = None,
        **turns: Any,
    ) -> None:
        super().__init__(gradient_clip_norm=gradient_clip_norm, **turns)
        self.network, self.optimizer, self.compile_mode = network, optimizer, compile_mode
        self.image_shape, self.steps = network.image_shape, network.steps
        if compile_mode not in COMPILE_MODES:
            raise UserError(
                f"lightning_module.compile_mode is {compile_mode}: give default, max-autotune-no-cudagraphs or null. "
                "Modes with CUDA graphs free what an earlier time step has returned."
            )

    # --- the recurrence ----------------------------------------------------------------------------------------

    def read_and_draw(self, images: Tensor, noise: Tensor, keep_steps: bool = False) -> Pass:
        """Eq. 3-8 for T steps. images: [B, C, H, W] in [0, 1]; noise: [T, B, latent], standard normal."""
        images = as_images(images).contiguous()
        if (whole := self.network.whole) is not None and self.weighs_alone(images) and not keep_steps:
            canvas, posterior = whole.run(self.network, images, noise)
            means, log_deviations = posterior.chunk(2, dim=2)
            return Pass(canvas, means, log_deviations, [])
        gates, state = self.network.fixed_gates(images), self.network.start(len(images))
        means, log_deviations, steps = [], [], [state] if keep_steps else []
        with unrolled(self.network):
            for now in noise:
                state, mean, log_deviation = self.network(images, gates, state, now)
                means.append(mean)
                log_deviations.append(log_deviation)
                if keep_steps:
                    steps.append(state)
        return Pass(state.canvas, torch.stack(means), torch.stack(log_deviations), steps)

    def weighs_alone(self, images: Tensor) -> bool:
        """Whether nothing but gradients of the weights is asked for, of steps that are not compiled one by one."""
        plain = images.dtype == self.network.initial_canvas.dtype in (torch.float32, torch.float64)
        asked = torch.is_grad_enabled() and not images.requires_grad and len(images) > 0
        return plain and asked and self.compile_mode is None

    def draw_from_prior(self, latents: Tensor) -> list[State]:
        """Eq. 13-15 for T steps, the beginning first. latents: [T, B, latent]."""
        states = [self.network.start(latents.shape[1])]
        for z in latents:
            states.append(self.network.draw(states[-1], z))
        return states

    def losses(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """L^x [B] and L^z of each step [T, B], in nats."""
        done = self.read_and_draw(images, noise)
        return reconstruction_loss(done.logits(), images), latent_loss(done.means, done.log_deviations)

    # --- training ----------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def draws(self, iteration: int, size: int) -> Inputs:
        """``noise`` [B, T, latent], standard normal, other in every step."""
        generator = keyed_generator(self.seed, "noise", iteration)
        noise = torch.randn(size, self.steps, self.network.latent, generator=generator)
        return {"noise": share(self.trainer, noise).to(self.dtype)}

    def loss(self, inputs: Inputs) -> Told:
        reconstruction, latent = self.losses(inputs["image"], inputs["noise"].transpose(0, 1))
        told = {"reconstruction_nats": reconstruction.mean(), "kl_nats": latent.sum(0).mean()}
        return told | {"loss": told["reconstruction_nats"] + told["kl_nats"]}

    def setup(self, stage: str) -> None:
        if self.compile_mode is not None and stage == "fit":
            self.network.compile(mode=self.compile_mode)  # in place, so that checkpoints keep their keys

    # --- what callbacks ask ------------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        return {SamplesImages, MovesLatents, BoundsLikelihoodOfImages, DrawsStepwise}

    def metrics(self, stage: str) -> Directions:
        parts = in_stage(stage, {"reconstruction_nats": "min", "kl_nats": None}) if stage == "train" else {}
        return {**super().metrics(stage), **parts}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The bound of each example, with one sample of the latents that its index decides."""
        with torch.no_grad():
            reconstruction, latent = self.losses(batch["image"], self.keyed_noise("posterior", batch["index"]))
        return {"index": batch["index"], "reconstruction_nats": reconstruction, "kl_nats": latent.T}

    test_step = validation_step

    @torch.no_grad()
    def importance_weighted_log_likelihood(self, images: Tensor, indices: Tensor, samples: int) -> Tensor:
        log_weights = []
        for sample in range(samples):
            noise = self.keyed_noise("importance", indices, sample)
            done = self.read_and_draw(images, noise)
            z = torch.addcmul(done.means, done.log_deviations.exp(), noise)
            prior = gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z))
            posterior = gaussian_log_density(z, done.means, done.log_deviations)
            log_weights.append((prior - posterior).sum(0) - reconstruction_loss(done.logits(), images))
        return importance_weighted_bound(torch.stack(log_weights))

    @torch.no_grad()
    def sample(self, indices: Tensor) -> Tensor:
        """The mean of P(x | c_T) (eq. 16), whose pixels the paper shows."""
        return self.images_of_latents(self.draw_latents(indices)).float()

    def draw_latents(self, indices: Tensor) -> Tensor:
        """Standard normal, [B, T latent]: those of all steps, one behind the other."""
        return self.keyed_noise("sample", indices).transpose(0, 1).flatten(1)

    def images_of_latents(self, latents: Tensor) -> Tensor:
        noise = latents.unflatten(1, (self.steps, self.network.latent)).transpose(0, 1)
        return as_images(self.draw_from_prior(noise)[-1].canvas).sigmoid()

    def free_latents(self) -> Tensor:
        return torch.ones(self.steps * self.network.latent, dtype=torch.bool)

    def latent_range(self) -> None:
        return None

    @torch.no_grad()
    def drawing(self, indices: Tensor) -> Drawing:
        return self.as_drawing(self.draw_from_prior(self.keyed_noise("sample", indices)), reads=False)

    @torch.no_grad()
    def redrawing(self, images: Tensor, indices: Tensor) -> Drawing:
        done = self.read_and_draw(images, self.keyed_noise("posterior", indices), keep_steps=True)
        return self.as_drawing(done.steps, reads=True)

    def as_drawing(self, states: list[State], reads: bool) -> Drawing:
        """Step t was read through the window that step t - 1 chose."""
        canvases = torch.stack([as_images(state.canvas).sigmoid().float() for state in states[1:]])
        read = [state.read_window for state in states[:-1]] if reads else []
        return Drawing(canvases, boxes(read, self.network.read_size), boxes([it.write_window for it in states[1:]],
                                                                            self.network.write_size))  # fmt: skip

    def keyed_noise(self, stream: str, indices: Tensor, *key: int) -> Tensor:
        """Standard normal [T, B, latent], that of example i drawn from (seed, stream, i) alone."""
        size = (self.steps, self.network.latent)
        drawn = [torch.randn(size, generator=keyed_generator(self.seed, stream, int(it), *key)) for it in indices]
        like = self.network.initial_canvas
        if not drawn:  # a rank without a share of the batch
            return like.new_zeros(self.steps, 0, self.network.latent)
        return torch.stack(drawn, dim=1).to(like)


def boxes(windows: Iterable[Window | None], size: int | None) -> Tensor | None:
    """Left, top, right and bottom of the pixels from the first to the last filter's centre, and their deviation:
    [T, B, 5]. None without attention."""
    found = [window.geometry for window in windows if window is not None]
    if not found or size is None:
        return None
    column, row, stride, deviation = torch.stack(found).float().unbind(-1)
    half = stride * (size - 1) / 2
    return torch.stack([column - half, row - half, column + half, row + half, deviation], dim=-1)


class DrawClassifier(ImageClassifier):
    """The reading half as a classifier (section 4.1), or the net that stands beside it; gradients clipped as DRAW's.

    Args:
        gradient_clip_norm: largest norm of all gradients together; None leaves them alone.
        classifier: see ``ImageClassifier``.
    """

    def __init__(
        self,
        network: GlimpseClassifier | ConvolutionalClassifier,
        *,
        gradient_clip_norm: float | None = 10.0,
        **classifier: Any,
    ) -> None:
        super().__init__(network, gradient_clip_norm=gradient_clip_norm, **classifier)
