"""Input times gradient, changed or not, against autograd through a changed copy of timm's model."""

import pytest
import torch
from changed_vits import (
    PLAIN,
    STRUCTURES,
    attnlrp_changes,
    changed_vit,
    cp_lrp_changes,
    input_times_gradient,
    make_structure,
)
from small_vits import make_vit
from torch.nn import functional as F

from explain import conservation_gap, layers, relevance
from explain.trace import Network

CHECKED = {
    "input_x_gradient": (dict(), PLAIN),
    "attnlrp_epsilon": (dict(at="pixels"), attnlrp_changes()),
    "attnlrp": (dict(), attnlrp_changes(0.05, 0.25)),
    "cp_lrp": (dict(gamma=0.1, gamma_patch=0.5, at="pixels"), cp_lrp_changes(0.1, 0.5)),
}


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def one_hot(target):
    return F.one_hot(torch.tensor(int(target)), 7).double()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", CHECKED)
def test_equals_autograd_through_a_changed_forward(images, targets, method, structure):
    model = make_structure(structure)
    options, changes = CHECKED[method]
    maps = relevance(model, images, targets, method, **options)
    for b, k in ((0, 0), (1, 1)):
        expected = input_times_gradient(model, images[b], one_hot(targets[b, k]), changes)
        assert relative(maps[b, k], expected) < 1e-7


def test_changed_copies_are_the_same_functions(vit, images):
    for _, changes in CHECKED.values():
        assert torch.allclose(changed_vit(vit, changes)[0](images), vit(images), rtol=1e-10)


@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp"])
def test_gamma_zero_is_the_epsilon_rule(vit, images, targets, method):
    changes = attnlrp_changes() if method == "attnlrp" else cp_lrp_changes()
    maps = relevance(vit, images, targets, method, gamma=0, gamma_patch=0, at="pixels")
    assert relative(maps[1, 0], input_times_gradient(vit, images[1], one_hot(6), changes)) < 1e-9
    if method == "attnlrp":
        assert torch.equal(maps, relevance(vit, images, targets, "attnlrp_epsilon", at="pixels"))
    tiny = relevance(vit, images, targets, method, gamma=1e-9, gamma_patch=1e-9, at="pixels")
    assert relative(tiny, maps) < 1e-6, "the rule goes over into it"
    with pytest.raises(ValueError, match="gamma is -1"):
        relevance(vit, images, targets, method, gamma=-1.0)


@pytest.mark.parametrize("method", CHECKED)
def test_tokens_instead_of_pixels(vit, images, targets, method):
    """At the tokens that enter block 0: autograd from there."""
    options, changes = CHECKED[method]
    maps = relevance(vit, images, targets, method, **{**options, "at": "tokens"})
    tokens = (vit._pos_embed(vit.patch_embed(images))).detach().requires_grad_(True)
    changed, _ = changed_vit(vit, changes)
    logits = changed.forward_head(changed.norm(changed.blocks(tokens)))
    (gradient,) = torch.autograd.grad(logits[0, targets[0, 1]], tokens)
    expected = (tokens * gradient).sum(-1)[0, 1:].detach().view(3, 3)
    assert relative(maps[0, 1], expected) < 1e-7
    with pytest.raises(ValueError, match="expected one of pixels, tokens"):
        relevance(vit, images, targets, "attnlrp", at="logits")


@pytest.mark.parametrize("method", CHECKED)
def test_mean_over_depth(vit, images, targets, method):
    """Token times gradient where tokens enter each block, averaged: autograd through every block."""
    options, changes = CHECKED[method]
    maps = relevance(vit, images, targets, method, **{**options, "at": "depth"})
    changed, _ = changed_vit(vit, changes)
    entering = [vit._pos_embed(vit.patch_embed(images)).detach().requires_grad_(True)]
    for block in changed.blocks:
        entering.append(block(entering[-1]))
    logits = changed.forward_head(changed.norm(entering.pop()))
    gradients = torch.autograd.grad(logits[0, targets[0, 1]], entering)
    by_block = [(x * gradient).sum(-1)[0, 1:].detach().view(3, 3) for x, gradient in zip(entering, gradients)]
    assert relative(maps[0, 1], sum(by_block) / len(by_block)) < 1e-7


def test_ours_are_cp_lrp_over_depth(vit, images, targets):
    assert torch.equal(
        relevance(vit, images, targets, "lrp_depth"), relevance(vit, images, targets, "cp_lrp", at="depth")
    )
    assert torch.equal(
        relevance(vit, images, targets, "lrp_contrast"),
        relevance(vit, images, targets, "cp_lrp", at="depth", contrast="softmax"),
    )


