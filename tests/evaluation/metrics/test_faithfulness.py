"""Perturbation curves of models whose patches' contributions are known exactly, and what imputed patches hold."""

import weakref

import numpy as np
import pytest
import torch
from scipy.stats import norm
from small_vits import make_vit
from torch import nn

from evaluation.metrics import faithfulness as perturbation
from evaluation.metrics.faithfulness import IMPUTATIONS, perturbation_curves, perturbation_order

GRID, PATCH = (4, 3), (2, 4)
SIZE = (GRID[0] * PATCH[0], GRID[1] * PATCH[1])


class Linear(nn.Module):
    """Logits (B, C) that are sums over pixels of weights (C, 3, H, W) times the image."""

    def __init__(self, classes=3, seed=0):
        super().__init__()
        weights = torch.randn(classes, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(weights / 10)
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return torch.einsum("bchw,kchw->bk", x, self.weights)

    def contributions(self, images):
        """Of each patch to each class's logit, (B, C, gh, gw)."""
        products = torch.einsum("bchw,kchw->bkhw", images, self.weights.detach())
        return products.unflatten(-1, (GRID[1], PATCH[1])).unflatten(2, (GRID[0], PATCH[0])).sum((3, 5))


def draw(count, channels=3, size=SIZE, seed=1):
    return torch.randn(count, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images():
    return draw(2)


@pytest.fixture
def targets():
    return torch.tensor([[0, 2], [1, 0]])


@pytest.fixture
def maps():
    return draw(2, 2, GRID, seed=2)


def test_curves_of_a_linear_model_are_known(images, targets, maps):
    model, steps = Linear(), 5
    curves = perturbation_curves(model, images, targets, maps, steps=steps)
    assert curves.fractions.tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert curves.morf.shape == curves.lerf.shape == (2, 2, steps + 1) and curves.morf.dtype == np.float64
    parts = model.contributions(images).flatten(2)
    for b in range(2):
        for k, target in enumerate(targets[b].tolist()):
            order = maps[b, k].flatten().argsort(descending=True)
            for step, removed in enumerate([0, 2, 5, 7, 10, 12]):
                for found, first in ((curves.morf, order), (curves.lerf, order.flip(0))):
                    left = parts[b][:, first[removed:]].sum(-1)
                    assert found[b, k, step] == pytest.approx(float(left.softmax(0)[target]), abs=1e-12)
    assert np.allclose(curves.morf[..., -1], 1 / 3), "without any patch a linear model knows nothing"


def test_figures_are_means_and_areas_of_the_curves(images, targets, maps):
    curves = perturbation_curves(Linear(), images, targets, maps, steps=4)
    morf, lerf = curves.morf, curves.lerf
    assert np.allclose(curves.morf_mean, morf[..., :4].mean(-1))
    assert np.allclose(curves.lerf_mean, lerf[..., :4].mean(-1))
    assert np.allclose(curves.srg, (lerf - morf).sum(-1) / 4)
    assert np.allclose(curves.deletion, (morf[..., :-1] + morf[..., 1:]).mean(-1) / 2)
    assert np.allclose(curves.insertion, (lerf[..., :-1] + lerf[..., 1:]).mean(-1) / 2)
    back = perturbation_curves(Linear(), images, targets, -maps, steps=4)
    assert np.allclose(back.morf, lerf) and np.allclose(back.srg, -curves.srg), "as wrong as it was right"


def test_the_exact_map_is_best_and_a_random_one_is_chance():
    model, images = Linear(classes=2), draw(60)
    targets = model(images).argmax(1, keepdim=True)
    parts = model.contributions(images)
    exact = parts[:, :1] - parts[:, 1:]
    exact = torch.where(targets[..., None, None] == 0, exact, -exact)
    best = perturbation_curves(model, images, targets, exact).srg
    chance = perturbation_curves(model, images, targets, draw(60, 1, GRID, seed=3)).srg
    assert np.all(best > 0) and best.mean() > 0.2
    assert abs(chance.mean()) < 2 * chance.std() / 60**0.5
    assert np.all(best >= chance), "no order beats that of a linear model's own contributions"


def test_ties_are_broken_at_random_and_reproducibly(images, targets):
    even = torch.zeros(2, 2, *GRID, dtype=torch.float64)
    first, again = (perturbation_curves(Linear(), images, targets, even) for _ in range(2))
    assert np.array_equal(first.morf, again.morf)
    assert not np.allclose(first.morf, perturbation_curves(Linear(), images, targets, even, seed=1).morf)
    alone = perturbation_curves(Linear(), images[1:], targets[1:], even[1:])
    assert np.allclose(alone.morf, first.morf[1:], atol=1e-12), "other images do not matter"
    orders = torch.stack(
        [
            perturbation_order(torch.tensor([[5.0, 1, 1], [1, 9, 0]]), torch.Generator().manual_seed(seed))
            for seed in range(60)
        ]
    )
    assert orders[:, :2].unique(dim=0).tolist() == [[4, 0]] and orders[:, 5].unique().tolist() == [5]
    assert len(orders[:, 2:5].unique(dim=0)) == 6, "each order of three patches that tie comes up"


@pytest.mark.parametrize("imputation", IMPUTATIONS)
def test_targets_one_by_one_and_any_batch_size_give_the_same(images, targets, maps, imputation):
    model = Linear()
    together = perturbation_curves(model, images, targets, maps, steps=3, imputation=imputation)
    assert model.calls == [20], "2 K (S - 1) + 2 passes an image"
    for k in range(2):
        alone = perturbation_curves(model, images, targets[:, [k]], maps[:, [k]], steps=3, imputation=imputation)
        assert np.allclose(alone.morf, together.morf[:, [k]], atol=1e-12)
        assert np.allclose(alone.lerf, together.lerf[:, [k]], atol=1e-12)
    for size, calls in ((1, [1] * 20), (7, [7, 7, 6]), (10, [10, 10]), (19, [19, 1]), (10**6, [20])):
        model.calls.clear()
        again = perturbation_curves(model, images, targets, maps, steps=3, imputation=imputation, batch_size=size)
        assert model.calls == calls, "batches are full whatever image, target and step their images belong to"
        assert np.allclose(again.morf, together.morf, atol=1e-12)
        assert np.allclose(again.lerf, together.lerf, atol=1e-12)


@pytest.mark.parametrize("imputation", ["mean", "blur"])
def test_a_vits_curves_in_float32_are_those_of_its_images_one_by_one(imputation):
    model, images, maps = make_vit().float(), draw(5, size=(24, 24)).float(), draw(5, 3, (3, 3), seed=2)
    targets = torch.arange(15).view(5, 3) % 7
    together = perturbation_curves(model, images, targets, maps, steps=4, imputation=imputation, batch_size=32)
    for b in range(5):
        alone = perturbation_curves(
            model, images[[b]], targets[[b]], maps[[b]], steps=4, imputation=imputation, batch_size=1
        )
        assert np.allclose(alone.morf, together.morf[[b]], atol=1e-6)
        assert np.allclose(alone.lerf, together.lerf[[b]], atol=1e-6)


def test_memory_grows_with_the_batch_and_not_with_images_targets_or_steps(monkeypatch):
    made, alive, imputer = [], [], perturbation._imputer

    def watched(*arguments):
        def impute(mask):
            made.append(weakref.ref(found := impute_plainly(mask)))
            return found

        impute_plainly = imputer(*arguments)
        return impute

    class Watching(Linear):
        def forward(self, x):
            alive.append(sum(one() is not None for one in made))
            return super().forward(x)

    monkeypatch.setattr(perturbation, "_imputer", watched)
    perturbation_curves(Watching(), draw(6), torch.zeros(6, 3, dtype=torch.int64), draw(6, 3, GRID), batch_size=8)
    assert len(made) == 6 * (2 * 3 * 9 + 1) and max(alive) <= 2 * 8


def test_one_step_has_both_ends_only(images, targets, maps):
    curves = perturbation_curves(Linear(), images, targets, maps, steps=1)
    assert curves.morf.shape == (2, 2, 2) and np.array_equal(curves.morf, curves.lerf) and not curves.srg.any()


# ---- imputation


def imputed(image, imputation, patches=((1, 1),), grid=GRID, seed=0):
    mask = torch.zeros(grid, dtype=torch.bool)
    for patch in patches:
        mask[patch] = True
    return perturbation._imputer(image, grid, imputation, seed)(mask), perturbation._to_pixels(mask, image)


@pytest.mark.parametrize("imputation", IMPUTATIONS)
def test_only_imputed_patches_change(imputation):
    image = draw(1)[0]
    found, where = imputed(image, imputation, [(0, 1), (3, 2)])
    assert where.sum() == 2 * PATCH[0] * PATCH[1] and bool(where[0:2, 4:8].all()) and bool(where[6:, 8:].all())
    assert torch.equal(found[:, ~where], image[:, ~where])
    assert bool((found[:, where] != image[:, where]).all()) and found.dtype == image.dtype
    if imputation == "mean":
        assert not found[:, where].any()


def test_blur_at_known_answers():
    constant = torch.full((3, *SIZE), 0.7, dtype=torch.float64)
    assert torch.allclose(imputed(constant, "blur")[0], constant)
    edge = (torch.arange(112) >= 56).double().expand(3, 112, 112)
    found, _ = imputed(edge, "blur", [(0, 0)], grid=(1, 1))
    distance = np.arange(112) - 55.5
    assert np.allclose(found[0, 56], norm.cdf(distance / 5), atol=2e-3), "10 pixels of 224 are 5 of 112"
    colours = torch.stack([constant[0] * 0, constant[0], -constant[0]])
    assert torch.allclose(imputed(colours, "blur")[0], colours), "channels do not mix"


def test_linear_imputation_of_a_gradient_is_the_gradient(monkeypatch):
    monkeypatch.setattr(perturbation, "IMPUTATION_NOISE", 0.0)
    down, right = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    image = torch.stack([0.1 * right, 0.3 * down - 2, down - right]).double()
    found, _ = imputed(image, "linear", [(2, 2), (2, 3)], grid=(5, 6))
    assert torch.allclose(found, image, atol=1e-10)
    constant = torch.full((3, 20, 24), -1.5, dtype=torch.float64)
    for patches in ([(0, 0)], [(0, 0), (4, 5), (2, 2)], [(i, j) for i in range(5) for j in range(6) if i or j]):
        assert torch.allclose(imputed(constant, "linear", patches, grid=(5, 6))[0], constant, atol=1e-10), "borders too"


def test_linear_imputation_is_the_weighted_mean_of_neighbours(monkeypatch):
    monkeypatch.setattr(perturbation, "IMPUTATION_NOISE", 0.0)
    image = draw(1, size=(6, 6))[0]
    found, where = imputed(image, "linear", [(0, 0), (1, 1), (1, 2)], grid=(3, 3))
    for y, x in where.nonzero().tolist():
        near = [
            (2 if 0 in (dy, dx) else 1, found[:, y + dy, x + dx])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < 6 and 0 <= x + dx < 6
        ]
        mean = sum(weight * pixel for weight, pixel in near) / sum(weight for weight, _ in near)
        assert torch.allclose(found[:, y, x], mean, atol=1e-10)


def test_imputation_adds_a_little_noise():
    constant = torch.full((3, 32, 32), 2.0, dtype=torch.float64)
    patches = [(i, j) for i in range(8) for j in range(8)][:-1]
    noise = (imputed(constant, "linear", patches, grid=(8, 8))[0] - constant)[:, :-4]
    assert noise.std() == pytest.approx(0.01, rel=0.05) and abs(noise.mean()) < 0.001
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.1, "each channel its own"
    again = imputed(constant, "linear", patches, grid=(8, 8))[0]
    assert torch.equal(again[:, :-4] - constant[:, :-4], noise)
    assert not torch.equal(imputed(constant, "linear", patches, grid=(8, 8), seed=1)[0], again)
    everything, _ = imputed(constant, "linear", [(0, 0)], grid=(1, 1))
    assert everything.std() == pytest.approx(0.01, rel=0.05) and abs(everything.mean()) < 0.002, "nothing to go by"
    untouched, _ = imputed(constant, "linear", [], grid=(8, 8))
    assert torch.equal(untouched, constant)


# ---- what is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(imputation="grey"), "expected one of mean, blur, linear"),
        (dict(steps=0), "steps is 0"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(steps=13), "13 steps for 12 patches"),
        (dict(maps=torch.zeros(2, 1, *GRID)), "do not agree"),
        (dict(maps=torch.zeros(2, *GRID)), "do not agree"),
        (dict(images=draw(1)), "do not agree"),
        (dict(maps=torch.zeros(2, 2, 3, 3)), "expected multiples of the maps' grid 3 x 3"),
        (dict(maps=torch.full((2, 2, *GRID), torch.nan)), "not finite"),
        (dict(targets=torch.tensor([[0, 2], [1, -1]])), "targets go down to -1"),
    ],
)
def test_wrong_inputs_are_refused(images, targets, maps, changes, message):
    given = {"images": images, "targets": targets, "maps": maps, **changes}
    with pytest.raises(ValueError, match=message):
        perturbation_curves(Linear(), **given)
