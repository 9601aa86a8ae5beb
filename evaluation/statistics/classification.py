"""How well the images of a split were classified: accuracies with intervals, calibration, most frequent confusions.

Letters: N images, C classes. Accuracies are fractions from 0 to 1, and intervals are of 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from evaluation.statistics.accuracy import wilson

CALIBRATION_BINS = 15
MOST_CONFUSIONS = 20


def classification_summary(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, rank: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Describe the predictions of a split as plain values for JSON.

    labels, predicted: (N,) integers, true and predicted class, 0 to C - 1.
    confidence: (N,) probability of the predicted class.
    rank: (N,) integers, how many classes are more probable than the true one.
    class_names: C names.
    Returns these keys:
        images, accuracy, low, high: with Wilson's interval.
        macro_accuracy: see `macro_accuracy`.
        top5: k (5, or C where there are fewer classes), accuracy, low, high: with Wilson's interval.
        expected_calibration_error: see there.
        calibration_bins: its number of bins of equal width.
        per_class: name -> images, accuracy, low, high (Wilson), of classes with images, in the order of `class_names`.
        confusions: true, predicted, images: see `confusions`.
    Raises ValueError without images, when shapes differ, or when a value is out of its range.
    """
    labels, predicted, rank = (np.asarray(values) for values in (labels, predicted, rank))
    confidence = np.asarray(confidence, dtype=np.float64)
    _check(labels, predicted, confidence, rank, len(class_names))
    best = min(5, len(class_names))
    correct, images = class_counts(labels, predicted, len(class_names))
    classes = zip(class_names, correct, images)
    return {
        "images": len(labels),
        **_accuracy(correct.sum(), len(labels)),
        "macro_accuracy": macro_accuracy(correct, images),
        "top5": {"k": best, **_accuracy((rank < best).sum(), len(labels))},
        "expected_calibration_error": expected_calibration_error(labels == predicted, confidence),
        "calibration_bins": CALIBRATION_BINS,
        "per_class": {name: {"images": int(n), **_accuracy(k, n)} for name, k, n in classes if n},
        "confusions": confusions(labels, predicted, class_names),
    }


def class_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Count, for each class, its images that are predicted correctly, and all its images: (C,) each."""
    right = labels[labels == predicted]
    return np.bincount(right, minlength=classes), np.bincount(labels, minlength=classes)


def macro_accuracy(correct: np.ndarray, images: np.ndarray, confidence: float = 0.95) -> dict[str, Any]:
    """Average the accuracies of all classes, whatever their numbers of images; classes without images are left out.

    The interval is Wilson's at the effective number of images, that of a simple random sample whose mean would be as
    uncertain. That number is mean (1 - mean) / variance of the mean. In the variance each class's accuracy is shrunk
    towards the mean by one image, as 1 of 1 does not prove 100 %. The number is at most that of equally hard classes;
    with as many images in every class it is at most N, so that the interval contains Wilson's.

    Why not Wilson's intervals of the classes combined by square-and-add (MOVER, Zou, Huang and Zhang 2009): with few
    images in each of many classes all their intervals are biased to the middle, and the bias adds up. For 100 classes
    of 5 images at 95 % the combination covered the truth in 83 of 100 simulations, this interval in 95.

    correct, images: (C,) counts.
    confidence: of the interval.
    Raises ValueError without images.
    Source: Kish 1965, Survey Sampling; with Wilson's interval, Franco et al. 2019 (J. Survey Statistics and
        Methodology 7).
    """
    n = images[images > 0].astype(np.float64)
    if not len(n):
        raise ValueError("macro_accuracy: expected at least one image, got none")
    k = correct[images > 0]
    mean = float((k / n).mean())
    drawn = (k + mean) / (n + 1)
    equally_hard = len(n) ** 2 / (1 / n).sum()
    variance = (drawn * (1 - drawn) / n).sum() / len(n) ** 2
    effective = min(equally_hard, mean * (1 - mean) / variance) if 0 < mean < 1 else equally_hard
    low, high = _wilson_of_share(mean, effective, confidence)
    return {
        "accuracy": mean,
        "low": low,
        "high": high,
        "classes": len(n),
        "effective_images": float(effective),
        "interval": "Wilson's at the effective number of images (Kish 1965; Franco et al. 2019)",
    }


def expected_calibration_error(correct: np.ndarray, confidence: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Average |accuracy - confidence| over bins of confidence, weighted by their images; 0 is calibrated.

    With few images it is too large by chance alone.

    correct: (N,) booleans.
    confidence: (N,) probability of the predicted class.
    bins: of equal width; each contains its upper end, and the first contains 0 too.
    Source: Guo et al., ICML 2017, equation 3.
    """
    ends = np.arange(bins + 1) / bins
    index = np.clip(np.searchsorted(ends, confidence, side="left") - 1, 0, bins - 1)
    # In a bin, images x |accuracy - confidence| is the magnitude of a sum.
    return float(np.abs(np.bincount(index, weights=correct - confidence, minlength=bins)).sum() / len(confidence))


