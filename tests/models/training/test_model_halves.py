"""Where a model's frozen part ends, and that the two halves are the model."""

import copy

import pytest
import timm
import torch
from frozen_vits import SMALL, VITS, adapted, images, small_vit
from tiny import SIZE
from torch import nn
from torch.nn import functional as F

from models.adapters import adapt, timm_model, trainable_parameters
from models.backbone import create_backbone
from models.methods import MethodSettings, parse_settings
from models.training.model_halves import FrozenPart, TrainedPart, first_trained_block
from models.training.optimizer import parameter_groups


@pytest.mark.parametrize(
    "text, first",
    [
        ("dora:blocks=4-5", 4),
        ("lora:blocks=5,targets=fc1", 5),
        ("dora:blocks=1+3", 1),
        ("linear", 6),
        ("dora", None),
        ("lora:blocks=0", None),
        ("full", None),
    ],
)
def test_the_first_trained_block(spec, text, first):
    assert first_trained_block(adapt(create_backbone(spec, 3), parse_settings(text))) == first


def test_a_norm_behind_the_blocks_is_no_block(spec):
    model = adapt(create_backbone(spec, 3), MethodSettings())
    model.norm.requires_grad_(True)
    assert first_trained_block(model) == 6


@pytest.mark.parametrize(
    "kind, name",
    [
        ("plain", "patch_embed.proj.bias"),
        ("plain", "cls_token"),
        ("plain", "pos_embed"),
        ("registers", "reg_token"),
        ("distilled", "dist_token"),
        ("norm before the blocks", "norm_pre.weight"),
    ],
)
def test_nothing_is_computed_once_where_what_precedes_the_blocks_trains(kind, name):
    vit = small_vit(kind)
    assert first_trained_block(vit) == 2
    vit.get_parameter(name).requires_grad_(True)
    assert first_trained_block(vit) is None


@pytest.mark.parametrize(
    "option", ["patch_drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"]
)
def test_nothing_is_computed_once_where_training_changes_the_frozen_part(option):
    vit = timm.create_model("deit_tiny_patch16_224", **SMALL, **{option: 0.1}).requires_grad_(False)
    vit.blocks[2].requires_grad_(True)
    assert first_trained_block(vit) is None


def test_batch_norm_in_the_frozen_part_would_go_on_learning():
    vit = small_vit("plain")
    vit.norm_pre = nn.BatchNorm1d(48).requires_grad_(False)
    assert first_trained_block(vit) is None


def test_dropout_in_the_part_that_trains_is_no_hindrance():
    vit = small_vit("plain")
    vit.blocks[2].drop_path1, vit.head_drop.p = nn.Dropout(0.5), 0.5
    assert first_trained_block(vit) == 2


@pytest.mark.parametrize("name, options", [("test_resnet", {}), ("eva02_tiny_patch14_224", {"depth": 2})])
def test_other_models_have_no_such_block(name, options):
    model = timm.create_model(name, num_classes=3, **options).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    assert first_trained_block(model) is None


def test_a_vit_with_a_forward_of_its_own_has_no_such_block():
    class Own(timm.models.VisionTransformer):
        pass

    assert first_trained_block(Own(img_size=32, embed_dim=24, depth=2, num_heads=2).requires_grad_(False)) is None


def test_asking_changes_no_mode(spec):
    model = adapted(spec).train()
    first_trained_block(model)
    assert all(module.training for module in model.modules())


# ---- two halves are the model


