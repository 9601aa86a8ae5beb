"""Held-out images change no weight, validation images change no choice, and test images are never touched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COLOURS, colour_image, config_of, same_state

from commands import training_images
from commands.training_images import RunImages
from common.devices import RunningOptions
from data.datasets import ImageData
from models.backbone import create_backbone
from models.methods import parse_settings
from models.training.fit_result import Callbacks, FitResult
from models.training.recipe import Augmentation, ProbeRecipe, Recipe
from models.training.run import Training

CPU = torch.device("cpu")
TRAIN, VAL = 36, 30
HELD_OUT = np.arange(3, TRAIN, 3)  # 11 images of all classes
EPOCHS = Recipe(epochs=2, batch_size=8, learning_rate=2e-3, label_smoothing=0.0)
# Method, recipe, augmentation, cache: each way in which training images reach what trains.
WAYS = {
    "probe": ("linear", ProbeRecipe(balance="weights"), Augmentation(views=2), False),
    "late adapters on tokens": ("lora:blocks=5", replace(EPOCHS, balance="weights"), Augmentation(views=2), True),
    "late adapters on images": ("dora:blocks=5", EPOCHS, Augmentation(), True),
    "full": ("full", replace(EPOCHS, balance="sampling"), Augmentation("flip"), False),
}


@dataclass(frozen=True)
class Pictures:
    """A split of images in memory."""

    images: tuple[Image.Image, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"picture {index}"

    def select(self, indices: Sequence[int]) -> "Pictures":
        return Pictures(tuple(self.images[i] for i in indices), self.labels[np.asarray(indices)])

    def relabelled(self, indices: np.ndarray) -> "Pictures":
        """Every image of `indices` as one of the next class."""
        labels = self.labels.copy()
        labels[indices] = (labels[indices] + 1) % len(COLOURS)
        return replace(self, labels=labels)

    def repainted(self, indices: np.ndarray) -> "Pictures":
        """Other pixels for the images of `indices`."""
        images = list(self.images)
        for i in indices:
            images[i] = colour_image((250, 250, 0), 5000 + int(i))
        return replace(self, images=tuple(images))


class Untouchable:
    """A split that nothing may look at."""

    def __getattr__(self, name: str):
        raise AssertionError(f"the test split was asked for {name}")


def pictures(count: int, seed: int) -> Pictures:
    labels = np.arange(count) % len(COLOURS)
    colours = list(COLOURS.values())
    return Pictures(tuple(colour_image(colours[label], seed + i) for i, label in enumerate(labels)), labels)


@pytest.fixture(scope="module")
def data() -> ImageData:
    splits = {"train": pictures(TRAIN, 0), "val": pictures(VAL, 1000), "test": Untouchable()}
    return ImageData("pictures", tuple(COLOURS), splits, "fingerprint")


@pytest.fixture(autouse=True)
def fixed_choice(monkeypatch):
    """The choice of held-out images looks at labels; here it is the same before and after they are changed."""
    monkeypatch.setattr(training_images, "stratified", lambda labels, count, seed: HELD_OUT)


@dataclass(frozen=True)
class Outcome:
    """The model's state and its guesses on val at each epoch or penalty, the fit, and the model's state at its end."""

    path: list[dict]
    guesses: list[np.ndarray]
    fit: FitResult
    end: dict


@pytest.fixture(scope="module")
def train(spec, tmp_path_factory):
    """Train on a data set, in one of the WAYS; a cache of its own for each training."""

    def trained(data: ImageData, way: str, head_init: str = "random", **changes) -> Outcome:
        text, recipe, augmentation, cached = WAYS[way]
        settings = parse_settings(text)
        torch.manual_seed(0)
        model, path, guesses = create_backbone(spec, len(COLOURS)), [], []
        images = RunImages(data, config_of(spec, settings), augmentation, data_seed=0)

        @torch.no_grad()
        def report(row: dict) -> None:
            path.append({name: value.clone() for name, value in model.state_dict().items()})
            guesses.append(model(torch.stack([image for image, _ in images.unaugmented("val")])).argmax(1).numpy())

        training = Training(
            images,
            settings,
            replace(recipe, **changes),
            CPU,
            RunningOptions(cache=tmp_path_factory.mktemp("cache") if cached else None),
            head_init=head_init,
            callbacks=Callbacks(report),
        )
        adapted, fit = training.train(model)
        assert set(training.predict(adapted)) == {"train", "held_out", "val"}
        assert len(path) == len(fit.history) > 1
        return Outcome(path, guesses, fit, {name: value.clone() for name, value in model.state_dict().items()})

    return trained


@pytest.fixture(scope="module")
def unchanged(data, train):
    """The outcome of each of the WAYS on unchanged images, trained once."""
    found: dict[str, Outcome] = {}

    def outcome(way: str) -> Outcome:
        return found.setdefault(way, found.get(way) or train(data, way))

    return outcome


def with_split(data: ImageData, name: str, split: Pictures) -> ImageData:
    return replace(data, splits=data.splits | {name: split})


def assert_same_path(one: Outcome, other: Outcome) -> None:
    """Weights at each epoch or penalty agree; the path of penalties may end elsewhere."""
    assert len(one.path) == len(other.path) or "penalty" in one.fit.history[0]
    assert all(same_state(a, b) for a, b in zip(one.path, other.path))
    assert not same_state(one.path[0], one.path[1]), "it does learn"


@pytest.mark.parametrize("way", WAYS)
def test_labels_of_held_out_images_change_no_weight(data, train, unchanged, way):
    """They choose the epoch or the penalty, and nothing else."""
    changed = data.splits["train"].relabelled(HELD_OUT)
    assert_same_path(unchanged(way), train(with_split(data, "train", changed), way))


@pytest.mark.parametrize("way", WAYS)
def test_pixels_of_held_out_images_change_no_weight(data, train, unchanged, way):
    changed = data.splits["train"].repainted(HELD_OUT)
    assert_same_path(unchanged(way), train(with_split(data, "train", changed), way))


@pytest.mark.parametrize(
    "way, changes",
    [
        ("probe", {}),
        ("late adapters on tokens", {"patience": 2}),
        ("full", {"epochs": 4, "patience": 4, "learning_rate": 3e-5}),
    ],
)
def test_labels_of_validation_images_change_no_choice(data, train, way, changes):
    """With every image in the next class, the first penalty or epoch is the best on val, as its loss is the lowest."""
    one, other = (train(which, way, **changes) for which in (data, with_next_classes(data)))
    assert_same_choice(one, other)
    losses = [row["val_loss"] for row in other.fit.history]
    assert int(np.argmin(losses)) == 0 < other.fit.chosen - 1, "validation would have chosen the first"


def test_an_epoch_that_is_clearly_best_on_validation_images_is_not_chosen_for_it(data, train):
    """The first epoch is the best on held-out images in the next class, but not clearly; on validation images labelled
    as it guesses them, it is by McNemar's test."""
    way, changes = "late adapters on images", {"epochs": 4, "learning_rate": 2e-4}
    held_out = with_split(data, "train", data.splits["train"].relabelled(HELD_OUT))
    one = train(held_out, way, **changes)
    both = with_split(held_out, "val", replace(data.splits["val"], labels=one.guesses[0]))
    other = train(both, way, **changes)
    assert_same_choice(one, other)
    best = max(one.fit.history, key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))
    assert best["epoch"] == 1 and one.fit.chosen == 4
    assert (one.guesses[0] != one.guesses[-1]).sum() > 5, "validation would have chosen the first"


def test_validation_images_do_not_choose_the_probe_that_a_head_starts_from(data, train):
    one, other = (train(which, "late adapters on tokens", "probe") for which in (data, with_next_classes(data)))
    assert_same_choice(one, other)


def with_next_classes(data: ImageData) -> ImageData:
    """Every validation image in the next class, and some with other pixels."""
    return with_split(data, "val", data.splits["val"].relabelled(np.arange(VAL)).repainted(np.arange(0, VAL, 4)))


def assert_same_choice(one: Outcome, other: Outcome) -> None:
    assert one.fit.chosen == other.fit.chosen and same_state(one.end, other.end)
    assert len(one.path) == len(other.path)
    assert_same_path(one, other)
