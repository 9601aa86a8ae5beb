"""Claims about runs whose answers are known, and claims.md as a reader meets it."""

import numpy as np
import pytest

from report.claims import FEWEST_IMAGES, NO_VERDICT, Evidence, claims, claims_markdown, regions_markdown
from report.statistics import overfitting

N = 60


def evidence(label="linear", seed=0, shift=0.0, count=N, train_right=50, val_right=40) -> Evidence:
    """A run whose every figure is `shift` higher than the base's; the images and their noise are shared."""
    base = np.random.default_rng(seed).uniform(0.3, 0.6, count)
    return Evidence(label, base + shift, np.arange(count) < val_right, np.arange(count) < train_right,
                    base + shift, base + shift, base + shift, 0.004)


def verdicts(first: Evidence, second: Evidence, **options) -> dict[str, str]:
    return {claim.letter: claim.verdict for claim in claims(first, second, **options)}


# Overfitting


def right(*counts_of_ones: int, of: int = 100) -> list[np.ndarray]:
    return [np.arange(of) < count for count in counts_of_ones]


def test_overfitting_is_training_minus_validation_accuracy():
    train_a, train_b, val_a, val_b = right(90, 99, 80, 70)
    found = overfitting(train_a, train_b, val_a, val_b)
    assert (found.gap_a, found.gap_b, found.difference) == pytest.approx((0.10, 0.29, -0.19))
    assert found.low < found.difference < found.high


