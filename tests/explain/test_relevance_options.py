"""What is explained (contrast, centred head), and what comes back beside the maps (layers, gap)."""

import pytest
import torch
from changed_vits import attnlrp_changes, input_times_gradient, make_structure
from slow_relevance import detached, forward, relevances
from small_vits import make_vit

from explain import METHODS, conservation_gap, relevance
from explain.contrasts import CONTRASTS, class_weights, explained_value, head_rows
from explain.trace import Network

FROM_A_LOGIT = [name for name, method in METHODS.items() if "contrast" in method.options]
OF_ITSELF = ("lrp_contrast", "lrp_blend")  # a contrast
POOLINGS = ("class token", "mean", "attention pooling", "attention pooling without prefix", "two heads")


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-300))


def slow_weights(logits, target, contrast):
    """One image's weights by loops."""
    others = [c for c in range(len(logits)) if c != target]
    chance = [float(logits[c].exp() / sum(logits[o].exp() for o in others)) for c in others]
    weights = torch.zeros(len(logits), dtype=torch.float64)
    weights[target] = 1
    for share, c in zip(chance, others):
        weights[c] = {"none": 0, "mean": -1 / len(others)}.get(contrast, -share)
    return weights * (1 - float(logits.softmax(0)[target])) if contrast == "log_p" else weights


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_weights_of_contrasts(contrast):
    logits, targets = torch.randn(2, 5, dtype=torch.float64), torch.tensor([[0, 3], [4, 4]])
    weights = class_weights(logits, targets, contrast)
    for b in range(2):
        for k in range(2):
            assert relative(weights[b, k], slow_weights(logits[b], int(targets[b, k]), contrast)) < 1e-12
    if contrast != "none":
        assert weights.sum(-1).abs().max() < 1e-12
        assert torch.allclose(class_weights(logits, targets, contrast, centre_head=True), weights)


def test_log_p_is_the_gradient_of_log_p(vit, images, targets):
    logits = vit(images).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[0, 3], logits)
    assert relative(class_weights(logits.detach(), targets, "log_p")[0, 1], gradient[0]) < 1e-12


def test_a_sure_model_still_has_a_contrast():
    logits = torch.tensor([[80.0, 1.0, 0.0]])
    softmax = class_weights(logits, torch.tensor([[0]]), "softmax")
    assert torch.allclose(softmax, torch.tensor([[[1.0, -0.7311, -0.2689]]]), atol=1e-4)
    log_p = class_weights(logits, torch.tensor([[0]]), "log_p")
    assert 0 < float(log_p[0, 0, 0]) < 1e-30 and torch.allclose(log_p / log_p[0, 0, 0], softmax)


def test_wrong_contrasts_are_told_the_right_ones(vit, images, targets):
    with pytest.raises(ValueError, match="expected one of none, mean, softmax"):
        relevance(vit, images, targets, "lrp_depth", contrast="logit")
    single = make_vit(num_classes=1)
    assert relevance(single, images, targets * 0, "lrp_depth").isfinite().all()
    with pytest.raises(ValueError, match="the model has one class"):
        relevance(single, images, targets * 0, "lrp_depth", contrast="mean")
    with pytest.raises(ValueError, match="give contrast='none'"):
        relevance(single, images, targets * 0)
    assert relevance(single, images, targets * 0, contrast="none").isfinite().all()


@pytest.mark.parametrize("contrast", ["mean", "softmax", "log_p"])
@pytest.mark.parametrize("structure", ["class token", "two heads", "attention pooling"])
def test_contrast_starts_from_the_difference(images, targets, contrast, structure):
    model = make_structure(structure)
    maps = relevance(model, images, targets, "attnlrp", contrast=contrast)
    weights = slow_weights(model(images)[1].detach(), int(targets[1, 0]), contrast)
    expected = input_times_gradient(model, images[1], weights, attnlrp_changes(0.05, 0.25))
    assert relative(maps[1, 0], expected) < 1e-7


