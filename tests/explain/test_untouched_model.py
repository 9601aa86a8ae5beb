"""The model after an explanation is the model before; who calls, and how, does not matter."""

import pytest
import torch
from changed_vits import STRUCTURES, make_structure
from model_state import same, state
from small_vits import make_vit

import explain
from explain import METHODS, relevance
from explain.trace import Network


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("training", [False, True])
def test_traced_logits_equal_the_models(structure, training):
    model = make_structure(
        structure,
        drop_rate=0.5,
        pos_drop_rate=0.5,
        proj_drop_rate=0.5,
        attn_drop_rate=0.5,
        drop_path_rate=0.5,
        patch_drop_rate=0.5,
    )
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    expected = model(images)
    with torch.no_grad():
        assert (Network(model.train(training)).record(images).logits - expected).abs().max() < 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_model_is_as_it_was(vit, images, targets, method, training):
    vit.train(training)
    vit(images).sum().backward()
    before, forward = state(vit), vit.eval()(images)
    vit.train(training)
    maps = relevance(vit, images, targets, method)
    assert same(before, state(vit)) and not maps.requires_grad
    assert torch.equal(vit.eval()(images), forward)


def test_dropout_does_not_matter(images, targets):
    model = make_vit(attn_drop_rate=0.5, pos_drop_rate=0.5, patch_drop_rate=0.5, drop_path_rate=0.5)
    maps = relevance(model, images, targets)
    assert torch.equal(relevance(model.train(), images, targets), maps)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_model_is_as_it_was_after_an_exception(vit, images, targets, monkeypatch, error):
    def fail(*arguments):
        raise error("in the middle")

    before = state(vit)
    monkeypatch.setattr("explain.rules.matmul_right", fail)
    with pytest.raises(error):
        relevance(vit, images, targets, "lrp_magnitude")
    assert same(before, state(vit)) and torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_and_callers_without_gradients(vit, images, targets, method):
    maps = relevance(vit, images, targets, method)
    vit.requires_grad_(False)
    assert torch.equal(relevance(vit, images, targets, method), maps)
    with torch.no_grad():
        assert torch.equal(relevance(vit, images, targets, method), maps)
    with torch.inference_mode():
        assert torch.equal(relevance(vit, images.clone(), targets, method), maps)


def test_images_are_untouched(vit, images, targets):
    images.requires_grad_(True)
    before = images.detach().clone()
    maps = relevance(vit, images, targets)
    assert torch.equal(images.detach(), before) and images.grad is None and not maps.requires_grad


def test_fused_attention_is_irrelevant(vit, images, targets):
    maps = relevance(vit, images, targets)
    for block in vit.blocks:
        block.attn.fused_attn = not block.attn.fused_attn
    assert torch.equal(relevance(vit, images, targets), maps)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_one_recorded_forward_pass_serves_all_targets(vit, images, monkeypatch, method):
    """It also serves both backward passes of a blend. integrated_gradients records its steps and the image itself."""
    calls, record = [], Network._record
    monkeypatch.setattr(
        Network, "_record", lambda self, batch, *more: calls.append(len(batch)) or record(self, batch, *more)
    )
    relevance(vit, images, torch.tensor([[0, 1, 2, 3, 4]] * 3), method)
    assert sum(calls) == len(images) * (1 + 16 * (method == "integrated_gradients"))


def test_autocast_around_the_call_changes_nothing(vit, images, targets):
    vit, images = vit.float(), images.float()
    maps = explain.relevance(vit, images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explain.relevance(vit, images, targets), maps)


def test_attention_near_one_hot_stays_finite(images, targets):
    """Attention so sharp that most of it underflows, in float32."""
    model = make_vit().float()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(20)
    for method in METHODS:
        assert relevance(model, images.float(), targets, method).isfinite().all()
