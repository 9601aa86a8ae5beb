"""study.py: what it leaves, what it reuses, what it refuses."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from running import TORCHRUN, command, files, process
from scene_folder import scene_folder
from scipy.stats import spearmanr
from tiny import colour_folder

import study
from data.datasets import load_data
from data.options import DataOptions
from evaluation.measurement_cache import folder_of
from evaluation.measurements import MEASUREMENTS, Maps, Subject, targets_of
from evaluation.observations import Results, read_results
from evaluation.study_results import confused_pairs
from explain import COMPARISON_METHOD
from models.runs import load_run

SMALL = ["--epochs", 1, "--images", 6, "--metric-images", 4, "--rows", 2, "--images-at-once", 4]


@pytest.fixture
def no_pictures(monkeypatch):
    """Write empty files in place of pictures: half of a small study's time is drawing."""

    def nothing(path, *_):
        Path(path).write_bytes(b"")

    for name in (
        "grid",
        "layers",
        "rainclouds",
        "depth_profiles",
        "perturbation_curves",
        "verdict_overview",
        "confused_classes",
    ):
        monkeypatch.setattr(f"report.figures.{name}.stack", nothing)


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    assert command(study, *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out", out) == 0
    return out


def test_a_study_leaves_claims_findings_and_tidy_results(finished):
    assert {
        "claims.md",
        "findings.md",
        "details.md",
        "results.csv",
        "verdicts.png",
        "perturbation-lrp_magnitude-mean.png",
        "depth-dora.png",
        "heads-dora.png",
        "class-dependence.png",
        "likeness-lrp_magnitude.png",
        "scatter-lrp_magnitude.png",
        "compare/grid.png",
        "worth-a-look/grid.png",
        "linear-seed1/curves.png",
        "dora-seed1/curves.png",
    } <= set(files(finished))
    claims, findings, details = ((finished / name).read_text() for name in ("claims.md", "findings.md", "details.md"))
    assert (
        all(f"| {letter} |" in claims for letter in ("a", "b", "b'", "c", "d", "e")) and "linear against dora" in claims
    )
    for heading in (
        "What an earlier study claimed",
        "What changed between methods, and what did not",
        "The picture",
        "Accuracy",
        "Class-dependence and noise",
        "Faithfulness",
        "What changed inside",
    ):
        assert f"## {heading}" in findings
    for heading in (
        "Claims in words",
        "Accuracy",
        "Are maps of different classes alike?",
        "Are maps scattered?",
        "Do the maps say what the models use?",
        "What changed inside: dora",
        "Head by head: dora",
        "Do the maps depend on what was learned?",
        "Images worth a look",
    ):
        assert f"## {heading}" in details
    assert len(findings.split()) < 1500, "two pages"
    for line in (*findings.splitlines(), *details.splitlines()):  # every figure that is linked is there
        if line.startswith("!["):
            assert (finished / line.rsplit("(", 1)[1].rstrip(")")).is_file(), line
    assert "mosaics of 2 x 2 images take 4 classes" in details, "what was not measured is named"
    assert "too few images" in findings and "lrp_magnitude" in findings


def test_results_can_be_paired_again(finished):
    results = Results(read_results(finished / "results.csv"))
    assert results.known("seed") == [0, 1] and results.known("method") == ["linear", "dora"]
    removed = {"split": "val", "target": "true", "removal": "mean"}
    pairs = results.pairs("linear", "dora", "srg", relevance="lrp_magnitude", place="", **removed)
    assert pairs.first.shape == (2, 4) and not pairs.n_missing
    for metric in ("srg", "morf", "deletion"):
        plain, baseline = (
            results.pairs("linear", "dora", metric, relevance=name, **removed) for name in ("lrp_magnitude", "random")
        )
        above = results.pairs("linear", "dora", f"{metric}_above_random", relevance="lrp_magnitude", **removed)
        assert np.allclose(above.first, plain.first - baseline.first, atol=1e-5)
    curve = [
        results.pairs("linear", "dora", "morf_curve", relevance="lrp_magnitude", place=place, **removed).first
        for place in results.known("place", "morf_curve")[:-1]
    ]
    morf = results.pairs("linear", "dora", "morf", relevance="lrp_magnitude", **removed).first
    assert np.allclose(np.mean(curve, axis=0), morf, atol=1e-5)
    likeness = results.pairs("linear", "dora", "spearman", split="val", relevance="lrp_magnitude", target="random")
    assert likeness.first.shape == (2, 6) and (np.abs(likeness.first) <= 1).all()
    depth = results.pairs("linear", "dora", "depth_entropy", place="5")
    assert depth.first.shape == (2, 4) and ((0 <= depth.second) & (depth.second <= 1)).all()


def kept_of(run: Path) -> Path:
    """The folder in which what was measured of a run is kept."""
    return folder_of(Subject(load_run(run), "", None, "val", None, None))


def test_maps_are_measured_as_their_definitions_say(finished):
    """Figures of results.csv, from the maps that are kept beside the run."""
    results = Results(read_results(finished / "results.csv"))
    for seed in (0, 1):
        kept = Maps.load(kept_of(finished / f"dora-seed{seed}") / "val-maps-lrp_magnitude.npz")

        def row(metric: str, target: str) -> np.ndarray:
            return results.pairs("dora", "dora", metric, seed, target=target, relevance="lrp_magnitude").first[0]

        others = slice(1, kept.maps.shape[1] - 1)  # three classes have two others
        expected = [
            np.mean([spearmanr(one[0].ravel(), other.ravel()).statistic for other in one[others]]) for one in kept.maps
        ]
        assert np.allclose(row("spearman", "random"), expected, atol=1e-5)
        assert np.allclose(
            row("spearman", "runner-up"),
            [spearmanr(one[0].ravel(), one[-1].ravel()).statistic for one in kept.maps],
            atol=1e-5,
        )
        share = kept.maps[:, 0].clip(min=0).reshape(len(kept.maps), -1)
        share /= share.sum(1, keepdims=True)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(share.shape[1])
        assert np.allclose(row("entropy", "true"), entropy, atol=1e-5)


def test_images_worth_a_look_are_chosen_by_rule():
    right, wrong = (0.9, 0.1), (0.2, 0.8)
    before, after = (
        Maps(np.zeros(0), np.zeros((4, 1), int), np.array(found))
        for found in ((right, right, wrong, wrong), (right, wrong, wrong, right))
    )
    found = study.rules_of("linear", "dora", before, after, np.array([0.5, 0.1, 0.9, 0.3]), data_seed=0)
    drawn = found.pop("drawn at random")
    assert {rule: images.tolist() for rule, images in found.items()} == {
        "maps differ most": [1, 3, 0, 2],
        "maps differ least": [2, 0, 3, 1],
        "right in linear, wrong in dora": [1],
        "wrong in linear, right in dora": [3],
    }
    assert sorted(drawn) == [0, 1, 2, 3] and np.array_equal(drawn, np.random.default_rng(0).permutation(4))


def test_a_second_call_reuses_everything_and_gives_the_same_bytes(shop, finished, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("measured again")

    written = files(finished)
    for name, one in MEASUREMENTS.items():
        monkeypatch.setitem(MEASUREMENTS, name, replace(one, compute=never))
    monkeypatch.setattr("evaluation.measurement_cache.compare_depth", never)
    assert command(study, *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out", finished) == 0
    assert files(finished) == written
    out = capsys.readouterr().out
    steps = [line for line in out.splitlines() if line.startswith("[")]
    assert steps[0].startswith("[1/33, 32 left] train linear") and steps[-1].startswith("[33/33, 0 left]")
    assert sum("depth" in line for line in steps) == 2 and sum("picture" in line for line in steps) == 2
    assert sum("kept from before" in line for line in steps) == 24


def test_a_fresh_study_gives_the_same_bytes(shop, finished, tmp_path):
    assert command(study, *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out", tmp_path) == 0
    names = (
        "results.csv",
        "claims.md",
        "findings.md",
        "details.md",
        "verdicts.png",
        "depth-dora.png",
        "compare/grid.png",
    )
    first, second = files(finished), files(tmp_path)
    assert [name for name in names if first[name] != second[name]] == []


@pytest.mark.slow
def test_torchrun_studies_what_one_process_studies(shop, tmp_path):
    argv = ["study.py", *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out"]
    alone, together = process(*argv, tmp_path / "one"), process(*TORCHRUN, *argv, tmp_path / "two")
    said = [running.communicate(timeout=600) for running in (alone, together)]
    assert (alone.returncode, together.returncode) == (0, 0), said
    lines = said[1][0].splitlines()
    shared = [line.split(": ", 1)[1] for line in lines if line.startswith("2 processes, ")]
    assert shared[:4] == [f"train {method}, seed {seed}" for method in ("linear", "dora") for seed in range(2)]
    assert len(shared) == 4 + 3 * 6 + 2, "6 measurements of three models, as a probe is one for all seeds; two by depth"
    measuring = [line for line in lines if re.match(r"\[.*: (maps|noise|perturbation|mosaics|sanity)", line)]
    assert len(measuring) == 24 and all(line.endswith("kept from before") for line in measuring), (
        "the first finds it done"
    )
    one, two = (
        {name: content.replace(f"/{folder}/".encode(), b"/") for name, content in files(tmp_path / folder).items()}
        for folder in ("one", "two")
    )
    assert one.keys() == two.keys()
    timed = ("timings.json", ".npz")  # a zip has clock times
    assert [name for name in one if one[name] != two[name] and not name.endswith(timed)] == []


def test_a_changed_setting_recomputes_only_what_depends_on_it(shop, tmp_path, no_pictures):
    argv = [*shop.options, *SMALL, "--relevance", "lrp_magnitude", "--out", tmp_path]
    assert command(study, *argv, "--metrics", "quick", "perturbation", "sanity") == 0

    def stamps() -> dict[str, int]:
        return {"/".join(p.parts[-2:]): p.stat().st_mtime_ns for p in tmp_path.glob("measures/*/*.csv")}

    before = stamps()
    assert not any("mosaics" in name for name in before), "only what was asked for"
    assert command(study, *argv, "--metrics", "quick", "perturbation", "sanity", "--removal", "mean", "blur") == 0
    assert {name: stamp for name, stamp in stamps().items() if "blur" not in name} == before
    assert (tmp_path / "perturbation-lrp_magnitude-blur.png").is_file()
    assert "removed patches: blur" in (tmp_path / "details.md").read_text()
    assert command(study, *argv, "--metrics", "quick", "perturbation", "sanity", "--metric-images", 5) == 0
    changed = {name for name, stamp in stamps().items() if before.get(name) not in (None, stamp)}
    assert changed and all("-maps-" not in name for name in changed)
    assert len(changed) == sum("-maps-" not in name for name in before)


@pytest.mark.parametrize(
    "change",
    [
        ["--rows", 3],
        pytest.param(["--relevance", "rollout"], marks=pytest.mark.slow),
        pytest.param(["--methods", "dora", "linear"], marks=pytest.mark.slow),
    ],
)
def test_a_changed_picture_is_drawn_again_without_being_asked(shop, tmp_path, change):
    argv = [*shop.options, *SMALL, "--relevance", "lrp_magnitude", "--metrics", "quick", "--out", tmp_path]
    assert command(study, *argv) == 0
    before = (tmp_path / "compare" / "grid.png").read_bytes()
    assert command(study, *argv, *change) == 0
    assert (tmp_path / "compare" / "grid.png").read_bytes() != before


def test_only_blurring_is_reported_where_only_it_is_asked_for(shop, tmp_path, no_pictures):
    assert (
        command(
            study,
            *shop.options,
            *SMALL,
            "--relevance",
            "lrp_magnitude",
            "--metrics",
            "perturbation",
            "--removal",
            "blur",
            "--out",
            tmp_path,
        )
        == 0
    )
    findings = (tmp_path / "findings.md").read_text()
    assert "## Faithfulness" in findings and "perturbation-lrp_magnitude-blur.png" in findings
    assert "| srg_above_random" not in findings and "less the model's own random baseline" in findings


@pytest.mark.parametrize("where", ["measure_noise", "measure_perturbation", "compare_depth"])
def test_an_interrupted_study_continues_where_it_stopped(shop, tmp_path, no_pictures, monkeypatch, where):
    argv = [
        *shop.options,
        *SMALL,
        "--relevance",
        "lrp_magnitude",
        "--metrics",
        "quick",
        "perturbation",
        "--out",
        tmp_path,
    ]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "compare_depth":
            patch.setattr(f"evaluation.measurement_cache.{where}", interrupt)
        else:
            name = where.removeprefix("measure_")
            patch.setitem(MEASUREMENTS, name, replace(MEASUREMENTS[name], compute=interrupt))
        assert command(study, *argv) == 130
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("measures/*/*.json")}
    assert kept and not (tmp_path / "claims.md").exists()
    assert command(study, *argv) == 0 and (tmp_path / "claims.md").is_file()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())


def test_a_study_of_drawn_scenes_says_where_relevance_lies(shop, tmp_path):
    assert (
        command(
            study,
            "--data",
            "scenes",
            "--train-images",
            48,
            "--val-images",
            24,
            *shop.model,
            *SMALL,
            "--methods",
            "linear",
            "lora:blocks=5,rank=1",
            "--metrics",
            "quick",
            "mosaics",
            "--out",
            tmp_path,
        )
        == 0
    )
    assert {"compare/regions.png", "compare-val_shuffled/grid.png", "lora-blocks5-rank1-seed0/config.json"} <= set(
        files(tmp_path)
    )
    findings, details = ((tmp_path / name).read_text() for name in ("findings.md", "details.md"))
    assert "| val_shuffled | surface |" in details and "| val | evidence |" in details
    assert "relevance on the surface" in findings
    for measure in ("relevance on the surface", "rank accuracy", "pointing game", "relevance outside the evidence"):
        assert measure in details
    assert "accuracy on val_shuffled" in findings and "cell of a mosaic" in findings
    assert "not judged" in (tmp_path / "claims.md").read_text()  # the earlier study knew no LoRA
    rows = list(csv.DictReader((tmp_path / "compare" / "comparison.csv").open()))
    for row in rows:  # every pixel belongs to one of these, and all relevance lies somewhere
        parts = [float(row[f"area_{region}"] or 0) for region in ("evidence", "players", "surface", "distractor")]
        assert sum(parts) <= 1.001 and float(row["area_people_and_the_ball"]) >= parts[0]


def test_a_folder_with_masks_is_measured_like_drawn_scenes(shop, tmp_path, no_pictures):
    """Scenes saved as files, four classes: no code knows them, and every measurement takes them."""
    folder = scene_folder(tmp_path / "photos", train=6, val=3, classes=4)
    assert command(study, "--data", folder, *shop.model, *SMALL, "--out", tmp_path / "out") == 0
    results = Results(read_results(tmp_path / "out" / "results.csv"))
    measured = results.known("metric")
    assert {"mosaic_share", "rank_accuracy", "pointing", "outside", "emprt", "srg", "noise"} <= set(measured)
    inside, outside = (
        results.pairs("linear", "dora", metric, target="true", place="evidence", relevance=COMPARISON_METHOD).first
        for metric in ("share", "outside")
    )
    assert np.allclose(inside + outside, 1, atol=1e-5)
    assert "evidence" in (tmp_path / "out" / "details.md").read_text()


def test_without_a_linear_probe_depth_is_compared_with_the_untuned_backbone(shop, tmp_path, no_pictures):
    assert (
        command(
            study, *shop.options, *SMALL, "--methods", "dora", "lora:rank=1", "--metrics", "quick", "--out", tmp_path
        )
        == 0
    )
    assert "From un-tuned to dora" in (tmp_path / "findings.md").read_text()
    results = Results(read_results(tmp_path / "results.csv"))
    assert "un-tuned" in results.known("method") and "depth_relevance" not in results.known("metric")
    before, after = (
        results.pairs(*pair, "depth_entropy", place="0") for pair in (("un-tuned", "dora"), ("un-tuned", "lora:rank=1"))
    )
    assert (before.first == after.first).all(), "both started from one backbone"


def test_a_method_that_was_not_asked_first_is_still_judged(shop, tmp_path, no_pictures):
    assert (
        command(study, *shop.options, *SMALL, "--methods", "dora", "linear", "--metrics", "quick", "--out", tmp_path)
        == 0
    )
    assert "## linear against dora" in (tmp_path / "claims.md").read_text()


def test_several_data_sets_stand_side_by_side(shop, colours, tmp_path, no_pictures):
    second = colour_folder(tmp_path / "shades", train=8, val=4, classes=("red", "grey", "blue", "green"))
    assert (
        command(
            study,
            "--data",
            colours,
            second,
            *shop.model,
            *SMALL,
            "--relevance",
            "lrp_magnitude",
            "--metrics",
            "quick",
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    names = set(files(tmp_path / "out"))
    assert {
        "verdicts.png",
        f"{colours.name}/claims.md",
        "shades/findings.md",
        "shades/linear-seed0/config.json",
    } <= names
    assert Results(read_results(tmp_path / "out" / "results.csv")).known("data") == [colours.name, "shades"]
    claims = (tmp_path / "out" / "claims.md").read_text()
    assert f"# {colours.name}: what" in claims and "# shades: what" in claims


def test_confused_classes_are_told_from_the_images_they_belong_to():
    """Three measured images of four: names tell which, and only images with one runner-up everywhere count."""
    rows = {
        ("linear", 0): {"a": (0, 1), "c": (0, 1), "d": (1, 0)},
        ("dora", 0): {"a": (0, 1), "c": (0, 2), "d": (1, 0)},
    }
    wrong = [
        dict(image=image, label=label, predicted=predicted, correct=int(label == predicted))
        for image, label, predicted in (
            ("a", "cat", "dog"),
            ("b", "cat", "dog"),
            ("c", "cat", "cat"),
            ("d", "dog", "cat"),
        )
    ]
    likeness = {"linear": np.array([[0.1, 0.2, 0.3]]), "dora": np.array([[0.5, 0.6, 0.9]])}
    known = SimpleNamespace(
        methods=["linear", "dora"],
        seeds=[0],
        relevances=["lrp"],
        runners_up=rows,
        runs=dict.fromkeys(rows),
        data=SimpleNamespace(class_names=["cat", "dog", "cow"]),
        values=lambda method, *_: likeness[method],
        predictions=lambda *_: wrong,
    )
    found = {(pair.true, pair.predicted): pair for pair in confused_pairs(known)}
    cat, dog = found["cat", "dog"], found["dog", "cat"]
    assert (cat.images, cat.confused, dog.images, dog.confused) == (1, 2, 1, 2)
    assert (cat.values["linear"][0], cat.values["dora"][0], dog.values["dora"][0]) == (0.1, 0.5, 0.9)


def test_runs_that_came_out_equal_share_what_is_measured_of_them(shop, tmp_path, no_pictures):
    """A second seed whose weights are the first's is measured without being measured; maps that were deleted come
    back."""
    argv = [*shop.options, *SMALL, "--relevance", "lrp_magnitude", "--metrics", "quick", "--out", tmp_path]
    assert command(study, *argv) == 0
    kept = len(list((tmp_path / "measures").iterdir()))
    (deleted := kept_of(tmp_path / "dora-seed0") / "val-maps-lrp_magnitude.npz").unlink()
    shutil.copytree(tmp_path / "linear-seed0", tmp_path / "linear-seed1")
    config = json.loads((tmp_path / "linear-seed1" / "config.json").read_text())
    (tmp_path / "linear-seed1" / "config.json").write_text(json.dumps(config | {"seed": 1}))
    assert command(study, *argv, "--seeds", 2) == 0
    assert len(list((tmp_path / "measures").iterdir())) == kept + 1, "DoRA's second seed alone"
    assert deleted.is_file()
    found = Results(read_results(tmp_path / "results.csv")).pairs("linear", "dora", "entropy", target="true")
    assert (found.first[0] == found.first[1]).all() and (found.second[0] != found.second[1]).any()


def test_few_images_name_no_side(finished):
    """Six images a split: whatever they say, no table and no sentence decides."""
    text = (finished / "findings.md").read_text() + (finished / "details.md").read_text()
    assert (
        not re.search(r"(linear|dora) higher|\| (linear|dora) \|\n", text)
        and "Nothing differs for certain between linear and dora" in text
    )


@pytest.mark.parametrize("methods", [["linear"], ["linear", "linear"], ["dora", "dora:rank=8"]])
def test_a_study_needs_two_different_methods(tmp_path, refused, methods):
    assert "give two or more different methods" in refused(study, "--methods", *methods, "--out", tmp_path / "out")


def test_data_sets_of_one_name_are_refused(shop, colours, tmp_path, refused):
    twin = colour_folder(tmp_path / colours.name, train=4, val=2)
    assert "two have one name" in refused(study, "--data", colours, twin, *shop.model, "--out", tmp_path / "out")


def test_a_study_of_other_settings_needs_overwrite(shop, tmp_path, no_pictures, refused):
    argv = [
        *shop.options,
        "--images",
        4,
        "--metric-images",
        2,
        "--metrics",
        "quick",
        "--rows",
        1,
        "--out",
        tmp_path / "out",
    ]
    assert command(study, *argv, "--epochs", 1) == 0
    assert "recipe.epochs: 1 -> 2" in refused(study, *argv, "--epochs", 2)
    assert command(study, *argv, "--epochs", 2, "--overwrite") == 0
    assert load_run(tmp_path / "out" / "dora-seed0").config["recipe"]["epochs"] == 2


def test_random_classes_are_the_same_for_every_run_and_never_the_true_one(shop):
    data = load_data(DataOptions(train_images=24, val_images=24), image_size=32)
    args = study.build_parser().parse_args(["--others", "3"])
    subject = Subject(load_run(shop.linear), "linear", data, "val", args, torch.device("cpu"))
    images, probability = subject.images(None), np.random.default_rng(0).random((24, 12))
    first, second = targets_of(subject, images, probability), targets_of(subject, images, probability[::-1])
    true, runner_up = np.asarray(data.splits["val"].labels)[images.indices], first[:, 4]
    assert (first[:, 0] == true).all() and (first[:, 1:4] == second[:, 1:4]).all()
    assert all(len({*row[:4]}) == 4 for row in first)
    for row, p, t in zip(runner_up, probability, true):
        assert row == max((c for c in range(12) if c != t), key=lambda c: p[c])
