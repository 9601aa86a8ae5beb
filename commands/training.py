"""One run while it trains: its images, what is computed of them once, its fit, and what it leaves."""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import timm
import torch
from torch import nn

from cli import commandline
from common.tables import percent, write_csv, write_json
from data.datasets import ImageData, stratified
from data.transforms import Prepared, evaluation_transform, training_transform
from evaluation.statistics.classification import classification_summary
from models.adapters import Settings, adapt, heads_of, plain, timm_model, trainable_parameters
from models.runs import RESUME, SUMMARY, save_trained
from models.training.frozen_features import (
    Features,
    Frozen,
    Rest,
    cached_features,
    cached_tokens,
    first_trained_block,
    token_bytes,
)
from models.training.loading import Batch, Loading, load
from models.training.loop import Fit, Recipe, fit
from models.training.prediction import Predictions, predict
from models.training.probe import ProbeRecipe, fit_probe
from models.training.process_group import Share
from models.training.sampling import Batches, feature_batches, stored_batches
from report.figures.charts import training_curves
from report.figures.confusion_matrix import confusion_matrix

HELD_OUT_SHARE = 0.1
METRICS, TENSORBOARD = "metrics.csv", "tensorboard"
EVALUATED = 64  # images at once
SLOW = 5.0  # seconds of training, half of which may be spent waiting, before the loader is worth a warning


