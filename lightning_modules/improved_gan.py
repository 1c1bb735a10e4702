"""Improved GAN: improved techniques for training GANs (Salimans et al. 2016, arXiv:1606.03498).

    python train.py experiment=improved_gan_digits   # 50 labels, under two minutes on two cores
    python train.py experiment=improved_gan_mnist trainer=gpu datamodule.num_labels=100

A discriminator that tells K classes and "generated" apart learns to classify from a handful of labelled images and many
without; the generator matches what its features are on average. Beside that: minibatch discrimination, historical
averaging, one-sided label smoothing, virtual batch norm, each a key of the config; layers and networks are in
``networks/improved_gan_layers.py`` and ``networks/improved_gan.py``. What is reached and each departure from the paper:
docs/methods/improved_gan.md.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch.optim import Adam, Optimizer

from foundation.errors import UserError
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import ClassifiesImages, MapsLatents, MovesLatents, SamplesImages
from foundation.randomness import keyed_generator
from lightning_modules import across_ranks
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.improved_gan import Discriminator, Generator
from lightning_modules.networks.improved_gan_layers import initializing
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import OptimizerFactory
from lightning_modules.turns import Player, Told
from lightning_modules.two_player import TwoPlayer

Distance = Literal["squared", "absolute"]
INITIAL_IMAGES = 500  # that set gains and biases, as in the code


def real_log_odds(logits: Tensor) -> Tensor:
    """log D(x) / (1 - D(x)) = log sum_k exp l_k, where the logit of "generated" is 0 (section 5). [B, K] -> [B]."""
    return logits.logsumexp(dim=1)


def labelled_loss(logits: Tensor, label: Tensor) -> Tensor:
    """-E[log p(y | x, y < K + 1)]. logits: [B, K]; label: [B] int64."""
    return cross_entropy(logits, label)


def unlabelled_loss(real: Tensor, fake: Tensor, smoothing: float = 1.0) -> Tensor:
    """-(E[log D(x)] + E[log(1 - D(G(z)))]) / 2 of log-odds [B] each; with the code's 1/2, which section 5 has not.

    smoothing: the target of real images (section 3.4's alpha; 1: none). That of generated ones is 0 always.
    """
    return 0.5 * ((softplus(real) - smoothing * real).mean() + softplus(fake).mean())


def feature_matching(real: Tensor, fake: Tensor, distance: Distance) -> Tensor:
    """Between mean features [F] (section 3.1), as the mean over them: the sum would be F times as much."""
    difference = real - fake
    return difference.square().mean() if distance == "squared" else difference.abs().mean()


def adversarial_loss(fake: Tensor, target: float | None) -> Tensor:
    """G's loss of log-odds [B]: the cross-entropy with ``target`` (1: -log D), or without one log(1 - D)."""
    return -softplus(fake).mean() if target is None else (softplus(fake) - target * fake).mean()


class HistoricalAverage(nn.Module):
    """|| theta - (1/t) sum_i theta[i] ||^2 (section 3.3); the means and t are buffers, so a checkpoint has them."""

    steps: Tensor

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        for number, parameter in enumerate(parameters):
            self.register_buffer(f"mean{number}", torch.zeros_like(parameter, requires_grad=False))

    def means(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        return [getattr(self, f"mean{number}") for number in range(len(parameters))]

    def take(self, parameters: Sequence[nn.Parameter]) -> None:
        """Once a step, before its loss: the mean is also of what the parameters are now."""
        self.steps += 1
        means, now = self.means(parameters), [it.detach() for it in parameters]
        torch._foreach_lerp_(means, now, [self.steps.reciprocal()] * len(means))  # pyright: ignore[reportPrivateImportUsage]

    def forward(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """How far the parameters are from their mean."""
        pairs = zip(parameters, self.means(parameters), strict=True)
        return torch.stack([(it - mean).square().sum() for it, mean in pairs]).sum()


class AdamInsideRoot(Adam):
    """Adam that divides by sqrt(v + eps), v corrected for its bias, where torch's divides by sqrt(v) + eps.

    The code's optimiser. A gradient far below sqrt(eps) = 1e-4, such as many of feature matching, then makes a
    small step and not one of the full rate. What is added to v decays as v does, so that the fused step serves.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float = 1e-8, **adam: Any) -> None:
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=0.0, **adam)
        self.inside = eps

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            squares: list[Tensor] = []
            self._init_group(group, [], [], [], squares, [], [])
            if squares:
                decay = group["betas"][1]
                torch._foreach_add_(squares, self.inside * (1 - decay) / decay)  # pyright: ignore[reportPrivateImportUsage]
        return super().step(closure)


class ImprovedGAN(TwoPlayer):
    """A K + 1 class discriminator against a generator.

    A batch has three streams (``datamodule.num_labels``): ``labelled`` and ``unlabelled`` for D, ``for_generator`` with
    whose features G's are matched.

    Args:
        generator, discriminator: of ``networks/improved_gan.py``; they choose normalisation and minibatch features.
        noise_range: of G's uniform noise.
        matching: G matches D's mean features, by their squared or absolute difference; None: G plays against D.
        generator_target: see ``adversarial_loss``; without matching.
        generator_steps: turns of G in an iteration, each on new noise.
        label_smoothing: the target of real images, 1 for none.
        labelled_weight, unlabelled_weight: of the two parts of D's loss. Without labels (0) D is an ordinary
            discriminator and classifies nothing; without unlabelled images (0) G rests, and D learns from labels alone.
        historical_averaging: weight of that term in both losses.
    """

    generator: Generator
    discriminator: Discriminator
    initialized: Tensor
    needs_streams = True

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        optimizer_g: OptimizerFactory,
        optimizer_d: OptimizerFactory,
        noise_range: tuple[float, float] = (0.0, 1.0),
        matching: Distance | None = "squared",
        generator_target: float | None = None,
        generator_steps: int = 1,
        label_smoothing: float = 1.0,
        labelled_weight: float = 1.0,
        unlabelled_weight: float = 1.0,
        historical_averaging: float = 0.0,
        **base: Any,
    ) -> None:
        super().__init__(generator, discriminator, optimizer_g=optimizer_g, optimizer_d=optimizer_d, **base)
        self.matching: Distance | None = matching
        self.noise_range, self.generator_target = noise_range, generator_target
        self.generator_steps, self.label_smoothing = generator_steps, label_smoothing
        self.labelled_weight, self.unlabelled_weight = labelled_weight, unlabelled_weight
        self.historical_averaging = historical_averaging
        self.image_shape, self.num_classes = discriminator.image_shape, discriminator.num_classes
        self.needs_labels = labelled_weight > 0
        self.class_names: list[str] | None = None
        self._check()
        self.register_buffer("initialized", torch.tensor(False))
        if generator.normalization == "virtual":
            generator.reference_noise.copy_(self.draw_noise(generator.references, "virtual batch"))
        if historical_averaging:
            histories = {name: HistoricalAverage(it.parameters) for name, it in self.players().items()}
            self.histories = nn.ModuleDict(histories)

    # --- the two losses --------------------------------------------------------------------------------------

    def draws(self, iteration: int, size: int) -> Inputs:
        """The noise of D's step and of each of G's."""
        if not self.unlabelled_weight:
            return {}
        streams = {"noise_d": "noise of d"} | {f"noise_g{it}": f"noise of g{it}" for it in range(self.generator_steps)}
        drawn = {name: self.draw_noise(size, stream, iteration) for name, stream in streams.items()}
        return {name: across_ranks.share(self.trainer, noise).to(self.dtype) for name, noise in drawn.items()}

    def discriminator_loss(self, inputs: Inputs) -> Told:
        images = [inputs["labelled"]["image"]] if self.labelled_weight else []
        if self.unlabelled_weight:
            with torch.no_grad():
                images += [inputs["unlabelled"]["image"], self.generator(inputs["noise_d"])]
        sizes = [len(it) for it in images]
        # Nothing but minibatch discrimination looks beyond an example, and it is told the sizes: one pass serves all.
        logits = at_least_single(self.discriminator(torch.cat(images), sizes, self.gathered)).split(sizes)
        terms, told = self.historical_terms("d"), {}
        if self.labelled_weight:
            labelled = labelled_loss(logits[0], inputs["labelled"]["label"])
            terms.append(self.labelled_weight * labelled)
            told |= {"loss_labelled_nats": labelled, "logits": logits[0]}
            told |= {key: inputs["labelled"][key] for key in ("index", "label")}
        if self.unlabelled_weight:
            real, fake = map(real_log_odds, logits[-2:])
            terms.append(self.unlabelled_weight * unlabelled_loss(real, fake, self.label_smoothing))
            told |= {"real_probability": real.sigmoid().mean(), "fake_probability": fake.sigmoid().mean()}
        return told | {"loss": sum(terms[1:], terms[0])}

    def generator_loss(self, inputs: Inputs) -> Told:
        images, noise = inputs["for_generator"]["image"], inputs[f"noise_g{self.repetition}"]
        fake = self.discriminator.features(self.generator(noise))
        if self.matching is None:
            logits = self.discriminator.logits(fake, gather=self.gathered)
            loss = adversarial_loss(real_log_odds(at_least_single(logits)), self.generator_target)
        else:
            with torch.no_grad():
                real = self.global_mean(at_least_single(self.discriminator.features(images)).mean(dim=0))
            loss = feature_matching(real, self.global_mean(at_least_single(fake).mean(dim=0)), self.matching)
        return {"loss": sum(self.historical_terms("g"), loss)}

    def gathered(self, rows: Tensor) -> Tensor:
        """Those that an example is compared with: all of the global batch."""
        return across_ranks.gathered(self.trainer, rows)

    def historical_terms(self, name: str) -> list[Tensor]:
        """None, or one."""
        if not self.historical_averaging:
            return []
        return [self.historical_averaging * self.histories[name](self.turns[name].parameters)]

    def players(self) -> dict[str, Player]:
        def moving(network: nn.Module) -> list[nn.Parameter]:
            return [it for it in network.parameters() if it.requires_grad]

        d = Player(moving(self.discriminator), self.optimizer_d, self.discriminator_loss)
        g = Player(
            moving(self.generator), self.optimizer_g, self.generator_loss, self.generator_steps,
            sees_means=self.matching is not None,
        )  # fmt: skip
        return {"d": d, "g": g} if self.unlabelled_weight else {"d": d}

    def step_of(self, name: str, player: Player, optimizer: Optimizer, inputs: Inputs) -> Told:
        if self.historical_averaging:
            self.histories[name].take(player.parameters)  # pyright: ignore[reportCallIssue]
        return super().step_of(name, player, optimizer, inputs)

    # --- noise and the first batch ---------------------------------------------------------------------------

    def draw_noise(self, size: int, stream: str, *key: int) -> Tensor:
        """z [size, input_size], uniform over ``noise_range``."""
        low, high = self.noise_range
        generator = keyed_generator(self.seed, stream, *key)
        return low + (high - low) * torch.rand(size, self.generator.input_size, generator=generator, device="cpu")

    def as_inputs(self, drawn: Tensor) -> Tensor:
        """On the device of the networks, and as precise as they are."""
        return drawn.to(self.generator.layers[0].weight)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def setup(self, stage: str) -> None:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if names := getattr(datamodule, "class_names", None):
            self.class_names = list(names)
        if stage == "fit" and datamodule.batch_size < (least := 2 * self.trainer.world_size):
            raise UserError(
                f"datamodule.batch_size is {datamodule.batch_size}, and images are compared with the others of their "
                f"batch: give {least} or more, two for each rank."
            )
        if stage == "fit" and not self.initialized:
            minibatch, size = self.discriminator.minibatch, datamodule.batch_size
            wanted = max(INITIAL_IMAGES, len(minibatch.reference_images) if minibatch else 0)
            self.initialize(datamodule.some_images(-(-wanted // size) * size), size)

    def initialize(self, images: Tensor, batch_size: int) -> None:
        """Set gains and biases by images [B, C, H, W], batches of that size; the same on every rank."""
        with torch.random.fork_rng():
            torch.manual_seed(int(keyed_generator(self.seed, "noise of the first batch").initial_seed()))
            noise = self.as_inputs(self.draw_noise(batch_size, "first batch"))
            with initializing(self.generator):
                self.generator(noise)
            images = self.as_inputs(images)
            if (minibatch := self.discriminator.minibatch) is not None:
                minibatch.reference_images.copy_(images[: len(minibatch.reference_images)])
            with initializing(self.discriminator):
                self.discriminator(images, [batch_size] * (len(images) // batch_size))
        self.initialized.fill_(True)

    # --- what callbacks ask ----------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        classifies = {ClassifiesImages} if self.labelled_weight else set()
        return classifies | ({SamplesImages, MapsLatents, MovesLatents} if self.unlabelled_weight else set())

    def metrics(self, stage: str) -> Directions:
        if stage != "train":
            return {}
        names: dict[str, Direction] = {"loss_labelled_nats": "min"} if self.labelled_weight else {}
        names |= {"real_probability": None, "fake_probability": None} if self.unlabelled_weight else {}
        return {**super().metrics(stage), **in_stage(stage, names)}

    @torch.no_grad()
    def sample(self, indices: Tensor) -> Tensor:
        return self.generator(self.draw_latents(indices)).float()

    def draw_latents(self, indices: Tensor) -> Tensor:
        return self.as_inputs(torch.cat([self.draw_noise(1, "sample", int(index)) for index in indices]))

    def images_of_latents(self, latents: Tensor) -> Tensor:
        return self.generator(latents)

    def free_latents(self) -> Tensor:
        return torch.ones(self.generator.input_size, dtype=torch.bool)

    def latent_range(self) -> tuple[float, float]:
        return self.noise_range

    def latent_layout(self) -> list[dict[str, Any]]:
        low, high = self.noise_range
        values = f"numbers, in training uniform in [{low:g}, {high:g}]"
        return [{"name": "noise", "size": self.generator.input_size, "values": values}]

    def class_logits(self, images: Tensor) -> Tensor:
        return at_least_single(self.discriminator(images))

    forward = class_logits

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        seen = {key: batch[key] for key in ("index", "label") if key in batch}
        return seen | ({"logits": self.class_logits(batch["image"])} if self.labelled_weight else {})

    test_step = validation_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.class_names = checkpoint["class_names"]

    def _check(self) -> None:
        key = "lightning_module"
        if not 0 < self.label_smoothing <= 1:
            raise UserError(f"{key}.label_smoothing is {self.label_smoothing}: give a target above 0, to 1 for none.")
        if (target := self.generator_target) is not None and not 0 <= target <= 1:
            raise UserError(f"{key}.generator_target is {target}: give a probability, or null.")
        if target is not None and self.matching is not None:
            raise UserError(
                f"{key}.generator_target={target} has no effect beside matching={self.matching}: set {key}.matching or "
                f"{key}.generator_target to null."
            )
        if self.micro_batch_size is not None and self.discriminator.minibatch is not None:
            raise UserError(
                f"{key}.micro_batch_size={self.micro_batch_size} would compare an image with those of its part of a "
                f"batch alone: set it to null, or {key}.discriminator.minibatch_discrimination to null."
            )
        if self.generator_steps < 1:
            raise UserError(f"{key}.generator_steps is {self.generator_steps}: give 1 or more.")
        for name in ("labelled_weight", "unlabelled_weight", "historical_averaging"):
            if getattr(self, name) < 0:
                raise UserError(f"{key}.{name} is {getattr(self, name)}: give 0 or more.")
        if not (self.labelled_weight or self.unlabelled_weight):
            raise UserError(f"{key}: labelled_weight and unlabelled_weight are both 0, which leaves nothing to learn.")
        if tuple(self.generator.image_shape) != tuple(self.image_shape):
            raise UserError(
                f"The generator makes images of shape {tuple(self.generator.image_shape)}, the discriminator reads "
                f"{tuple(self.image_shape)}: make {key}.discriminator.image_shape agree with the generator's."
            )