def test_a_blend_is_the_mean_of_two_methods(vit, images, targets):
    """Of their maps, their heads' relevance and their gaps, from one recorded forward pass."""
    asked = {"layers": True, "gap": True}
    parts = [
        relevance(vit, images, targets, "attnlrp_epsilon", at="depth", contrast="softmax", **asked),
        relevance(vit, images, targets, "lrp_contrast", **asked),
    ]
    for found, one, other in zip(relevance(vit, images, targets, "lrp_blend", **asked), *parts, strict=True):
        assert relative(found, (one + other) / 2) < 1e-12 and relative(one, other) > 1e-3


def test_padded_images(targets):
    model = make_vit(dynamic_img_size=True, dynamic_img_pad=True)
    images = torch.randn(3, 3, 13, 20, dtype=torch.float64)
    maps = relevance(model, images, targets, "attnlrp")
    assert maps.shape == (3, 2, 2, 3)
    padded = F.pad(images, (0, 4, 0, 3))
    assert relative(maps, relevance(model, padded, targets, "attnlrp")) < 1e-12
    with torch.no_grad():
        assert (Network(model).record(images).logits - model(images)).abs().max() < 1e-10


@pytest.mark.parametrize("structure", ["class token", "attention pooling", "two heads"])
@pytest.mark.parametrize("contrast", ["none", "softmax"])
def test_integrated_gradients_are_complete(images, targets, structure, contrast):
    """The map's sum goes to the change of the logit as steps grow, and `gap` is what is missing."""
    model = make_structure(structure)
    gaps = [
        conservation_gap(model, images, targets, "integrated_gradients", steps=steps, contrast=contrast)
        for steps in (2, 200)
    ]
    assert float(gaps[1].abs().max()) < 1e-6 < float(gaps[0].abs().max())


def test_integrated_gradients_by_hand(vit, images, targets):
    maps, gap = relevance(vit, images, targets, "integrated_gradients", steps=1, gap=True)
    half = input_times_gradient(vit, images[1] / 2, one_hot(6))  # one step is the middle of the path
    assert relative(maps[1, 0], 2 * half) < 1e-10
    with torch.no_grad():
        change = vit(images)[1, 6] - vit(torch.zeros_like(images))[1, 6]
    assert float(gap[1, 0]) == pytest.approx(float(change - maps[1, 0].sum()))
    with pytest.raises(ValueError, match="steps is 0"):
        relevance(vit, images, targets, "integrated_gradients", steps=0)


@pytest.mark.parametrize("act_layer", ["gelu", "gelu_tanh", "quick_gelu"])
def test_slopes_and_secants_of_activations(act_layer):
    act = make_vit(act_layer=act_layer).blocks[0].mlp.act
    x = torch.linspace(-9, 9, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(act(x).sum(), x)
    assert torch.allclose(layers.slope(act, x.detach()), slope, atol=1e-12)
    assert torch.allclose(layers.secant(act, x.detach()), (act(x) / x).detach(), atol=1e-12)
    ends = torch.tensor([0.0, 1e4, -1e4], dtype=torch.float64)
    assert layers.secant(act, ends).tolist() == [0.5, 1, 0]


def test_gap_of_input_relevance_is_what_biases_and_prefix_tokens_keep(images, targets):
    """Without biases, positions, and a class token that brings something, nothing is lost."""
    model = make_vit()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name in ("pos_embed", "cls_token"):
                parameter.zero_()
    full = relevance(model, images, targets, "cp_lrp", at="tokens", gap=True)
    assert full[1].abs().max() < 1e-6 * full[0].abs().max(), "even the class token, 0, has no part"
    with torch.no_grad():
        model.head.bias.fill_(3.0)
    assert torch.allclose(conservation_gap(model, images, targets, "cp_lrp"), torch.tensor(3.0).double(), rtol=1e-5)


def test_layers_of_input_relevance(vit, images, targets):
    """What a head carries away from a patch: sum_m A_mn dy/dA_mn, by autograd through A."""
    maps, layers = relevance(vit, images, targets, "cp_lrp", gamma=0, gamma_patch=0, layers=True)
    assert torch.equal(maps, relevance(vit, images, targets, "cp_lrp", gamma=0, gamma_patch=0))
    assert layers.shape == (3, 2, 3, 2, 3, 3)
    model, kept = changed_vit(vit, cp_lrp_changes())
    gradients = torch.autograd.grad(model(images)[0, targets[0, 1]], kept)
    for index, (attention, gradient) in enumerate(zip(kept, gradients)):
        expected = (attention * gradient)[0].sum(-2)[:, 1:].view(2, 3, 3)
        assert relative(layers[0, 1, index], expected) < 1e-9
    halved = relevance(vit, images, targets, "attnlrp_epsilon", layers=True)[1]
    model, kept = changed_vit(vit, attnlrp_changes())
    gradient = torch.autograd.grad(model(images)[0, targets[0, 1]], kept)[1]
    assert relative(halved[0, 1, 1], 2 * (kept[1] * gradient)[0].sum(-2)[:, 1:].view(2, 3, 3)) < 1e-9