@dataclass
class Training:
    """What was asked for, the data, and where results go; `share`: this process among those that train together."""

    args: argparse.Namespace
    settings: Settings
    recipe: Recipe
    data: ImageData
    config: dict
    device: torch.device
    share: Share

    def __post_init__(self) -> None:
        labels = self.data.splits["train"].labels
        self.held_out = stratified(labels, max(1, round(HELD_OUT_SHARE * len(labels))), self.args.data_seed)
        self.kept = np.setdiff1d(np.arange(len(labels)), self.held_out)
        self.workers = commandline.workers_of(self.args, self.device)
        self.features: dict[tuple, Features] = {}
        self.passing, self.stepping = Loading(), Loading()  # images for what is frozen, and for steps
        self.first: int | None = None  # the first adapted block, where what enters it is kept
        self.tokens: Features | None = None  # what enters it, of each training image
        self.class_weights = _inverse_sizes(labels[self.kept], len(self.data.class_names))

    def train(self, model: nn.Module) -> tuple[nn.Module, Fit]:
        """Return the trained model, holding its chosen epoch, and the history."""
        if self.share.first and not (self.args.out / RESUME).is_file():
            (self.args.out / METRICS).unlink(missing_ok=True)  # of a run that this one replaces
        if self.settings.method == "linear":
            return model, self._fit_probe(model, self.recipe, say=self._reporter())
        self.first = self._block_to_keep(model)
        if self.args.head_init == "probe" and not (self.args.out / RESUME).is_file():
            best = self._fit_probe(
                model, ProbeRecipe(label_smoothing=self.recipe.label_smoothing, balance=self.recipe.balance)
            )
            row = best.history[best.chosen - 1]
            print(f"the head starts from a linear probe: {percent(row['val_accuracy'])} on val")
        torch.manual_seed(self.args.seed)  # the adapter's first matrix, wherever the head came from
        model = adapt(model, self.settings)
        return model, self._fit_images(model)

    def _fit_probe(self, model: nn.Module, recipe: ProbeRecipe, say=lambda row: None) -> Fit:
        """Fit the classifier to cached features; only `train` and `val` are needed."""
        found = self._views(lambda *view: self._features(model, "train", *view))
        evaluations = {
            "held_out": self._features(model, "train").select(self.held_out),
            "val": self._features(model, "val"),
        }
        passed = self._tell_passing()
        adapt(model, Settings("linear"))
        views = [one.select(self.kept) for one in found]
        inputs, labels = (torch.cat([getattr(view, name) for view in views]) for name in ("inputs", "labels"))
        batches = {name: feature_batches(one.inputs, one.labels, 1024) for name, one in evaluations.items()}
        # drawing classes as often as one another comes, for all images at once, to weights
        weights = None if self.recipe.balance == "none" else self.class_weights
        head, *others = heads_of(model)
        fitted = fit_probe(head, inputs, labels, batches, recipe, self.device, weights, report=say)
        for other in others:  # of a distilled model: the mean of both on two tokens is one of them on the tokens' mean
            other.load_state_dict(head.state_dict())
        return replace(fitted, **passed)

    def _views(self, find: Callable[..., Features]) -> list[Features]:
        """Return the training images as they are, or as many augmented views as were asked for."""
        return [find(view) for view in range(self.args.augment_views)] or [find()]

    def _features(self, model: nn.Module, split: str, *view: int) -> Features:
        """Return a split's features, computed or read once: the probe is trained on them and evaluated on them."""
        if (split, *view) not in self.features:
            self.features[split, *view] = self._find_features(model, split, *view)
        return self.features[split, *view]

    def _find_features(self, model: nn.Module, split: str, view: int | None = None) -> Features:
        dataset, key, name = self._seen(split, view)
        return cached_features(
            model,
            dataset,
            key,
            self.args.cache,
            self.device,
            self.workers,
            name,
            True,
            self.share,
            self.first,
            self.passing,
        )

    def _seen(self, split: str, view: int | None) -> tuple[Prepared, dict, str]:
        """Return a split as it is or in one augmented view, the key of what is computed from it, and its name.

        Views depend on --data-seed alone, so that runs of all seeds share them.
        """
        backbone = self.config[
            "backbone"
        ]  # its name too: what one file's weights mean is said by timm, which may mend it
        key = {
            "backbone": backbone["sha256"],
            "model": backbone["name"],
            "timm": timm.__version__,
            "data": self.data.fingerprint,
            "split": split,
            "transform": self.config["data_config"],
        }
        if view is None:
            return Prepared(self.data.splits[split], evaluation_transform(self.config["data_config"])), key, split
        transform = training_transform(self.config["data_config"], self.args.augment, self.args.crop_scale)
        key |= {
            "view": view,
            "augment": self.args.augment,
            "crop_scale": self.args.crop_scale,
            "seed": self.args.data_seed,
        }
        return Prepared(self.data.splits[split], transform, self.args.data_seed, view), key, f"{split}, view {view}"

    def _fit_images(self, model: nn.Module) -> Fit:
        trainable = sum(p.numel() for p in trainable_parameters(model).values())
        print(
            f"{self.settings.label()}: {trainable:,} trainable parameters, {len(self.kept)} training images, "
            f"{len(self.held_out)} held out"
        )
        train = self._training_batches()
        evaluations = {"held_out": self._batches("train", self.held_out), "val": self._batches("val")}
        trained = timm_model(model)
        if self.first is not None:
            trained, train, evaluations = self._on_tokens(model, self.first, train)
            self._tell_passing()
        if self.recipe.balance == "sampling":
            chances = self.class_weights[self.data.splits["train"].labels[self.kept]]
            train = replace(train, chances=(chances / chances.sum()).numpy())
        found = fit(
            trained,
            train,
            evaluations,
            self.recipe,
            self.device,
            seed=self.args.seed,
            classes=len(self.data.class_names),
            weights=self._weights(),
            resume=self.args.out / RESUME,
            save_every=self.args.save_every,
            report=self._reporter(),
            keep=lambda history: write_csv(self.args.out / METRICS, history),
            progress=True,
            share=self.share,
        )
        # with frozen blocks, `fit` waited for their tokens too; with stored tokens, for these alone
        waiting = self.stepping.waiting if self.stepping.images else found.waiting
        return replace(found, **self._tell("training", replace(self.stepping, seconds=found.seconds, waiting=waiting)))

    def _tell_passing(self) -> dict[str, float]:
        """Tell how what is frozen was computed since this was last told."""
        done, self.passing = self.passing, Loading()
        return self._tell("the frozen part", done)

    def _tell(self, what: str, loading: Loading) -> dict[str, float]:
        """Say how fast the loaders of all processes can be, and warn where they are the limit; return what a Fit
        keeps."""
        rate, seconds, waiting = sum(self.share.exchange(loading.rate)), loading.seconds, loading.waiting
        if loading.images:
            print(
                f"the loader can give {rate:,.0f} images a second; {what} waited {waiting:.1f} of {seconds:.1f} s for it"
            )
        if waiting > seconds / 2 > SLOW:
            why = (
                f"images: the loader, not the model, is the limit; give --workers {max(2, 2 * self.workers)}"
                if loading.images
                else "stored tokens: the disk is the limit; give a --cache on a faster one"
            )
            commandline.warn(f"{what} waited {waiting / seconds:.0%} of its time for {why}")
        return {"seconds": seconds, "waiting": waiting, "images_per_second": rate}

    def _weights(self) -> torch.Tensor | None:
        return self.class_weights if self.recipe.balance == "weights" else None

    def _reporter(self) -> Callable[[dict], None]:
        """Return what is told of every epoch or penalty: a line, and TensorBoard, where steps count them from 1."""
        if not (self.args.tensorboard and self.share.first):
            return print_row
        from torch.utils.tensorboard import SummaryWriter  # only here: it takes seconds, and need not be installed

        writer, penalties = SummaryWriter(self.args.out / TENSORBOARD), count(1)

        def report(row: dict) -> None:
            print_row(row)
            step = row["epoch"] if "epoch" in row else next(penalties)
            for name in sorted(set(row) - {"epoch"}):
                shown = name.replace("_", "/", 1) if name.startswith(("train_", "val_")) else name
                writer.add_scalar(shown, row[name], step)
            writer.flush()

        return report

    def _block_to_keep(self, model: nn.Module) -> int | None:
        """Return the first block that will train, where what enters it may be kept, and announce how much that
        takes."""
        if self.args.cache is None:
            return None
        first = first_trained_block(adapt(copy.deepcopy(model), self.settings))
        mixed = bool(self.recipe.mixup or self.recipe.cutmix)
        if first is None or mixed:
            if (frozen := min(self.settings.blocks or (0,))) > 0:
                why = (
                    "images are mixed anew"
                    if mixed
                    else "with --drop-path, or of this model, what they give cannot be kept"
                )
                commandline.warn(f"blocks before {frozen} are frozen, but run in every step: {why}")
            return None
        images = len(self.data.splits["val"]) + len(self.data.splits["train"]) * (1 + self.args.augment_views)
        size = token_bytes(model, first, images) / 2**30
        if size > self.args.cache_limit:
            commandline.warn(
                f"what enters block {first} would take {size:.1f} GiB, beyond --cache-limit "
                f"{self.args.cache_limit:g}: blocks before it are run in every epoch"
            )
            return None
        how = (
            "run once"
            if self._repeats()
            else ("run once for images as they are, but each time for training images, which every epoch augments anew")
        )
        print(f"blocks before {first} are frozen and {how}: up to {size:.2f} GiB in {self.args.cache}")
        return first

    def _repeats(self) -> bool:
        """Tell whether epochs see the same training images again, so that their tokens can be kept."""
        return bool(self.args.augment_views) or self.args.augment == "none"

    def _on_tokens(self, model: nn.Module, first: int, train: Batches) -> tuple[nn.Module, Batches, dict[str, Batches]]:
        """Return the part that trains, and batches of what enters it; training images that are augmented anew in every
        epoch still go through the frozen part, without a gradient."""
        model.to(self.device)  # the frozen part too, which `fit` does not see
        plain_ones = {split: self._tokens(model, first, split) for split in ("train", "val")}
        self.tokens = plain_ones["train"]
        evaluations = {"held_out": plain_ones["train"].select(self.held_out), "val": plain_ones["val"]}
        batches = {name: stored_batches([one], EVALUATED) for name, one in evaluations.items()}
        if self._repeats():
            views = self._views(lambda *view: self._tokens(model, first, "train", *view))
            stored = stored_batches(
                [view.select(self.kept) for view in views], self.recipe.batch_size, self.args.seed, name=train.name
            )
            return Rest(model, first), stored, batches
        frozen, precision = Frozen(model, first), self.recipe.precision

        def make(batches: list[list[int]], epoch: int) -> Iterator[Batch]:
            for images, labels in train.make(batches, epoch):
                with torch.autocast(self.device.type, getattr(torch, precision, None), enabled=precision != "no"):
                    tokens = frozen(images.to(self.device))
                yield tokens, labels

        return Rest(model, first), replace(train, make=make), batches

    def _tokens(self, model: nn.Module, first: int, split: str, view: int | None = None) -> Features:
        dataset, key, name = self._seen(split, view)
        return cached_tokens(
            model, first, dataset, key, self.args.cache, self.device, self.workers, name, True, self.share, self.passing
        )

    def _training_batches(self) -> Batches:
        """Return training images as epochs see them: augmented anew in each, or one of the views after another."""
        chosen, views = self.data.splits["train"].select(self.kept), self.args.augment_views
        transform = training_transform(self.config["data_config"], self.args.augment, self.args.crop_scale)

        def make(batches: list[list[int]], epoch: int) -> Iterator[Batch]:
            if views:  # the very ones that a cache would hold
                dataset, *_ = self._seen("train", (epoch - 1) % views)
                return load(dataset, [self.kept[batch].tolist() for batch in batches], self.workers, self.stepping)
            return load(Prepared(chosen, transform, self.args.seed, epoch), batches, self.workers, self.stepping)

        return Batches(len(chosen), self.recipe.batch_size, make, self.args.seed, name=chosen.name)

    def _batches(self, split: str, indices: np.ndarray | None = None) -> Batches:
        """Return a split's images as they are, or some of them, to be evaluated."""
        chosen = self.data.splits[split] if indices is None else self.data.splits[split].select(indices)
        prepared = Prepared(chosen, evaluation_transform(self.config["data_config"]))
        return Batches(len(chosen), EVALUATED, lambda batches, _: load(prepared, batches, self.workers))

    def write(self, model: nn.Module, trained: Fit) -> None:
        """Write the run, by the first process; the summary, which marks it as finished, comes last."""
        out, predictions = self.args.out, self._predict(model)
        if not self.share.first:
            return
        save_trained(out, model, self.settings)
        write_csv(out / METRICS, trained.history)
        write_csv(out / "predictions.csv", self._prediction_rows(predictions))
        title = f"{self.settings.label()} on {self.data.name}, {self.args.model}"
        training_curves(out / "curves.png", trained.history, trained.chosen, title)
        val = predictions["val"]
        confusion_matrix(
            out / "confusion.png", val.labels, val.predicted, self.data.class_names, f"{title}: validation"
        )
        summary = summarise(predictions, trained, model, self.data.class_names)
        write_json(out / SUMMARY, summary)
        print(f"{out}: " + ", ".join(f"{name} {percent(s['accuracy'])}" for name, s in summary["accuracy"].items()))

    def _predict(self, model: nn.Module) -> dict[str, Predictions]:
        """Predict everything, unaugmented and merged, but `test`, which only a sweep's last step may touch.

        What is stored of the training images is used again; other splits are predicted from their pixels.
        """
        names = [name for name in self.data.splits if name not in ("train", "test")]
        parts = {"train": self.kept, "held_out": self.held_out}
        if self.settings.method == "linear":
            merged = trained = heads_of(model)[0]
            stored = {name: self._features(model, "train").select(part) for name, part in parts.items()}
            stored |= {name: self._features(model, name) for name in names}
            batches = {name: feature_batches(one.inputs, one.labels, 1024) for name, one in stored.items()}
        else:
            merged = trained = plain(model).to(self.device)
            batches = {name: self._batches("train", part) for name, part in parts.items()}
            batches |= {name: self._batches(name) for name in names}
            if self.tokens is not None:
                trained = Rest(merged, self.first)
                batches |= {name: stored_batches([self.tokens.select(part)], EVALUATED) for name, part in parts.items()}
        return {
            name: predict(trained if name in parts else merged, one, self.device, share=self.share)
            for name, one in batches.items()
        }

    def _prediction_rows(self, predictions: dict[str, Predictions]) -> list[dict]:
        subsets = {"train": self.kept, "held_out": self.held_out}
        rows = []
        for name, p in predictions.items():
            split = self.data.splits["train" if name in subsets else name]
            indices = subsets.get(name, range(len(split)))
            rows += [
                {
                    "split": name,
                    "image": split.name(int(i)),
                    "label": self.data.class_names[y],
                    "predicted": self.data.class_names[g],
                    "probability": q,
                    "correct": int(y == g),
                }
                for i, y, g, q in zip(indices, p.labels, p.predicted, p.probability)
            ]
        return rows


