"""Maps against a slow implementation of the formulas, and against themselves one at a time."""

import pytest
import timm
import torch

from explain import METHODS, relevance
from slow_relevance import forward, slow_map
from small_vits import make_vit

TRACED = ("lrp", "lrp_magnitude", "gradient_attention")


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("method", TRACED)
@pytest.mark.parametrize("start_block", [0, 1])
def test_equals_the_slow_formulas(vit, images, targets, method, start_block):
    maps = relevance(vit, images, targets, method, start_block=start_block)
    for b in range(2):
        for k in range(2):
            slow = slow_map(vit, images[b], int(targets[b, k]), method, start_block)
            assert relative(maps[b, k], slow) < 1e-8


def test_published_rule_next_to_zero(vit, images):
    """A residual stream with entries near 1e-9 and at 0, where the published code has its poles."""
    with torch.no_grad():
        vit.cls_token[..., :4] = torch.tensor([1e-8, -3e-8, 0.0, 2e-9])
        vit.pos_embed[:, 0, :4] = 0
        for linear in (vit.blocks[0].attn.proj, vit.blocks[0].mlp.fc2):     # block 0 leaves them as they are
            linear.weight[:4] = 0
            linear.bias[:4] = 0
    maps = relevance(vit, images[:1], torch.tensor([[1]]), "lrp")
    assert relative(maps[0, 0], slow_map(vit, images[0], 1, "lrp")) < 1e-6


def test_rollout_and_attention_by_hand(vit, images, targets):
    records, _, _ = forward(vit, images[0])
    total = torch.eye(10, dtype=torch.float64)
    for record in records:
        total = (torch.eye(10) + record["attention"].mean(0)) / 2 @ total
    expected = {"rollout": total, "attention": records[-1]["attention"].mean(0)}
    for method, full in expected.items():
        maps = relevance(vit, images, targets, method)
        assert relative(maps[0, 0], full[0, 1:].view(3, 3)) < 1e-12
        assert torch.equal(maps[0, 0], maps[0, 1])


@pytest.mark.parametrize("method", METHODS)
def test_batches_equal_one_at_a_time(vit, images, targets, method):
    together = relevance(vit, images, targets, method)
    assert together.shape == (3, 2, 3, 3) and together.isfinite().all()
    for b in range(3):
        for k in range(2):
            single = relevance(vit, images[b:b + 1], targets[b:b + 1, k:k + 1], method)
            assert relative(together[b, k], single[0, 0]) < 1e-10


@pytest.mark.parametrize("method", TRACED)
def test_small_and_large_tiles_agree(vit, images, targets, method, monkeypatch):
    together = relevance(vit, images, targets, method)
    monkeypatch.setattr("explain.CACHE_ELEMENTS", 1)
    assert relative(relevance(vit, images, targets, method), together) < 1e-10


@pytest.mark.parametrize("method", TRACED)
def test_batches_on_deit_tiny(method):
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224").double().eval()
    images, targets = torch.randn(2, 3, 224, 224, dtype=torch.float64), torch.tensor([[1, 2], [3, 4]])
    together = relevance(model, images, targets, method)
    single = relevance(model, images[1:], targets[1:, 1:], method)
    assert relative(together[1, 1], single[0, 0]) < 1e-8


@pytest.mark.parametrize("method", METHODS)
def test_explaining_twice_gives_the_same_bits(vit, images, targets, method):
    assert torch.equal(relevance(vit, images, targets, method), relevance(vit, images, targets, method))


@pytest.mark.parametrize("method", ["lrp_magnitude", "gradient_attention"])
def test_float32_is_close_to_float64(images, targets, method):
    exact = relevance(make_vit(), images, targets, method)
    single = relevance(make_vit().float(), images.float(), targets, method)
    assert single.dtype == torch.float32 and relative(single.double(), exact) < 1e-3


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.uses_target])
def test_targets_matter(vit, images, targets, method):
    maps = relevance(vit, images, targets, method)
    assert relative(maps[0, 0], maps[0, 1]) > 1e-3
    assert relative(maps[2, 0], maps[2, 1]) < 1e-12, "the same target twice"


def test_random_depends_on_seed_target_and_image_alone(vit, images, targets):
    maps = relevance(vit, images, targets, "random")
    assert not torch.equal(maps[0, 0], maps[0, 1]) and torch.equal(maps[2, 0], maps[2, 1])
    assert not torch.equal(maps, relevance(vit, images, targets, "random", seed=1))
    assert torch.equal(relevance(vit, images.flip(0), targets.flip(0), "random").flip(0), maps)


@pytest.mark.parametrize("changes", [
    dict(init_values=0.7), dict(pre_norm=True), dict(reg_tokens=2), dict(no_embed_class=True, reg_tokens=1),
    dict(qk_norm=True), dict(global_pool="avg"), dict(global_pool="avg", fc_norm=False),
    dict(global_pool="avg", class_token=False), dict(global_pool="avg", pool_include_prefix=True),
    dict(fc_norm=True), dict(act_layer="quick_gelu"), dict(act_layer="gelu_tanh"), dict(qkv_bias=False)])
def test_gradients_on_every_supported_structure(images, targets, changes):
    """gradient_attention follows each part: its gradients against autograd through timm itself."""
    model = make_vit(**changes)
    maps = relevance(model, images, targets, "gradient_attention")
    assert relative(maps, _by_autograd(model, images, targets)) < 1e-9
    for method in ("lrp", "lrp_magnitude"):
        assert relevance(model, images, targets, method).isfinite().all()


def _by_autograd(model, images, targets):
    """Gradient times attention through timm's own forward, A caught at the attention dropout."""
    caught, rows = [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: caught.append(output))
    logits = model(images)
    for b in range(len(targets)):
        for target in targets[b]:
            gradients = torch.autograd.grad(logits[b, target], caught, retain_graph=True)
            prefix = model.num_prefix_tokens
            row = torch.zeros(caught[0].shape[-1], dtype=torch.float64)
            start = 0 if model.pool_include_prefix else prefix
            row[slice(0, 1) if model.global_pool == "token" else slice(start, None)] = 1
            row = row / row.sum()
            for attention, gradient in zip(reversed(caught), reversed(gradients)):
                row = row + row @ (attention[b] * gradient[b]).clamp(min=0).mean(0)
            rows.append(row[prefix:].detach())
    return torch.stack(rows).view(*targets.shape, *model.patch_embed.grid_size)


def test_any_image_size_and_grid(targets):
    wide = make_vit(img_size=(16, 40))
    images = torch.randn(3, 3, 16, 40, dtype=torch.float64)
    assert relevance(wide, images, targets).shape == (3, 2, 2, 5)
    dynamic = make_vit(dynamic_img_size=True)
    maps = relevance(dynamic, images, targets, "gradient_attention")
    assert maps.shape == (3, 2, 2, 5)
