"""Methods compared two by two: what tables say of a difference, and when a method is named."""

from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.differences import compared, difference_rows
from evaluation.quantities import Quantity

ENTROPY, SPEARMAN, GINI = Quantity("entropy"), Quantity("spearman", "random"), Quantity("gini")
PAIR = ("linear", "dora")


def study_of(values: dict, correct: dict | None = None, pairs=(PAIR,)) -> SimpleNamespace:
    """Return what `compared` asks of a study: values of quantities by method, (S, N), and which images are right."""

    def both(first, second, quantity, _relevance):
        found = values.get(quantity)
        return None if found is None else (found[first], found[second])

    return SimpleNamespace(pairs=list(pairs), both=both, correct=lambda method, _split: (correct or {})[method])


def drawn(shift: float, seeds: int = 3, images: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    second = rng.normal(0, 1, (seeds, images))
    return {"linear": second + shift + rng.normal(0, 0.3, (seeds, images)), "dora": second}


def test_a_method_is_named_where_images_and_seeds_agree():
    (higher,), (lower,), (open_one,) = (
        compared(study_of({ENTROPY: drawn(shift)}), [ENTROPY], "lrp") for shift in (1, -1, 0)
    )
    assert higher.says == "linear higher across seeds" and lower.says == "dora higher across seeds"
    assert higher.decided and lower.decided and not open_one.decided and open_one.says.startswith("undecided (")
    assert higher.measured.difference == pytest.approx(higher.each.mean()) and higher.each.shape == (60,)


def test_one_seed_decides_for_these_images_at_most():
    (one,) = compared(study_of({ENTROPY: drawn(1, seeds=1)}), [ENTROPY], "lrp")
    assert one.says == "linear higher for these images"


def test_few_images_decide_nothing():
    (one,) = compared(study_of({ENTROPY: drawn(5, images=10)}), [ENTROPY], "lrp")
    assert not one.decided and "too few images" in one.says


def test_seeds_that_disagree_decide_nothing():
    values = drawn(1)
    values["linear"][0] -= 3
    (one,) = compared(study_of({ENTROPY: values}), [ENTROPY], "lrp")
    assert not one.decided


def test_what_was_not_measured_or_has_no_value_is_left_out():
    nothing = {"linear": np.full((1, 30), np.nan), "dora": np.zeros((1, 30))}
    found = compared(study_of({ENTROPY: drawn(1), GINI: nothing}), [SPEARMAN, ENTROPY, GINI], "lrp")
    assert [one.quantity for one in found] == [ENTROPY]


def test_a_table_is_one_family_of_tests():
    """More comparisons raise each p-value: Holm's method over all rows."""
    values = {ENTROPY: drawn(0.15, seeds=1), SPEARMAN: drawn(0, seeds=1), GINI: drawn(0.01, seeds=1)}
    (alone,) = compared(study_of(values), [ENTROPY], "lrp")
    among = compared(study_of(values), [ENTROPY, SPEARMAN, GINI], "lrp")
    assert alone.corrected_p == alone.measured.p_value
    assert among[0].corrected_p == pytest.approx(3 * alone.corrected_p)


def test_accuracy_is_told_in_percent_and_points():
    right = {"linear": np.array([[True] * 80 + [False] * 20]), "dora": np.array([[True] * 50 + [False] * 50])}
    (one,) = compared(study_of({}, right), [], "lrp", splits=["val"])
    assert one.quantity.title.startswith("accuracy on val") and one.means == ("80.0 %", "50.0 %")
    assert one.estimate.startswith("+30.0 [") and one.estimate.endswith(" points") and one.decided


def test_rows_hold_every_pair_and_each_seed():
    values = {ENTROPY: {**drawn(1), "lora": drawn(1)["dora"] + 2}}
    pairs = (PAIR, ("linear", "lora"), ("dora", "lora"))
    rows = difference_rows(compared(study_of(values, pairs=pairs), [ENTROPY], "lrp"))
    assert [(row["first"], row["second"]) for row in rows] == list(pairs)
    for row in rows:
        each, interval = row["seed by seed; mean [95 %, seeds]"].split("; ")
        assert len(each.split(", ")) == 3 and "[" in interval and row["images"] == 60
    (first,) = compared(study_of(values, pairs=pairs), [ENTROPY], "lrp", pairs=[PAIR])
    assert first.pair == PAIR, "or the pairs asked for"