def _inverse_sizes(labels: np.ndarray, classes: int) -> torch.Tensor:
    """A weight for each class (C,), by the inverse of its number of images, 1 on average over images."""
    sizes = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.tensor(len(labels) / (classes * sizes), dtype=torch.float32)


def summarise(predictions: dict[str, Predictions], trained: Fit, model: nn.Module, class_names: Sequence[str]) -> dict:
    """Return what is known of each split (see report.classification), the chosen epoch or penalty and parameter
    counts."""
    row = trained.history[trained.chosen - 1]
    return {
        "accuracy": {
            name: classification_summary(p.labels, p.predicted, p.confidence, p.rank, class_names)
            | {"loss": float(p.loss.mean())}
            for name, p in predictions.items()
        },
        "chosen": {key: row[key] for key in ("epoch", "penalty") if key in row},
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(model).values()),
        "parameters": sum(p.numel() for p in plain(model).parameters()),
    }


def print_row(row: dict) -> None:
    """Print one epoch, or one penalty of a probe."""
    what = f"epoch {row['epoch']:3d}" if "epoch" in row else f"penalty {row['penalty']:7.2g}"
    print(
        f"{what}  train {row['train_loss']:.3f} {percent(row['train_accuracy'])}  held out {row['held_out_loss']:.3f} "
        f"{percent(row['held_out_accuracy'])}  val {row['val_loss']:.3f} {percent(row['val_accuracy'])}",
        flush=True,
    )
