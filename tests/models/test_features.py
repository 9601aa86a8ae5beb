"""What is frozen is computed once, and never trusted when damaged."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from models.backbone import create_backbone
from models.features import cached_features, compute_features
from tiny import SIZE

CPU = torch.device("cpu")
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


@pytest.fixture
def dataset():
    inputs = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, torch.tensor([0, 1, 2, 0, 1]))


def test_features_are_computed_once(tmp_path, dataset):
    model = Counting()
    first = cached_features(model, dataset, KEY, tmp_path, CPU)
    again = cached_features(model, dataset, dict(reversed(KEY.items())), tmp_path, CPU)
    assert model.images == 5 and torch.equal(first.inputs, again.inputs) and torch.equal(first.labels, again.labels)
    assert torch.equal(first.inputs, 2 * dataset.tensors[0].flatten(1)) and first.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("name", KEY)
def test_another_key_is_another_computation(tmp_path, dataset, name):
    model = Counting()
    cached_features(model, dataset, KEY, tmp_path, CPU)
    cached_features(model, dataset, KEY | {name: "other"}, tmp_path, CPU)
    assert model.images == 10 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "fewer images", "not a number"])
def test_a_damaged_cache_is_computed_anew_with_a_line(tmp_path, dataset, capsys, damage):
    model = Counting()
    expected = cached_features(model, dataset, KEY, tmp_path, CPU)
    (path,) = tmp_path.iterdir()
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -10 if damage == "cut" else 0])
    elif damage == "fewer images":
        cached_features(model, TensorDataset(*dataset[:4]), KEY, tmp_path / "other", CPU)
        next((tmp_path / "other").iterdir()).replace(path)
    else:
        broken = TensorDataset(dataset.tensors[0] * float("nan"), dataset.tensors[1])
        cached_features(model, broken, KEY, tmp_path / "other", CPU)
        next((tmp_path / "other").iterdir()).replace(path)
    capsys.readouterr()
    found = cached_features(model, dataset, KEY, tmp_path, CPU)
    assert torch.equal(found.inputs, expected.inputs)
    out = capsys.readouterr().out
    assert "damaged; computing them again" in out and out.count("\n") == 1
    assert torch.equal(cached_features(model, dataset, KEY, tmp_path, CPU).inputs, expected.inputs)
    assert capsys.readouterr().out == ""


def test_without_a_folder_nothing_is_written(tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached_features(Counting(), dataset, KEY, None, CPU)
    assert not list(tmp_path.iterdir())


def test_features_and_head_give_the_whole_models_logits(spec):
    model = create_backbone(spec, 3)
    images = torch.randn(3, 3, SIZE, SIZE)
    features = compute_features(model.train(), TensorDataset(images, torch.arange(3)), CPU)
    assert torch.allclose(model.head(features.inputs), model.eval()(images), atol=1e-6)
    model.head(features.inputs).sum().backward()  # a head can be trained on them
    assert model.head.weight.grad is not None


def test_a_selection_keeps_inputs_and_labels_together(dataset):
    part = compute_features(Counting(), dataset, CPU).select([3, 1])
    assert part.labels.tolist() == [0, 1] and torch.equal(part.inputs, 2 * dataset.tensors[0].flatten(1)[[3, 1]])
