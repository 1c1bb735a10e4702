"""Training without the platform: bare loops that do an experiment's work, and methods as they are usually written."""

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import count, cycle
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, one_hot
from torch.optim import Optimizer

from benchmarks.detection import usual_detector_loop
from benchmarks.losses import loss_of
from benchmarks.usual_draw import UsualDraw, usual_draw_loop
from benchmarks.usual_improved_gan import UsualDiscriminator, UsualGenerator, usual_improved_gan_loop
from datamodules.augmentation import Augment, shift_and_flip
from datamodules.images import ImageTable
from datamodules.semi_supervised import labelled_subset
from foundation.errors import UserError
from launch.capture import CapturingStrategy, Staging, form_of
from launch.runs import Run
from lightning_modules.draw import Draw
from lightning_modules.faster_rcnn import FasterRCNN
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.improved_gan import ImprovedGAN
from lightning_modules.infogan import InfoGAN
from lightning_modules.networks.improved_gan import MLPDiscriminator
from lightning_modules.turns import TakesTurns, on_device

Loop = Callable[[int], list[Tensor]]
"""Trains for a number of iterations and gives the loss of each, all players' together, without their signs."""
Data = ImageTable | list[dict[str, Any]]
"""Images in memory, or whole batches."""


def bare_loop(run: Run, data: Data) -> Loop:
    """The experiment's losses, networks, optimisers, batch size and precision over data in memory."""
    if isinstance(run.module, TakesTurns):
        return turns_loop(run, following_batches(run, data))
    if not isinstance(data, list):
        raise UserError(f"The loop of {type(run.module).__name__} is not written.")
    return one_loss_loop(run, cycle(data).__next__)


def following_batches(run: Run, data: Data) -> Callable[[], dict[str, Any]]:
    """Each call gives the next batch, as the experiment's loader would."""
    if isinstance(data, list):
        return cycle(data).__next__
    return streams_of_batches(run, data) if isinstance(run.module, ImprovedGAN) else augmented_batches(run, data)


def usual_loop(run: Run, data: Data) -> Loop | None:
    """The method in plain PyTorch. It does less where the experiment has terms of its own (infogan_digits)."""
    if isinstance(data, list):
        if not isinstance(run.module, FasterRCNN) or run.module.network.published is None:
            return None
        module: Any = untrained_copy(run, run.trainer.strategy.root_device)
        module.setup("fit")
        return usual_detector_loop(module, data)
    batch_size: int = run.datamodule.batch_size  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(run.module, InfoGAN):
        return usual_infogan_loop(deepcopy(run.module).to(data.images.device), data.images.float() / 255, batch_size)
    if isinstance(run.module, ImageClassifier):
        return usual_classifier_loop(run, data)
    if isinstance(run.module, ImprovedGAN) and isinstance(run.module.discriminator, MLPDiscriminator):
        return usual_streams_loop(run, data)
    if isinstance(run.module, Draw):
        network = run.module.network
        usual = UsualDraw(network.image_shape, network.steps, network.hidden, network.latent, network.read_size,
                          network.write_size).to(data.images.device)  # fmt: skip
        return usual_draw_loop(usual, augmented_batches(run, data))
    return None


def untrained_copy(run: Run, device: torch.device) -> Any:
    """The run's module beside a stand-in of the trainer that steps as one does on one device, and logs nothing."""
    module = deepcopy(run.module).to(device)

    def step(optimizer: Optimizer, closure: Any) -> None:
        module.on_before_optimizer_step(optimizer)
        optimizer.step()

    strategy = SimpleNamespace(
        reduce=lambda it, reduce_op: it, backward=lambda loss, optimizer: loss.backward(), optimizer_step=step
    )
    never: Any = SimpleNamespace(
        world_size=1, global_rank=0, log_every_n_steps=2**62, global_step=0, current_epoch=0, datamodule=run.datamodule,
        state=SimpleNamespace(fn="fit"), ckpt_path=None, strategy=strategy,
    )  # fmt: skip
    module._trainer = never
    return module


