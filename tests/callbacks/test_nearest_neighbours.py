import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.instruments.pictures import as_8_bit
from callbacks.nearest_neighbours import NearestNeighbours, nearest_images
from datamodules.images import ImageTable
from foundation.errors import UserError
from foundation.evaluation import evaluating
from tests.callbacks.scores_on_ranks import Sampler, Squares, trainer_with


def test_the_nearest_are_found_exactly_over_several_chunks():
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(256, (2500, 3, 4, 4), generator=generator).byte()
    images = torch.randint(256, (5, 3, 4, 4), generator=generator).byte()
    training[2100] = training[30]  # a tie between two chunks
    images[0] = training[30]
    distances, numbers = nearest_images(images, ImageTable(training), 3)
    squares = (images.long().unsqueeze(1) - training.long()).square().sum((2, 3, 4))
    expected = squares.sort(dim=1, stable=True)
    assert torch.equal(distances.long(), expected.values[:, :3])
    assert torch.equal(numbers, expected.indices[:, :3])
    assert numbers[0, :2].tolist() == [30, 2100]
    assert distances[0, :2].tolist() == [0, 0]


class Copier(Sampler):
    """Its samples are training images, the last one first."""

    def sample(self, indices):
        return Squares().tables["train"].images[36 - indices] / 255


@pytest.mark.parametrize("module", [Sampler(), Copier()])
def test_a_row_is_a_sample_and_its_neighbours(tmp_path, module):
    trainer = trainer_with(NearestNeighbours(str(tmp_path), samples=4, neighbours=2))
    module.normalization.train()
    trainer.test(module, Squares(), verbose=False)
    assert trainer.callback_metrics == {}
    picture = np.asarray(Image.open(tmp_path / "nearest_neighbours.png").convert("L")).astype(int)
    side = 5 * 10 + 2  # 5 pixels magnified to 50, and a border
    assert picture.shape == (4 * side + 2, 3 * side + 2)
    tiles = [
        [picture[r * side + 2 : (r + 1) * side : 10, c * side + 2 : (c + 1) * side : 10] for c in range(3)]
        for r in range(4)
    ]
    with evaluating(module):
        samples = as_8_bit(module.sample(torch.arange(4)))
    training = Squares().tables["train"].images
    _, nearest = nearest_images(samples, ImageTable(training), 2)
    for row in range(4):
        shown = [samples[row], *training[nearest[row]]]
        for tile, image in zip(tiles[row], shown, strict=True):
            assert np.abs(tile - image[0].numpy().astype(int)).max() <= 1
    copied = [np.array_equal(row[0], row[1]) for row in tiles]
    assert copied == [isinstance(module, Copier)] * 4


def test_more_neighbours_than_images_are_all_of_them():
    _, numbers = nearest_images(torch.zeros(1, 1, 5, 5).byte(), Squares().tables["test"], 100)
    assert sorted(numbers[0].tolist()) == list(range(23))


def test_sizes_are_checked():
    with pytest.raises(UserError, match="nearest_neighbours.samples is 0: give 1 or more"):
        NearestNeighbours("unused", samples=0)
