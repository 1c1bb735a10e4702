"""The loader alone, in images a second: batches cut from a table in memory against the usual loader.

    python -m benchmarks.loader
    python -m benchmarks.loader --size 20000 --batch-size 256 --rounds 7

- ``platform``: GlobalBatches, ImageTable and the augmentation and scaling of whole batches, in the main process.
- ``usual loader``: torch's DataLoader with two workers and torchvision's transforms of PIL images, one by one.

Both go through the same random 32x32 colour images: padded by 4, cropped, flipped, scaled to [0, 1]. A turn is an
epoch. CPU seconds of the workers are not counted.
"""

import argparse
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.turns import Turns, table
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import told_as_sentences

PLATFORM, USUAL = "platform", "usual loader"
AUGMENT = {"pad": 4, "flip": True}


class RandomImages(ImageDataModule):
    """``size`` random images for training, as a DataModule that a trainer drives on the CPU."""

    name = "random"
    image_shape = (3, 32, 32)
    num_classes = 10

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size, augment=AUGMENT)
        pixels = torch.randint(256, (size, *self.image_shape), dtype=torch.uint8)
        self.tables = {"train": ImageTable(pixels, torch.randint(10, (size,)))}
        progress = SimpleNamespace(current=SimpleNamespace(ready=0))
        trainer: Any = SimpleNamespace(
            training=True,
            current_epoch=0,
            global_rank=0,
            world_size=1,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            lightning_module=SimpleNamespace(dtype=torch.float32),
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )
        self.trainer = trainer

    def epochs(self) -> Iterator[int]:
        """Each step goes through the whole set once; gives the number of images seen."""
        loader: Any = self.train_dataloader()
        while True:
            seen = 0
            loader.sampler.set_epoch(self.trainer.current_epoch)  # pyright: ignore[reportOptionalMemberAccess]
            for batch in loader:
                seen += len(self.on_after_batch_transfer(batch, 0)["image"])
            self.trainer.current_epoch += 1  # pyright: ignore
            yield seen


class PictureList(Dataset[tuple[Any, int]]):
    """The same images the usual way: one PIL image at a time through torchvision's transforms."""

    def __init__(self, table: ImageTable) -> None:
        assert table.labels is not None
        self.arrays, self.labels = table.images.permute(0, 2, 3, 1).contiguous().numpy(), table.labels.tolist()
        side = self.arrays.shape[1]
        crop, flip = transforms.RandomCrop(side, padding=AUGMENT["pad"]), transforms.RandomHorizontalFlip()
        self.transform = transforms.Compose([crop, flip, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def usual_epochs(pictures: PictureList, batch_size: int, workers: int) -> Iterator[int]:
    loader = DataLoader(
        pictures, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield sum(len(images) for images, _ in loader)


def measure(size: int = 10_000, batch_size: int = 128, rounds: int = 5, workers: int = 2) -> Turns:
    """Both loaders in turns, an epoch each; the first of ``rounds`` + 1 warms up."""
    datamodule = RandomImages(size, batch_size)
    contestants = {
        PLATFORM: datamodule.epochs(),
        USUAL: usual_epochs(PictureList(datamodule.tables["train"]), batch_size, workers),
    }
    turns = Turns("loader, crop and flip", torch.device("cpu"), size // batch_size, batch_size)
    for _ in range(rounds + 1):
        for name, epochs in contestants.items():
            turns.start()
            seen = next(epochs)
            turns.stop(name)
            assert seen == turns.iterations * batch_size
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000, help="images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each that count")
    parser.add_argument("--workers", type=int, default=2, help="of the usual loader")
    given = parser.parse_args(arguments)
    return [measure(given.size, given.batch_size, given.rounds, given.workers)]


def report(measured: list[Turns]) -> str:
    return table([row for turns in measured for row in turns.rows(PLATFORM)])


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
