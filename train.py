"""Adapt a pretrained vision transformer to a folder of images, or to drawn scenes."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import commandline
from data.datasets import ImageData, stratified
from data.transforms import AUGMENTATIONS, Prepared, evaluation_transform, training_transform
from errors import ExplainedError, UsageError
from explain import UnsupportedModel, check_explainable
from models.adapt import METHODS, Settings, adapt, check_settings, parse_settings, plain, timm_model, trainable_parameters
from models.backbone import content_hash, create_backbone, model_data_config
from models.features import Features, Frozen, Rest, cached_features, cached_tokens, first_trained_block, token_bytes
from models.fit import Batch, Batches, Fit, Predictions, Recipe, feature_batches, fit, predict, stored_batches
from models.probe import ProbeRecipe, fit_probe
from models.runs import (ADAPTER, BACKBONE, CONFIG, HEAD, RESUME, SUMMARY, export, make_config, load_run, save_trained,
                         state_of)
from report.classification import classification_summary
from report.confusion_matrix import confusion_matrix
from report.figures import training_curves
from report.tables import percent, write_csv, write_json

HELD_OUT_SHARE = 0.1
SEEDS = 2**32
BY_EPOCHS = ("epochs", "batch_size", "learning_rate", "weight_decay", "layer_decay", "clip")
RECIPES: dict[str, Recipe | ProbeRecipe] = {
    "linear": ProbeRecipe(),
    "dora": Recipe(epochs=3, learning_rate=1e-3),
    "lora": Recipe(epochs=3, learning_rate=1e-3),
    "full": Recipe(epochs=3, learning_rate=3e-4),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of train.py."""
    parser = commandline.parser(__doc__, "python train.py --data scenes --method dora --epochs 1 --out results/dora")
    commandline.add_data(parser)
    commandline.add_model(parser)
    group = parser.add_argument_group("training")
    group.add_argument("--method", default="linear", metavar="M",
                       help="; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
                            + "; adapters take settings: dora:blocks=9-11,targets=fc1,rank=4,alpha=8")
    group.add_argument("--epochs", type=commandline.positive, metavar="N",
                       help="of all methods but linear (default: 3)")
    group.add_argument("--batch-size", type=commandline.positive, metavar="N", help="of all methods but linear (default: 32)")
    group.add_argument("--learning-rate", type=float, metavar="X",
                       help="default: 1e-3 dora and lora, 3e-4 full")
    group.add_argument("--weight-decay", type=float, metavar="X", help="of matrices (default: 0.05)")
    group.add_argument("--layer-decay", type=commandline.positive_number, metavar="X",
                       help="the learning rate's factor from each layer to the one before it, for full fine-tuning say "
                            "0.75 (default: 1)")
    group.add_argument("--clip", type=commandline.positive_number, metavar="X",
                       help="largest norm of all gradients together (default: any)")
    group.add_argument("--label-smoothing", type=commandline.share_below_one, default=0.1, metavar="X",
                       help="keep it the same for runs whose probabilities are compared")
    group.add_argument("--augment", choices=AUGMENTATIONS, default="crop",
                       help="training images; linear sees them as they are, unless --augment-views says otherwise")
    group.add_argument("--augment-views", type=commandline.natural, default=0, metavar="N",
                       help="compute N augmented views of every training image once and take them in turn, for what is "
                            "frozen: linear, and adapters in late blocks (default: 0, linear sees images as they are, "
                            "all others a new view every epoch)")
    group.add_argument("--crop-scale", type=float, default=0.5, metavar="X", help="smallest area share of a random crop")
    group.add_argument("--head-init", choices=("probe", "random"), default="probe",
                       help="where the head starts: at a linear probe (Kumar et al., ICLR 2022) or at random")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="initialisation, order and augmentation")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    group.add_argument("--overwrite", action="store_true", help="replace a run of another configuration in --out")
    group.add_argument("--export", type=Path, metavar="FILE",
                       help="also write the merged model, for plain timm, compare.py and visualize.py")
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check what was asked for, then the data, then train."""
    parse_settings(args.method)
    _check_options(args)
    commandline.check_writable(args.cache, "--cache")
    commandline.check_writable(args.export and args.export.parent, "--export")
    train(args, commandline.data_of(args))


def train(args: argparse.Namespace, data: ImageData) -> None:
    """Model, weights, loop, save: the run's story. Reuses a finished run, continues an interrupted one."""
    started = time.perf_counter()
    settings, recipe, device = parse_settings(args.method), recipe_of(args), commandline.device_of(args.device)
    torch.manual_seed(args.seed)  # the fresh head, the adapter's first matrix
    model = create_backbone(commandline.backbone_of(args), len(data.class_names))
    check_settings(model, settings)
    warn_if_unexplainable(model)
    config = config_of(args, settings, recipe, model, data)
    state = prepare_folder(args.out, config, args.overwrite)
    if state == "finished":
        print(f"{args.out} holds this very run, finished: reused")
        _export(args)
        return
    training = Training(args, settings, recipe, data, config, device)
    with _timed(args.out, device, started):
        trained, history = training.train(model)
        training.write(trained, history)
    (args.out / RESUME).unlink(missing_ok=True)
    _export(args)