@pytest.mark.parametrize("method", FROM_A_LOGIT)
def test_what_all_classes_share_is_nothing_to_a_centred_head(vit, images, targets, method):
    plain, centred = (relevance(vit, images, targets, method, centre_head=flag) for flag in (False, True))
    with torch.no_grad():
        vit.head.weight += 2 * torch.randn(12, dtype=torch.float64)
        vit.head.bias += 5
    assert relative(relevance(vit, images, targets, method, centre_head=True), centred) < 1e-8
    changed = relative(relevance(vit, images, targets, method), plain) > 1e-3
    assert changed == (method not in OF_ITSELF) or method == "gradcam"
    with torch.no_grad():
        vit.head.weight -= vit.head.weight.mean(0)
        vit.head.bias -= vit.head.bias.mean()
    assert relative(relevance(vit, images, targets, method), centred) < 1e-8


@pytest.mark.parametrize("method", [name for name in FROM_A_LOGIT if METHODS[name].signed])
def test_signed_maps_are_linear_in_what_is_explained(vit, images, targets, method):
    """So the map of a centred head follows from the plain maps, with one more backward pass for all classes."""
    every = torch.arange(vit.num_classes).repeat(len(images), 1)
    maps, centred = (relevance(vit, images, every, method, contrast="none", centre_head=flag) for flag in (False, True))
    assert relative(maps - maps.mean(1, keepdim=True), centred) < 1e-8
    assert relative(maps - (maps[:, :1] - centred[:, :1]), centred) < 1e-8


@pytest.mark.parametrize("method", FROM_A_LOGIT)
def test_contrasts_change_maps_and_batches_do_not(vit, images, targets, method):
    for contrast in CONTRASTS[1:]:
        maps = relevance(vit, images, targets, method, contrast=contrast)
        single = relevance(vit, images[1:2], targets[1:2, 1:], method, contrast=contrast)
        assert maps.isfinite().all() and relative(maps[1, 1], single[0, 0]) < 1e-9
        assert relative(maps, relevance(vit, images, targets, method, contrast="none")) > 1e-3
        same = relative(maps, relevance(vit, images, targets, method)) < 1e-12
        assert same == (method in OF_ITSELF and contrast == "softmax"), "what is explained where nothing is said"


@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp", "input_x_gradient"])
def test_linear_methods_differ_between_softmax_and_log_p_by_a_factor(vit, images, targets, method):
    softmax, log_p = (relevance(vit, images, targets, method, contrast=name) for name in ("softmax", "log_p"))
    rest = 1 - vit(images).softmax(-1).detach().gather(1, targets)
    assert relative(log_p, softmax * rest[..., None, None]) < 1e-10


def test_explained_value_and_rows_belong_together(images, targets):
    """Head rows times what the heads read, and weighted biases, make the explained quantity."""
    model = make_structure("two heads")
    network = Network(model)
    with torch.no_grad():
        record = network.record(images)
        weights = class_weights(record.logits, targets, "mean")
        product = (head_rows(network, weights) * record.fc_norm.output).sum((-2, -1))
        bias = weights @ (model.head.bias + model.head_dist.bias) / 2
        assert relative(product + bias, explained_value(record.logits, weights)) < 1e-12


# ---- layers


@pytest.mark.parametrize("structure", POOLINGS)
@pytest.mark.parametrize("method", ["lrp", "lrp_magnitude", "gradient_attention", "rollout", "attention"])
def test_layers_sum_to_the_map(images, targets, method, structure):
    model = make_structure(structure)
    maps, layers = relevance(model, images, targets, method, layers=True)
    assert torch.equal(maps, relevance(model, images, targets, method))
    depth = 1 if method == "attention" else 4 if model.attn_pool is not None else 3
    assert layers.shape == (3, 2, depth, 2, 3, 3)
    # Averaged tokens start with an even share, which rollout halves in each of three blocks.
    start = 1 / 9 if model.global_pool == "avg" and method != "attention" else 0.0
    start = start / 8 if method == "rollout" else start
    assert relative(layers.sum((2, 3)) + start, maps) < 1e-10


