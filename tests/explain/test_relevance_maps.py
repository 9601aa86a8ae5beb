"""Maps against a slow implementation of the formulas, and against themselves one at a time."""

import numpy as np
import pytest
import timm
import torch
from changed_vits import STRUCTURES, changed_vit, make_structure
from slow_relevance import forward, slow_map, slow_pool
from small_vits import make_vit

from explain import METHODS, relevance
from explain.contrasts import class_weights, head_rows
from explain.lrp import MAGNITUDE, PUBLISHED, attention_relevances
from explain.trace import Network

TRACED = ("lrp", "lrp_magnitude", "gradient_attention")
PASSED_DOWN = [name for name, method in METHODS.items() if method.uses_target]


def relative(a, b):
    """|a - b| / |b|, 0 where both are 0: GradCAM's map is, where every head's weight is negative."""
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-300))


@pytest.mark.parametrize("method", TRACED)
@pytest.mark.parametrize("start_block", [0, 1])
def test_equals_the_slow_formulas(vit, images, targets, method, start_block):
    maps = relevance(vit, images, targets, method, start_block=start_block)
    for b in range(2):
        for k in range(2):
            slow = slow_map(vit, images[b], int(targets[b, k]), method, start_block)
            assert relative(maps[b, k], slow) < 1e-8


@pytest.mark.parametrize("method", TRACED)
@pytest.mark.parametrize("structure", [name for name in STRUCTURES if not name.startswith("attention pooling")])
def test_every_structure_equals_the_slow_formulas(images, targets, method, structure):
    """Mean pooling, two heads, LayerScale, registers, norms of queries and keys, norm_pre, and the rest."""
    model = make_structure(structure)
    maps = relevance(model, images, targets, method)
    assert relative(maps[1, 0], slow_map(model, images[1], int(targets[1, 0]), method)) < 1e-8


def test_all_parts_at_once_equal_the_slow_formulas(images, targets):
    for changes in (dict(global_pool="avg", reg_tokens=2, fc_norm=True), dict(distilled=True)):
        model = make_vit(init_values=0.7, qk_norm=True, pre_norm=True, act_layer="quick_gelu", **changes)
        for method in ("lrp", "lrp_magnitude"):
            maps = relevance(model, images, targets, method, start_block=1)
            assert relative(maps[0, 1], slow_map(model, images[0], int(targets[0, 1]), method, 1)) < 1e-8


def test_published_rule_next_to_zero(vit, images):
    """A residual stream with entries near 1e-9 and at 0, where the published code has its poles."""
    with torch.no_grad():
        vit.cls_token[..., :4] = torch.tensor([1e-8, -3e-8, 0.0, 2e-9])
        vit.pos_embed[:, 0, :4] = 0
        for linear in (vit.blocks[0].attn.proj, vit.blocks[0].mlp.fc2):  # block 0 leaves them as they are
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
            single = relevance(vit, images[b : b + 1], targets[b : b + 1, k : k + 1], method)
            assert relative(together[b, k], single[0, 0]) < 1e-10


@pytest.mark.parametrize("method", PASSED_DOWN)
def test_small_and_large_tiles_agree(vit, images, targets, method, monkeypatch):
    together = relevance(vit, images, targets, method)
    monkeypatch.setattr("explain.batching.CACHE_ELEMENTS", 1)
    assert relative(relevance(vit, images, targets, method), together) < 1e-10


@pytest.mark.parametrize("method", TRACED)
def test_batches_on_deit_tiny(method):
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", depth=4).double().eval()
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


@pytest.mark.parametrize("method", PASSED_DOWN)
def test_targets_matter(vit, images, targets, method):
    maps = relevance(vit, images, torch.tensor([[0, 1, 2, 3, 4, 5, 6]] * 3), method)
    assert relative(maps, maps.flip(1)) > 1e-3
    maps = relevance(vit, images, targets, method)
    assert relative(maps[2, 0], maps[2, 1]) < 1e-12, "the same target twice"


