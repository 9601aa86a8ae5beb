"""Sanity checks at known answers: methods that ignore the model, the head or the class."""

import numpy as np
import pytest
import torch
from changed_vits import STRUCTURES, make_structure
from scipy import stats
from small_vits import make_vit

from evaluation.metrics import randomisation as sanity
from evaluation.metrics.randomisation import cascading_randomisation, emprt, random_logit, randomised
from evaluation.metrics.similarity import spearman
from explain import UnsupportedModel, relevance

STAGES = ("head", "blocks.2", "blocks.1", "blocks.0", "embedding")


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_parameter_is_shuffled_once_at_its_stage(structure):
    model = make_structure(structure)
    original = values(model)
    before, shuffled = original, set()
    for stage, changed in randomised(model):
        after = values(changed)
        names = {name for name in after if not torch.equal(before[name], after[name])}
        assert not names & shuffled
        if stage.startswith("blocks"):
            assert names == {name for name in after if name.startswith(f"{stage}.")}
        elif stage == "embedding":
            assert names == {name for name in after if name.split(".")[0].endswith(("_embed", "_token", "norm_pre"))}
        else:
            assert {"head.weight", "head.bias"} <= names and not any(name.startswith("blocks") for name in names)
        shuffled, before = shuffled | names, after
    assert shuffled == set(original)
    for name, value in original.items():
        assert torch.equal(before[name].flatten().sort()[0], value.flatten().sort()[0]), "other order, same values"


def test_shuffles_are_fixed_by_the_seed(vit):
    (*_, (_, first)), (*_, (_, again)), (*_, (_, other)) = (randomised(vit, seed) for seed in (0, 0, 1))
    same = [torch.equal(value, values(again)[name]) for name, value in values(first).items()]
    assert all(same)
    assert not any(torch.equal(value, values(other)[name]) for name, value in values(first).items())


@pytest.mark.parametrize("check", [cascading_randomisation, emprt, random_logit])
def test_the_model_is_as_it_was(vit, images, targets, check):
    vit.train()
    vit.head.weight.requires_grad_(False)
    before, logits = values(vit), vit.eval()(images)
    written = [parameter._version for parameter in vit.parameters()]
    vit.train()
    check(vit, images, targets, "lrp_magnitude")
    assert written == [parameter._version for parameter in vit.parameters()]
    assert all(
        torch.equal(before[name], parameter) and parameter.grad is None for name, parameter in vit.named_parameters()
    )
    assert vit.training and not vit.head.weight.requires_grad and vit.head.bias.requires_grad
    assert torch.equal(vit.eval()(images), logits)


def figures(check, *args, **settings):
    found = check(*args, **settings)
    return found.similarity if isinstance(found, sanity.Cascade) else found[None]


@pytest.mark.parametrize("check", [cascading_randomisation, emprt, random_logit])
def test_batches_and_other_targets_do_not_matter(vit, images, targets, check):
    together = figures(check, vit, images, targets, "attnlrp_epsilon")
    assert together.shape[1:] == (3, 2) and together.dtype == np.float64
    assert np.allclose(figures(check, vit, images, targets, "attnlrp_epsilon", batch_size=2), together, atol=1e-9)
    alone = figures(check, vit, images[1:2], targets[1:2, 1:], "attnlrp_epsilon")
    assert np.allclose(alone, together[:, 1:2, 1:], atol=1e-9)
    assert not np.allclose(figures(check, vit, images, targets, "attnlrp_epsilon", seed=1), together)
    maps = relevance(vit, images, targets, "attnlrp_epsilon")
    assert np.array_equal(figures(check, vit, images, targets, "attnlrp_epsilon", maps=maps), together)
    assert not np.allclose(figures(check, vit, images, targets, "attnlrp_epsilon", maps=maps.clamp(min=0)), together)
    assert not np.allclose(figures(check, vit, images, targets, "attnlrp_epsilon", at="pixels"), together)


@pytest.mark.parametrize("check", [cascading_randomisation, emprt, random_logit])
def test_wrong_inputs_are_refused(vit, images, targets, check):
    with pytest.raises(ValueError, match=r"expected \(B, K\)"):
        check(vit, images, targets[:, 0], "lrp")
    with pytest.raises(ValueError, match=r"expected \(B, K\)|expected \(B, 3, H, W\)"):
        check(vit, images, targets[:2], "lrp", batch_size=2)
    with pytest.raises(ValueError, match="unknown relevance method"):
        check(vit, images, targets, "lrpp")
    with pytest.raises(UnsupportedModel):
        check(torch.nn.Linear(2, 2), images, targets, "lrp")


# ---- cascading randomisation


