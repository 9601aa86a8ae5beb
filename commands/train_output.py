"""What train.py writes and prints: metrics, predictions, summary, figures, TensorBoard."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from commands.train_options import TrainOptions
from commands.training_images import RunImages
from common.tables import percent, write_csv, write_json
from evaluation.predictions import prediction_row
from evaluation.statistics.classification import classification_summary
from models.adapters import plain, trainable_parameters
from models.runs import SUMMARY, save_trained
from models.training.fit_result import FitResult
from models.training.prediction import Predictions
from models.types import TimmModel
from report.figures.confusion_matrix import confusion_matrix
from report.figures.training_curves import training_curves

METRICS, PREDICTIONS, TENSORBOARD = "metrics.csv", "predictions.csv", "tensorboard"


def write_run(
    options: TrainOptions,
    images: RunImages,
    model: TimmModel,
    fitted: FitResult,
    predictions: dict[str, Predictions],
) -> None:
    """Write a trained run; the summary, which marks it as finished, comes last.

    options: what was asked for.
    images: the images that it was trained on.
    model: as it was trained, adapters in place.
    fitted: its history.
    predictions: of the two parts of the training images and of the evaluated splits.
    """
    out, class_names = options.out, images.data.class_names
    save_trained(out, model, options.settings)
    write_csv(out / METRICS, fitted.history)
    write_csv(out / PREDICTIONS, _prediction_rows(images, predictions))
    title = f"{options.settings.label()} on {images.data.name}, {options.backbone.name}"
    training_curves(out / "curves.png", fitted.history, fitted.chosen, title)
    val = predictions["val"]
    confusion_matrix(out / "confusion.png", val.labels, val.predicted, class_names, f"{title}: validation")
    summary = summarise(predictions, fitted, model, class_names)
    write_json(out / SUMMARY, summary)
    print(f"{out}: " + ", ".join(f"{name} {percent(s['accuracy'])}" for name, s in summary["accuracy"].items()))


def summarise(
    predictions: dict[str, Predictions], fitted: FitResult, model: TimmModel, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the content of summary.json: each split's classification (see `classification_summary`) and loss, the
    chosen epoch or penalty, and the numbers of parameters."""
    return {
        "accuracy": {
            name: classification_summary(p.labels, p.predicted, p.confidence, p.rank, class_names)
            | {"loss": float(p.loss.mean())}
            for name, p in predictions.items()
        },
        "chosen": {key: fitted.chosen_row[key] for key in ("epoch", "penalty") if key in fitted.chosen_row},
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(model).values()),
        "parameters": sum(p.numel() for p in plain(model).parameters()),
    }


def _prediction_rows(images: RunImages, predictions: dict[str, Predictions]) -> Iterator[dict[str, Any]]:
    parts = {"train": images.fitted, "held_out": images.held_out}
    names = images.data.class_names
    for name, p in predictions.items():
        split = images.data.splits["train" if name in parts else name]
        indices = parts.get(name, range(len(split)))
        for i, label, predicted, probability in zip(indices, p.labels, p.predicted, p.probability):
            yield prediction_row(name, split.name(int(i)), names, label, predicted, probability)


def reporter(folder: Path | None) -> Callable[[dict], None]:
    """Return what reports the row of an epoch or a penalty: prints it, and writes it for TensorBoard.

    folder: of TensorBoard's files, whose steps count epochs or penalties from 1; None writes none.
    """
    if folder is None:
        return print_row
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, and need not be installed

    writer, penalties = SummaryWriter(folder), count(1)

    def report(row: dict) -> None:
        print_row(row)
        step = row["epoch"] if "epoch" in row else next(penalties)
        for name in sorted(set(row) - {"epoch"}):
            shown = name.replace("_", "/", 1) if name.startswith(("train_", "val_")) else name
            writer.add_scalar(shown, row[name], step)
        writer.flush()

    return report


def print_row(row: dict) -> None:
    """Print the row of one epoch, or of one penalty of a probe."""
    what = f"epoch {row['epoch']:3d}" if "epoch" in row else f"penalty {row['penalty']:7.2g}"
    print(
        f"{what}  train {row['train_loss']:.3f} {percent(row['train_accuracy'])}  held out {row['held_out_loss']:.3f} "
        f"{percent(row['held_out_accuracy'])}  val {row['val_loss']:.3f} {percent(row['val_accuracy'])}",
        flush=True,
    )
