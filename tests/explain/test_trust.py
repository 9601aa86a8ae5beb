"""What must hold for every method whatever the input: finite, repeatable, blind to the rest of the batch."""

import pytest
import slow_relevance as slow
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_state import same, state
from small_vits import make_vit
from test_rules import close, draw
from torch.utils.flop_counter import FlopCounterMode

from explain import METHODS, relevance, rules
from explain.contrasts import CONTRASTS, class_weights

EXAMPLES = settings(max_examples=40, deadline=None)
SCALES = st.sampled_from([1e-30, 1e-12, 1e-3, 1.0, 1e6, 1e30])
# Published LRP has poles, and GradCAM weighs heads by means of signed gradients.
WELL_CONDITIONED = [name for name in METHODS if name not in ("lrp", "random")]


def relative(a, b):
    return float((a - b).double().norm() / b.double().norm().clamp(min=1e-300))


# ---- rules


def slow_gamma(gradient, x, weight, bias, gamma):
    """Input relevance (N, in) by the slow formula: loops over tokens, outputs and inputs."""
    result = torch.zeros_like(x)
    for n in range(len(x)):
        for k in range(len(weight)):
            parts = [float(x[n, i] * weight[k, i]) for i in range(x.shape[1])]
            z = sum(parts) + float(bias[k])
            same_sign = (lambda part: max(part, 0.0)) if z >= 0 else (lambda part: min(part, 0.0))
            changed = [part + gamma * same_sign(part) for part in parts]
            total = sum(changed) + float(bias[k]) + gamma * same_sign(float(bias[k]))
            for i, part in enumerate(changed):
                result[n, i] += part * slow.signed_divide(z * float(gradient[n, k]), total)
    return result


def by_gamma(gradient, x, weight, bias, gamma):
    product, magnitude = x @ weight.mT, x.abs() @ weight.abs().mT
    ratio = rules.gamma_ratio(product, bias, magnitude, gamma)
    return ratio, x * rules.gamma_linear(gradient, x, weight, weight.abs(), ratio, gamma)


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    tokens=st.integers(1, 4),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    gamma=st.sampled_from([0.05, 0.25, 3.0]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_gamma_rule(seed, tokens, inputs, outputs, gamma, zeros):
    x, weight = draw(tokens, inputs, seed=seed, zeros=zeros), draw(outputs, inputs, seed=seed + 1)
    bias, gradient = draw(outputs, seed=seed + 2, zeros=0.3), draw(tokens, outputs, seed=seed + 3)
    ratio, found = by_gamma(gradient, x, weight, bias, gamma)
    assert bool((ratio.abs() <= 1).all())
    assert close(found, slow_gamma(gradient, x, weight, bias, gamma), 1e-6)
    without = by_gamma(gradient, x, weight, None, gamma)[1]
    product = x @ weight.mT
    if (product.abs() > 1e-3).all():
        assert close(without.sum(-1), (product * gradient).sum(-1), 1e-4), "without a bias nothing is lost"


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    scale=SCALES,
    weights=SCALES,
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rules_are_finite_and_never_make_relevance(seed, scale, weights, zeros, dtype):
    """Positive relevance in, no more out; at scales far below the stabiliser some is lost. float32 ends at 3e38: a
    weight of 1e30 is beyond it where the stabiliser, 1e-9, divides, and so are products of two huge factors."""
    if dtype == torch.float32:
        weights = min(weights, 1e6, 1e30 / scale)
    x, weight = (
        draw(3, 5, seed=seed, scale=scale, zeros=zeros).to(dtype),
        draw(4, 5, seed=seed + 1, scale=weights).to(dtype),
    )
    relevance = draw(3, 4, seed=seed + 2).abs().to(dtype)
    inverse = rules.z_plus_inverse(x, x @ weight.mT, weight.abs(), rules.stabilised_reciprocal)
    # z+ is half of x w + |x| |w|, which rounds as |x| |w| does: by so much more, relative to it, the nearer to 0 it is
    rounded = 8 * torch.finfo(dtype).eps * float((inverse * (x.abs() @ weight.abs().mT)).max())
    within(rules.z_plus_linear(relevance, x, weight, weight.abs(), inverse).sum(-1), relevance.sum(-1), rounded)
    other, at_inputs = (draw(3, 5, seed=seed + i, scale=s).to(dtype) for i, s in ((3, weights), (4, 1.0)))
    at_inputs = at_inputs.abs()
    within(sum(rules.add_by_magnitude(at_inputs, x, other)), at_inputs)
    within(rules.mean_by_magnitude(at_inputs[:1], x).sum(-2), at_inputs[0])
    left, right = x.abs().view(1, 1, 1, 3, 5), weight.abs().mT.reshape(1, 1, 1, 5, 4)
    inverse = rules.stabilised_reciprocal(left @ right)
    for part in rules.matmul(relevance.view(1, 1, 1, 3, 4), left, right, inverse):
        within(part.sum(), relevance.sum() / 2)
    single = rules.z_plus_single(x[:1], weight[:1], rules.stabilised_reciprocal)
    within(single.sum(), torch.ones((), dtype=dtype))
    for found in by_gamma(relevance, x, weight, None, 0.25):
        assert found.isfinite().all()


def within(found, given, rounded=0.0):
    excess = max(1e-5, rounded) if found.dtype == torch.float32 else 1e-9
    assert found.isfinite().all()
    assert bool((found >= 0).all()) and bool((found <= given * (1 + excess)).all())


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    scale=SCALES,
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_published_rules_are_finite(seed, scale, zeros, dtype):
    a, b = (draw(3, 5, seed=seed + i, scale=scale, zeros=zeros).to(dtype) for i in (0, 1))
    relevance = draw(3, 5, seed=seed + 2).to(dtype)
    parts = (*rules.add_published(relevance, a, b), rules.copy_published(relevance.clone(), a))
    assert all(part.isfinite().all() for part in parts)


@EXAMPLES
@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e4]),
    shift=st.sampled_from([0.0, -1e4, 1e4]),
    contrast=st.sampled_from(CONTRASTS),
    centre=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_contrasts_of_any_logits_are_finite(seed, scale, shift, contrast, centre, dtype):
    logits = (draw(2, 6, seed=seed, scale=scale) + shift).to(dtype)
    weights = class_weights(logits, torch.tensor([[0, 5], [2, 2]]), contrast, centre)
    assert weights.isfinite().all() and weights.abs().max() <= 1
    assert weights.sum(-1).abs().max() < 1e-6 or (contrast == "none" and not centre)


