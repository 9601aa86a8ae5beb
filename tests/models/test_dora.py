"""The faster DoRA layer computes what peft's does, and what the paper's formula says."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from tiny import SIZE, same_state
from torch import nn
from torch.nn import functional as F

from models.adapters import adapt, plain, target_pattern, timm_model, trainable_parameters
from models.backbone import create_backbone
from models.dora import FasterDoraLinear, speed_up_dora
from models.methods import MethodSettings

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative distance (L2); anything that is not finite is infinitely far."""
    return torch.nan_to_num((found - expected).norm() / expected.norm(), nan=torch.inf).item()


def moved(model: nn.Module) -> nn.Module:
    """Move what trains away from where it starts, each magnitude by about a fifth."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise * parameter if "magnitude" in name else 0.05 * noise)
    return model


def pair(base: nn.Module, pattern, **options) -> tuple[nn.Module, nn.Module]:
    """Return the same DoRA model twice, in training mode: as peft makes it, and faster."""
    slow = moved(get_peft_model(base, LoraConfig(use_dora=True, target_modules=pattern, **options)))
    return slow.train(), speed_up_dora(copy.deepcopy(slow)).train()


@pytest.fixture
def base(spec):
    torch.manual_seed(0)
    return create_backbone(spec, 3)


@pytest.fixture
def vits(base):
    return pair(base, target_pattern(base, MethodSettings("dora")))


@pytest.fixture
def images():
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def gradients(model, images) -> dict[str, torch.Tensor]:
    model.zero_grad()
    F.cross_entropy(model(images).double(), torch.arange(len(images)) % 3).backward()
    return {name: p.grad.clone() for name, p in trainable_parameters(model).items()}


def is_faster(layer, x) -> bool:
    return layer(x).grad_fn.name() == "_DoraLinearBackward"


def one_layer(bias: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """Return peft's and the faster layer on a Linear (5 -> 7), rank 2."""
    torch.manual_seed(0)
    models = pair(nn.Sequential(nn.Linear(5, 7, bias)), ["0"], r=2, **options)
    return tuple(model.base_model.model[0] for model in models)


def parameters_of(layer) -> tuple:
    return (
        layer.base_layer.weight,
        layer.base_layer.bias,
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.lora_magnitude_vector["default"].weight,
        layer.scaling["default"],
    )


# The same function


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_vits_logits_and_gradients_are_pefts(vits, images, dtype):
    slow, fast = (model.to(dtype) for model in vits)
    images = images.to(dtype)
    assert distance(fast(images), slow(images)) < TOLERANCE[dtype]
    expected, found = gradients(slow, images), gradients(fast, images)
    assert found.keys() == expected.keys() and len(found) == 3 * 4 * 6
    for name in expected:
        assert distance(found[name], expected[name]) < TOLERANCE[dtype], name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_a_layer_follows_the_papers_formula(bias, shape):
    _, layer = one_layer(bias)
    layer = layer.double()
    weight, offset, a, b, m, scaling = parameters_of(layer)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    merged = weight + scaling * b @ a
    norm = merged.detach().pow(2).sum(1).sqrt()
    expected = sum(x[..., i, None] * (m / norm * merged[:, i]) for i in range(5)) + (offset if bias else 0)
    assert is_faster(layer, x) and torch.allclose(layer(x), expected, rtol=1e-12, atol=1e-12)
    sought, up = (x, a, b, m), torch.randn_like(expected)
    for found, wanted in zip(torch.autograd.grad(layer(x), sought, up), torch.autograd.grad(expected, sought, up)):
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_what_is_frozen_gets_no_gradient():
    _, layer = one_layer()
    layer(torch.randn(3, 5)).sum().backward()
    assert layer.base_layer.weight.grad is None and layer.base_layer.bias.grad is None


def test_nothing_changes_before_the_first_step(base, images):
    before = base.train()(images)
    assert torch.equal(adapt(base, MethodSettings("dora")).train()(images), before)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_evaluation_is_pefts_too(vits, images, dtype):
    slow, fast = (model.to(dtype).eval() for model in vits)
    with torch.no_grad():
        assert distance(fast(images.to(dtype)), slow(images.to(dtype))) < TOLERANCE[dtype]
    assert is_faster(one_layer()[1].eval(), torch.randn(3, 5))


def test_no_array_of_a_weights_size_is_kept_for_the_backward_pass():
    _, layer = one_layer()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(3, 5))
    assert {tuple(t.shape) for t in kept if not isinstance(t, nn.Parameter)} == {(3, 5), (3, 7)}