@dataclass
class Training:
    """One run while it trains: what was asked for, the data, and where results go."""

    args: argparse.Namespace
    settings: Settings
    recipe: Recipe
    data: ImageData
    config: dict
    device: torch.device

    def __post_init__(self) -> None:
        labels = self.data.splits["train"].labels
        self.held_out = stratified(labels, max(1, round(HELD_OUT_SHARE * len(labels))), self.args.data_seed)
        self.kept = np.setdiff1d(np.arange(len(labels)), self.held_out)
        self.workers = commandline.workers_of(self.args, self.device)
        self.features: dict[tuple, Features] = {}

    def train(self, model: nn.Module) -> tuple[nn.Module, Fit]:
        """Return the trained model, holding its chosen epoch, and the history."""
        if self.settings.method == "linear":
            return model, self._fit_probe(model, self.recipe, say=print_row)
        if self.args.head_init == "probe" and not (self.args.out / RESUME).is_file():
            best = self._fit_probe(model, ProbeRecipe(label_smoothing=self.recipe.label_smoothing))
            row = best.history[best.chosen - 1]
            print(f"the head starts from a linear probe: {percent(row['val_accuracy'])} on val")
        torch.manual_seed(self.args.seed)  # the adapter's first matrix, wherever the head came from
        model = adapt(model, self.settings)
        return model, self._fit_images(model)

    def _fit_probe(self, model: nn.Module, recipe: ProbeRecipe, say=lambda row: None) -> Fit:
        """Fit the classifier to cached features; only `train` and `val` are needed."""
        found = self._views(lambda *view: self._features(model, "train", *view))
        evaluations = {"held_out": self._features(model, "train").select(self.held_out), "val": self._features(model, "val")}
        adapt(model, Settings("linear"))
        views = [one.select(self.kept) for one in found]
        inputs, labels = (torch.cat([getattr(view, name) for view in views]) for name in ("inputs", "labels"))
        batches = {name: feature_batches(one.inputs, one.labels, 1024) for name, one in evaluations.items()}
        return fit_probe(model.get_classifier(), inputs, labels, batches, recipe, self.device, report=say)

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
        return cached_features(model, dataset, key, self.args.cache, self.device, self.workers, name, progress=True)

    def _seen(self, split: str, view: int | None) -> tuple[Prepared, dict, str]:
        """Return a split as it is or in one augmented view, the key of what is computed from it, and its name.

        Views depend on --data-seed alone, so that runs of all seeds share them.
        """
        key = {"backbone": self.config["backbone"]["sha256"], "data": self.data.fingerprint, "split": split,
               "transform": self.config["data_config"]}
        if view is None:
            return Prepared(self.data.splits[split], evaluation_transform(self.config["data_config"])), key, split
        transform = training_transform(self.config["data_config"], self.args.augment, self.args.crop_scale)
        key |= {"view": view, "augment": self.args.augment, "crop_scale": self.args.crop_scale, "seed": self.args.data_seed}
        return Prepared(self.data.splits[split], transform, self.args.data_seed, view), key, f"{split}, view {view}"

    def _fit_images(self, model: nn.Module) -> Fit:
        trainable = sum(p.numel() for p in trainable_parameters(model).values())
        print(f"{self.settings.label()}: {trainable:,} trainable parameters, {len(self.kept)} training images, "
              f"{len(self.held_out)} held out")
        train = self._batches("train", self.kept, self.args.augment, self.recipe.batch_size, self.args.seed)
        evaluations = {"held_out": self._batches("train", self.held_out), "val": self._batches("val")}
        trained, first = timm_model(model), first_trained_block(model)
        if first is not None and self._may_keep(model, first):
            trained, train, evaluations = self._on_tokens(model, first, train)
        return fit(trained, train, evaluations, self.recipe, self.device, seed=self.args.seed,
                   resume=self.args.out / RESUME, report=print_row, progress=True)

    def _may_keep(self, model: nn.Module, first: int) -> bool:
        """Announce how much the tokens before the first adapted block take; tell whether they may be kept."""
        if self.args.cache is None:
            return False
        images = len(self.data.splits["val"]) + len(self.data.splits["train"]) * (1 + self.args.augment_views)
        size = token_bytes(model, first, images) / 2**30
        if size > self.args.cache_limit:
            commandline.warn(f"what enters block {first} would take {size:.1f} GiB, beyond --cache-limit "
                             f"{self.args.cache_limit:g}: blocks before it are run in every epoch")
            return False
        print(f"blocks before {first} are frozen and run once: up to {size:.2f} GiB in {self.args.cache}")
        return True

    def _on_tokens(self, model: nn.Module, first: int, train: Batches) -> tuple[nn.Module, Batches, dict[str, Batches]]:
        """Return the part that trains, and batches of what enters it; training images that are augmented anew in every
        epoch still go through the frozen part, without a gradient."""
        model.to(self.device)  # the frozen part too, which `fit` does not see
        plain_ones = {split: self._tokens(model, first, split) for split in ("train", "val")}
        evaluations = {"held_out": plain_ones["train"].select(self.held_out), "val": plain_ones["val"]}
        batches = {name: stored_batches([one], 64) for name, one in evaluations.items()}
        if self.args.augment_views or self.args.augment == "none":
            views = self._views(lambda *view: self._tokens(model, first, "train", *view))
            stored = stored_batches([view.select(self.kept) for view in views], self.recipe.batch_size, self.args.seed)
            return Rest(model, first), stored, batches
        frozen = Frozen(model, first)

        def make(order: list[int], epoch: int) -> Iterator[Batch]:
            return ((frozen(images.to(self.device)), labels) for images, labels in train.make(order, epoch))

        return Rest(model, first), replace(train, make=make), batches

    def _tokens(self, model: nn.Module, first: int, split: str, view: int | None = None) -> Features:
        dataset, key, name = self._seen(split, view)
        return cached_tokens(model, first, dataset, key, self.args.cache, self.device, self.workers, name, progress=True)

    def _batches(self, split: str, indices=None, augment="none", batch_size=64, seed: int | None = None) -> Batches:
        chosen = self.data.splits[split] if indices is None else self.data.splits[split].select(indices)
        transform = training_transform(self.config["data_config"], augment, self.args.crop_scale)

        def make(order: list[int], epoch: int) -> DataLoader:
            dataset = Prepared(chosen, transform, self.args.seed, epoch)
            return DataLoader(dataset, batch_size, sampler=order, num_workers=self.workers)

        return Batches(len(chosen), batch_size, make, seed)

    def write(self, model: nn.Module, trained: Fit) -> None:
        """Write the run; the summary, which marks it as finished, comes last."""
        out = self.args.out
        save_trained(out, model, self.settings)
        predictions = self._predict(model)
        write_csv(out / "metrics.csv", trained.history)
        write_csv(out / "predictions.csv", self._prediction_rows(predictions))
        title = f"{self.settings.label()} on {self.data.name}, {self.args.model}"
        training_curves(out / "curves.png", trained.history, trained.chosen, title)
        val = predictions["val"]
        confusion_matrix(out / "confusion.png", val.labels, val.predicted, self.data.class_names, f"{title}: validation")
        summary = summarise(predictions, trained, model, self.data.class_names)
        write_json(out / SUMMARY, summary)
        print(f"{out}: " + ", ".join(f"{name} {percent(s['accuracy'])}" for name, s in summary["accuracy"].items()))

    def _predict(self, model: nn.Module) -> dict[str, Predictions]:
        """Predict everything, unaugmented and merged, but `test`, which only a sweep's last step may touch."""
        names = [name for name in self.data.splits if name not in ("train", "test")]
        if self.settings.method == "linear":  # the features are there already
            features = {name: self._features(model, name) for name in ("train", *names)}
            parts = {"train": features["train"].select(self.kept), "held_out": features["train"].select(self.held_out)}
            parts |= {name: features[name] for name in names}
            batches = {name: feature_batches(f.inputs, f.labels, 1024) for name, f in parts.items()}
            merged = model.get_classifier()
        else:
            batches = {"train": self._batches("train", self.kept), "held_out": self._batches("train", self.held_out)}
            batches |= {name: self._batches(name) for name in names}
            merged = plain(model)
        return {name: predict(merged, b.epoch(0), self.device) for name, b in batches.items()}

    def _prediction_rows(self, predictions: dict[str, Predictions]) -> list[dict]:
        subsets = {"train": self.kept, "held_out": self.held_out}
        rows = []
        for name, p in predictions.items():
            split = self.data.splits["train" if name in subsets else name]
            indices = subsets.get(name, range(len(split)))
            rows += [
                {"split": name, "image": split.name(int(i)), "label": self.data.class_names[y],
                 "predicted": self.data.class_names[g], "probability": q, "correct": int(y == g)}
                for i, y, g, q in zip(indices, p.labels, p.predicted, p.probability)
            ]
        return rows


