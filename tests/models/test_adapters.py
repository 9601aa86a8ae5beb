"""What trains under each method, and how it merges back into a plain ViT."""

import re

import pytest
import timm
import torch
from tiny import SIZE, same_state
from torch.nn import functional as F

from common.errors import UsageError
from models.adapters import adapt, plain, target_pattern, timm_model, trainable_parameters
from models.backbone import architecture, create_backbone
from models.methods import MethodSettings, parse_settings
from models.options import BackboneSpec

ADAPTERS = ["dora", "lora"]


@pytest.fixture
def model(spec):
    torch.manual_seed(0)
    return create_backbone(spec, 3)


@pytest.fixture
def images():
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def train_a_little(model, images, steps=5):
    """Move everything that trains away from where it started."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(model(images), torch.arange(len(images)) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# What trains


def test_linear_trains_the_head_alone(model):
    assert set(trainable_parameters(adapt(model, MethodSettings("linear")))) == {"head.weight", "head.bias"}


def test_full_trains_every_parameter(model):
    model.requires_grad_(False)
    assert set(trainable_parameters(adapt(model, MethodSettings("full")))) == {
        name for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize(
    "method, kinds", [("lora", {"lora_A", "lora_B"}), ("dora", {"lora_A", "lora_B", "lora_magnitude_vector"})]
)
def test_adapters_train_four_layers_of_every_block_and_the_head(model, method, kinds):
    adapted = adapt(model, MethodSettings(method))
    names = [name.removeprefix("base_model.model.") for name in trainable_parameters(adapted)]
    expected = {
        f"blocks.{b}.{layer}.{kind}.default.weight"
        for b in range(6)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for kind in kinds
    }
    assert {re.sub(r"default$", "default.weight", name) for name in names} == expected | {"head.weight", "head.bias"}


def expected_count(method: str, targets: dict[str, tuple[int, int]], blocks: int, rank: int) -> int:
    """Parameters by hand: A (rank, in), B (out, rank) and for DoRA a magnitude (out,), and the head."""
    layers = sum(rank * (i + o) + (o if method == "dora" else 0) for i, o in targets.values())
    return blocks * layers + 3 * 64 + 3


LAYERS = {"qkv": (64, 192), "proj": (64, 64), "fc1": (64, 192), "fc2": (192, 64)}


@pytest.mark.parametrize(
    "text, count",
    [
        ("linear", 195),
        ("lora", expected_count("lora", LAYERS, 6, 8)),
        ("dora", expected_count("dora", LAYERS, 6, 8)),
        ("dora:blocks=5,targets=fc1,rank=4,alpha=8", expected_count("dora", {"fc1": LAYERS["fc1"]}, 1, 4)),
        ("full", 300_291),
    ],
)
def test_the_number_of_trainable_parameters(model, text, count):
    adapted = adapt(model, parse_settings(text))
    assert sum(p.numel() for p in trainable_parameters(adapted).values()) == count


# Adapters start as nothing and merge into a plain model


@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_changes_nothing_before_its_first_step(model, images, method):
    before = model(images)
    adapted = adapt(model, MethodSettings(method)).eval()
    assert torch.equal(adapted(images), before)


@pytest.mark.parametrize(
    "text", ["dora", "lora", "dora:blocks=5,targets=fc1,rank=4,alpha=8", "lora:targets=qkv+fc2,rank=2"]
)
def test_merged_logits_equal_unmerged_after_training(model, images, text):
    before = model(images)
    adapted = train_a_little(adapt(model, parse_settings(text)), images)
    assert (adapted(images) - before).abs().max() > 0.05  # it did learn something
    with torch.no_grad():
        assert (adapted(images) - plain(adapted)(images)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ADAPTERS)
def test_merging_gives_a_plain_model_and_leaves_the_adapted_one(spec, model, images, method):
    adapted = train_a_little(adapt(model, MethodSettings(method)), images)
    logits = adapted(images)
    merged = plain(adapted)
    assert type(merged) is timm.models.VisionTransformer
    assert merged.state_dict().keys() == create_backbone(spec, 3).state_dict().keys()
    assert torch.equal(adapted(images), logits) and trainable_parameters(adapted)


@pytest.mark.parametrize("method", ADAPTERS)
def test_training_an_adapter_leaves_the_pretrained_weights_alone(spec, model, images, method):
    adapted = train_a_little(adapt(model, MethodSettings(method)), images)
    frozen = {
        key.replace(".base_layer", ""): value
        for key, value in timm_model(adapted).state_dict().items()
        if "lora" not in key and not key.startswith("head.")
    }
    original = {
        key: value for key, value in create_backbone(spec, 3).state_dict().items() if not key.startswith("head.")
    }
    assert same_state(frozen, original)


def test_a_model_without_adapters_is_its_own_plain_form(model):
    assert plain(adapt(model, MethodSettings("full"))) is model


# Which layers


@pytest.mark.parametrize("text", ["dora", "lora:blocks=1,targets=proj", "dora:blocks=0-5,targets=proj+fc1"])
def test_the_pattern_matches_what_was_asked_and_never_the_patch_embedding(text):
    settings, model = parse_settings(text), architecture(BackboneSpec("test_vit"))
    matched = [name for name, _ in model.named_modules() if re.fullmatch(target_pattern(model, settings), name)]
    blocks = settings.blocks or range(6)
    place = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    assert matched == [f"blocks.{b}.{place[t]}" for b in blocks for t in settings.targets]


def test_block_one_is_not_block_ten_or_eleven():
    model = architecture(BackboneSpec("vit_tiny_patch16_224"))
    matched = [
        name
        for name, _ in model.named_modules()
        if re.fullmatch(target_pattern(model, parse_settings("dora:blocks=1,targets=fc1")), name)
    ]
    assert matched == ["blocks.1.mlp.fc1"]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("test_vit", "dora:blocks=4-7", "blocks 6+7 do not exist; VisionTransformer has 6 blocks, counted from 0"),
        ("swin_tiny_patch4_window7_224", "dora", "SwinTransformer has no blocks"),
        ("resnet18", "lora", "ResNet has no blocks"),
    ],
)
def test_layers_that_a_model_lacks_are_named(name, text, words):
    with pytest.raises(UsageError) as caught:
        target_pattern(architecture(BackboneSpec(name)), parse_settings(text))
    assert words in str(caught.value)