def test_cascade_is_the_likeness_at_every_stage(vit, images, targets):
    cascade = cascading_randomisation(vit, images, targets, "attnlrp_epsilon", seed=3)
    assert cascade.stages == STAGES
    before = relevance(vit, images, targets, "attnlrp_epsilon").abs()
    for stage, (name, model) in enumerate(randomised(vit, 3)):
        after = relevance(model, images, targets, "attnlrp_epsilon").abs()
        assert name == STAGES[stage]
        for b in range(3):
            for k in range(2):
                slow = stats.spearmanr(before[b, k].flatten(), after[b, k].flatten()).statistic
                assert cascade.similarity[stage, b, k] == pytest.approx(slow)


def test_methods_that_ignore_a_part_stay_as_they_are(vit, images, targets):
    cascade = {
        name: cascading_randomisation(vit, images, targets, name).similarity
        for name in ("random", "rollout", "attention", "gradcam")
    }
    assert np.allclose(cascade["random"], 1), "noise that knows no model"
    assert np.allclose(cascade["rollout"][0], 1) and not np.allclose(cascade["rollout"][1], 1), "knows no head"
    assert np.allclose(cascade["attention"][0], 1) and not np.allclose(cascade["attention"][1], 1)
    assert not np.allclose(cascade["gradcam"][0], 1)


def test_maps_of_randomised_models_are_unlike_the_original():
    model = make_vit(img_size=64, num_classes=3)
    images = torch.randn(16, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cascade = cascading_randomisation(model, images, torch.tensor([[0, 2]] * 16), "lrp_magnitude")
    means = cascade.similarity.mean((1, 2))
    assert abs(means[-1]) < 0.2 and means[0] > means[-1]


# ---- eMPRT


def test_emprt_is_the_relative_rise_of_entropy(vit, images, targets):
    found = emprt(vit, images, targets, "lrp_magnitude", bins=5)
    *_, (_, last) = randomised(vit)
    before, after = (relevance(model, images, targets, "lrp_magnitude").numpy() for model in (vit, last))
    for b in range(3):
        for k in range(2):
            one, two = (stats.entropy(np.histogram(maps[b, k], bins=5)[0]) for maps in (before, after))
            assert found[b, k] == pytest.approx((two - one) / one)


def test_emprt_of_known_maps(vit, images, targets):
    assert np.allclose(emprt(vit, images, targets, "random"), 0), "a method that knows no model"
    concentrated, even = torch.zeros(3, 2, 3, 3), torch.ones(3, 2, 3, 3)
    concentrated[..., 1, 1] = 1
    assert (emprt(vit, images, targets, "lrp_magnitude", maps=concentrated) > 0).all()
    assert np.isnan(emprt(vit, images, targets, "lrp_magnitude", maps=even)).all(), "no entropy to rise from"
    assert (emprt(vit, images, targets, "rollout", maps=torch.arange(9.0).view(3, 3).expand(3, 2, 3, 3)) <= 0).all()


# ---- random logit


@pytest.mark.parametrize("method", ["rollout", "attention"])
def test_methods_that_ignore_the_class_score_one(vit, images, targets, method):
    assert np.allclose(random_logit(vit, images, targets, method), 1)


def test_a_head_that_knows_one_class_and_its_opposite(images):
    model, targets = make_vit(num_classes=2), torch.tensor([[0, 1]] * 3)
    with torch.no_grad():
        model.head.weight[1] = model.head.weight[0]
    for method in ("attnlrp_epsilon", "gradient_attention", "input_x_gradient"):
        assert np.allclose(random_logit(model, images, targets, method), 1), "one class under two names"
    with torch.no_grad():
        model.head.weight[1] = -model.head.weight[0]
    assert np.allclose(random_logit(model, images, targets, "input_x_gradient"), -1), "evidence for is evidence against"


def test_random_logit_compares_with_another_class(vit, images, targets):
    others = [
        [sanity._other(image, target, 7, seed=5) for target in row] for image, row in zip(images, targets.tolist())
    ]
    maps, second = (relevance(vit, images, t, "lrp_magnitude") for t in (targets, torch.tensor(others)))
    assert np.allclose(random_logit(vit, images, targets, "lrp_magnitude", seed=5), spearman(maps, second))
    drawn = [sanity._other(images[0], 3, 7, seed) for seed in range(700)]
    counts = np.bincount(drawn, minlength=7)
    assert counts[3] == 0 and counts.sum() == 700 and (np.delete(counts, 3) > 75).all(), "any but the target"
    with pytest.raises(ValueError, match="one class"):
        random_logit(make_vit(num_classes=1), images, torch.zeros(3, 1, dtype=torch.int64), "lrp")