def recipe_of(args: argparse.Namespace) -> Recipe | ProbeRecipe:
    """Return the method's default recipe with what the command line changes."""
    recipe = RECIPES[parse_settings(args.method).method]
    given = {key: getattr(args, key) for key in (*BY_EPOCHS, "label_smoothing") if getattr(args, key) is not None}
    return replace(recipe, **given)


def config_of(args: argparse.Namespace, settings: Settings, recipe: Recipe, model: nn.Module, data: ImageData) -> dict:
    """Return the run's configuration: all that its result depends on."""
    training = asdict(recipe)
    if settings.method != "linear":
        training |= {"head_init": args.head_init}
    if settings.method != "linear" or args.augment_views:
        training |= {"augment": args.augment, "crop_scale": args.crop_scale, "augment_views": args.augment_views}
    source = {"spec": args.data, "fingerprint": data.fingerprint, **commandline.data_options(args)}
    return make_config(settings, commandline.backbone_of(args), content_hash(model), model_data_config(model), data.class_names, source, training,
                       args.seed)


def prepare_folder(out: Path, config: dict, overwrite: bool) -> str:
    """Make the run's folder ready and return its state: "new", "finished" or "interrupted"."""
    try:
        state = state_of(out, config)
    except ExplainedError:
        if not overwrite:
            raise
        state = "replaced"
    commandline.check_writable(out)
    if state == "replaced":
        for name in (SUMMARY, CONFIG, RESUME, HEAD, BACKBONE):  # the mark of a finished run goes first
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / ADAPTER, ignore_errors=True)
        state = "new"
    if state == "new":
        (out / RESUME).unlink(missing_ok=True)
        write_json(out / CONFIG, config)
    return state


