"""A Fréchet distance from features in memory, the platform's against torch-fidelity's; nothing is read or downloaded.

    python -m benchmarks.frechet_distance
    python -m benchmarks.frechet_distance --images 10000 --rounds 3

Two things are measured, in turns, by CPU time:

- ``FID, statistics``: mean and covariance of a set of features, which the platform is given in batches of 100, as a
  network makes them, and torch-fidelity at once;
- ``FID, distance``: from two such. The figures must agree to 1e-5.
"""

import argparse
import math

import torch
from torch import Tensor

from benchmarks.turns import Turns, table
from callbacks.instruments.frechet_distance import Gaussian, GaussianMetric, frechet_distance
from foundation.errors import UserError, told_as_sentences

PLATFORM, FIDELITY = "platform", "torch-fidelity"
FEATURES, BATCH_SIZE = 2048, 100


def gaussian(features: Tensor) -> Gaussian:
    metric = GaussianMetric(features.shape[1])
    for batch in features.split(BATCH_SIZE):
        metric.update(batch)
    return metric.compute()


def measure(images: int = 50_000, features: int = FEATURES, rounds: int = 3) -> list[Turns]:
    """The first of ``rounds`` + 1 warms up."""
    try:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    except ImportError:
        raise UserError("torch-fidelity is not installed: pip install 'torch-fidelity>=0.4'") from None
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, features)
    first, second = ((torch.randn(images, features, generator=generator) * scales).relu_() for _ in range(2))
    second += 0.01
    other, other_theirs = gaussian(second), fid_features_to_statistics(second)
    # It averages in the features' float32, which alone can move a distance by a thousandth: given are exact means.
    other_theirs["mu"] = other.mean
    statistics = Turns("FID, statistics", torch.device("cpu"), 1, images, "cpu_s")
    distances = Turns("FID, distance", torch.device("cpu"), 1, images, "cpu_s")
    for _ in range(rounds + 1):
        statistics.start()
        ours = gaussian(first)
        statistics.stop(PLATFORM)
        statistics.start()
        theirs = fid_features_to_statistics(first)
        statistics.stop(FIDELITY)
        theirs["mu"] = ours.mean
        distances.start()
        distance = frechet_distance(ours, other)
        distances.stop(PLATFORM)
        distances.start()
        expected = fid_statistics_to_metric(theirs, other_theirs, verbose=False)["frechet_inception_distance"]
        distances.stop(FIDELITY)
        assert math.isclose(distance, expected, rel_tol=1e-5), (distance, expected)
    return [statistics, distances]


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each that count")
    given = parser.parse_args(arguments)
    return measure(given.images, rounds=given.rounds)


if __name__ == "__main__":
    with told_as_sentences():
        print(table([row for turns in main() for row in turns.rows(PLATFORM)]))
