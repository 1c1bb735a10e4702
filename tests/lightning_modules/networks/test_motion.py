"""Affine motions against torchvision's, image by image."""

import torch
from torchvision.transforms.functional import InterpolationMode, affine

from lightning_modules.networks.motion import Motion, transform


def motion(**ranges: float) -> Motion:
    return Motion(**({"rotation": 0, "shift": 0, "scale": 0, "shear": 0} | ranges))


def test_nothing_drawn_moves_nothing():
    images = torch.rand(2, 1, 8, 8)
    terms = motion(rotation=15.0, shift=1.0, scale=0.1, shear=0.2)
    torch.testing.assert_close(transform(images, torch.zeros(2, 6), terms), images)


def test_a_shift_is_in_pixels_and_leaves_black_behind():
    images = torch.rand(1, 2, 6, 8)
    right = torch.tensor([[0, 0, 0, 0, 1.0, 0]])
    shifted = transform(images, right, motion(shift=2.0))
    torch.testing.assert_close(shifted[..., :-2], images[..., 2:])
    assert float(shifted[..., -2:].abs().max()) == 0
    down = transform(images, torch.tensor([[0, 0, 0, 0, 0, 0.5]]), motion(shift=2.0))
    torch.testing.assert_close(down[..., :-1, :], images[..., 1:, :])


def test_a_rotation_is_torchvision_s():
    images = torch.rand(1, 1, 9, 9)
    ours = transform(images, torch.tensor([[1.0, 0, 0, 0, 0, 0]]), motion(rotation=30.0))
    theirs = affine(
        images, angle=-30.0, translate=[0, 0], scale=1.0, shear=[0.0], interpolation=InterpolationMode.BILINEAR
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_each_image_is_moved_by_its_own_draw():
    images = torch.rand(1, 1, 8, 8).repeat(3, 1, 1, 1)
    drawn = torch.tensor([[0, 0, 0, 0, 1.0, 0], [0] * 6, [1.0, 0, 0, 0, 0, 0]])
    together = transform(images, drawn, motion(rotation=15.0, shift=1.0))
    for position in range(3):
        alone = transform(images[:1], drawn[position : position + 1], motion(rotation=15.0, shift=1.0))
        torch.testing.assert_close(together[position : position + 1], alone)
