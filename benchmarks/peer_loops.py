"""What ``benchmarks.peers`` trains out of other people's clones: their networks, losses and steps, called from here.

A clone's training loop is called where it is a function; where it is the body of a script that downloads, or speaks
to a GPU alone, its steps are taken here with the script's own parts and numbers.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from foundation.errors import UserError

Loop = Callable[[int], list[float]]
"""Trains for a number of iterations and gives losses on the way, without their signs."""
PIL = "PIL loader"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(Dataset[tuple[Any, int]]):
    """One PIL image at a time, as torchvision's data sets give them; colour images are flipped, cropped, normalised."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.arrays, self.labels = images.permute(0, 2, 3, 1).squeeze(3).contiguous().numpy(), labels.tolist()
        augment = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(images.shape[2], 4)]
        scale: list[Any] = [transforms.ToTensor()]
        colour = [*augment, *scale, transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose(colour if images.shape[1] == 3 else scale)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


class Batches:
    """Without end, of float images [B, C, H, W] and labels [B]: from memory, or by torch's DataLoader from pictures.

    The loader has no workers, whose CPU time would be another process's.
    """

    def __init__(self, images: Tensor, labels: Tensor, size: int, how: str) -> None:
        self.size = size
        self.loader = DataLoader(Pictures(images, labels), size, shuffle=True, drop_last=True) if how == PIL else None
        self.images, self.labels = images.float().div_(255), labels
        if images.shape[1] == 3:
            self.images = transforms.Normalize(MEAN, STD)(self.images)
        self.coming = self.epochs()

    def epochs(self) -> Any:
        while True:
            if self.loader is not None:
                yield from self.loader
            else:
                for index in torch.randperm(len(self.images)).split(self.size):
                    if len(index) == self.size:
                        yield self.images[index], self.labels[index]

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self.coming)

    def take(self, count: int) -> "Some":
        return Some(self, count)


class Some:
    """An epoch of so many batches, for loops that ask for its length."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        return islice(self.batches.coming, self.count)


class Writer:
    """In a logger's place: keeps numbers whose name says loss, and nothing else."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.losses: list[float] = []

    def add_scalar(self, name: str, value: Any, *_: Any) -> None:
        if "loss" in name:
            self.losses.append(abs(float(torch.as_tensor(value).detach())))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def without_logger() -> None:
    """tensorboardX, which some import and which writes logs alone."""
    stand_in: Any = ModuleType("tensorboardX")
    stand_in.SummaryWriter = Writer
    sys.modules.setdefault("tensorboardX", stand_in)


def infogan_of_natsu6767(data: Batches) -> Loop:
    """D's halves in two backward passes, then G and Q on the same images again."""
    from models.mnist_model import DHead, Discriminator, Generator, QHead  # pyright: ignore[reportMissingImports]
    from utils import NormalNLLLoss, weights_init  # pyright: ignore[reportMissingImports]

    g, trunk, head, q = (kind().apply(weights_init) for kind in (Generator, Discriminator, DHead, QHead))
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    optimizer_d = torch.optim.Adam([*trunk.parameters(), *head.parameters()], **adam)
    optimizer_g = torch.optim.Adam([*g.parameters(), *q.parameters()], **adam)
    judged, classified, located = nn.BCELoss(), nn.CrossEntropyLoss(), NormalNLLLoss()
    ones, zeros = torch.ones(data.size), torch.zeros(data.size)

    def loop(iterations: int) -> list[float]:
        losses = []
        for _ in range(iterations):
            images, _labels = next(data)
            optimizer_d.zero_grad()
            of_real = judged(head(trunk(images)).view(-1), ones)
            of_real.backward()
            category, numbers = torch.randint(10, (data.size,)), torch.rand(data.size, 2) * 2 - 1
            codes = torch.cat([torch.randn(data.size, 62), nn.functional.one_hot(category, 10).float(), numbers], dim=1)
            fake = g(codes.view(data.size, -1, 1, 1))
            of_fake = judged(head(trunk(fake.detach())).view(-1), zeros)
            of_fake.backward()
            optimizer_d.step()

            optimizer_g.zero_grad()
            features = trunk(fake)
            of_g = judged(head(features).view(-1), ones)
            logits, mean, variance = q(features)
            of_g = of_g + classified(logits, category) + 0.1 * located(numbers, mean, variance)
            of_g.backward()
            optimizer_g.step()
            losses.append(abs(of_g.item()) + abs((of_real + of_fake).item()))
        return losses

    return loop