def confusions(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], most: int = MOST_CONFUSIONS
) -> list[dict[str, Any]]:
    """Return the most frequent pairs of a true and a wrongly predicted class, with their number of images.

    labels, predicted: (N,) integers.
    class_names: C names.
    most: how many pairs; equally frequent ones stand in the order of their names.
    """
    wrong = labels != predicted
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    rows = [
        {"true": class_names[true], "predicted": class_names[other], "images": int(count)}
        for true, other, count in zip(*pairs, counts)
    ]
    return sorted(rows, key=lambda row: (-row["images"], row["true"], row["predicted"]))[:most]


def accuracy_of(correct: Sequence[bool]) -> dict[str, float]:
    """Return images, accuracy, and the ends `low` and `high` of its 95 % interval (Wilson).

    correct: which images are predicted correctly.
    """
    return {"images": len(correct), **_accuracy(sum(correct), len(correct))}


def _accuracy(correct: int, images: int) -> dict[str, float]:
    low, high = wilson(int(correct), int(images))
    return {"accuracy": float(correct / images), "low": low, "high": high}


def _wilson_of_share(share: float, images: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval for a number of images that is not an integer; `wilson` is for counts."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    centre = share + z**2 / (2 * images)
    half = z * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    low, high = (centre - half) / (1 + z**2 / images), (centre + half) / (1 + z**2 / images)
    return float(max(0.0, low)), float(min(1.0, high))


def _check(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, rank: np.ndarray, classes: int) -> None:
    check_classes("classification_summary", labels, predicted, classes)
    if not labels.shape == confidence.shape == rank.shape:
        raise ValueError(
            f"classification_summary: expected one value per image, got {len(labels)} labels, confidence "
            f"of shape {confidence.shape} and rank of shape {rank.shape}"
        )
    if not ((0 <= rank) & (rank < classes)).all():
        raise ValueError(f"classification_summary: expected ranks from 0 to {classes - 1}, got others")
    if not ((0 <= confidence) & (confidence <= 1 + 1e-5)).all():  # a softmax in single precision may exceed 1 by a bit
        raise ValueError("classification_summary: expected confidence from 0 to 1, got other values")


def check_classes(name: str, labels: np.ndarray, predicted: np.ndarray, classes: int) -> None:
    """Raise ValueError, naming the function that was called, unless both are `(N,)` classes of at least one image."""
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"{name}: expected labels and predicted classes of the same images, (N,) each and at least "
            f"one, got shapes {labels.shape} and {predicted.shape}"
        )
    for values in (labels, predicted):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"{name}: expected whole numbers from 0 to {classes - 1} for classes, got {values.dtype} "
                f"from {values.min()} to {values.max()}"
            )
