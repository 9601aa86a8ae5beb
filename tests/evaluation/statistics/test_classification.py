"""evaluation.statistics.classification against slow formulas, known answers and simulated truth."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.tables import plain
from evaluation.statistics.accuracy import wilson
from evaluation.statistics.classification import (
    CALIBRATION_BINS,
    class_counts,
    classification_summary,
    confusions,
    expected_calibration_error,
    macro_accuracy,
)

NAMES = ["archery", "golf", "polo", "judo", "luge", "surfing", "rowing"]


def predictions(labels, predicted, confidence=None, rank=None) -> tuple[np.ndarray, ...]:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    confidence = np.full(len(labels), 0.5) if confidence is None else np.asarray(confidence)
    return labels, predicted, confidence, (labels != predicted).astype(int) if rank is None else np.asarray(rank)


def slow_calibration_error(correct: list[bool], confidence: list[float], bins: int) -> float:
    """Guo et al. 2017, equation 3 as it stands: bins ((m - 1) / M, m / M]."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(correct) * abs(accuracy - mean)
    return error


# The summary


def test_the_summary_of_six_images_by_hand():
    """archery 3 of 4, golf 0 of 1, luge 1 of 1; the other four classes have no image."""
    labels, predicted = [0, 0, 0, 0, 1, 4], [0, 0, 0, 1, 3, 4]
    found = classification_summary(*predictions(labels, predicted, rank=[0, 0, 0, 1, 5, 0]), NAMES)
    low, high = wilson(4, 6)
    assert [found[key] for key in ("images", "accuracy", "low", "high")] == [6, 4 / 6, low, high]
    assert found["macro_accuracy"]["accuracy"] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert found["macro_accuracy"]["classes"] == 3
    top5 = found["top5"]
    assert (top5["k"], top5["accuracy"], top5["low"], top5["high"]) == (5, 5 / 6, *wilson(5, 6))
    assert list(found["per_class"]) == ["archery", "golf", "luge"]
    assert found["per_class"]["archery"] == dict(zip(("images", "accuracy", "low", "high"), (4, 0.75, *wilson(3, 4))))
    assert found["confusions"] == [
        {"true": "archery", "predicted": "golf", "images": 1},
        {"true": "golf", "predicted": "judo", "images": 1},
    ]
    assert found["calibration_bins"] == CALIBRATION_BINS == 15


def test_the_summary_is_plain_values_as_json_writes_them():
    found = classification_summary(*predictions([0, 1, 1], [0, 1, 0], np.float32([0.5, 1.0000001, 0.25])), NAMES)
    assert json.loads(json.dumps(found)) == plain(found) == found


@pytest.mark.parametrize("classes, k", [(2, 2), (5, 5), (7, 5)])
def test_top_five_is_top_all_where_there_are_fewer_classes(classes, k):
    found = classification_summary(*predictions([0, 1], [0, 0], rank=[0, 1]), NAMES[:classes])
    assert found["top5"]["k"] == k and found["top5"]["accuracy"] == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"predicted": [0, 1]}, r"got shapes \(3,\) and \(2,\)"),
        ({"labels": [], "predicted": []}, "at least one"),
        ({"labels": [0, 1, 7]}, "from 0 to 6 for classes, got int64 from 0 to 7"),
        ({"predicted": [0, 1, -1]}, "from 0 to 6"),
        ({"labels": [0.0, 1.0, 0.0]}, "whole numbers"),
        ({"confidence": [0.1, 0.2]}, "one value per image"),
        ({"confidence": [0.1, 0.2, 1.2]}, "confidence from 0 to 1"),
        ({"confidence": [0.1, 0.2, float("nan")]}, "confidence from 0 to 1"),
        ({"rank": [0, 0, 7]}, "ranks from 0 to 6"),
        ({"rank": [[0, 0, 1]]}, "one value per image"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, words):
    given = {"labels": [0, 1, 0], "predicted": [0, 1, 1], "confidence": [0.5] * 3, "rank": [0, 0, 1]} | changes
    with pytest.raises(ValueError, match=words):
        classification_summary(*(np.array(value) for value in given.values()), NAMES)


# Macro accuracy


def test_one_class_is_wilsons_interval():
    found = macro_accuracy(np.array([0, 7, 0]), np.array([0, 9, 0]))
    assert (found["accuracy"], found["low"], found["high"]) == pytest.approx((7 / 9, *wilson(7, 9)))


@pytest.mark.parametrize("correct", [[5, 5, 5], [0, 0, 0], [4, 4, 4]])
def test_classes_alike_are_one_large_class(correct):
    found = macro_accuracy(np.array(correct), np.full(3, 5))
    assert (found["low"], found["high"]) == pytest.approx(wilson(sum(correct), 15))
    assert found["effective_images"] == pytest.approx(15) and "Kish 1965" in found["interval"]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted), min_size=1, max_size=12).filter(
        lambda pairs: any(n for _, n in pairs)
    )
)
@settings(max_examples=80, deadline=None)
def test_macro_accuracy_equals_its_slow_formula_and_stays_in_range(pairs):
    found = macro_accuracy(*np.array(pairs).T)
    present = [(k, n) for k, n in pairs if n]
    mean = sum(k / n for k, n in present) / len(present)
    assert found["accuracy"] == pytest.approx(mean) and found["classes"] == len(present)
    assert -1e-12 <= found["low"] <= mean + 1e-12 and mean - 1e-12 <= found["high"] <= 1 + 1e-12
    assert found["effective_images"] <= sum(n for _, n in present) + 1e-9
    if 0 < mean < 1:
        drawn = [((k + mean) / (n + 1), n) for k, n in present]
        variance = sum(p * (1 - p) / n for p, n in drawn) / len(present) ** 2
        alike = len(present) ** 2 / sum(1 / n for _, n in present)
        assert found["effective_images"] == pytest.approx(min(alike, mean * (1 - mean) / variance))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_with_as_many_images_in_every_class_the_interval_holds_wilsons(correct):
    found = macro_accuracy(np.array(correct), np.full(len(correct), 8))
    low, high = wilson(sum(correct), 8 * len(correct))
    assert found["low"] <= low + 1e-12 and high - 1e-12 <= found["high"]