def test_random_depends_on_seed_target_and_image_alone(vit, images, targets):
    maps = relevance(vit, images, targets, "random")
    assert not torch.equal(maps[0, 0], maps[0, 1]) and torch.equal(maps[2, 0], maps[2, 1])
    assert not torch.equal(maps, relevance(vit, images, targets, "random", seed=1))
    assert torch.equal(relevance(vit, images.flip(0), targets.flip(0), "random").flip(0), maps)


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor])
def test_a_seed_is_its_number_whatever_its_type(vit, images, targets, kind):
    maps = relevance(vit, images, targets, "random", seed=7)
    assert torch.equal(relevance(vit, images, targets, "random", seed=kind(7)), maps)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_gradients_on_every_supported_structure(images, targets, structure):
    """gradient_attention and gradcam follow each part: against autograd through timm itself."""
    model = make_structure(structure)
    for method in ("gradient_attention", "gradcam"):
        maps = relevance(model, images, targets, method)
        assert relative(maps, _by_autograd(model, images, targets, method)) < 1e-9
    for method in METHODS:
        maps = relevance(model, images, targets, method)
        assert maps.shape == (3, 2, 3, 3) and maps.isfinite().all()


def _by_autograd(model, images, targets, method):
    changed, caught = changed_vit(model)
    logits, prefix = changed(images), model.num_prefix_tokens
    pool, rows = caught.pop() if model.attn_pool is not None else None, []
    for b in range(len(targets)):
        for target in targets[b]:
            gradients = torch.autograd.grad(logits[b, target], caught + [pool] * (pool is not None), retain_graph=True)
            row = torch.zeros(caught[0].shape[-1], dtype=torch.float64)
            start = 0 if model.pool_include_prefix else prefix
            read = {"token": slice(0, len(model.get_classifier()) if hasattr(model, "head_dist") else 1)}
            read = read.get(model.global_pool, slice(start, None))
            row[read] = 1
            row = row / row.sum()
            if method == "gradcam":
                rows.append(
                    _gradcam(
                        caught[-1] if pool is None else pool,
                        gradients[-1],
                        b,
                        prefix,
                        slice(None) if pool is not None else read,
                        start,
                    )
                )
                continue
            if pool is not None:
                row[read] = (pool[b] * gradients[-1][b]).clamp(min=0).mean(0)[0]
                gradients = gradients[:-1]
            for attention, gradient in zip(reversed(caught), reversed(gradients)):
                row = row + row @ (attention[b] * gradient[b]).clamp(min=0).mean(0)
            rows.append(row[prefix:].detach())
    return torch.stack(rows).view(*targets.shape, *model.patch_embed.grid_size)


def _gradcam(attention, gradient, b, prefix, read, start):
    """Loops over heads; a pool that doesn't read prefix tokens has no columns for them."""
    columns = slice(prefix if attention.shape[-2] > 1 or start == 0 else 0, None)
    total = 0
    for head in range(attention.shape[1]):
        weight = gradient[b, head, read, columns].mean()
        total = total + weight * attention[b, head, read, columns].mean(0)
    return total.clamp(min=0).detach()


@pytest.mark.parametrize("magnitude", [False, True])
def test_lrp_through_attention_pooling_by_the_slow_formulas(images, magnitude):
    """What the pool's attention and the tokens below it get, for one image and target."""
    model = make_structure("attention pooling")
    network, rule_set = Network(model), MAGNITUDE if magnitude else PUBLISHED
    with torch.no_grad():
        record = network.record(images[:1])
        rows = head_rows(network, class_weights(record.logits, torch.tensor([[3]])))
        below = attention_relevances(network, record, rows, rule_set, 0)
        found = next(below)[0, :, 0]
        tokens = record.norm.output[0, 0]
        expected, at_tokens = slow_pool(model, tokens, 3, magnitude)
        assert relative(found, expected) < 1e-8
        relevance_below = _below_qkv_of_pool(network, record, rows, rule_set)
        assert relative(relevance_below, at_tokens) < 1e-8


def _below_qkv_of_pool(network, record, rows, rule_set):
    """What arrives below the pool, as a model without blocks would have it."""
    record.blocks = []
    record.place = lambda values: values
    below = attention_relevances(network, record, rows, rule_set, 0, to_input=True)
    next(below)
    return next(below)[0, 0]


def test_any_image_size_and_grid(targets):
    wide = make_vit(img_size=(16, 40))
    images = torch.randn(3, 3, 16, 40, dtype=torch.float64)
    assert relevance(wide, images, targets).shape == (3, 2, 2, 5)
    dynamic = make_vit(dynamic_img_size=True)
    maps = relevance(dynamic, images, targets, "gradient_attention")
    assert maps.shape == (3, 2, 2, 5)
