"""The distance by hand, on singular covariances, and how a reference is kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from callbacks.instruments.frechet_distance import (
    ROWS,
    STRIP,
    Gaussian,
    GaussianMetric,
    cholesky_factor,
    fingerprint,
    frechet_distance,
    kept,
)
from datamodules.images import ImageTable


def fitted(features, batch_size=7):
    metric = GaussianMetric(features.shape[1])
    for part in features.split(batch_size):
        metric.update(part)
    return metric.compute()


def normal(count, features, seed=0):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("size", [4, STRIP, 2 * STRIP + 37])
def test_mean_and_covariance_are_numpy_s(size):
    features = 5 + normal(50, size)
    images, mean, covariance = fitted(features)
    assert images == 50
    assert np.array_equal(covariance, covariance.T)
    np.testing.assert_allclose(mean, features.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-11, atol=1e-13)


def test_waiting_features_count_once_and_are_forgotten_by_a_reset():
    metric, features = GaussianMetric(3), normal(2 * ROWS + 5, 3)
    for part in (features[: ROWS - 1], features[ROWS - 1 : ROWS + 1], features[ROWS + 1 :]):
        metric(part)
    assert not metric.waiting
    metric.update(features[:7])
    for _ in range(2):
        images, mean, _ = metric.compute()
        assert images == len(features) + 7
        np.testing.assert_allclose(mean, torch.cat([features, features[:7]]).numpy().mean(0), rtol=1e-11)
    metric.update(5 + features)
    metric.update(5 + features[:1])
    metric.reset()
    metric.update(features[:50])
    np.testing.assert_allclose(metric.compute().covariance, np.cov(features[:50].numpy(), rowvar=False), rtol=1e-11)


def test_by_hand():
    # Of commuting covariances the root of the product is the product of the roots.
    first = Gaussian(9, np.array([0.0, 0.0]), np.diag([1.0, 4.0]))
    second = Gaussian(9, np.array([3.0, 0.0]), np.diag([9.0, 4.0]))
    assert frechet_distance(first, second) == pytest.approx(9 + (1 - 3) ** 2 + 0)
    assert frechet_distance(second, first) == pytest.approx(13)


def test_a_set_lies_nowhere_but_at_itself():
    gaussian = fitted(normal(40, 5))
    assert frechet_distance(gaussian, gaussian) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(gaussian, fitted(normal(40, 5) + 1)) == pytest.approx(5, rel=1e-6)


def test_fewer_images_than_features_give_a_real_distance():
    """Where a general root finds complex values: the true distance follows from the few dimensions that there are."""
    first, second = normal(6, 3), 2 * normal(6, 3, seed=1)
    turned = torch.linalg.qr(normal(30, 30, seed=2)).Q[:3]
    expected = frechet_distance(fitted(first), fitted(second))
    assert frechet_distance(fitted(first @ turned), fitted(second @ turned)) == pytest.approx(expected, rel=1e-6)


def test_a_set_without_variance_is_a_point():
    point, cloud = (Gaussian(9, np.zeros(3), covariance) for covariance in (np.zeros((3, 3)), np.diag([1.0, 2.0, 3.0])))
    assert frechet_distance(point, cloud) == frechet_distance(cloud, point) == pytest.approx(6)
    assert frechet_distance(point, point) == 0


def test_what_is_not_a_number_is_refused_on_either_side():
    cloud, broken = (Gaussian(9, np.zeros(3), covariance) for covariance in (np.eye(3), np.full((3, 3), np.nan)))
    for pair in ((cloud, broken), (broken, cloud)):
        with pytest.raises(ValueError, match="infs or NaNs"):
            frechet_distance(*pair)


@pytest.mark.parametrize("images", [5, 40])
def test_the_factor_has_a_covariance_s_rank(images):
    covariance = fitted(normal(images, 12) @ normal(12, 12, seed=1)).covariance
    factor = cholesky_factor(covariance)
    assert factor.shape == (min(images - 1, 12), 12)
    np.testing.assert_allclose(factor.T @ factor, covariance, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("images", "tolerance"), [(200, 1e-9), (20, 1e-5)])  # theirs loses digits to zeros' roots
def test_it_is_torch_fidelity_s(images, tolerance):
    mixing = normal(64, 64, seed=3)
    first, second = normal(300, 64) @ mixing, 1 + 1.5 * normal(images, 64, seed=1) @ mixing
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (first, second)), verbose=False)
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(fitted(first), fitted(second)) == pytest.approx(expected, rel=tolerance)


def test_a_reference_is_kept_whole(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda it: it))
    path, measured = tmp_path / "deep" / "reference.npz", fitted(normal(40, 5))
    first = kept(path, trainer, lambda: measured)  # type: ignore
    again = kept(path, trainer, lambda: pytest.fail("it is there"))  # type: ignore
    assert [it.name for it in path.parent.iterdir()] == ["reference.npz"]
    for one in (first, again):
        assert one.images == 40
        assert np.array_equal(one.mean, measured.mean)
        assert np.array_equal(one.covariance, measured.covariance)


def test_a_fingerprint_is_of_images_and_their_order():
    images = torch.randint(256, (2100, 1, 2, 2)).byte()
    assert fingerprint(ImageTable(images)) == fingerprint(ImageTable(images.clone()))
    assert fingerprint(ImageTable(images)) != fingerprint(ImageTable(images.flip(0)))
