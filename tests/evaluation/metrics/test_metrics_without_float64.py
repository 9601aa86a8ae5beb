"""Metrics on a device without float64, such as Apple GPUs: a stand-in on the CPU refuses what such a device refuses."""

import numpy as np
import pytest
import torch
from small_vits import make_vit
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from evaluation.metrics.depth import measure_depth
from evaluation.metrics.faithfulness import IMPUTATIONS, perturbation_curves
from evaluation.metrics.grid_pointing_game import make_mosaics, mosaic_share
from evaluation.metrics.randomisation import cascading_randomisation, emprt
from evaluation.metrics.robustness import input_noise_change
from evaluation.metrics.similarity import spearman

DEVICE, HOST = torch.device("mps"), torch.device("cpu")


class NoFloat64(TorchFunctionMode):
    """Take every tensor for one on an Apple GPU unless it was made on, or copied to, the CPU.

    Such tensors say so by their `device`, cannot be float64 and cannot become arrays.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, torch.Tensor)]
        on_host = all(_on_host(one) for one in given)
        if func == torch.Tensor.device.__get__:
            return HOST if on_host else DEVICE
        if func is torch.Tensor.numpy and not on_host:
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")
        wanted = HOST if func is torch.Tensor.cpu else _device_asked_for(func, args, kwargs or {})
        args, kwargs = tree_map(lambda one: HOST if _names_a_device(one) else one, (args, kwargs or {}))
        result = func(*args, **kwargs)
        if wanted is not None:
            on_host = wanted == HOST
            result = result.clone() if result is args[0] else result  # a copy, as between devices
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                if one.dtype == torch.float64 and not on_host:
                    raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't.")
                one.on_host = on_host
        return result


def _on_host(tensor) -> bool:
    return getattr(tensor, "on_host", False)


def _names_a_device(one) -> bool:
    return isinstance(one, (torch.device, str)) and str(one) in ("cpu", "mps")


def _device_asked_for(func, args, kwargs):
    """The device that a call names, or that of the tensor which `to` is given; None where there is none."""
    if func is torch.Tensor.to:
        for one in args[1:]:
            if isinstance(one, torch.Tensor):
                return HOST if _on_host(one) else DEVICE
    named = [torch.device(one) for one in (*args, kwargs.get("device")) if _names_a_device(one)]
    return named[0] if named else None


@pytest.fixture
def model():
    return make_vit().float()


@pytest.fixture
def images():
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


TARGETS = torch.tensor([[0, 2], [1, 0], [3, 4]])


def test_the_stand_in_refuses_what_the_device_refuses(images):
    with NoFloat64():
        assert images.device.type == "mps" and images.cpu().device.type == "cpu"
        for wrong in (
            lambda: images.double(),
            lambda: images.numpy(),
            lambda: torch.from_numpy(np.ones(3)).to(images.device),
            lambda: torch.zeros(3, dtype=torch.float64, device="mps"),
        ):
            with pytest.raises(TypeError, match="mps|MPS"):
                wrong()
        assert images.cpu().double().numpy().dtype == np.float64


def test_depth(model, images):
    plain = measure_depth([model, model], [images])
    with NoFloat64():
        found = measure_depth([model, model], [images])
    for name, values in plain[0].measures.items():
        assert np.allclose(found[0].measures[name], values, equal_nan=True)
    assert np.allclose(found[1].cka, plain[1].cka) and np.allclose(found[1].divergence, plain[1].divergence)


@pytest.mark.parametrize("imputation", IMPUTATIONS)
def test_faithfulness(model, images, imputation):
    maps = torch.rand(3, 2, 3, 3)
    plain = perturbation_curves(model, images, TARGETS, maps, steps=3, imputation=imputation)
    with NoFloat64():
        found = perturbation_curves(model, images, TARGETS, maps, steps=3, imputation=imputation)
    assert np.allclose(found.morf, plain.morf) and np.allclose(found.lerf, plain.lerf)


def test_maps_and_mosaics(images):
    with NoFloat64():
        maps = torch.rand(3, 4, 6, 6, device=images.device)
        assert spearman(maps[:, 0], maps[:, 1]).shape == (3,) and mosaic_share(maps).shape == (3,)
        mosaics, _, which = make_mosaics(images.repeat(2, 1, 1, 1), torch.arange(6))
        assert mosaics.device.type == which.device.type == "mps"


def test_metrics_that_explain(model, images):
    with NoFloat64():
        assert cascading_randomisation(model, images, TARGETS, "lrp_magnitude").similarity.shape[1:] == (3, 2)
        assert emprt(model, images, TARGETS, "lrp_magnitude").shape == (3, 2)
        assert input_noise_change(model, images, TARGETS, "lrp_magnitude").shape == (3, 2)