def warn_if_unexplainable(model: nn.Module) -> None:
    """Say at the start that a model trains but cannot be explained."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        commandline.warn(f"this model trains, but relevance cannot follow it: {error}")


def summarise(predictions: dict[str, Predictions], trained: Fit, model: nn.Module, class_names: Sequence[str]) -> dict:
    """Return what is known of each split (see report.classification), the chosen epoch or penalty and parameter counts."""
    row = trained.history[trained.chosen - 1]
    return {
        "accuracy": {name: classification_summary(p.labels, p.predicted, p.confidence, p.rank, class_names)
                     | {"loss": float(p.loss.mean())} for name, p in predictions.items()},
        "chosen": {key: row[key] for key in ("epoch", "penalty") if key in row},
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(model).values()),
        "parameters": sum(p.numel() for p in plain(model).parameters()),
    }


def print_row(row: dict) -> None:
    """Print one epoch, or one penalty of a probe."""
    what = f"epoch {row['epoch']:3d}" if "epoch" in row else f"penalty {row['penalty']:7.2g}"
    print(f"{what}  train {row['train_loss']:.3f} {percent(row['train_accuracy'])}  held out {row['held_out_loss']:.3f} "
          f"{percent(row['held_out_accuracy'])}  val {row['val_loss']:.3f} {percent(row['val_accuracy'])}", flush=True)


def _check_options(args: argparse.Namespace) -> None:
    if not 0 < args.crop_scale <= 1:
        raise UsageError(f"--crop-scale {args.crop_scale} is no share of the area; give more than 0, up to 1")
    if args.learning_rate is not None and not 0 < args.learning_rate < np.inf:
        raise UsageError(f"--learning-rate {args.learning_rate} is not positive and finite; give, say, 1e-3")
    if args.weight_decay is not None and not 0 <= args.weight_decay < np.inf:
        raise UsageError(f"--weight-decay {args.weight_decay} is out of range; give 0 or more")
    if not 0 <= args.seed < SEEDS:
        raise UsageError(f"--seed {args.seed} is out of range; give 0 to {SEEDS - 1}")
    given = [key for key in BY_EPOCHS if getattr(args, key) is not None]
    if given and parse_settings(args.method).method == "linear":
        raise UsageError(f"--{given[0].replace('_', '-')} belongs to methods that train by epochs; a linear probe is solved, its "
                         f"penalty chosen on images held out of training: drop it, or give another --method")


def _export(args: argparse.Namespace) -> None:
    if args.export is not None:
        export(load_run(args.out, args.weights), args.export)
        print(f"{args.export}: the merged model, for timm.create_model(..., num_classes=..., checkpoint_path=...)")


class _timed:
    """Clock times stand in a file of their own, so that all others are the same bytes for the same command."""

    def __init__(self, out: Path, device: torch.device, started: float) -> None:
        self.out, self.device, self.started = out, device, started

    def __enter__(self) -> None:
        self.prepared = time.perf_counter()

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            now = time.perf_counter()
            write_json(self.out / "timings.json", {
                "preparing_seconds": round(self.prepared - self.started, 2),
                "training_seconds": round(now - self.prepared, 2),
                "device": str(self.device), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