def test_the_overfitting_interval_is_the_textbooks_for_large_samples():
    """Two independent paired differences: the variance of the difference is the sum of theirs over n."""
    generator = np.random.default_rng(0)
    train_a, train_b, val_a, val_b = (generator.random(n) < p for n, p in ((4000, 0.9), (4000, 0.95), (2000, 0.8), (2000, 0.7)))
    found = overfitting(train_a, train_b, val_a, val_b)
    variance = sum(np.var(a.astype(float) - b) / len(a) for a, b in ((train_a, train_b), (val_a, val_b)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)


def test_pairing_removes_what_both_runs_share():
    generator = np.random.default_rng(1)
    shared, alone = generator.random(200) < 0.6, generator.random(200) < 0.6
    paired, unpaired = (overfitting(*right(200, 200, of=200), shared, other) for other in (shared, alone))
    assert paired.low == paired.high == 0 and unpaired.high - unpaired.low > 0.1


def test_overfitting_without_images_has_no_figure():
    assert np.isnan(overfitting([], [], [True], [False]).difference)


def test_overfitting_wants_the_same_images():
    with pytest.raises(ValueError, match="3 and 2"):
        overfitting([1, 1, 1], [1, 1], [1], [1])


def test_the_same_seed_gives_the_same_interval():
    runs = [np.random.default_rng(2).random(80) < p for p in (0.9, 0.8, 0.7, 0.6)]
    assert overfitting(*runs) == overfitting(*runs) and overfitting(*runs) != overfitting(*runs, seed=1)


# Verdicts


def test_the_earlier_studys_claims_hold_where_they_hold():
    """(a) linear's probability higher, (b) DoRA's maps more alike, (c) linear's map more scattered, ..."""
    first = evidence("linear", val_right=58, train_right=58)
    second = evidence("dora", val_right=40, train_right=60)
    first = Evidence("linear", first.val_probability + 0.2, first.val_correct, first.train_correct,
                     first.likeness - 0.2, first.likeness_cosine, first.entropy_other + 0.2, 0.01)
    assert verdicts(first, second) == dict.fromkeys("abcde", "supported")


def test_the_reverse_is_not_supported():
    first = evidence("linear", val_right=40, train_right=60)
    second = evidence("dora", val_right=58, train_right=58)
    second = Evidence("dora", second.val_probability + 0.2, second.val_correct, second.train_correct,
                      second.likeness - 0.2, second.likeness_cosine, second.entropy_other + 0.2, 0.01)
    assert verdicts(first, second) == dict.fromkeys("abcde", "not supported")


def test_noise_decides_nothing_and_says_what_it_could_have_found():
    first, second = evidence(seed=0), evidence("dora", seed=1)
    found = verdicts(first, second)
    assert found["d"] == found["e"] == "undecided"
    assert all(found[letter].startswith("undecided (smallest detectable: 0.0") for letter in "abc")


def test_few_images_decide_nothing_however_large_the_difference():
    few = FEWEST_IMAGES - 1
    assert set(verdicts(evidence(shift=0.3, count=few), evidence("dora", count=few)).values()) == {NO_VERDICT}


def test_runs_of_other_kinds_get_figures_without_verdicts():
    found = claims(evidence("lora", shift=0.3), evidence("full"), judged=False)
    assert {claim.verdict for claim in found} == {"not judged"} and found[0].difference == "0.3 [0.3, 0.3]"


def test_a_difference_is_the_first_run_minus_the_second():
    (a, *_, d, e) = claims(evidence(val_right=50, train_right=60), evidence("dora", shift=-0.1, val_right=44, train_right=60))
    assert a.difference == "0.1 [0.1, 0.1]" and d.difference.startswith("+0.10") and e.difference.startswith("-0.10")
    assert (d.first, d.second) == ("83.3 %", "73.3 %") and (e.first, e.second) == ("16.7 %", "26.7 %")
    assert "only one right: 6 and 0 of 60" in d.test and "p < 0.001" in a.test


# Markdown


def test_the_file_can_be_read_alone():
    runs = [evidence("linear"), evidence("dora", shift=0.1)]
    text = claims_markdown({"linear against dora": claims(*runs)}, ["data: photos, 3 classes"], runs,
                           [{"run": "linear", "split": "val", "accuracy": "90.0 %"}], ["## More\n"])
    assert "- data: photos, 3 classes" in text and "| linear | val | 90.0 % |" in text and text.endswith("## More\n")
    assert all(f"*{word}*" in text for word in ("supported", "not supported", "undecided"))
    assert f"fewer than {FEWEST_IMAGES} images nothing is decided" in text and "linear 0.40 %; dora 0.40 %" in text
    table = [line for line in text.splitlines() if line.startswith(("| a |", "| b |", "| c |", "| d |", "| e |"))]
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1


def scene_rows(count: int, own: float, true: float) -> list[dict]:
    """Rows of a comparison: every second scene has unused equipment on a tenth of its area."""
    rows = []
    for i in range(count):
        lying = i % 2 == 0
        rows.append({"share_evidence": 0.5, "area_evidence": 0.1, "ratio_evidence": 5.0, "rank_accuracy_evidence": 0.4,
                     "share_distractor": true if lying else 0.0, "area_distractor": 0.1 if lying else 0.0,
                     "ratio_distractor": true / 0.1 if lying else np.nan,
                     "share_distractor_for_its_class": own if lying else np.nan})
    return rows


def test_regions_are_told_with_their_area_and_ratio():
    text = regions_markdown("val", {"linear": scene_rows(50, 0.3, 0.1)}, ["evidence", "distractor"])
    assert "| evidence | linear | 50 | 50.0 % | 10.0 % | 5.00 [5.00, 5.00] |" in text
    assert "| distractor | linear | 25 | 10.0 % | 10.0 % | 1.00 [1.00, 1.00] |" in text  # scenes without one do not count
    assert "linear 0.400 [0.400, 0.400]" in text


@pytest.mark.parametrize("own, true, count, answer", [
    (0.3, 0.1, 50, "yes"), (0.1, 0.3, 50, "no, the reverse"), (0.2, 0.2, 50, "undecided"), (0.3, 0.1, 30, NO_VERDICT)])
def test_whether_a_method_sees_the_class_of_unused_equipment(own, true, count, answer):
    text = regions_markdown("val", {"linear": scene_rows(count, own, true)}, ["evidence"])
    (row,) = [line for line in text.splitlines() if line.startswith(f"| linear | {count // 2} |")]
    assert row.endswith(f"| {answer} |")
