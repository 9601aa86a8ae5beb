"""Attention and features by depth, at known answers and against the formulas written as loops."""

import copy
import math

import numpy as np
import pytest
import torch
from changed_vits import STRUCTURES, changed_vit, make_structure
from model_state import same, state
from small_vits import make_vit, randomise

from evaluation.metrics.depth import (
    MEASURES,
    LinearCKA,
    distance,
    divergence,
    entropy,
    measure_depth,
    reading_row,
    reading_shares,
)
from explain.trace import Network

GRID, TOKENS = (3, 4), 13
LAST = slice(1, None)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_attention(*shape):
    return draw(*shape).softmax(-1)


def even(tokens=TOKENS):
    return torch.full((1, 1, tokens, tokens), 1 / tokens)


def itself(tokens=TOKENS):
    return torch.eye(tokens)[None, None]


def cka(x, y, *splits):
    measure = LinearCKA()
    for part in zip(x.tensor_split(splits), y.tensor_split(splits)):
        measure.update(*part)
    return measure.result()


# ---- one layer's attention


def test_even_attention_and_attention_on_itself():
    assert entropy(even()).item() == pytest.approx(1) and entropy(itself()).item() == 0
    assert distance(itself(), GRID).item() == 0
    places = [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
    exact = np.mean([math.dist(one, other) for one in places for other in places])
    assert distance(even(), GRID).item() == pytest.approx(exact)
    assert reading_shares(itself(), slice(0, 1), 12).tolist() == [[[0, 0, 1]]]
    assert reading_shares(even(), slice(0, 1), 12)[0, 0].numpy() == pytest.approx(np.array([12, 0, 1]) / TOKENS)
    assert reading_shares(even(), LAST, 12)[0, 0].numpy() == pytest.approx(np.array([11, 1, 1]) / TOKENS)
    assert distance(even(197), (14, 14)).item() == pytest.approx(7.3, abs=0.05), "as the docstring says"


def test_distance_counts_patches_alone_and_leaves_out_who_sees_none():
    attention = torch.zeros(1, 1, 3, 3)
    attention[..., 0, 2] = 1  # the class token has no place
    attention[..., 1, :] = torch.tensor([0.9, 0.05, 0.05])  # half of what is left, one patch away
    attention[..., 2, 0] = 1
    assert distance(attention, (1, 2)).item() == pytest.approx(0.5)
    assert distance(attention[..., 1:, 1:], (2, 1)).item() == pytest.approx(0.5), "no prefix token at all"
    assert torch.isnan(distance(torch.ones(1, 1, 3, 3) * torch.tensor([1, 0, 0]), (2, 1))).all()


@pytest.mark.parametrize("read", [slice(0, 1), slice(0, 2), slice(1, None), slice(None)])
def test_measures_equal_their_loops(read):
    attention, rows = random_attention(2, 3, TOKENS, TOKENS), range(TOKENS)[read]
    row, shares = reading_row(attention, read), reading_shares(attention, read, 12)
    for b in range(2):
        for head in range(3):
            one = attention[b, head].tolist()
            bits = [-sum(p * math.log(p, TOKENS) for p in query) for query in one]
            assert float(entropy(attention)[b, head]) == pytest.approx(sum(bits) / TOKENS)
            apart = []
            for i in range(12):
                patches = one[1 + i][1:]
                apart.append(
                    sum(p * math.dist(divmod(i, 4), divmod(j, 4)) for j, p in enumerate(patches)) / sum(patches)
                )
            assert float(distance(attention, GRID)[b, head]) == pytest.approx(sum(apart) / 12)
            mean = [sum(one[i][j] for i in rows) / len(rows) for j in range(TOKENS)]
            assert row[b, head].tolist() == pytest.approx(mean)
            found = [0, 0, 0]
            for i in rows:
                for j in range(TOKENS):
                    found[2 if i == j else 1 if j == 0 else 0] += one[i][j] / len(rows)
            assert shares[b, head].tolist() == pytest.approx(found)


def test_divergence_at_known_answers():
    p, q = random_attention(5, 40).float(), random_attention(7, 5, 40)[3]
    assert (divergence(p, p) == 0).all()
    assert divergence(torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 1.0, 0])).item() == pytest.approx(1)
    assert torch.equal(divergence(p, q), divergence(q, p)) and divergence(p, q).shape == (5,)
    close = random_attention(200, 40)
    assert (divergence(close, close * (1 + 1e-15)) >= 0).all(), "no rounding below 0"
    slow = [
        sum(a * math.log2(a / ((a + b) / 2)) + b * math.log2(b / ((a + b) / 2)) for a, b in zip(x, y)) / 2
        for x, y in zip(p.tolist(), q.tolist())
    ]
    assert divergence(p, q).numpy() == pytest.approx(slow, abs=1e-6)
    drawn = -torch.log(torch.rand(2, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    drawn = drawn / drawn.sum(-1, keepdim=True)
    assert divergence(*drawn).item() == pytest.approx(1 - 1 / (2 * math.log(2)), abs=0.01), "the docstring's chance"


# ---- CKA


def slow_cka(x, y):
    """Song et al. 2012, eq. 5, on Gram matrices, term by term."""

    def hsic(one, other):
        n, first, second = len(x), one @ one.T, other @ other.T
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        trace = sum(float(first[i, j] * second[i, j]) for i, j in pairs)
        sums = sum(float(first[i, j]) for i, j in pairs) * sum(float(second[i, j]) for i, j in pairs)
        product = sum(float(first[i, j] * second[j, k]) for i, j in pairs for k in range(n) if k != j)
        return (trace + sums / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def test_cka_equals_the_loops_however_examples_are_split():
    x, y = draw(9, 4), draw(9, 5, seed=1)
    y[:, :2] += x[:, :2]
    assert cka(x, y) == pytest.approx(slow_cka(x, y))
    assert cka(x, y, 2, 3, 7) == pytest.approx(cka(x, y))
    assert cka(y, x) == pytest.approx(cka(x, y))


def test_cka_sees_no_rotation_scale_or_origin():
    x = draw(50, 6)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert cka(x, x @ torch.diag(torch.arange(6.0, dtype=torch.float64))) < 0.97, "stretching one direction is seen"
    assert cka(x + 1e6, x + 1e6, 10) == pytest.approx(1, abs=1e-6), "far from the origin"


def test_cka_of_unrelated_features_is_about_zero_however_wide():
    found = [cka(draw(60, 200, seed=seed), draw(60, 200, seed=100 + seed)) for seed in range(20)]
    assert abs(np.mean(found)) < 0.01 and np.abs(found).max() < 0.1
    x, y = draw(60, 200), draw(60, 200, seed=1)
    biased = (x.T @ y).norm() ** 2 / (x.T @ x).norm() / (y.T @ y).norm()
    assert biased > 0.5, "what the biased estimator says of the same"


def test_cka_of_nothing_to_compare():
    assert math.isnan(cka(draw(3, 4), draw(3, 4))) and math.isnan(cka(draw(9, 4), torch.ones(9, 4)))


# ---- models


def expected_reading(model, attention):
    """Rows that the model's head reads, by what timm's options mean."""
    prefix = model.num_prefix_tokens
    if attention.shape[-2] == 1:
        return [0]
    if model.global_pool == "token":
        return [0, 1] if hasattr(model, "head_dist") else [0]
    return range(0 if model.pool_include_prefix else prefix, attention.shape[-2])


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_model_is_measured_on_the_attention_of_its_own_forward_pass(structure, images):
    model = make_structure(structure)
    changed, kept = changed_vit(model)
    changed(images)
    (one,) = measure_depth([model], [images])
    assert len(kept) == one.measures["entropy"].shape[1] == 3 + (model.attn_pool is not None)
    for layer, attention in enumerate(kept):
        attention, is_pool = attention.detach(), attention.shape[-2] == 1
        rows, tokens = expected_reading(model, attention), attention.shape[-1]
        found = {name: values[:, layer] for name, values in one.measures.items()}
        assert found["entropy"] == pytest.approx(entropy(attention).numpy())
        if is_pool:
            assert np.isnan(found["distance"]).all()
        else:
            assert found["distance"] == pytest.approx(distance(attention, (3, 3)).numpy())
        own = prefix = torch.zeros(3, 2)
        for i in rows:
            own = own if is_pool else own + attention[..., i, i] / len(rows)
            for j in range(tokens - 9):
                prefix = prefix if i == j and not is_pool else prefix + attention[..., i, j] / len(rows)
        assert found["on_itself"] == pytest.approx(own.numpy())
        assert found["on_prefix"] == pytest.approx(prefix.numpy(), abs=1e-12)
        assert sum(found[name] for name in MEASURES[2:]) == pytest.approx(np.ones((3, 2)))


def test_uniform_is_a_model_whose_attention_is_even(images):
    model = make_vit(reg_tokens=2)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:24] = 0
            block.attn.qkv.bias[:24] = 0
    (one,) = measure_depth([model], [images])
    for name in MEASURES:
        assert one.measures[name] == pytest.approx(np.full((3, 3, 2), one.uniform[name])), name
    assert one.uniform == pytest.approx(
        {
            "entropy": 1,
            "distance": float(distance(even(12), (3, 3))),
            "on_patches": 9 / 12,
            "on_prefix": 2 / 12,
            "on_itself": 1 / 12,
        }
    )


@pytest.mark.parametrize("structure", ["class token", "attention pooling", "mean", "two heads"])
def test_a_model_against_itself_has_not_changed(structure, images):
    model = make_structure(structure)
    first, second = measure_depth([model, copy.deepcopy(model)], [images, images.flip(0)])
    layers = first.measures["entropy"].shape[1]
    assert first.divergence is None and first.cka is None
    assert (second.divergence == 0).all() and second.divergence.shape == (6, layers, 2)
    assert second.cka == pytest.approx(np.ones(layers + 1))
    assert second.divergence.dtype == second.cka.dtype == np.float64
    for name, values in second.measures.items():
        assert np.array_equal(values, first.measures[name], equal_nan=True) and values.dtype == np.float64
        assert values[:3] == pytest.approx(values[3:][::-1], nan_ok=True), "image by image"


def test_a_change_in_block_1_is_seen_from_there_on(vit, images):
    changed = copy.deepcopy(vit)
    randomise(changed.blocks[1].attn)
    second = measure_depth([vit, changed], [images])[1]
    assert (second.divergence[:, 0] == 0).all() and (second.divergence[:, 1:] > 1e-6).all()
    assert second.cka[:2] == pytest.approx([1, 1]) and (second.cka[2:] < 1 - 1e-6).all()
    kept = [
        [block.attention.squeeze(2)[..., 0, :] for block in Network(model).record(images).blocks]
        for model in (vit, changed)
    ]
    for layer, (before, after) in enumerate(zip(*kept)):
        assert second.divergence[:, layer] == pytest.approx(divergence(before, after).detach().numpy(), abs=1e-12)
    entering = vit.blocks[0](vit._pos_embed(vit.patch_embed(images)))
    leaving = [model.blocks[1](entering).detach().flatten(0, 1) for model in (vit, changed)]
    assert second.cka[2] == pytest.approx(cka(*leaving))


def test_batches_and_tiles_do_not_matter(vit, images, monkeypatch):
    other = make_vit(seed=5)
    together = measure_depth([vit, other], [images])[1]
    monkeypatch.setattr("explain.batching.CACHE_ELEMENTS", 1)
    apart = measure_depth([vit, other], iter(images.split(2)))[1]
    assert apart.divergence == pytest.approx(together.divergence) and apart.cka == pytest.approx(together.cka)
    for name in MEASURES:
        assert apart.measures[name] == pytest.approx(together.measures[name])


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_it_was(vit, images, training):
    vit.train(training)
    before = state(vit)
    measure_depth([vit, vit], [images])
    assert same(before, state(vit))


def test_an_autocast_around_it_changes_nothing(vit, images):
    models = [vit.float(), make_vit(seed=5).float()]
    plain = measure_depth(models, [images.float()])[1]
    with torch.autocast("cpu", torch.bfloat16):
        cast = measure_depth(models, [images.float()])[1]
    assert np.array_equal(plain.divergence, cast.divergence) and np.array_equal(plain.cka, cast.cka)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_row_changes_no_logit(structure, images):
    network = Network(make_structure(structure))
    some, every = network.record(images), network.record(images, every_row=True)
    assert (some.logits - every.logits).abs().max() < 1e-10
    assert every.blocks[-1].rows == every.tokens


def test_what_cannot_be_measured_is_refused(vit, images):
    for arguments, message in (
        (([], [images]), "no model"),
        (([vit], []), "no images"),
        (([vit], [images[:, :2]]), "expected .B, 3, H, W"),
        (([vit, make_vit(depth=2)], [images]), "model 1 has 2 layers of 2 heads on 10 tokens, the first 3 of 2 on 10"),
        (([vit, make_vit(num_heads=3)], [images]), "expected checkpoints of one backbone"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_depth(*arguments)