# Lower precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_the_merged_weight_and_not_what_it_is_merged_from(dtype):
    _, layer = one_layer()
    weight, bias, a, b, m, scaling = parameters_of(layer)
    merged = weight + scaling * b @ a
    merged = (m / merged.norm(dim=1))[:, None] * merged
    x = torch.randn(3, 5, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = layer(x)
        (inside,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    assert y.dtype == dtype and torch.equal(y, F.linear(x.to(dtype), merged.to(dtype), bias.to(dtype)))
    assert torch.equal(inside, torch.ones_like(y) @ merged.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_no_less_exact_than_pefts(vits, images, dtype):
    slow, fast = vits
    exact = gradients(copy.deepcopy(slow).double(), images.double())
    with torch.autocast("cpu", dtype):
        theirs, ours = gradients(slow, images), gradients(fast, images)  # the backward pass under autocast, too
    for kind in ("lora_A", "lora_B", "magnitude"):
        names = [name for name in exact if kind in name]
        assert all(ours[name].dtype == torch.float32 for name in names)
        errors = [sum(distance(g[name], exact[name]) for name in names) for g in (ours, theirs)]
        assert errors[0] < 1.1 * errors[1]


def test_a_scaled_loss_does_not_overflow_float16():
    _, layer = one_layer()
    with torch.autocast("cpu", torch.float16):
        y = layer(torch.full((4, 5), 10.0))
    y.backward(torch.full_like(y, 30_000.0))  # times y: beyond 65504
    assert layer.lora_magnitude_vector["default"].weight.grad.isfinite().all()


def test_a_backbone_in_bfloat16_keeps_its_dtype(base, images):
    slow, fast = pair(base.bfloat16(), target_pattern(base, MethodSettings("dora")))
    assert fast(images.bfloat16()).dtype == torch.bfloat16
    theirs, ours = gradients(slow, images.bfloat16()), gradients(fast, images.bfloat16())
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype and distance(ours[name], theirs[name]) < 0.1, name


# Rows without direction


def test_a_row_of_zeros_stays_zero_and_gives_no_nan(base, images):
    with torch.no_grad():
        for block in base.blocks:
            block.mlp.fc1.weight[3] = 0
    before = base(images)
    model = adapt(base, MethodSettings("dora")).train()
    assert torch.equal(model(images), before) and torch.equal(model.eval()(images), before)
    assert torch.equal(plain(model.train())(images), before)
    assert all(gradient.isfinite().all() for gradient in gradients(moved(model), images).values())
    training, merged = model(images), plain(model)
    assert training.isfinite().all() and torch.allclose(model.eval()(images), training, atol=1e-5)
    assert torch.allclose(merged(images), training, atol=1e-5) and not merged.blocks[0].mlp.fc1.weight[3].any()


def test_a_magnitude_of_zero_gives_the_bias_and_no_nan():
    _, layer = one_layer()
    *_, m, _ = parameters_of(layer)
    with torch.no_grad():
        m[2] = 0
    x = torch.randn(3, 5)
    assert torch.equal(layer(x)[:, 2], layer.base_layer.bias[2].expand(3))
    layer(x).pow(2).sum().backward()
    assert m.grad.isfinite().all() and m.grad[2] == 0 and (m.grad != 0).sum() == 6


# peft's own in every other respect


def test_names_merged_weights_and_copies_are_pefts(vits, images):
    slow, fast = vits
    assert same_state(fast.state_dict(), slow.state_dict())
    copied = copy.deepcopy(fast)
    assert isinstance(timm_model(copied).blocks[0].attn.qkv, FasterDoraLinear)
    moved(copied)
    assert same_state(fast.state_dict(), slow.state_dict())
    merged = fast.merge_and_unload(safe_merge=True)
    assert same_state(merged.state_dict(), slow.merge_and_unload(safe_merge=True).state_dict())
    assert not any(isinstance(module, lora.LoraLayer) for module in merged.modules())


def test_plain_peft_reloads_the_adapter_and_it_can_be_made_faster_again(spec, base, vits, images, tmp_path):
    vits[1].save_pretrained(tmp_path)
    fresh = create_backbone(spec, 3)
    fresh.load_state_dict(base.state_dict(), strict=False)
    fresh.head.load_state_dict(timm_model(vits[1]).head.state_dict())
    loaded = PeftModel.from_pretrained(fresh, tmp_path, is_trainable=True)
    assert distance(loaded.eval()(images), vits[1].eval()(images)) < TOLERANCE[torch.float32]
    assert torch.equal(speed_up_dora(loaded).train()(images), vits[1].train()(images))


def test_what_the_step_does_not_cover_goes_through_peft():
    x = torch.randn(3, 5)
    dropped = one_layer(lora_dropout=0.5)
    outputs = [torch.manual_seed(1) and layer(x) for layer in dropped]
    assert torch.equal(*outputs) and not is_faster(dropped[1], x)
    _, layer = one_layer()
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer.enable_adapters(True)
    layer.merge()
    assert torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("second", [True, False], ids=["dora", "lora"])
def test_two_adapters_at_once_go_through_peft(second):
    x, results = torch.randn(3, 5), []
    for faster in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(nn.Sequential(nn.Linear(5, 7)), LoraConfig(r=2, use_dora=True, target_modules=["0"]))
        model.add_adapter("second", LoraConfig(r=2, use_dora=second, target_modules=["0"], init_lora_weights=False))
        model = (speed_up_dora(model) if faster else model).train()
        for active in (["default", "second"], ["second"]):
            model.base_model.set_adapter(active)
            results.append(model(x))
    assert torch.equal(results[0], results[2]) and torch.allclose(results[1], results[3], atol=1e-6)


def test_only_dora_on_plain_linear_layers_changes_class():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Other(lora.Linear):
        pass

    def layers(*modules, dora=True) -> list[nn.Module]:
        names = [str(i) for i in range(len(modules))]
        config = LoraConfig(r=2, use_dora=dora, target_modules=names)
        return get_peft_model(nn.Sequential(*modules), config).base_model.model

    model = layers(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), Doubled(4, 4), nn.Linear(4, 4))
    model[3].__class__ = Other
    assert [type(layer) for layer in speed_up_dora(model)] == [lora.Conv2d, FasterDoraLinear, lora.Linear, Other]
    assert [type(layer) for layer in speed_up_dora(layers(nn.Linear(4, 4), dora=False))] == [lora.Linear]
