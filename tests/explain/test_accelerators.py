"""Computation on accelerators, run on the meta device, which has shapes and types but no numbers.

So code that asks for a number, for which a GPU would have to be waited for, or that adds or joins a tensor of the
CPU's, fails here; and the branches that are not a CPU's are taken.
"""

import pytest
import torch
from changed_vits import STRUCTURES, make_structure
from no_float64 import NoFloat64
from small_vits import make_vit

from explain import METHODS, relevance, rules
from explain.compute import as_tuple
from explain.methods import FUNCTIONS
from explain.precision import HalfProducts, half_product
from explain.registry import NOT_IN_HALF
from explain.trace import Network

# `random` reads the pixels, on purpose: its maps are the same on every device.
METHODS_THERE = [name for name in METHODS if name != "random"]
BACKWARD_PASSES = ("lrp", "attnlrp", "gradient_attention", "gradcam", "rollout")  # those that structures change


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype)


def compute(model, method, **options):
    """A method's maps of 3 images and 2 targets without numbers."""
    with torch.no_grad():
        return FUNCTIONS[method](
            Network(model.to("meta")), empty(3, 3, 24, 24), empty(3, 2, dtype=torch.int64), **options
        )


def test_the_meta_device_is_as_strict_as_this_file_needs():
    with pytest.raises(RuntimeError, match="meta"):
        bool(empty(3).any())
    for mixed in (torch.add, torch.mul, lambda *both: torch.cat(both)):
        with pytest.raises(RuntimeError, match="cpu is not on the expected device meta"):
            mixed(empty(3, 3), torch.ones(3, 3))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_structure_waits_for_the_device(structure):
    for method in BACKWARD_PASSES:
        maps = compute(make_structure(structure).float(), method)
        assert maps.device.type == "meta" and maps.shape == (3, 2, 3, 3) and maps.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS_THERE)
def test_no_method_and_none_of_its_options_waits_for_the_device(method):
    assert compute(make_vit().float(), method).shape == (3, 2, 3, 3)
    known = METHODS[method].options
    every = dict(layers=True, gap=True, contrast="softmax", centre_head=True, gamma=0.1, at="depth", start_block=1)
    found = compute(make_vit().float(), method, **{name: value for name, value in every.items() if name in known})
    parts = (found,) if torch.is_tensor(found) else found
    assert all(part.device.type == "meta" and part.shape[:2] == (3, 2) for part in parts)


@pytest.mark.parametrize("method", [name for name in METHODS_THERE if name not in NOT_IN_HALF])
def test_float16_does_not_wait_for_the_device(method):
    with HalfProducts():
        maps = compute(make_vit().float(), method)
    assert maps.device.type == "meta" and maps.dtype == torch.float32
    product = half_product(empty(2, 5, 7), empty(2, 7, 3))
    assert product.shape == (2, 5, 3) and product.dtype == torch.float32


# ---- devices without float64


def test_the_stand_in_knows_float64_wherever_it_comes_from():
    single, double = torch.ones(2), torch.ones(2, dtype=torch.float64)
    for operation in (lambda: single.double(), lambda: torch.rand(2, dtype=torch.float64), lambda: double.split(1)):
        with NoFloat64(), pytest.raises(TypeError, match="float64"):
            operation()
    with NoFloat64("meta"):
        assert (single.double() + 1).dtype == torch.float64, "on the CPU"
        with pytest.raises(TypeError, match="float64"):
            double.to("meta")


@pytest.mark.parametrize(
    "method, precision",
    [(name, half) for name in METHODS_THERE for half in (None, "float16") if half is None or name not in NOT_IN_HALF],
)
def test_maps_need_no_float64(method, precision, images, targets):
    model, images, known = make_vit(global_pool="map").float(), images.float(), METHODS[method].options
    every = dict(layers=True, gap=True, contrast="log_p", centre_head=True, gamma=0.1, at="depth", start_block=1)
    for options in ({}, {name: value for name, value in every.items() if name in known}):
        expected = as_tuple(relevance(model, images, targets, method, precision, **options))
        with NoFloat64():
            found = as_tuple(relevance(model, images, targets, method, precision, **options))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_random_maps_are_drawn_on_the_cpu_and_moved_in_the_images_dtype(monkeypatch):
    """They are drawn in float64, to be the same for images of either dtype."""
    monkeypatch.setattr("explain.methods.generator_for", lambda *given: torch.Generator())
    with NoFloat64("meta"):
        maps = FUNCTIONS["random"](
            Network(make_vit().float()), empty(3, 3, 24, 24), torch.zeros(3, 2, dtype=torch.int64)
        )
    assert maps.device.type == "meta" and maps.shape == (3, 2, 3, 3) and maps.dtype == torch.float32


# ---- branches that are not a CPU's


def test_copies_are_scaled_without_a_look_and_to_the_same():
    """A CPU looks first, and leaves relevance alone where no x is near zero; elsewhere all of it is multiplied."""
    there, x = empty(1, 3), torch.tensor([[1.0, -2.0, 1e-5], [1.0, 3.0, -2e-9]])
    assert rules.copy_published(there, empty(1, 3)) is there
    relevance = torch.tensor([[4.0, 5.0, 6.0]]).expand(2, -1)
    multiplied = rules.copy_published(relevance.clone(), x)  # both rows, as one x is near zero
    looked_at = rules.copy_published(relevance[:1].clone(), x[:1])
    assert torch.equal(looked_at, multiplied[:1]) and multiplied[1, 2] != 6


def test_relevance_far_below_the_largest_is_left_where_denormals_cost_nothing():
    there = empty(2, 1, 3, 4)
    version = there._version
    assert rules.drop_negligible(there) is there and there._version == version, "not even looked at"
    here = torch.tensor([[[[1.0, 1e-35]]]])
    assert rules.drop_negligible(here) is here and here[..., 1] == 0
