"""Each rule of explain/rules.py against its slow formula, and the sums that it promises."""

import pytest
import slow_relevance as slow
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from explain import rules

EXAMPLES = settings(max_examples=40, deadline=None)
RECIPROCALS = {
    "published": (rules.published_reciprocal, slow.published_divide),
    "stabilised": (rules.stabilised_reciprocal, slow.signed_divide),
}


def close(a, b, tolerance=1e-10):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()) + 1e-300)


def draw(*shape, seed=0, scale=1.0, zeros=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, dtype=torch.float64, generator=generator) * scale
    return values * (torch.rand(*shape, generator=generator) >= zeros)


def by_z_plus(relevance, x, weight, reciprocal):
    inverse = rules.z_plus_inverse(x, x @ weight.mT, weight.abs(), reciprocal)
    return rules.z_plus_linear(relevance, x, weight, weight.abs(), inverse)


def test_published_division_at_its_odd_places():
    z = torch.tensor([2.0, -2.0, 0.0, -1e-9, 1e-12], dtype=torch.float64)
    expected = slow.each(slow.published_divide, torch.ones_like(z), z)
    assert close(rules.published_reciprocal(z), expected, 1e-14)
    assert rules.published_reciprocal(z)[2:4].tolist() == [0, 1 / 1e-9]


def test_stabiliser_follows_the_sign():
    z = torch.tensor([2.0, -2.0, 1e-30, -1e-30, 0.0], dtype=torch.float64)
    product = z * rules.stabilised_reciprocal(z)
    assert bool((product >= 0).all()) and product[-1] == 0 and bool((product <= 1).all())
    assert float(rules.stabilised_reciprocal(z)[3]) == pytest.approx(-1e9)


