"""The grid pointing game on images that are one colour a class."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.metrics.grid_pointing_game import cell_share, make_mosaics, mosaic_share

CLASSES = 10


def coloured(per_class=3, size=(24, 24), classes=CLASSES):
    """Images (N, 3, H, W) whose pixels all hold their own index, and labels (N,), class by class in turn."""
    count = per_class * classes
    images = torch.arange(count, dtype=torch.float64)[:, None, None, None].expand(count, 3, *size)
    return images, torch.arange(count) % classes


@pytest.mark.parametrize(
    "n, size, rows, columns",
    [
        (2, (24, 24), (0, 12, 24), (0, 12, 24)),
        (3, (24, 24), (0, 8, 16, 24), (0, 8, 16, 24)),
        (3, (25, 16), (0, 8, 17, 25), (0, 5, 11, 16)),
    ],
)
def test_cells_hold_the_images_row_by_row(n, size, rows, columns):
    images, labels = coloured(size=size)
    mosaics, targets, which = make_mosaics(images, labels, n=n, count=3)
    assert mosaics.shape == (3, 3, *size) and mosaics.dtype == images.dtype
    assert which.shape == targets.shape == (3, n * n) and targets.dtype == which.dtype == torch.int64
    for cell in range(n * n):
        (y, x), index = divmod(cell, n), which[:, cell].double()[:, None, None, None]
        inside = mosaics[:, :, rows[y] : rows[y + 1], columns[x] : columns[x + 1]]
        assert torch.allclose(inside, index.expand_as(inside))
    assert torch.equal(labels[which], targets)
    assert all(len(set(row)) == n * n for row in targets.tolist()), "distinct classes"


def test_images_are_scaled_without_aliasing():
    stripes = (torch.arange(32) % 4 == 0).double().expand(4, 3, 32, 32)
    mosaics, *_ = make_mosaics(torch.cat([stripes] * 4), np.arange(16), n=4, count=1)
    inside = mosaics[..., 2:6]
    assert torch.allclose(inside, torch.full_like(inside, 0.25), atol=0.1), "stripes thinner than a pixel become grey"
    image = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    mosaics, _, which = make_mosaics(image, torch.arange(4), count=1)
    half = F.interpolate(image[which[0, 3]][None], size=(12, 12), mode="bilinear", antialias=True)
    assert torch.equal(mosaics[:, :, 12:, 12:], half)


def test_no_image_is_used_twice_and_as_many_mosaics_are_made_as_possible():
    images, labels = coloured(size=(4, 4))
    for count, made in ((None, 7), (7, 7), (100, 7), (3, 3)):
        _, targets, which = make_mosaics(images, labels, count=count)
        assert which.shape == (made, 4) and len(which.unique()) == which.numel()
        assert all(len(set(row)) == 4 for row in targets.tolist())
    uneven = torch.tensor([0] * 20 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 2)  # 11 others go round in threes
    _, targets, which = make_mosaics(images[:1].expand(31, -1, -1, -1), uneven)
    assert len(which) == 3 and len(which.unique()) == 12 and (targets == 0).any(1).all()


def test_draws_are_fixed_by_the_seed():
    images, labels = coloured(per_class=40, size=(4, 4))
    _, targets, which = make_mosaics(images, labels, seed=4)
    assert torch.equal(which, make_mosaics(images, labels.numpy(), seed=4)[2])
    assert torch.equal(which[:7], make_mosaics(images, labels, count=7, seed=4)[2]), "a prefix, whatever the count"
    assert not torch.equal(which, make_mosaics(images, labels, seed=5)[2])
    assert len(which) == 100 and len(which.unique()) == 400, "all images of classes of one size"
    many = torch.cat([make_mosaics(images, labels, seed=seed)[1] for seed in range(5)])
    shares = [np.bincount(cell, minlength=CLASSES) / 500 for cell in many.T.numpy()]
    assert np.abs(np.array(shares) - 1 / CLASSES).max() < 0.06, "every class as often in every cell"


def test_only_images_among_the_given_are_used():
    images, labels = coloured(size=(4, 4))
    among = [0, 3, 13, 5, 26, 6, 15, 10]
    _, targets, which = make_mosaics(images, labels, among=among)
    assert sorted(which.flatten().tolist()) == sorted(among) and set(targets.flatten().tolist()) == {0, 3, 5, 6}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(n=4), "10 classes among 30 images; a mosaic of 4 x 4 needs 16"),
        (dict(among=[0, 10, 20, 1]), "2 classes among 4 images"),
        (dict(among=[]), "0 classes among 0 images"),
        (dict(among=[0, 1, 2, 30]), "among goes from 0 to 30; the images are 0 to 29"),
        (dict(among=[-1, 1, 2, 3]), "among goes from -1"),
        (dict(among=[0, 1, 2, 3, 3]), "among names an image twice: 5 indices, 4 different ones"),
        (dict(labels=torch.zeros(3)), "do not fit"),
        (dict(n=1), "expected 1 or more, of 2 x 2 or more"),
        (dict(n=5), "each cell a pixel or more"),
        (dict(count=0), "0 mosaics"),
    ],
)
def test_wrong_inputs_are_refused(changes, message):
    images, labels = coloured(size=(4, 4))
    with pytest.raises(ValueError, match=message):
        make_mosaics(images, **{"labels": labels, "count": 2, **changes})


# ---- the share in the own cell


def test_share_of_maps_that_are_right_even_and_wrong():
    right = np.kron(np.eye(4).reshape(1, 4, 2, 2), np.ones((7, 7)))
    assert cell_share(right) == pytest.approx(1)
    assert cell_share(right[:, ::-1]).tolist() == [[0, 0, 0, 0]]
    assert cell_share(5 * right - 3) == pytest.approx(1), "negative relevance does not count"
    assert np.allclose(cell_share(torch.ones(2, 9, 14, 14), n=3), 1 / 9), "an even map scores chance"
    assert np.isnan(cell_share(-right)).all()
    noise = np.random.default_rng(0).random((500, 4, 14, 14))
    assert cell_share(noise).shape == (500, 4) and cell_share(noise).mean() == pytest.approx(1 / 4, abs=0.01)


def test_patches_across_a_border_count_by_area():
    one = np.zeros((1, 4, 5, 5))
    one[0, 0, 2, 2], one[0, 1, 1, 2], one[0, 2, 2, 0], one[0, 3, 3, 3] = 1, 1, 1, 1
    assert cell_share(one) == pytest.approx(np.array([[0.25, 0.5, 0.5, 1]]))
    third = np.zeros((1, 9, 1, 4))  # 4 patches over 3 cells: borders at 4/3 and 8/3 patches
    third[:, :, 0, 1] = 1
    assert cell_share(third, n=3)[0] == pytest.approx(np.tile([1 / 9, 2 / 9, 0], 3)), "a row of patches over 3 rows"
    maps = np.random.default_rng(0).random((2, 1, 5, 7)).repeat(9, axis=1)
    assert cell_share(maps, n=3).sum(-1) == pytest.approx(1), "cells share a map among themselves"


def test_exact_contributions_of_a_linear_model_lie_in_their_cells():
    """The logit of class c is the sum of channel c, which only images of class c have anything in."""
    labels = torch.arange(12) % 4
    images = torch.rand(12, 1, 24, 24) * F.one_hot(labels, 4)[:, :, None, None]
    mosaics, targets, _ = make_mosaics(images, labels)
    channels = torch.stack([mosaic[row] for mosaic, row in zip(mosaics, targets)])
    assert cell_share(F.avg_pool2d(channels, 4)) == pytest.approx(1)
    assert cell_share(F.avg_pool2d(channels.roll(1, 1), 4)) == pytest.approx(0)


def test_the_value_of_a_mosaic_is_the_mean_over_its_cells():
    maps = np.random.default_rng(0).normal(0, 1, (5, 4, 6, 6))
    maps[1, 2], maps[2] = -1, -1
    shares, found = cell_share(maps), mosaic_share(maps)
    assert found[[0, 3, 4]] == pytest.approx(shares[[0, 3, 4]].mean(1))
    assert found[1] == pytest.approx(np.nanmean(shares[1])) and np.isnan(found[2])


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 9, 4, 4), (4, 4, 4)])
def test_another_number_of_targets_than_cells_is_refused(shape):
    with pytest.raises(ValueError, match="one target for each of 2 x 2 cells"):
        cell_share(np.ones(shape))