@pytest.mark.parametrize("text", ["dora:blocks=4-5", "lora:blocks=3+5,targets=qkv+fc2", "linear"])
def test_two_halves_give_an_adapted_models_logits(spec, text):
    model = adapted(spec, text)
    first = first_trained_block(model)
    with torch.no_grad():
        expected = model(images())
        assert torch.allclose(TrainedPart(model, first)(FrozenPart(model, first)(images())), expected, atol=1e-6)
        assert not torch.allclose(
            TrainedPart(model, first - 1)(FrozenPart(model, first)(images())), expected, atol=1e-3
        )


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("mode", [True, False])
def test_two_halves_give_every_familys_logits_and_gradients(kind, mode):
    vit = small_vit(kind).train(mode)
    x = images(size=28 if kind == "registers" else SIZE)
    whole = copy.deepcopy(vit)
    first = first_trained_block(vit)
    logits, expected = TrainedPart(vit, first)(FrozenPart(vit, first)(x)), whole(x)
    assert first == 2 and torch.allclose(logits, expected, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(vit, whole)


@pytest.mark.parametrize(
    "kind, tokens", [("plain", 1), ("registers", 1), ("distilled", 2), ("average pooling", 4), ("attention pooling", 4)]
)
def test_only_tokens_that_the_head_reads_go_through_the_last_mlp(kind, tokens):
    vit, seen = small_vit(kind), []
    for block in vit.blocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    x = images(size=28 if kind == "registers" else SIZE)
    whole = vit(x)
    before, seen[:] = list(seen), []
    assert torch.allclose(TrainedPart(vit, 1)(FrozenPart(vit, 1)(x)), whole, atol=1e-5)
    assert seen == [*before[:-1], tokens]


def test_adapters_get_the_gradients_of_the_whole_forward(spec):
    model = adapted(spec).train()
    whole, labels = copy.deepcopy(model), torch.arange(5) % 3
    rest = TrainedPart(model, 4).train()
    F.cross_entropy(rest(FrozenPart(model, 4)(images())), labels).backward()
    F.cross_entropy(whole(images()), labels).backward()
    assert_same_gradients(model, whole)


def test_layers_of_the_rest_learn_as_those_of_the_whole_model(spec):
    model = adapted(spec)

    def rates(module: nn.Module) -> dict[str, float]:
        names = {id(p): name for name, p in trainable_parameters(timm_model(model)).items()}
        return {names[id(p)]: group["lr"] for group in parameter_groups(module, 1.0, 0.1, 0.5) for p in group["params"]}

    assert rates(TrainedPart(model, 4)) == rates(model) and set(rates(model).values()) == {1.0, 0.5, 0.25}


def assert_same_gradients(model: nn.Module, whole: nn.Module) -> None:
    found, expected = trainable_parameters(model), trainable_parameters(whole)
    assert found.keys() == expected.keys() and found
    for name, parameter in expected.items():
        assert parameter.grad.abs().max() > 0, name
        assert torch.allclose(found[name].grad, parameter.grad, rtol=1e-3, atol=1e-6 * parameter.grad.abs().max()), name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_training_the_rest_trains_the_model_and_leaves_the_frozen_part(spec):
    model = adapted(spec)
    rest, frozen = TrainedPart(model, 4), FrozenPart(model, 4)
    vit = timm_model(model)
    named = trainable_parameters(rest)
    assert {id(p) for p in named.values()} == {id(p) for p in trainable_parameters(model).values()}
    assert named.keys() == trainable_parameters(vit).keys()
    frozen_before = frozen(images())
    rest.train()
    assert vit.blocks[4].training and vit.head.training and not vit.blocks[3].training and not vit.patch_embed.training
    optimizer = torch.optim.SGD(named.values(), lr=0.1)
    rest(frozen_before).square().sum().backward()
    optimizer.step()
    assert vit.blocks[5].training  # the frozen half's evaluation mode is its own
    assert torch.equal(frozen(images()), frozen_before) and not frozen(images()).requires_grad
    assert torch.allclose(model.eval()(images()), rest.eval()(frozen_before), atol=1e-6)


def test_the_frozen_part_stays_in_evaluation_mode_and_outside_of_gradients(spec):
    frozen = FrozenPart(adapted(spec).train(), 6).train()  # the adapters of blocks 4 and 5 would have gradients
    assert not frozen(images()).requires_grad
    assert not any(module.training for module in frozen.modules())
