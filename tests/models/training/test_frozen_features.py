"""What is frozen is computed once: features and tokens lead to the logits and gradients of the whole model."""

import numpy as np
import pytest
import torch
from frozen_vits import adapted, image_set, images, small_vit
from tiny import SIZE
from torch import nn
from torch.utils.data import TensorDataset

from models.adapters import plain, timm_model
from models.backbone import create_backbone
from models.training import cache as cache_module
from models.training import frozen_features as features_module
from models.training.cache import CHUNK_ROWS
from models.training.frozen_features import (
    BATCH_SIZE,
    CacheEntry,
    Features,
    UnstorableTokens,
    cached_features,
    cached_tokens,
    token_bytes,
)
from models.training.loading import LoadingOptions
from models.training.loop import fit
from models.training.model_halves import FrozenPart, TrainedPart
from models.training.prediction import predict
from models.training.process_group import ProcessGroup
from models.training.recipe import Recipe
from models.training.sampling import feature_batches

CPU = torch.device("cpu")
ON_CPU = LoadingOptions(CPU)
KEY = {"backbone": "abc", "data": "def", "split": "train"}


class Counting(nn.Module):
    """A backbone that counts how many images went through it."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward_features(self, x):
        self.images += len(x)
        return x.flatten(1)

    def forward_head(self, x, pre_logits):
        return 2 * x


def features_of(model: nn.Module, dataset) -> Features:
    """The features of a data set, without a cache."""
    return cached_features(model, dataset, CacheEntry(None, {}), ON_CPU)


@pytest.fixture
def dataset():
    inputs = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, torch.tensor([0, 1, 2, 0, 1]))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(features_module, "BATCH_SIZE", 1)


# ---- pooled features


def test_features_are_computed_once(tmp_path, dataset):
    model = Counting()
    first = cached_features(model, dataset, CacheEntry(tmp_path, KEY), ON_CPU)
    again = cached_features(model, dataset, CacheEntry(tmp_path, dict(reversed(KEY.items()))), ON_CPU)
    assert model.images == 5 and torch.equal(first.inputs, again.inputs) and torch.equal(first.labels, again.labels)
    assert torch.equal(first.inputs, 2 * dataset.tensors[0].flatten(1)) and first.labels.tolist() == [0, 1, 2, 0, 1]
    assert len(first) == 5 and first.inputs.dtype == torch.float32 and first.labels.dtype == torch.int64


@pytest.mark.parametrize("change", [*({name: "other"} for name in KEY), {"view": 1}])
def test_another_key_is_another_computation(tmp_path, dataset, change):
    model = Counting()
    cached_features(model, dataset, CacheEntry(tmp_path, KEY), ON_CPU)
    cached_features(model, dataset, CacheEntry(tmp_path, KEY | change), ON_CPU)
    assert model.images == 10 and len(list(tmp_path.iterdir())) == 2


def test_views_lie_side_by_side(tmp_path, dataset):
    views = [TensorDataset(dataset.tensors[0] + i, dataset.tensors[1]) for i in range(3)]
    for _ in range(2):
        found = [
            cached_features(Counting(), view, CacheEntry(tmp_path, KEY | {"view": i}), ON_CPU)
            for i, view in enumerate(views)
        ]
        for i, features in enumerate(found):
            assert torch.equal(features.inputs, 2 * (dataset.tensors[0] + i).flatten(1))


def test_only_a_damaged_chunk_is_computed_anew_with_a_line(tmp_path, dataset, capsys, small_chunks):
    model = Counting()
    expected = cached_features(model, dataset, CacheEntry(tmp_path, KEY), ON_CPU)
    path = sorted(tmp_path.glob("*/inputs-*.npy"))[1]
    path.write_bytes(path.read_bytes()[:-10])
    found = cached_features(model, dataset, CacheEntry(tmp_path, KEY), ON_CPU)
    assert torch.equal(found.inputs, expected.inputs) and torch.equal(found.labels, expected.labels)
    out = capsys.readouterr().out
    assert "1 of its 3 chunks are computed again" in out and out.count("\n") == 1 and model.images == 7


def test_an_interrupted_computation_goes_on_with_the_same_bits(tmp_path, spec, monkeypatch):
    """The real sizes: 300 images are a chunk of 256 and one of 44, in batches of 32."""
    model, data = create_backbone(spec, 3), image_set(300)
    expected = cached_features(model, data, CacheEntry(None, KEY), ON_CPU)
    run, seen = model.forward_features, []

    def counting(x):
        seen.append(len(x))
        if sum(seen) > 280:
            raise KeyboardInterrupt
        return run(x)

    monkeypatch.setattr(model, "forward_features", counting)
    with pytest.raises(KeyboardInterrupt):
        cached_features(model, data, CacheEntry(tmp_path, KEY), ON_CPU)
    monkeypatch.setattr(model, "forward_features", lambda x: seen.append(len(x)) or run(x))
    seen.clear()
    found = cached_features(model, data, CacheEntry(tmp_path, KEY), ON_CPU)
    assert seen == [32, 12]
    assert torch.equal(found.inputs, expected.inputs) and torch.equal(found.labels, expected.labels)


def test_batches_divide_a_chunk():
    assert BATCH_SIZE == 32 and CHUNK_ROWS % BATCH_SIZE == 0


def test_without_a_folder_nothing_is_written(tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached_features(Counting(), dataset, CacheEntry(None, KEY), ON_CPU)
    assert not list(tmp_path.iterdir())


def test_features_and_head_give_the_whole_models_logits(spec):
    model = create_backbone(spec, 3)
    model.blocks[0].drop_path1 = nn.Dropout(0.5)  # features are taken in evaluation mode
    x = images(3)
    features = features_of(model.train(), TensorDataset(x, torch.arange(3)))
    assert torch.allclose(model.head(features.inputs), model.eval()(x), atol=1e-6)
    model.head(features.inputs).sum().backward()  # a head can be trained on them
    assert model.head.weight.grad is not None


def test_a_selection_keeps_inputs_and_labels_together(dataset):
    part = features_of(Counting(), dataset).select([3, 1, 4])
    assert part.labels.tolist() == [0, 1, 1] and torch.equal(part.inputs, 2 * dataset.tensors[0].flatten(1)[[3, 1, 4]])
    assert len(part) == 3 and torch.equal(part.rows([2, 0]), part.inputs[[2, 0]])
    again = part.select(np.array([2, 0]))
    assert again.labels.tolist() == [1, 0] and torch.equal(again.inputs, part.inputs[[2, 0]])


def test_loader_workers_change_nothing(tmp_path, dataset, small_chunks):
    found = cached_features(Counting(), dataset, CacheEntry(tmp_path, KEY), LoadingOptions(CPU, workers=2))
    assert torch.equal(found.inputs, 2 * dataset.tensors[0].flatten(1)) and found.labels.tolist() == [0, 1, 2, 0, 1]


def test_autocast_around_a_run_does_not_reach_the_cache(spec):
    model = create_backbone(spec, 3)
    expected, tokens = features_of(model, image_set()).inputs, model.forward_features(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(model.forward_features(images()), tokens)
        assert torch.equal(features_of(model, image_set()).inputs, expected)


# ---- tokens on disk


def test_cached_tokens_lead_to_the_uncached_logits(spec, tmp_path):
    model = adapted(spec)
    tokens = cached_tokens(model, 4, image_set(40), CacheEntry(tmp_path, KEY), ON_CPU)
    exact = FrozenPart(model, 4)(images(40))
    assert tokens.stored.dtype == torch.float16 and tokens.stored.shape == exact.shape
    assert tokens.rows([39, 2]).dtype == torch.float32
    assert torch.equal(tokens.rows([39, 2]), exact[[39, 2]].half().float())
    assert tokens.labels.tolist() == [i % 3 for i in range(40)]
    rest = TrainedPart(model, 4)
    part = tokens.select(range(10, 40))
    found = predict(rest, feature_batches(part.rows(range(30)), part.labels, 64), CPU)
    expected = predict(model, feature_batches(images(40)[10:], part.labels, 8), CPU)
    assert np.abs(found.loss / expected.loss - 1).max() < 1e-2
    with torch.no_grad():
        logits = model(images(40))
        assert (rest(tokens.inputs) - logits).abs().max() < 1e-2 * logits.abs().max()


def test_training_on_cached_tokens_ends_where_training_on_images_does(spec, tmp_path):
    recipe, labels = Recipe(epochs=3, batch_size=8), torch.arange(48) % 3
    bright = images(48) + labels[:, None, None, None] - 1  # what the classes are told apart by
    tokens = cached_tokens(adapted(spec), 4, TensorDataset(bright, labels), CacheEntry(tmp_path, KEY), ON_CPU).inputs
    whole, model, fits = adapted(spec), adapted(spec), []
    for module, inputs in ((timm_model(whole), bright), (TrainedPart(model, 4), tokens)):
        train, held_out = (
            feature_batches(inputs[part], labels[part], 8, seed)
            for part, seed in ((slice(0, 32), 0), (slice(32, 48), None))
        )
        fits.append(fit(module, train, {"held_out": held_out}, recipe, CPU))
    for row, other in zip(fits[0].history, fits[1].history, strict=True):
        assert row["held_out_accuracy"] == other["held_out_accuracy"]
        assert abs(row["held_out_loss"] - other["held_out_loss"]) < 1e-3
    assert fits[0].history[-1]["held_out_loss"] < 0.8 * fits[0].history[0]["held_out_loss"]
    with torch.no_grad():
        assert (whole.eval()(bright) - model.eval()(bright)).abs().max() < 1e-2


def test_frozen_blocks_are_run_once(spec, tmp_path):
    model = adapted(spec)
    first = cached_tokens(model, 4, image_set(), CacheEntry(tmp_path, KEY), ON_CPU)
    with torch.no_grad():
        timm_model(model).blocks[5].attn.qkv.base_layer.weight.zero_()  # another run's trained part
        timm_model(model).blocks[0].attn.qkv.weight.fill_(float("nan"))
    assert torch.equal(cached_tokens(model, 4, image_set(), CacheEntry(tmp_path, KEY), ON_CPU).inputs, first.inputs)


def test_tokens_are_stored_along_with_features(spec, tmp_path, small_chunks):
    """One pass over the images gives both, with the bits that each would have alone; a damaged chunk is mended by
    either."""
    model, seen = create_backbone(spec, 3), []
    model.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    alone = [
        cached_features(model, image_set(), CacheEntry(tmp_path / "a", KEY), ON_CPU),
        cached_tokens(model, 4, image_set(), CacheEntry(tmp_path / "a", KEY), ON_CPU),
    ]
    assert sum(seen) == 10
    for broken, computed in ((None, 15), ("features", 17), ("tokens", 19)):
        if broken:
            path = sorted((tmp_path / "b").glob(f"{broken}-*/inputs-*.npy"))[1]
            path.write_bytes(path.read_bytes()[:-10])
        found = [
            cached_features(model, image_set(), CacheEntry(tmp_path / "b", KEY), ON_CPU, entering=4),
            cached_tokens(model, 4, image_set(), CacheEntry(tmp_path / "b", KEY), ON_CPU),
        ]
        assert sum(seen) == computed
        for one, other in zip(found, alone):
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    assert not model.blocks[4]._forward_pre_hooks


def test_features_are_stored_where_tokens_cannot_be(spec, tmp_path, small_chunks):
    model = plain(beyond_half(spec, 7e4))
    found = cached_features(model, image_set(), CacheEntry(tmp_path, KEY), ON_CPU, entering=1)
    assert torch.equal(found.inputs, cached_features(model, image_set(), CacheEntry(None, KEY), ON_CPU).inputs)
    with pytest.raises(UnstorableTokens):
        cached_tokens(model, 1, image_set(), CacheEntry(tmp_path, KEY), ON_CPU)
    assert not model.blocks[1]._forward_pre_hooks


def test_the_block_belongs_to_the_key(spec, tmp_path):
    model = adapted(spec)
    found = {
        first: cached_tokens(model, first, image_set(), CacheEntry(tmp_path, KEY), ON_CPU).inputs for first in (3, 4)
    }
    for first, tokens in found.items():
        assert torch.allclose(tokens, FrozenPart(model, first)(images()), atol=1e-2)
    assert not torch.allclose(found[3], found[4], atol=1e-2)


@pytest.mark.parametrize("kind", ["plain", "distilled", "registers", "attention pooling", "images of any size"])
def test_the_announced_size_is_the_size_on_disk(tmp_path, kind):
    vit, size = small_vit(kind), 28 if kind == "registers" else SIZE
    data = TensorDataset(images(size=size), torch.arange(5))
    cached_tokens(vit, 2, data, CacheEntry(tmp_path, KEY), ON_CPU)
    (path,) = tmp_path.glob("*/inputs-*.npy")
    assert np.load(path).nbytes == token_bytes(vit, 5) > 0


def beyond_half(spec, value: float) -> nn.Module:
    """A model one of whose tokens' values, before block 1, is about `value` in every image."""
    model = adapted(spec, "lora:blocks=1")
    with torch.no_grad():
        timm_model(model).blocks[0].mlp.fc2.bias[0] = value
    return model