@pytest.mark.parametrize("name", RECIPROCALS)
@EXAMPLES
@given(
    seed=st.integers(0, 999),
    tokens=st.integers(1, 4),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_z_plus_linear(name, seed, tokens, inputs, outputs, scale, zeros):
    reciprocal, divide = RECIPROCALS[name]
    x, weight = draw(tokens, inputs, seed=seed, scale=scale, zeros=zeros), draw(outputs, inputs, seed=seed + 1)
    relevance = draw(tokens, outputs, seed=seed + 2)
    result = by_z_plus(relevance, x, weight, reciprocal)
    assert result.isfinite().all()
    assert close(result, slow.linear(relevance, x, weight, divide), 1e-9)


def test_z_plus_linear_conserves_where_something_is_positive():
    x, weight, relevance = draw(5, 40), draw(30, 40, seed=1), draw(5, 30, seed=2).abs()
    result = by_z_plus(relevance, x, weight, rules.stabilised_reciprocal)
    assert close(result.sum(-1), relevance.sum(-1), 1e-8)


def test_z_plus_single_is_z_plus_linear_from_one_output():
    x, weight = draw(1, 8), draw(5, 8, seed=1)
    one_hot = torch.eye(5, dtype=torch.float64)[3:4]
    single = rules.z_plus_single(x, weight[3:4], rules.published_reciprocal)
    assert close(single, slow.linear(one_hot, x, weight, slow.published_divide))
    tokens, rows = draw(2, 8, seed=2), draw(2, 8, seed=3)  # two heads, each on its own token
    both = rules.z_plus_single(tokens, rows, rules.stabilised_reciprocal).view(1, 16)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert close(both, slow.linear(one, tokens.view(1, 16), rows.view(1, 16), slow.signed_divide))


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    tokens=st.integers(1, 4),
    width=st.integers(1, 5),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_add_published(seed, tokens, width, zeros, scale):
    a, b = (draw(tokens, width, seed=seed + i, zeros=zeros, scale=scale) for i in (0, 1))
    relevance = draw(tokens, width, seed=seed + 2)
    for found, expected in zip(rules.add_published(relevance, a, b), slow.add(relevance, a, b, False)):
        assert found.isfinite().all() and close(found, expected, 1e-6)


def test_add_published_keeps_the_sum_per_image_and_target():
    a, b, relevance = draw(2, 1, 5, 4), draw(2, 1, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2).abs()
    first, second = rules.add_published(relevance, a, b)
    assert close(first.sum((-2, -1)) + second.sum((-2, -1)), relevance.sum((-2, -1)), 1e-7)
    alone, _ = rules.add_published(relevance[1:, 2:], a[1:], b[1:])
    assert close(first[1:, 2:], alone, 1e-13)


def test_copies_matter_only_next_to_zero():
    x = torch.tensor([1.0, -1e-5, 1e-8, -1e-8, 0.0], dtype=torch.float64)
    relevance = torch.full((2, 5), 3.0, dtype=torch.float64)
    expected = torch.stack([slow.copied(row, x, False) for row in relevance])
    assert close(rules.copy_published(relevance.clone(), x), expected, 1e-14)
    assert expected[0, :2].tolist() == [3, 3] and expected[0, 4] == 0


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    tokens=st.integers(1, 4),
    width=st.integers(1, 5),
    zeros=st.sampled_from([0.0, 0.4]),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_add_by_magnitude(seed, tokens, width, zeros, scale):
    a, b = (draw(tokens, width, seed=seed + i, zeros=zeros, scale=scale) for i in (0, 1))
    relevance = draw(tokens, width, seed=seed + 2)
    first, second = rules.add_by_magnitude(relevance, a, b)
    for found, expected in zip((first, second), slow.add(relevance, a, b, True)):
        assert close(found, expected)
    kept = (a != 0) | (b != 0)
    assert bool((first.abs() <= relevance.abs()).all())
    if scale == 1.0:
        assert close((first + second)[kept], relevance[kept], 1e-6) if kept.any() else True


def test_add_by_magnitude_has_no_pole():
    a, b = torch.tensor([[1.0]]), torch.tensor([[-1.0 + 1e-7]])
    first, second = rules.add_by_magnitude(torch.ones(1, 1), a, b)
    assert abs(float(first) - 0.5) < 1e-6 and abs(float(second) - 0.5) < 1e-6


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    images=st.integers(1, 2),
    targets=st.integers(1, 3),
    tokens=st.integers(1, 5),
    width=st.integers(1, 4),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_mean_by_magnitude(seed, images, targets, tokens, width, zeros, scale):
    x = draw(images, 1, tokens, width, seed=seed, zeros=zeros, scale=scale)
    relevance = draw(images, targets, 1, width, seed=seed + 1)
    result = rules.mean_by_magnitude(relevance, x)
    assert result.shape == (images, targets, tokens, width)
    for b in range(images):
        for k in range(targets):
            assert close(result[b, k], slow.mean(relevance[b, k], x[b, 0]))


def test_mean_by_magnitude_conserves():
    relevance, x = draw(2, 3, 1, 4), draw(2, 1, 6, 4, seed=1)
    result = rules.mean_by_magnitude(relevance, x)
    assert result.shape == (2, 3, 6, 4) and close(result.sum(-2), relevance.squeeze(-2), 1e-6)


SIDES = st.integers(1, 6)


@pytest.mark.parametrize("magnitude", [False, True])
@settings(EXAMPLES, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), SIDES, SIDES, SIDES),
    seed=st.integers(0, 999),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
)
@example(shape=(1, 2, 2, 7, 2, 3), seed=0, zeros=0.0)  # more rows than columns, and the reverse: shared_times
@example(shape=(2, 1, 2, 2, 3, 7), seed=0, zeros=0.0)  # copies the smaller side
def test_matmul(magnitude, shape, seed, zeros):
    images, heads, targets, rows, inner, columns = shape
    left = draw(images, heads, 1, rows, inner, seed=seed, zeros=zeros)
    right = draw(images, heads, 1, inner, columns, seed=seed + 1)
    relevance = draw(images, heads, targets, rows, columns, seed=seed + 2)
    factors = (left.abs(), right.abs()) if magnitude else (left, right)
    reciprocal = rules.stabilised_reciprocal if magnitude else rules.published_reciprocal
    found = rules.matmul(relevance, *factors, reciprocal(factors[0] @ factors[1]))
    assert [part.shape for part in found] == [
        (images, heads, targets, rows, inner),
        (images, heads, targets, inner, columns),
    ]
    for b in range(images):
        for h in range(heads):
            for k in range(targets):
                expected = slow.product(relevance[b, h, k], left[b, h, 0], right[b, h, 0], magnitude)
                for one, other in zip(found, expected):
                    assert close(one[b, h, k], other, 1e-8)


def test_matmul_by_magnitude_conserves_halves():
    left, right, relevance = draw(1, 1, 1, 4, 5).abs(), draw(1, 1, 1, 5, 6).abs(), draw(1, 1, 2, 4, 6).abs()
    for part in rules.matmul(relevance, left, right, rules.stabilised_reciprocal(left @ right)):
        assert close(part.sum((-2, -1)), relevance.sum((-2, -1)) / 2, 1e-7)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("rows, columns", [(1, 4), (6, 2), (2, 6)])
def test_products_with_a_shared_factor(targets, rows, columns):
    single, many = draw(2, 2, 1, rows, 5), draw(2, 2, targets, 5, columns, seed=1)
    assert close(rules.shared_times(single, many), single @ many, 1e-13)
    assert close(rules.times_shared(many.mT, single.mT), many.mT @ single.mT, 1e-13)


def test_negligible_relevance_is_dropped_per_map():
    relevance = torch.tensor([[[[1.0, 1e-31, -1e-29]], [[1e-31, 1e-32, 0.0]]]])
    expected = torch.tensor([[[[1.0, 0.0, -1e-29]], [[1e-31, 1e-32, 0.0]]]])
    assert torch.equal(rules.drop_negligible(relevance), expected)
