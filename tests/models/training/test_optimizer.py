"""Which parameters decay, how fast each layer learns, and when."""

import math

import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model
from timm.optim import param_groups_layer_decay
from tiny import NAME, SIZE
from torch import nn

from models.adapters import adapt, timm_model, trainable_parameters
from models.methods import parse_settings
from models.training.optimizer import parameter_groups, warmup_cosine

METHODS = ["linear", "dora", "lora", "full", "dora:blocks=2+5,targets=fc1", "lora:blocks=0,targets=qkv"]
DEPTH = 6


def build(text: str, name: str = NAME) -> nn.Module:
    torch.manual_seed(0)
    return adapt(timm.create_model(name, img_size=SIZE, num_classes=3), parse_settings(text))


def by_name(model, groups) -> dict[str, tuple[float, float]]:
    """Return (weight decay, learning rate) of each parameter, by its name in the timm model."""
    names = {id(p): name for name, p in timm_model(model).named_parameters()}
    return {names[id(p)]: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_what_trains_is_there_exactly_once_and_nothing_else(text, layer_decay, weight_decay):
    model = build(text)
    given = [id(p) for group in parameter_groups(model, 1e-3, weight_decay, layer_decay) for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in trainable_parameters(model).values())


def test_matrices_decay_and_what_has_a_scale_of_its_own_does_not():
    model = build("full")
    decayed = {name for name, (decay, _) in by_name(model, parameter_groups(model, 1e-3, 0.05)).items() if decay}
    expected = {name for name, p in model.named_parameters() if name.endswith(".weight") and "norm" not in name}
    assert decayed == expected and not {"pos_embed", "cls_token"} & decayed


def test_magnitudes_do_not_decay_and_low_rank_factors_do():
    model = build("dora")
    groups = parameter_groups(model, 1e-3, 0.05)
    for name, (decay, _) in by_name(model, groups).items():
        assert decay == (0.05 if "lora_A" in name or "lora_B" in name or name == "head.weight" else 0.0), name
    assert len(groups) == 2  # one layer where no rate differs


def test_a_magnitude_of_four_dimensions_does_not_decay():
    """peft gives a convolution's magnitude the shape (1, out, 1, 1)."""
    model = get_peft_model(build("linear"), LoraConfig(r=2, use_dora=True, target_modules="patch_embed.proj"))
    (found,) = [
        decay for name, (decay, _) in by_name(model, parameter_groups(model, 1e-3, 0.05)).items() if "magnitude" in name
    ]
    assert found == 0


@pytest.mark.parametrize("text", METHODS)
def test_a_layer_learns_slower_the_farther_it_lies_from_the_head(text):
    model = build(text)
    found = by_name(model, parameter_groups(model, 1e-3, 0.05, layer_decay=0.5))
    for name, (_, rate) in found.items():
        first, second, *_ = name.split(".") + ["", ""]
        distance = DEPTH - int(second) if first == "blocks" else {"head": 0, "norm": 1}.get(first, DEPTH + 1)
        assert rate == pytest.approx(1e-3 * 0.5**distance, rel=1e-12), name


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "deit3_small_patch16_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_the_groups_are_timms_own(name):
    """The same decay and rate for each parameter as `timm.optim.param_groups_layer_decay` gives a fully trained
    model."""
    with torch.device("meta"):
        model = timm.create_model(name)
    theirs = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.75)
    expected = {id(p): (group["weight_decay"], 1e-3 * group["lr_scale"]) for group in theirs for p in group["params"]}
    ours = parameter_groups(model, 1e-3, 0.05, 0.75)
    found = {id(p): (group["weight_decay"], group["lr"]) for group in ours for p in group["params"]}
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-12) for key in found)


@pytest.mark.parametrize("text", METHODS)
def test_the_order_depends_on_the_model_alone(text):
    def order(weight_decay, layer_decay, rate):
        model = build(text)
        names = {id(p): name for name, p in timm_model(model).named_parameters()}
        groups = parameter_groups(model, rate, weight_decay, layer_decay)
        return [[names[id(p)] for p in group["params"]] for group in groups]

    assert order(0.05, 0.7, 1e-3) == order(0.0, 0.9, 1.0) and order(0.05, 1.0, 1e-3) == order(0.0, 1.0, 0.0)


@pytest.mark.parametrize("text", METHODS)
def test_groups_go_from_first_to_last_layer_undecayed_first(text):
    for layer_decay in (0.7, 1.0):
        groups = parameter_groups(build(text), 1e-3, 0.05, layer_decay)
        keys = [(group["lr"], group["weight_decay"]) for group in groups]
        assert keys == sorted(keys) and keys[-1] == (1e-3, 0.05)


@pytest.mark.parametrize("model", [nn.Linear(4, 3), timm.create_model("test_resnet")])
def test_a_model_without_names_to_exempt_trains_too(model):
    groups = parameter_groups(model, 1e-3, 0.05, 0.7)
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert groups[-1]["lr"] == 1e-3


def test_the_schedule_scales_each_groups_own_rate():
    model = build("lora")
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 0.05, 0.7))
    rates = [group["lr"] for group in optimizer.param_groups]
    torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(100, 0.1))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 10 for rate in rates])


# When


def test_the_rate_climbs_and_falls_to_zero():
    factor = warmup_cosine(100, 0.1)
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert [factor(step) for step in (10, 55, 100)] == pytest.approx([1, 0.5, 0])
    assert all(factor(step) > factor(step + 1) > 0 for step in range(10, 98))
    assert factor(32.5) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


@pytest.mark.parametrize("total, share", [(0, 0.1), (1, 0.0), (1, 1.0), (3, 0.0), (10, 1.0)])
def test_the_shortest_schedules_train_at_some_rate(total, share):
    assert all(0 < warmup_cosine(total, share)(step) <= 1 for step in range(max(1, total)))
