"""Images and targets in chunks: their size, maps equal to those without chunks, and full memory."""

import pytest
import torch
from small_vits import make_vit

from explain import METHODS, batching, relevance
from explain import compute as computing
from explain.batching import Chunks, images_at_once, targets_at_once
from explain.methods import FUNCTIONS
from explain.trace import Network

TARGETS = [name for name, method in METHODS.items() if method.uses_target]


def meta_images(batch: int) -> torch.Tensor:
    """Images on a device other than a CPU, without numbers."""
    return torch.empty(batch, 3, 24, 24, device="meta")


def full_beyond(pairs: int, method: str, sizes: list):
    """A method's function on a device whose memory is full beyond so many images times targets."""
    whole = FUNCTIONS[method]

    def function(network, images, targets, **options):
        network.record(images)
        if targets.numel() > pairs:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(tuple(targets.shape))
        return whole(network, images, targets, **options)

    return function


def assert_close(found, expected, tolerance=1e-9):
    found, expected = computing.as_tuple(found), computing.as_tuple(expected)
    for one, other in zip(found, expected, strict=True):
        # A gap is 1 less a sum, so what is rounded off is relative to 1.
        assert one.shape == other.shape and float((one - other).norm()) < tolerance * float(other.norm()) + 1e-13


@pytest.mark.parametrize("batch", [1, 500])
def test_an_accelerator_takes_all_images_at_once_and_a_cpu_what_its_cache_holds(vit, batch, monkeypatch):
    widest, targets = 10 * 48, 2  # tokens times the hidden layer
    monkeypatch.setattr(batching, "CACHE_ELEMENTS", 7 * widest * targets)
    assert images_at_once(Network(vit), torch.zeros(batch, 3, 24, 24), targets) == 7
    assert images_at_once(Network(vit.to("meta")), meta_images(batch), targets) == batch
    monkeypatch.setattr(batching, "CACHE_ELEMENTS", 1)
    assert images_at_once(Network(vit), torch.zeros(batch, 3, 24, 24), targets) == 1


def test_many_targets_are_split_evenly_on_a_cpu_and_not_on_an_accelerator(vit, monkeypatch):
    images = torch.zeros(2, 3, 24, 24)
    assert targets_at_once(Network(vit), images, 1000) == 1000, "a model this small"
    monkeypatch.setattr(batching, "TARGET_ELEMENTS", 26 * 10 * 48)
    found = {count: targets_at_once(Network(vit), images, count) for count in (1, 10, 26, 27, 100)}
    assert found == {1: 1, 10: 10, 26: 26, 27: 14, 100: 25}
    monkeypatch.setattr(batching, "TARGET_ELEMENTS", 1)
    assert targets_at_once(Network(vit), images, 16) == 16 and targets_at_once(Network(vit), images, 17) == 9
    assert targets_at_once(Network(vit.to("meta")), meta_images(2), 100) == 100


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_hundred_targets_are_those_of_each_alone(images, method, monkeypatch):
    model, targets = make_vit(num_classes=100), torch.randperm(100).repeat(2, 1)
    wanted = [name for name in ("layers", "gap") if name in METHODS[method].options]
    options = dict.fromkeys(wanted, True) | ({"steps": 2} if method == "integrated_gradients" else {})
    calls, whole = [], Network._record
    alone = [
        computing.as_tuple(relevance(model, images[:2], column, method, **options)) for column in targets.split(1, 1)
    ]
    expected = tuple(torch.cat(outputs, dim=1) for outputs in zip(*alone))
    monkeypatch.setattr(batching, "TARGET_ELEMENTS", 1)
    monkeypatch.setattr(Network, "_record", lambda self, *batch: calls.append(len(batch[0])) or whole(self, *batch))
    found = relevance(model, images[:2], targets, method, **options)
    assert_close(found, expected, 1e-6 if method == "lrp" else 1e-9)
    path, chunks = (2 * (method == "integrated_gradients"), 7 if METHODS[method].uses_target else 1)
    if "gap" in options and path:
        path += 1  # the mean image
    assert sum(calls) == 2 * (1 + path * chunks) * (method != "random"), "one forward pass serves all chunks"


@pytest.mark.parametrize("size", [10, 2])
def test_what_fills_the_memory_is_tried_again_by_halves(size):
    sizes = []

    def compute(part):
        items = list(range(10))[part]
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(len(items))
        return items

    chunks = Chunks(10, size)
    assert sum(chunks.map(compute), []) == list(range(10)) and sizes == ([3, 3, 3, 1] if size == 10 else [2] * 5)
    sizes.clear()
    assert sum(chunks.map(compute), []) == list(range(10)) and sizes[0] == min(size, 3), "the smaller size is kept"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("shapes do not fit"),
        ValueError("no class 9"),
    ],
)
def test_what_halving_cannot_mend_is_raised(error):
    tried = []

    def compute(part):
        tried.append(part.stop - part.start)
        raise error

    with pytest.raises(type(error), match=str(error)):
        Chunks(4, 4).map(compute)
    assert tried == ([4, 2, 1] if "memory" in repr(error).lower() else [4])
    tried.clear()
    with pytest.raises(type(error), match=str(error)):
        Chunks(4, 4).map(compute, may_halve=False)
    assert tried == [4]


def test_maps_of_halves_are_those_of_the_whole(vit, monkeypatch):
    images, targets = torch.randn(5, 3, 24, 24), torch.tensor([[0, 1]] * 5)
    expected, sizes = relevance(vit.float(), images, targets, "lrp_depth", gap=True), []
    monkeypatch.setitem(FUNCTIONS, "lrp_depth", full_beyond(5, "lrp_depth", sizes))
    monkeypatch.setattr(computing, "images_at_once", lambda network, images, targets: len(images))
    assert_close(relevance(vit, images, targets, "lrp_depth", gap=True), expected, 1e-4)
    assert sizes == [(2, 2), (2, 2), (1, 2)]


@pytest.mark.parametrize("options", [{}, {"layers": True, "gap": True}])
@pytest.mark.parametrize("method", ["lrp_magnitude", "lrp_blend"])
def test_where_one_image_fills_the_memory_its_targets_are_halved(vit, monkeypatch, images, method, options):
    targets = torch.arange(7).repeat(3, 1)
    expected, sizes, records, record = relevance(vit, images, targets, method, **options), [], [], Network._record
    monkeypatch.setitem(FUNCTIONS, method, full_beyond(2, method, sizes))
    monkeypatch.setattr(computing, "images_at_once", lambda network, images, targets: len(images))
    monkeypatch.setattr(Network, "_record", lambda self, part: records.append(len(part)) or record(self, part))
    assert_close(relevance(vit, images, targets, method, **options), expected)
    assert sizes == [(1, 2), (1, 2), (1, 2), (1, 1)] * 3, "the size that fits is kept for other images"
    assert records == [3, 2, 1, 1, 1], "what is halved is not recorded again"


def test_a_target_that_does_not_fit_is_an_error_of_memory(vit, monkeypatch, images, targets):
    monkeypatch.setitem(FUNCTIONS, "lrp_depth", full_beyond(0, "lrp_depth", []))
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB"):
        relevance(vit, images, targets, "lrp_depth")
