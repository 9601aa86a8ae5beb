"""Several runs on the same images: one row per run and image, and means over images."""

import numpy as np
import pytest
from subjects import METHOD, subject_of

from evaluation.comparison import column_of, compare_runs, region_means, summaries, wide_rows
from evaluation.measurement_cache import MeasurementCache
from evaluation.metrics.similarity import spearman
from evaluation.observations import Observation


def seen(metric: str, target: str = "true", place: str = "") -> Observation:
    return Observation("data", "val", "run", 0, "image", "lrp", target, metric, "", place, 0.5)


@pytest.mark.parametrize(
    "observation, column",
    [
        (seen("entropy"), "entropy_true"),
        (seen("entropy", "random"), "entropy_random"),
        (seen("spearman", "runner-up"), "spearman_runner_up"),
        (seen("spearman", "to_first_run"), "spearman_to_first_run"),
        (seen("noise"), "noise_true"),
        (seen("probability"), "probability_true"),
        (seen("correct"), "correct"),
        (seen("ratio", place="evidence"), "ratio_evidence"),
        (seen("area", place="people and the ball"), "area_people_and_the_ball"),
        (seen("rank_accuracy", place="evidence"), "rank_accuracy_evidence"),
        (seen("share", "distractor", "distractor"), "share_distractor_for_its_class"),
        (seen("share", "true", "distractor"), "share_distractor"),
        (seen("cascade", place="head"), None),
    ],
)
def test_a_column_is_named_by_metric_and_target_or_region(observation, column):
    assert column_of(observation, "true") == column


def test_columns_of_a_model_with_classes_of_its_own_are_about_what_is_explained_first():
    assert column_of(seen("entropy", "predicted"), "predicted") == "entropy_true"


@pytest.fixture(scope="module")
def comparison(shop, colours, tmp_path_factory):
    subjects = [subject_of(run, colours, images=6, label=run.name) for run in (shop.linear, shop.dora)]
    cache = MeasurementCache(tmp_path_factory.mktemp("measurements"))
    return compare_runs(subjects, cache, "runner-up")


def test_every_run_has_a_row_for_every_image_in_one_order(comparison):
    rows = wide_rows(comparison)
    assert [(row["run"], row["image"]) for row in rows] == [
        (run, name) for run in ("linear", "dora") for name in comparison.images.names
    ]
    stored = comparison.runs[1].stored
    for i, row in enumerate(rows[6:]):
        assert row["second_is"] == "runner-up" and row["second"] != row["true"] == row["explained"]
        names = comparison.runs[1].subject.run.class_names
        assert row["predicted"] == names[stored.predicted[i]] and row["correct"] == (row["predicted"] == row["true"])
        assert row["probability_second"] == stored.probability[i, names.index(row["second"])]
        assert row["probability_true"] == pytest.approx(stored.probability[i, names.index(row["true"])], rel=1e-5)


def test_maps_are_compared_with_the_first_runs_of_the_same_image(comparison):
    first, second = (one.stored.maps[:, 0] for one in comparison.runs)
    rows = wide_rows(comparison)
    found = [row["spearman_to_first_run"] for row in rows[6:]]
    assert found == pytest.approx(spearman(second, first))
    assert [row["spearman_to_first_run"] for row in rows[:6]] == pytest.approx([1] * 6), "with itself"


def test_the_second_class_shown_is_the_one_that_its_column_holds(comparison):
    for one in comparison.runs:
        shown = one.shown()
        assert (shown[:, 0] == one.stored.targets.classes[:, 0]).all()
        assert (shown[:, 1] == one.stored.targets.classes[:, -1]).all() and one.name(shown[0, 0]) in (
            "red",
            "green",
            "blue",
        )
    assert not comparison.distracted.any() and comparison.method == METHOD


def test_some_of_the_images_have_the_rows_and_pixels_that_they_had(comparison):
    rows = np.array([1, 4])
    part, whole = comparison.select(rows), wide_rows(comparison)
    assert wide_rows(part) == [whole[i] for i in (1, 4, 7, 10)]
    assert part.images.names == [comparison.images.names[row] for row in rows]
    for one, before in zip(part.runs, comparison.runs):
        assert np.array_equal(one.stored.maps, before.stored.maps[rows]) and (one.shown() == before.shown()[rows]).all()
        assert np.array_equal(one.subject.images(6).pixels([1])[1], before.subject.images(6).pixels([4])[4])


def test_means_are_over_the_images_that_have_a_value(comparison):
    rows = wide_rows(comparison)
    rows[0]["entropy_true"] = float("nan")  # a map that is zero
    rows[1]["noise_true"], rows[2]["noise_true"] = 0.2, float("nan")
    first, second = summaries(comparison, rows)
    assert (first["label"], second["label"]) == ("linear", "dora")
    entropy = first["means"]["entropy_true"]
    assert entropy.n == 5 and entropy.n_dropped == 1
    assert entropy.mean == pytest.approx(np.mean([row["entropy_true"] for row in rows[1:6]]))
    assert first["median_noise"] == {"noise_true": 0.2} and second["median_noise"] == {}
    assert first["accuracy_explained"] == np.mean([row["correct"] for row in rows[:6]])
    assert first["accuracy"]["val"]["images"] == 18


def test_nothing_but_maps_of_zero_has_no_median(comparison):
    rows = wide_rows(comparison)
    for row in rows[:6]:
        row["noise_true"] = float("nan")
    assert np.isnan(summaries(comparison, rows)[0]["median_noise"]["noise_true"])


def test_regions_that_some_image_has_are_averaged_over_those_images():
    rows = [
        {"run": "a", "ratio_evidence": 1.0, "ratio_people_and_the_ball": 2.0},
        {"run": "a", "ratio_evidence": 3.0},
        {"run": "b"},
    ]
    found = region_means(rows, ["a", "b"], ["evidence", "people and the ball", "surface"])
    assert list(found) == ["evidence", "people and the ball"]
    assert found["evidence"]["a"].mean == 2 and found["people and the ball"]["a"].n == 1
    assert np.isnan(found["evidence"]["b"].mean)


def test_maps_of_other_grids_are_not_compared(comparison, tmp_path):
    class Other(MeasurementCache):
        """Stores maps of another grid for the second run."""

        def maps(self, subject, method):
            stored = super().maps(subject, method)
            if subject.label == "linear":
                return stored
            return type(stored)(np.repeat(stored.maps, 2, axis=-1), stored.targets, stored.probability)

    subjects = [one.subject for one in comparison.runs]
    rows = wide_rows(compare_runs(subjects, Other(tmp_path)))
    assert ["spearman_to_first_run" in row for row in rows] == [True] * 6 + [False] * 6
