"""What methods are compared by, in words."""

import pytest

from evaluation.metrics.registry import METRICS, info_of
from evaluation.quantities import (
    CLASS_DEPENDENCE,
    COMPLEXITY,
    GRID_POINTING,
    PERTURBATION,
    Quantity,
    faithfulness,
    localisation,
)

ALL = (*CLASS_DEPENDENCE, *COMPLEXITY, *GRID_POINTING, *faithfulness("mean"), *localisation("val"))


def test_every_quantity_is_a_known_metric_and_no_two_have_one_title():
    assert all(info_of(one.metric) for one in ALL) and {"srg", "spearman"} <= set(METRICS)
    titles = [one.title for one in ALL]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    "quantity, words",
    [
        (Quantity("spearman", "random"), ", random classes"),
        (Quantity("spearman", "runner-up"), ", runner-up class"),
        (Quantity("correct", split="val_shuffled"), "accuracy on val_shuffled"),
        (Quantity("ratio", place="surface", split="val_shuffled"), ", surface of val_shuffled"),
    ],
)
def test_a_title_says_whose_maps_and_where(quantity, words):
    assert quantity.short_title.endswith(words)


def test_a_title_says_which_side_is_better_and_a_short_one_does_not():
    quantity = Quantity("spearman", "random")
    assert quantity.title == f"{quantity.short_title} ({info_of('spearman').note})" and "(" not in quantity.short_title


def test_accuracy_alone_is_in_percent():
    assert Quantity("correct").percent and not any(one.percent for one in ALL)


def test_faithfulness_is_also_compared_with_random_maps():
    metrics = [one.metric for one in faithfulness("blur")]
    assert metrics == [name for metric in PERTURBATION for name in (f"{metric}_above_random", metric)]
    assert {one.imputation for one in faithfulness("blur")} == {"blur"}
