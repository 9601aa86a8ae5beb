"""What is measured of a run: each metric of the right maps, images and classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from running import command
from scipy.stats import spearmanr
from subjects import METHOD, subject_of
from tiny import colour_folder

import train
from data.datasets import load_data
from data.options import DataOptions
from data.transforms import Prepared, evaluation_transform
from evaluation.interventions import effects_on_images
from evaluation.maps import StoredMaps, compute_maps, store_maps
from evaluation.measurements import CELLS, INPUT_NOISE, MEASURES, MeasurementRequest, complexity, similarity
from evaluation.metrics.robustness import input_noise_change
from evaluation.options import MEASUREMENTS
from evaluation.regions import regions_of
from explain import relevance
from explain.registry import RelevanceOptions


def request_of(subject, folder, method=METHOD, imputation="") -> MeasurementRequest:
    return MeasurementRequest(
        subject,
        method,
        lambda: store_maps(subject, method, folder / "maps"),
        lambda: effects_on_images(subject),
        imputation,
    )


def values(rows, metric: str, target: str = "true", place: str = "") -> dict[str, float]:
    """Return image -> value of one metric."""
    return {row.image: row.value for row in rows if (row.metric, row.target, row.place) == (metric, target, place)}


@pytest.fixture(scope="module")
def subject(shop, colours):
    return subject_of(shop.dora, colours, images=6, metric_images=4, batch_size=4)


@pytest.fixture(scope="module")
def scenes(shop, tmp_path_factory):
    """A linear probe on drawn scenes, with their masks and distractors."""
    out = tmp_path_factory.mktemp("scenes") / "run"
    assert command(train, "--train-images", 24, "--val-images", 24, *shop.model, "--out", out) == 0
    data = load_data(DataOptions(train_images=24, val_images=24), image_size=32)
    return subject_of(out, data)


@pytest.fixture(scope="module")
def four(shop, tmp_path_factory):
    """A linear probe on four classes, as a mosaic has as many cells."""
    root = tmp_path_factory.mktemp("four")
    data = colour_folder(root / "data", train=4, val=5, classes=("blue", "green", "grey", "red"))
    assert command(train, "--data", data, *shop.model, "--out", root / "run") == 0
    return subject_of(root / "run", data, metric_images=5)


def test_every_kind_that_can_be_asked_for_has_a_function():
    assert tuple(MEASURES) == MEASUREMENTS


# ---- maps


def test_similarity_is_the_mean_over_the_other_targets_that_have_a_map():
    maps = np.random.default_rng(0).random((3, 4, 2, 3)).astype(np.float32)
    maps[1, 2] = 0  # has no rank correlation
    found = similarity(maps, maps, slice(1, 3))["spearman"]
    kept = {0: (1, 2), 1: (1,), 2: (1, 2)}
    expected = [np.mean([spearmanr(maps[i, 0].ravel(), maps[i, k].ravel()).statistic for k in kept[i]]) for i in kept]
    assert found == pytest.approx(expected)
    assert set(similarity(maps, maps, slice(1, 3), "_centred")) == {
        "spearman_centred",
        "cosine_centred",
        "ssim_centred",
    }


def test_many_images_are_measured_as_few_are():
    """Chunks of what is read from a file change nothing."""
    maps = np.random.default_rng(0).random((600, 3, 2, 2)).astype(np.float32)
    for found, part in (
        (similarity(maps, maps, slice(1, 3)), similarity(maps[500:], maps[500:], slice(1, 3))),
        (complexity(maps, slice(1, 3)), complexity(maps[500:], slice(1, 3))),
    ):
        assert all(len(found[metric]) == 600 and np.array_equal(found[metric][500:], part[metric]) for metric in part)


def test_maps_are_measured_of_their_own_target(subject, tmp_path):
    request = request_of(subject, tmp_path)
    stored, rows = request.stored(), list(MEASURES["maps"].compute(request))
    names = subject.images(6).names

    def in_order(found: dict[str, float]) -> list[float]:
        assert list(found) == names
        return list(found.values())

    true, random, runner_up = stored.maps[:, 0], stored.maps[:, 1:3], stored.maps[:, 3]
    own = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(true, runner_up)]
    assert in_order(values(rows, "spearman", "runner-up")) == pytest.approx(own, abs=1e-6)
    share = random.reshape(6, 2, -1).astype(float) / random.reshape(6, 2, -1).sum(-1, keepdims=True)
    entropy = (-(share * np.log(share)).sum(-1) / np.log(4)).mean(1)
    assert in_order(values(rows, "entropy", "random")) == pytest.approx(entropy, abs=1e-6)
    predictions = {row.image: row for row in rows if row.metric == "correct"}
    assert [predictions[name].value for name in names] == list(stored.predicted == stored.targets.classes[:, 0])
    probability = in_order(values(rows, "probability"))
    assert probability == pytest.approx(stored.probability[np.arange(6), stored.targets.classes[:, 0]])
    about = {(row.data, row.split, row.method, row.seed) for row in rows}
    assert about == {("colours", "val", "run", 0)}
    assert {row.relevance for row in rows} == {"", "lrp_magnitude"}


def test_relevance_on_regions_is_the_slow_formula(scenes, tmp_path):
    """The share of patches, each counted by the part of it that a mask covers."""
    request = request_of(scenes, tmp_path)
    stored, rows = request.stored(), list(MEASURES["maps"].compute(request))
    images, seen = scenes.images(), set()
    shares = {place: values(rows, "share", "true", place) for place in ("evidence", "surface", "distractor")}
    of_distractor = values(rows, "share", "distractor", "distractor")
    outside = values(rows, "outside", "true", "evidence")
    for row, (name, index) in enumerate(zip(images.names, images.indices.tolist())):
        masks = regions_of(scenes.split, index, scenes.run.config.data_config)
        for place, mask in masks.items():
            if place not in shares:
                continue
            cover = mask.reshape(2, 16, 2, 16).mean((1, 3))
            for target, found in ((0, shares[place]), (-1, of_distractor)):
                if target == -1 and place != "distractor":
                    continue
                positive = stored.maps[row, target].clip(min=0).astype(float)
                assert found[name] == pytest.approx((positive * cover).sum() / positive.sum(), abs=1e-6)
                seen.add((place, target))
        if "evidence" in masks:
            assert outside[name] == pytest.approx(1 - shares["evidence"][name])
    assert seen == {("evidence", 0), ("surface", 0), ("distractor", 0), ("distractor", -1)}
    assert set(of_distractor) == {name for name, one in zip(images.names, stored.targets.distracted) if one}


def test_a_model_with_classes_of_its_own_is_measured_for_what_it_predicts(shop, colours, tmp_path):
    subject = subject_of(shop.dora, colours, images=4)
    renamed = replace(subject.run.config, class_names=("x", "y", "z"))
    own = replace(subject, run=replace(subject.run, config=renamed))
    rows = list(MEASURES["maps"].compute(request_of(own, tmp_path)))
    assert {row.target for row in rows} == {"predicted", "random", "runner-up"}
    assert not any(row.metric == "correct" for row in rows), "there is no true class"
    assert min(values(rows, "probability", "predicted").values()) > 1 / 3


# ---- centred


@pytest.mark.parametrize("name", ["attnlrp_epsilon", "lrp_magnitude"])
def test_centred_maps_are_those_of_a_centred_head(subject, tmp_path, name):
    """Signed maps need one map for all targets: the rest is linear."""
    method = RelevanceOptions(name)
    request = request_of(subject, tmp_path, method)
    rows = list(MEASURES["centred"].compute(request))
    images, classes = subject.images(6), request.stored().targets.classes
    slow = np.concatenate(list(compute_maps(subject, images, classes, method, centre_head=True)))
    expected = similarity(slow, slow, slice(3, 4), "_centred")
    for metric in ("spearman_centred", "cosine_centred"):
        assert list(values(rows, metric, "runner-up").values()) == pytest.approx(expected[metric], abs=1e-3)
    assert {row.target for row in rows} == {"random", "runner-up"}


@pytest.mark.parametrize(
    "method",
    [
        RelevanceOptions("lrp_contrast"),
        RelevanceOptions("lrp_magnitude", contrast="mean"),
        RelevanceOptions("lrp_magnitude", centre_head=True),
    ],
)
def test_a_contrast_is_not_centred_again(subject, tmp_path, method):
    assert list(MEASURES["centred"].compute(request_of(subject, tmp_path, method))) == []


# ---- metrics that take more passes


@pytest.mark.parametrize("metric_images", [4, 9])
def test_robustness_is_measured_of_the_true_class(subject, tmp_path, metric_images):
    """From the stored maps where all images have one, and without them otherwise."""
    asked = replace(subject, options=replace(subject.options, metric_images=metric_images))
    found = values(MEASURES["robustness"].compute(request_of(asked, tmp_path)), "noise")
    images = asked.images(metric_images)
    assert list(found) == images.names
    x = torch.cat(list(images.read(images.batches)))
    labels = torch.from_numpy(images.labels)[:, None]
    expected = input_noise_change(asked.model, x, labels, "lrp_magnitude", INPUT_NOISE, 0)[:, 0]
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=0.05)


@pytest.mark.parametrize(
    "change", [{"images": 5}, {"metric_images": 5}, {"random_classes": 1}], ids=lambda change: next(iter(change))
)
def test_robustness_depends_on_both_numbers_of_images(subject, change):
    """One of them hid the other, and stored values of four images were taken for those of five."""
    settings = MEASURES["robustness"].settings
    assert settings(subject) != settings(replace(subject, options=replace(subject.options, **change)))


def test_faithfulness_is_that_of_each_image(subject, tmp_path):
    rows = list(MEASURES["faithfulness"].compute(request_of(subject, tmp_path, imputation="mean")))
    names = subject.images(4).names
    assert {row.imputation for row in rows} == {"mean"} and {row.relevance for row in rows} == {"lrp_magnitude"}
    morf, lerf, srg = (values(rows, metric) for metric in ("morf", "lerf", "srg"))
    assert list(morf) == list(lerf) == list(srg) == names
    assert list(srg.values()) == pytest.approx([lerf[name] - morf[name] for name in names], abs=1e-6)
    places = sorted({row.place for row in rows if row.metric == "morf_curve"}, key=float)
    assert places == ["0", "0.25", "0.5", "0.75", "1"], "a patch at a time, where there are four"
    whole = values(rows, "morf_curve", place="0")
    assert whole == pytest.approx(values(rows, "lerf_curve", place="0")), "nothing is removed"


def test_the_random_baseline_is_faithful_by_chance_alone(subject, tmp_path):
    request = request_of(subject, tmp_path, RelevanceOptions("random"), "mean")
    first, again = (values(MEASURES["faithfulness"].compute(request), "srg") for _ in range(2))
    assert first == again


def test_mosaics_are_disjoint_and_of_images_that_every_run_predicts(four, tmp_path):
    names = four.images().names
    correct = frozenset(name for name in names if not name.endswith("00.png"))  # four of each class
    asked = replace(four, correct=correct)
    rows = list(MEASURES["grid_pointing"].compute(request_of(asked, tmp_path)))
    members = [row.image.split(" | ") for row in rows]
    assert len(members) == len(correct) // CELLS**2 == 4 and all(len(one) == 4 for one in members)
    used = [name for one in members for name in one]
    assert len(set(used)) == len(used) and set(used) <= correct
    assert all(len({name.split("/")[1] for name in one}) == 4 for one in members), "of different classes"
    assert all(0 <= row.value <= 1 and row.metric == "mosaic_share" for row in rows)


def test_runs_that_share_few_classes_play_no_grid_pointing_game(four, subject, tmp_path):
    assert (
        list(MEASURES["grid_pointing"].compute(request_of(replace(subject, correct=frozenset(("x",))), tmp_path))) == []
    )
    three = frozenset(name for name in four.images().names if "/red/" not in name)
    assert list(MEASURES["grid_pointing"].compute(request_of(replace(four, correct=three), tmp_path))) == []
    settings = MEASURES["grid_pointing"].settings
    assert settings(four) != settings(replace(four, correct=three)), "another run beside it may change the images"


def test_randomisation_starts_from_the_runs_own_maps(subject, tmp_path):
    rows = list(MEASURES["randomisation"].compute(request_of(subject, tmp_path)))
    stages = list(dict.fromkeys(row.place for row in rows if row.metric == "cascade"))
    assert stages[0] == "head" and len(stages) == 1 + 6 + 1, "the head, each block, and the embedding"
    assert list(values(rows, "emprt")) == subject.images(4).names
    assert all(-1 <= row.value <= 1 for row in rows if row.metric == "cascade")


def test_what_is_measured_leaves_the_model_as_it_was(subject, tmp_path):
    prepared = Prepared(subject.split, evaluation_transform(subject.run.config.data_config))
    x = torch.stack([prepared[i][0] for i in range(4)])
    before = relevance(subject.model, x, torch.tensor([[0]] * 4), "lrp_magnitude")
    state = {key: value.clone() for key, value in subject.model.state_dict().items()}
    for name, imputation in (("faithfulness", "blur"), ("randomisation", ""), ("robustness", "")):
        list(MEASURES[name].compute(request_of(subject, tmp_path, imputation=imputation)))
    assert all(torch.equal(value, state[key]) for key, value in subject.model.state_dict().items())
    assert torch.equal(relevance(subject.model, x, torch.tensor([[0]] * 4), "lrp_magnitude"), before)
    assert isinstance(StoredMaps.load(tmp_path / "maps").maps, np.memmap)
