"""One training: its cached inputs, the fit, and the predictions of the trained model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.devices import RunningOptions, workers_of
from common.tables import percent
from models.adapters import adapt, heads_of, plain, timm_model, trainable_parameters
from models.methods import MethodSettings
from models.training.fit_result import NO_CALLBACKS, Callbacks, FitResult
from models.training.frozen_features import Features
from models.training.frozen_inputs import FrozenInputs, block_to_cache
from models.training.images import TrainingImages
from models.training.loading import Batch, LoaderStatistics, LoadingOptions, load, report_loading
from models.training.loop import fit
from models.training.model_halves import FrozenPart, TrainedPart
from models.training.prediction import Predictions, predict
from models.training.probe import fit_probe
from models.training.process_group import SINGLE_PROCESS, ProcessGroup
from models.training.recipe import NOT_SAVED, Checkpointing, ProbeRecipe, Recipe
from models.training.sampling import Batches, feature_batches, stored_batches
from models.types import TimmModel

EVALUATION_BATCH = 64  # images
FEATURE_BATCH = 1024  # pooled features


@dataclass
class Training:
    """One training.

    images: what it trains and evaluates on.
    settings: the method.
    recipe: the optimisation; a ProbeRecipe for a linear probe.
    device: where it runs.
    running: loader processes and cache.
    seed: of the adapter's initialisation and of everything random in training.
    head_init: "probe" starts the head at a linear probe (Kumar et al., ICLR 2022), "random" as it is.
    checkpointing: where the state is saved, and continued from where it exists.
    callbacks: called after every epoch or penalty.
    group: processes that share the training.
    """

    images: TrainingImages
    settings: MethodSettings
    recipe: Recipe | ProbeRecipe
    device: torch.device
    running: RunningOptions
    seed: int = 0
    head_init: str = "probe"
    checkpointing: Checkpointing = NOT_SAVED
    callbacks: Callbacks = NO_CALLBACKS
    group: ProcessGroup = SINGLE_PROCESS

    def __post_init__(self) -> None:
        self.workers = workers_of(self.running, self.device)
        loading = LoadingOptions(self.device, self.workers, progress=True)
        self.inputs = FrozenInputs(self.images, self.running.cache, loading, self.group)
        self.step_loading = LoaderStatistics()  # of images for training steps
        self.tokens: Features | None = None  # of each training image, where they are cached
        self.class_weights = inverse_frequencies(self.images.labels[self.images.fitted], self.images.class_count)

    def train(self, model: TimmModel) -> tuple[TimmModel, FitResult]:
        """Return the trained model, adapters in place, with the weights of the chosen epoch or penalty.

        model: pretrained, with a new head.
        """
        if isinstance(self.recipe, ProbeRecipe):
            return model, self._fit_probe(model, self.recipe, self.callbacks)
        self.inputs.block = block_to_cache(model, self.settings, self.recipe, self.images, self.running)
        resumed = self.checkpointing.resume is not None and self.checkpointing.resume.is_file()
        if self.head_init == "probe" and not resumed:
            probe = ProbeRecipe(label_smoothing=self.recipe.label_smoothing, balance=self.recipe.balance)
            row = self._fit_probe(model, probe, NO_CALLBACKS).chosen_row
            print(f"the head starts from a linear probe: {percent(row['val_accuracy'])} on val")
        torch.manual_seed(self.seed)  # the adapter's first matrix, wherever the head came from
        model = adapt(model, self.settings)
        return model, self._fit_epochs(model, self.recipe)

    def predict(self, model: TimmModel) -> dict[str, Predictions]:
        """Return the trained model's predictions, on unaugmented images, of "train" and "held_out" (the two parts of
        the training images) and of every evaluated split.

        Cached features and tokens of the training images are used again; other splits are predicted from pixels.
        """
        parts = {"train": self.images.fitted, "held_out": self.images.held_out}
        if self.settings.method == "linear":
            merged: TimmModel = heads_of(model)[0]
            trained: TimmModel = merged
            stored = {name: self.inputs.features(model, "train").select(part) for name, part in parts.items()}
            stored |= {name: self.inputs.features(model, name) for name in self.images.evaluated}
            batches = {name: feature_batches(one.inputs, one.labels, FEATURE_BATCH) for name, one in stored.items()}
        else:
            merged = trained = plain(model).to(self.device)
            batches = {name: self._evaluation_batches("train", part) for name, part in parts.items()}
            batches |= {name: self._evaluation_batches(name) for name in self.images.evaluated}
            if self.tokens is not None and self.inputs.block is not None:
                trained = TrainedPart(merged, self.inputs.block)
                tokens = {name: self.tokens.select(part) for name, part in parts.items()}
                batches |= {name: stored_batches([one], EVALUATION_BATCH) for name, one in tokens.items()}
        return {
            name: predict(trained if name in parts else merged, one, self.device, group=self.group)
            for name, one in batches.items()
        }

    def _fit_probe(self, model: TimmModel, recipe: ProbeRecipe, callbacks: Callbacks) -> FitResult:
        """Fit the head to cached features of the `fitted` images; both heads of a distilled model."""
        views = [self.inputs.features(model, "train", view) for view in self.inputs.training_views]
        evaluations = {
            "held_out": self.inputs.features(model, "train").select(self.images.held_out),
            "val": self.inputs.features(model, "val"),
        }
        statistics = self.inputs.take_statistics()
        rate = report_loading("the frozen part", statistics, self.workers, self.group)
        adapt(model, MethodSettings("linear"))
        fitted = [view.select(self.images.fitted) for view in views]
        inputs, labels = (torch.cat([getattr(view, name) for view in fitted]) for name in ("inputs", "labels"))
        batches = {name: feature_batches(one.inputs, one.labels, FEATURE_BATCH) for name, one in evaluations.items()}
        # drawing all classes equally often amounts, for all images at once, to weights
        weights = None if recipe.balance == "none" else self.class_weights
        head, *others = heads_of(model)
        found = fit_probe(head, inputs, labels, batches, recipe, self.device, weights, callbacks)
        for other in others:  # the mean of both heads on two tokens is one of them on the mean of the tokens
            other.load_state_dict(head.state_dict())
        return _with_times(found, statistics, rate)

    def _fit_epochs(self, model: TimmModel, recipe: Recipe) -> FitResult:
        images, trainable = self.images, sum(p.numel() for p in trainable_parameters(model).values())
        print(
            f"{self.settings.label()}: {trainable:,} trainable parameters, {len(images.fitted)} training images, "
            f"{len(images.held_out)} held out"
        )
        train = self._training_batches(recipe)
        evaluations = {
            "held_out": self._evaluation_batches("train", images.held_out),
            "val": self._evaluation_batches("val"),
        }
        trained = timm_model(model)
        if self.inputs.block is not None:
            trained, train, evaluations = self._on_tokens(model, self.inputs.block, recipe, train)
            report_loading("the frozen part", self.inputs.take_statistics(), self.workers, self.group)
        if recipe.balance == "sampling":
            chances = self.class_weights[images.labels[images.fitted]]
            train = replace(train, chances=(chances / chances.sum()).numpy())
        found = fit(
            trained,
            train,
            evaluations,
            recipe,
            self.device,
            seed=self.seed,
            class_count=images.class_count,
            class_weights=self.class_weights if recipe.balance == "weights" else None,
            checkpointing=self.checkpointing,
            callbacks=self.callbacks,
            group=self.group,
        )
        # `fit` also waits for the tokens of frozen blocks; with cached tokens, for these alone
        waiting = self.step_loading.waiting if self.step_loading.images else found.waiting
        statistics = replace(self.step_loading, seconds=found.seconds, waiting=waiting)
        return _with_times(found, statistics, report_loading("training", statistics, self.workers, self.group))

    def _on_tokens(
        self, model: TimmModel, block: int, recipe: Recipe, train: Batches
    ) -> tuple[TrainedPart, Batches, dict[str, Batches]]:
        """Return the part that trains, and training and evaluation batches of its input tokens.

        Training images with a new augmentation in every epoch still pass the frozen part, without a gradient.
        """
        model.to(self.device)  # the frozen part too, which `fit` does not move
        tokens = {split: self.inputs.tokens(model, block, split) for split in ("train", "val")}
        self.tokens = tokens["train"]
        evaluations = {"held_out": tokens["train"].select(self.images.held_out), "val": tokens["val"]}
        batches = {name: stored_batches([one], EVALUATION_BATCH) for name, one in evaluations.items()}
        if self.images.repeats:
            views = [self.inputs.tokens(model, block, "train", view) for view in self.inputs.training_views]
            fitted = [view.select(self.images.fitted) for view in views]
            stored = stored_batches(fitted, recipe.batch_size, self.seed, name=train.name)
            return TrainedPart(model, block), stored, batches
        frozen, precision = FrozenPart(model, block), recipe.precision

        def make(indices: list[list[int]], epoch: int) -> Iterator[Batch]:
            for images, labels in train.make(indices, epoch):
                with torch.autocast(self.device.type, getattr(torch, precision, None), enabled=precision != "no"):
                    tokens = frozen(images.to(self.device))
                yield tokens, labels

        return TrainedPart(model, block), replace(train, make=make), batches

    def _training_batches(self, recipe: Recipe) -> Batches:
        """Return the `fitted` images as epochs see them: with a new augmentation in each, or one view after another."""
        images = self.images

        def make(batches: list[list[int]], epoch: int) -> Iterator[Batch]:
            if images.views:  # the very images whose tokens a cache would hold
                chosen = [images.fitted[batch].tolist() for batch in batches]
                return load(images.view((epoch - 1) % images.views), chosen, self.workers, self.step_loading)
            return load(images.augmented(self.seed, epoch), batches, self.workers, self.step_loading)

        return Batches(len(images.fitted), recipe.batch_size, make, self.seed, name=images.fitted_name)

    def _evaluation_batches(self, split: str, indices: np.ndarray | None = None) -> Batches:
        """Return a split's unaugmented images, or some of them."""
        dataset = self.images.unaugmented(split, indices)
        return Batches(len(dataset), EVALUATION_BATCH, lambda batches, _: load(dataset, batches, self.workers))


def inverse_frequencies(labels: np.ndarray, class_count: int) -> torch.Tensor:
    """Return a weight (C,) for each class: the inverse of its frequency, 1 on average over images.

    labels: classes (N,) of the images.
    class_count: number of classes C.
    """
    sizes = np.maximum(np.bincount(labels, minlength=class_count), 1)
    return torch.tensor(len(labels) / (class_count * sizes), dtype=torch.float32)


def _with_times(found: FitResult, statistics: LoaderStatistics, rate: float) -> FitResult:
    return replace(found, seconds=statistics.seconds, waiting=statistics.waiting, images_per_second=rate)