@pytest.mark.parametrize("method", ["lrp", "lrp_magnitude"])
def test_a_layer_is_what_its_block_adds(vit, images, targets, method):
    layers = relevance(vit, images, targets, method, layers=True, start_block=1)[1]
    assert layers.shape == (3, 2, 2, 2, 3, 3)
    without = relevance(vit, images, targets, method, start_block=2)
    assert relative(layers[:, :, 1].sum(2), without) < 1e-10, "the last block's stands alone"


# ---- gap


@pytest.mark.parametrize("structure", ["class token", "mean", "attention pooling", "two heads"])
@pytest.mark.parametrize(
    "method", [name for name in FROM_A_LOGIT if METHODS[name].signed and name != "integrated_gradients"]
)
def test_gap_is_what_is_explained_less_the_maps_sum(images, targets, method, structure):
    model = make_structure(structure)
    maps, gap = relevance(model, images, targets, method, gap=True)
    logits = model(images).detach()
    for b in range(3):
        for k in range(2):
            contrast = "softmax" if method in OF_ITSELF else "none"
            explained = slow_weights(logits[b], int(targets[b, k]), contrast) @ logits[b]
            assert float(gap[b, k]) == pytest.approx(float(explained - maps[b, k].sum()), abs=1e-10)


def test_gap_of_a_contrast_is_blind_to_what_all_classes_share(vit, images, targets):
    before = {name: conservation_gap(vit, images, targets, name) for name in ("lrp_depth", "lrp_contrast")}
    with torch.no_grad():
        vit.head.bias += 3
    for name, more in (("lrp_depth", 3.0), ("lrp_contrast", 0.0)):
        assert torch.allclose(conservation_gap(vit, images, targets, name), before[name] + more, atol=1e-10)


@pytest.mark.parametrize("structure", POOLINGS)
def test_magnitude_rule_loses_little(images, targets, structure):
    model = make_structure(structure)
    maps, gap = relevance(model, images, targets, "lrp_magnitude", gap=True)
    assert torch.equal(maps, relevance(model, images, targets, "lrp_magnitude"))
    assert gap.shape == (3, 2) and gap.min() > -1e-6 and gap.max() < 1
    assert torch.equal(gap, conservation_gap(model, images, targets, "lrp_magnitude"))


def test_gap_is_what_outputs_without_a_positive_part_and_constant_queries_keep(images, targets):
    for changes in (dict(), dict(global_pool="avg", reg_tokens=1), dict(distilled=True)):
        wide = make_vit(embed_dim=24, **changes)  # so wide that every output has a positive contribution
        assert conservation_gap(wide, images, targets, "lrp_magnitude").abs().max() < 1e-6
    pooled = make_vit(embed_dim=24, global_pool="map", class_token=False)
    gap = conservation_gap(pooled, images, targets, "lrp_magnitude")
    assert gap.min() > 0.01, "the pool's query keeps a part"


def test_gap_of_the_published_rule_by_the_slow_formulas(vit, images, targets):
    gap = conservation_gap(vit, images, targets, "lrp")
    assert gap.shape == (3, 2) and gap.isfinite().all()
    records, normed, _ = forward(vit, images[1])
    _, arrived = relevances(vit, detached(records), normed.detach(), 6, magnitude=False, with_rest=True)
    assert float(gap[1, 0]) == pytest.approx(1 - float(arrived.sum()), abs=1e-8)


def test_layers_and_gap_together_and_in_tiles(vit, images, targets, monkeypatch):
    together = relevance(vit, images, targets, "attnlrp", layers=True, gap=True)
    assert [len(part) for part in together] == [3, 3, 3] and together[2].shape == (3, 2)
    monkeypatch.setattr("explain.batching.CACHE_ELEMENTS", 1)
    for one, other in zip(relevance(vit, images, targets, "attnlrp", layers=True, gap=True), together):
        assert relative(one, other) < 1e-10