@pytest.mark.parametrize("folder", [True, False])
def test_tokens_beyond_half_precision_are_refused_with_a_line(spec, tmp_path, folder):
    place = tmp_path if folder else None
    for value in (7e4, -7e4):
        with pytest.raises(UnstorableTokens, match=r"tokens reach 7e\+04, beyond the 65504 of half precision"):
            cached_tokens(beyond_half(spec, value), 1, image_set(), CacheEntry(place, KEY), ON_CPU)
    assert not list(tmp_path.glob("*/inputs*"))
    found = cached_tokens(beyond_half(spec, 6e4), 1, image_set(), CacheEntry(place, KEY), ON_CPU)
    assert found.inputs.isfinite().all() and found.inputs.abs().max() > 5.9e4


def test_two_processes_share_the_work_and_agree(spec, tmp_path, small_chunks):
    """The all_gather of the first process lets the second do its share."""
    model, messages = adapted(spec), []

    def answer(message):
        messages.append(message)
        return [None, message]

    def all_gather(message):
        assert len(list(tmp_path.glob("*/inputs-*"))) == 2  # of three
        cached_tokens(model, 4, image_set(), CacheEntry(tmp_path, KEY), ON_CPU, group=ProcessGroup(1, 2, answer))
        return [message, *messages]

    found = cached_tokens(
        model, 4, image_set(), CacheEntry(tmp_path, KEY), ON_CPU, group=ProcessGroup(0, 2, all_gather)
    )
    assert messages == [None] and torch.allclose(found.inputs, FrozenPart(model, 4)(images()), atol=1e-2)


def test_what_one_process_cannot_store_no_process_uses(spec, tmp_path):
    group = ProcessGroup(0, 1, lambda message: [message, "tokens reach too far"])
    with pytest.raises(UnstorableTokens, match="^tokens reach too far$"):
        cached_tokens(adapted(spec), 4, image_set(), CacheEntry(tmp_path, KEY), ON_CPU, group=group)