def batches_of(data: ImageTable | Tensor, batch_size: int) -> Callable[[], Tensor]:
    """Each call gives the indices of the next batch of a random order without end."""
    device = data.device if isinstance(data, Tensor) else data.images.device
    order: list[Tensor] = []

    def following() -> Tensor:
        if not order:
            permutation = torch.randperm(len(data), device=device)
            order.extend(permutation[: len(data) // batch_size * batch_size].split(batch_size))
        return order.pop()

    return following


# --- two players ---------------------------------------------------------------------------------------------


def streams_of_batches(run: Run, data: ImageTable) -> Callable[[], dict[str, Any]]:
    """Each call gives the next batch of each stream of ``datamodules/semi_supervised.py``."""
    it: Any = run.datamodule
    known = labelled_subset(data.labels, it.num_labels, it.num_classes, it.label_seed, it.name)
    known = known.repeat(-(-it.batch_size // len(known))).to(data.images.device)
    labelled = batches_of(known, it.batch_size)
    unlabelled, for_generator = (batches_of(data, it.batch_size) for _ in range(2))

    def taken(index: Tensor) -> dict[str, Tensor]:
        batch = data[index]
        return batch | {"image": batch["image"].float().div_(255)}

    return lambda: {
        "labelled": taken(known[labelled()]),
        "unlabelled": taken(unlabelled()),
        "for_generator": taken(for_generator()),
    }


def turns_loop(run: Run, following: Callable[[], dict[str, Any]]) -> Loop:
    """Every player's turn as in the experiment, without what the Trainer and the callbacks do."""
    module: Any = untrained_copy(run, run.trainer.strategy.root_device)
    module.setup("fit")
    module.trainer.optimizers, schedules = module.configure_optimizers()
    half, kind = run.trainer.precision == "bf16-mixed", run.trainer.strategy.root_device.type
    numbers = count()
    if kind == "cuda":
        module.draw_ahead()

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            inputs = on_device(module.host_inputs(following(), next(numbers)), module.device)
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                losses.append(loss_of(module.device_step(inputs)))
            for schedule in schedules:
                schedule.step()
        return losses

    return loop


def captured_loop(run: Run, data: Data) -> Loop | None:
    """The bare loop's iteration as one CUDA graph, its inputs and rates in fixed places; on a CPU without a graph.

    None for what ``trainer.capture`` does not take.
    """
    if not isinstance(run.module, TakesTurns):
        return None
    if run.module.not_capturable() is not None or run.trainer.precision == "16-mixed":
        return None
    if isinstance(data, list) and any(form_of(it) != form_of(data[0]) for it in data):
        return None
    device = run.trainer.strategy.root_device
    module: Any = untrained_copy(run, device)
    module.setup("fit")
    module.trainer.optimizers, schedules = module.configure_optimizers()
    if any(not it.defaults.get("fused") for it in module.trainer.optimizers):
        return None
    following = following_batches(run, data)
    strategy = CapturingStrategy(str(device), rehearses=device.type != "cuda")
    strategy.connect(module)
    strategy.optimizers = module.trainer.optimizers
    strategy.on_train_start()  # rates become tensors
    half, numbers = run.trainer.precision == "bf16-mixed", count()

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
                inputs = module.host_inputs(following(), next(numbers))
                if strategy.staging is None:
                    strategy.staging = Staging(inputs, device)
                losses.append(loss_of(strategy.take(module, strategy.staging.fill(inputs))).clone())
            for schedule in schedules:
                schedule.step()
        return losses

    return loop


def usual_streams_loop(run: Run, data: ImageTable) -> Loop:
    module: Any = run.module
    batch, device = streams_of_batches(run, data), data.images.device
    pixels, sizes = math.prod(module.image_shape), run.config["lightning_module"]
    g = UsualGenerator(module.generator.input_size, sizes["generator"]["hidden"], pixels).to(device)
    d = UsualDiscriminator(pixels, sizes["discriminator"]["hidden"], module.num_classes).to(device)

    def flat():
        while True:
            parts = batch()
            images = [it["image"].flatten(1) for it in parts.values()]
            yield images[0], parts["labelled"]["label"], images[1], images[2]

    return usual_improved_gan_loop(g, d, flat())


def usual_draws(module: InfoGAN, batch_size: int) -> tuple[Tensor, list[Tensor]]:
    """G's inputs [B, input_size] and the codes in them, from the global generator on the device."""
    noise = torch.rand(batch_size, module.noise_size, device=module.device) * 2 - 1
    codes, inputs = [], [noise]
    for code in module.codes:
        if code.kind == "categorical":
            codes.append(torch.randint(code.size, (batch_size,), device=module.device))
            inputs.append(one_hot(codes[-1], code.size).float())
        else:
            codes.append(torch.rand(batch_size, code.size, device=module.device) * 2 - 1)
            inputs.append(codes[-1])
    return torch.cat(inputs, dim=1), codes


def usual_infogan_loop(module: InfoGAN, images: Tensor, batch_size: int) -> Loop:
    """In float32: D on real and detached images, then G and Q together on new ones; cross-entropies, two optimisers.

    images: float [N, C, H, W] in [0, 1].
    """
    g, d = module.generator, module.discriminator
    optimizer_d = torch.optim.Adam([*d.trunk.parameters(), *d.head.parameters()], lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam([*g.parameters(), *d.posterior.parameters()], lr=1e-3, betas=(0.5, 0.999))
    following = batches_of(images, batch_size)
    ones, zeros = (torch.full((batch_size,), value, device=images.device) for value in (1.0, 0.0))

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            optimizer_d.zero_grad()
            loss_real = binary_cross_entropy_with_logits(d.real_logit(images[following()]), ones)
            inputs, _ = usual_draws(module, batch_size)
            loss_fake = binary_cross_entropy_with_logits(d.real_logit(g(inputs).detach()), zeros)
            (loss_real + loss_fake).backward()
            optimizer_d.step()

            optimizer_g.zero_grad()
            inputs, codes = usual_draws(module, batch_size)
            logit, posterior = d(g(inputs))
            loss = binary_cross_entropy_with_logits(logit, ones)
            for code, output, value in zip(module.codes, module.split(posterior), codes, strict=True):
                is_category = code.kind == "categorical"
                loss += cross_entropy(output, value) if is_category else mse_loss(output.chunk(2, dim=1)[0], value)
            loss.backward()
            optimizer_g.step()
            losses.append((loss_real + loss_fake).detach() + loss.detach())
        return losses

    return loop


# --- one loss ----------------------------------------------------------------------------------------------


def augmented_batches(run: Run, data: ImageTable) -> Callable[[], dict[str, Tensor]]:
    """Each call gives the next batch, its images augmented as the experiment's, float in [0, 1]."""
    datamodule: Any = run.datamodule
    following, device = batches_of(data, datamodule.batch_size), data.images.device
    augment: Augment | None = datamodule.augment
    drawn = None if augment is None else augment.draw(len(data), seed=0, epoch=0).to(device)

    def batch() -> dict[str, Tensor]:
        taken = data[following()]
        images = taken["image"]
        if augment is not None and drawn is not None:
            images = shift_and_flip(images, drawn[taken["index"]], augment.pad)
        return taken | {"image": images.float().div_(255)}

    return batch


def one_loss_loop(run: Run, following: Callable[[], dict[str, Any]]) -> Loop:
    """The loss, clipping and schedule of an experiment under automatic optimisation."""
    device = run.trainer.strategy.root_device
    module: Any = untrained_copy(run, device)
    module.setup("fit")
    (optimizer,), schedules = module.configure_optimizers()
    half = run.trainer.precision == "bf16-mixed"

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                done = module.training_step(following(), 0)
            optimizer.zero_grad()
            done.backward()
            module.on_before_optimizer_step(optimizer)
            optimizer.step()
            for schedule in schedules:
                schedule["scheduler"].step()
            losses.append(done.detach().abs())
        return losses

    return loop


def usual_classifier_loop(run: Run, data: ImageTable) -> Loop:
    """The same net and batches in float32, images normalised, torch's SGD as it is by default."""
    module = untrained_copy(run, data.images.device)
    network, mean, scale = module.network, module.mean, module.scale
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    following = augmented_batches(run, data)

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            batch = following()
            loss = cross_entropy(network((batch["image"] - mean) * scale), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return loop