def infogan_of_kamenbliznashki(data: Batches) -> Loop:
    without_logger()
    import infogan  # pyright: ignore[reportMissingImports]

    arguments = Namespace(batch_size=data.size, noise_dim=62, cat_dim=10, cont_dim=2, info_reg_coeff=1.0, n_epochs=1,
                          log_interval=sys.maxsize, output_dir=".", device=torch.device("cpu"))  # fmt: skip
    d, q, g = infogan.Discriminator(), infogan.Q(10, 2), infogan.Generator()
    for network in (d, q, g):
        network.apply(infogan.initialize_weights)
    optimizer_g = torch.optim.Adam(g.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam([*d.parameters(), *q.parameters()], lr=2e-4, betas=(0.5, 0.999))

    def loop(iterations: int) -> list[float]:
        writer = Writer()
        infogan.train_epoch(d, q, g, data.take(iterations), optimizer_d, optimizer_g, 0, writer, arguments)
        return writer.losses

    return loop


def draw_of_kamenbliznashki(data: Batches, steps: int, latent: int, read_size: int) -> Loop:
    without_logger()
    import draw  # pyright: ignore[reportMissingImports]

    data.images = data.images.round()  # black and white, as its likelihood wants
    arguments = Namespace(image_dims=data.images.shape[1:], time_steps=steps, z_size=latent, lstm_size=256,
                          read_size=read_size, write_size=5, use_read_attn=True, use_write_attn=True, verbose=False,
                          n_epochs=1, log_interval=sys.maxsize, device=torch.device("cpu"))  # fmt: skip
    model = draw.DRAW(arguments)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loop(iterations: int) -> list[float]:
        writer = Writer()
        draw.train_epoch(model, data.take(iterations), draw.loss_fn, optimizer, 0, writer, arguments)
        return writer.losses

    return loop


def improved_gan_of_sleepychord(data: Batches) -> Loop:
    without_logger()
    from ImprovedGAN import ImprovedGAN  # pyright: ignore[reportMissingImports]
    from Nets import Discriminator, Generator  # pyright: ignore[reportMissingImports]

    arguments = Namespace(savedir="models", logdir="logs", cuda=False, lr=0.003, momentum=0.5, unlabel_weight=1)
    trainer = ImprovedGAN(Generator(100), Discriminator(), None, None, None, arguments)
    known = torch.cat([(data.labels == digit).nonzero()[:10, 0] for digit in range(10)])

    def loop(iterations: int) -> list[float]:
        losses = []
        for _ in range(iterations):
            (unlabelled, _), (for_generator, _) = next(data), next(data)
            labelled = known[torch.randint(len(known), (data.size,))]
            supervised, unsupervised, *_ = trainer.trainD(data.images[labelled], data.labels[labelled], unlabelled)
            matched = trainer.trainG(for_generator)
            losses.append(abs(float(supervised)) + abs(float(unsupervised)) + abs(float(matched)))
        return losses

    return loop


def resnet_of_akamaster(data: Batches) -> Loop:
    import resnet  # pyright: ignore[reportMissingImports]

    model, criterion = resnet.resnet20().train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def loop(iterations: int) -> list[float]:
        losses = []
        for _ in range(iterations):
            images, labels = next(data)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return loop


@dataclass(frozen=True)
class Peer:
    """``files`` must lie in a clone; ``ways`` are those in which the peer gets its images."""

    name: str
    method: str
    experiment: str
    files: tuple[str, ...]
    loop: Callable[[Batches], Loop]
    overrides: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("", PIL)


PEERS = [
    Peer("Natsu6767", "infogan", "infogan_mnist", ("models/mnist_model.py", "utils.py"), infogan_of_natsu6767),
    Peer("kamenbliznashki", "infogan", "infogan_mnist", ("infogan.py", "utils.py"), infogan_of_kamenbliznashki),
    Peer("kamenbliznashki, T = 10", "draw", "draw_mnist_t10", ("draw.py", "utils.py"),
         lambda data: draw_of_kamenbliznashki(data, steps=10, latent=10, read_size=5), ways=("",)),
    Peer("kamenbliznashki, T = 64", "draw", "draw_mnist", ("draw.py", "utils.py"),
         lambda data: draw_of_kamenbliznashki(data, steps=64, latent=100, read_size=2), ways=("",)),
    Peer("Sleepychord", "improved_gan", "improved_gan_mnist", ("ImprovedGAN.py", "Nets.py"),
         improved_gan_of_sleepychord),
    Peer("akamaster", "resnet", "resnet_cifar10", ("resnet.py", "trainer.py"), resnet_of_akamaster),
]  # fmt: skip


def found(method: str, clone: Path) -> list[Peer]:
    """Whose repository a folder is: a row for each size that is measured."""
    known = [it for it in PEERS if it.method == method]
    there = [it for it in known if all((clone / name).is_file() for name in it.files)]
    if not there:
        wanted = "; ".join(sorted({f"{it.name.partition(',')[0]}'s has {' and '.join(it.files)}" for it in known}))
        raise UserError(f"{clone} is no clone that this benchmark knows for {method}: {wanted}.")
    return there