# ---- methods


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pixels", [0.0, 1e-20, 1e-3, 1e3])
def test_any_image_has_a_finite_map(images, targets, method, pixels):
    """In float32: black images, images of one value, faint and glaring ones; and logits all negative."""
    model = make_vit().float()
    with torch.no_grad():
        model.head.bias.fill_(-100.0)
    flat = torch.full_like(images[:1], pixels)
    batch = torch.cat([images * pixels, flat]).float()
    maps = relevance(model, batch, torch.cat([targets, targets[:1]]), method)
    assert maps.isfinite().all()


@pytest.mark.parametrize("method", WELL_CONDITIONED)
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(5)), strangers=st.integers(0, 3))
def test_the_rest_of_the_batch_changes_nothing(method, order, strangers):
    model = make_vit().float()
    images, targets = draw(5, 3, 24, 24, seed=1).float(), torch.tensor([[0, 3], [6, 2], [4, 4], [1, 5], [2, 0]])
    maps = relevance(model, images, targets, method)
    others = draw(strangers, 3, 24, 24, seed=2, scale=50.0).float()
    batch = torch.cat([others, images[list(order)]])
    more = torch.cat([torch.ones(strangers, 2, dtype=torch.int64), targets[list(order)]])
    again = relevance(model, batch, more, method)[strangers:]
    for place, index in enumerate(order):
        assert relative(again[place], maps[index]) < 1e-5


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_model_is_as_it_was_after_any_methods_exception(vit, images, targets, monkeypatch, method, error):
    calls, split = [], torch.Tensor.unflatten

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # in the last block's forward pass
            raise error("in the middle")
        return split(*arguments)

    vit.train()
    before = state(vit)
    monkeypatch.setattr(torch.Tensor, "unflatten", fail)
    with pytest.raises(error):
        relevance(vit, images, targets, method)
    monkeypatch.undo()
    assert same(before, state(vit)) and torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_no_method(vit, images, targets, method):
    vit, images = vit.float(), images.float()
    maps = relevance(vit, images, targets, method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relevance(vit, images, targets, method), maps)


@pytest.mark.parametrize("method", WELL_CONDITIONED)
def test_the_rest_of_the_batch_changes_nothing_at_the_size_that_people_use(method):
    """Four of DeiT-Tiny's blocks, of random weights: a CPU takes two images of one target at once and one of two."""
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", num_classes=10, depth=4).eval()
    images, options = draw(3, 3, 224, 224, seed=3).float(), {"steps": 2} if method == "integrated_gradients" else {}
    one = relevance(model, images[1:2], torch.tensor([[7]]), method, **options)
    assert relative(relevance(model, images, torch.tensor([[2], [7], [4]]), method, **options)[1:2], one) < 1e-5
    assert relative(relevance(model, images[1:], torch.tensor([[3, 7], [1, 1]]), method, **options)[:1, 1:], one) < 1e-5


@pytest.mark.parametrize(
    "targets, limits",
    [
        (
            2,
            {
                "lrp": 5.0,
                "lrp_magnitude": 5.0,
                "gradient_attention": 2.0,
                "attnlrp_epsilon": 2.5,
                "attnlrp": 3.5,
                "lrp_depth": 5.0,
                "lrp_contrast": 5.0,
                "lrp_blend": 5.0,
            },
        ),
        (10, {"lrp": 4.5, "lrp_magnitude": 4.5}),
    ],
)
def test_arithmetic_of_a_map_in_forward_passes(targets, limits, monkeypatch):
    """Of matrix products and attention, so that no clock decides; without the comparison of logits, one forward pass
    per call, which larger batches share; docs/results/benchmark.md times all operations."""
    model = timm.create_model("deit_tiny_patch16_224", num_classes=10, depth=6).eval()
    images, classes = draw(1, 3, 224, 224).float(), torch.arange(targets)[None]

    def products(compute) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            compute()
        return counter.get_total_flops()

    monkeypatch.setattr("explain.compute.check_logits", lambda *arguments: None)
    forward = products(lambda: model(images))
    for method, limit in limits.items():
        found = products(lambda name=method: relevance(model, images, classes, name)) / forward / targets
        assert 0.3 < found <= limit, (method, found)