def test_a_hard_class_with_few_images_widens_the_interval():
    """Of as many images in all: the mean over classes hangs on the ten images of the hard class."""
    even = macro_accuracy(np.array([50, 99]), np.array([100, 100]))
    uneven = macro_accuracy(np.array([5, 188]), np.array([10, 190]))
    assert uneven["high"] - uneven["low"] > 2 * (even["high"] - even["low"])


CASES = {
    "100 classes of 5 at 95 %": (np.full(100, 5), np.full(100, 0.95)),
    "100 classes of 5, some hard": (np.full(100, 5), np.repeat([0.99, 0.7], [85, 15])),
    "12 classes of 25": (np.full(12, 25), np.linspace(0.6, 0.95, 12)),
    "5 to 500 images, rare ones hard": (np.geomspace(5, 500, 100).astype(int), np.linspace(0.4, 0.98, 100)),
}


@pytest.mark.parametrize("images, truth", CASES.values(), ids=CASES)
def test_the_macro_interval_covers_as_often_as_it_says(images, truth):
    generator = np.random.default_rng(0)
    found = [macro_accuracy(generator.binomial(images, truth), images) for _ in range(1000)]
    low, high = (np.array([one[end] for one in found]) for end in ("low", "high"))
    assert ((low <= truth.mean()) & (truth.mean() <= high)).mean() > 0.93
    assert (low > truth.mean()).mean() < 0.045 and (high < truth.mean()).mean() < 0.045  # on neither side too often


def test_square_and_add_would_not_cover():
    """Why the macro interval is no combination of the classes' Wilson intervals: the docstring's 83 times in 100."""
    images, truth = CASES["100 classes of 5 at 95 %"]
    generator, inside = np.random.default_rng(0), 0
    intervals = {k: wilson(k, 5) for k in range(6)}
    for _ in range(1000):
        correct = generator.binomial(images, truth)
        share, mean = correct / images, (correct / images).mean()
        low, high = np.array([intervals[k] for k in correct]).T
        below, above = (np.sqrt(((end - share) ** 2).sum()) / len(images) for end in (low, high))
        inside += mean - below <= truth.mean() <= mean + above
    assert inside / 1000 == pytest.approx(0.83, abs=0.03)


# Calibration


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 60).map(lambda n: n / 60) | st.floats(0, 1, allow_subnormal=False)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_the_calibration_error_equals_its_slow_formula(pairs):
    correct, confidence = (list(column) for column in zip(*pairs))
    found = expected_calibration_error(np.array(correct), np.array(confidence))
    assert found == pytest.approx(slow_calibration_error(correct, confidence, 15), abs=1e-9)


def test_calibration_known_answers():
    right = np.arange(100) < 80
    assert expected_calibration_error(right, np.full(100, 0.8)) == pytest.approx(0)
    assert expected_calibration_error(right, np.full(100, 0.99)) == pytest.approx(0.19)
    assert expected_calibration_error(~right, np.full(100, 1.0)) == pytest.approx(0.8)
    # two bins that are off in opposite directions do not make up for one another
    assert expected_calibration_error(np.array([True, False]), np.array([0.4, 0.6])) == pytest.approx(0.6)
    # a bin holds its upper end: 1/15 lies in the first, 1.5/15 in the second
    assert expected_calibration_error(np.array([True, False]), np.array([1, 1.5]) / 15) == pytest.approx(
        (14 + 1.5) / 30
    )


# Confusions


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_confusions_are_the_slow_count(pairs, most):
    labels, predicted = np.array(pairs).T
    counted = Counter((NAMES[y], NAMES[p]) for y, p in pairs if y != p)
    expected = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]
    rows = confusions(labels, predicted, NAMES, most)
    assert [((row["true"], row["predicted"]), row["images"]) for row in rows] == expected


def test_twenty_confusions_unless_asked_otherwise():
    labels, predicted = (grid.ravel() for grid in np.indices((7, 7)))
    assert len(confusions(labels, predicted, NAMES)) == 20 and confusions(labels, labels, NAMES) == []


def test_class_counts():
    correct, images = class_counts(np.array([0, 0, 2]), np.array([0, 2, 2]), 4)
    assert correct.tolist() == [1, 0, 1, 0] and images.tolist() == [2, 0, 1, 0]


def test_the_interval_at_no_whole_number_is_the_score_tests():
    """Its ends are where the score statistic is 1.96, by the definition of Wilson's interval."""
    found = macro_accuracy(np.array([9, 40]), np.array([11, 60]))
    n, mean = found["effective_images"], found["accuracy"]
    assert abs(n - round(n)) > 0.01
    for end in (found["low"], found["high"]):
        assert abs(mean - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(stats.norm.ppf(0.975))
