"""study.py: what it leaves, what it reuses, what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest

import measures
import study
from commands import command, files
from data.datasets import load_data
from measures import Subject, targets_of
from models.runs import load_run
from report.results import Results, read_results
from tiny import colour_folder

SMALL = ["--epochs", 1, "--images", 6, "--metric-images", 4, "--rows", 2, "--images-at-once", 4]


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    assert command(study, *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out", out) == 0
    return out


def test_a_study_leaves_claims_findings_and_tidy_results(finished):
    assert {"claims.md", "findings.md", "results.csv", "verdicts.png", "perturbation-lrp_magnitude.png", "depth-dora.png",
            "heads-dora.png", "class-dependence-lrp_magnitude.png", "scatter-lrp_magnitude.png", "compare/grid.png",
            "worth-a-look/grid.png", "linear-seed1/curves.png", "dora-seed1/curves.png"} <= set(files(finished))
    claims, findings = ((finished / name).read_text() for name in ("claims.md", "findings.md"))
    assert all(f"| {letter} |" in claims for letter in ("a", "b", "b'", "c", "d", "e")) and "linear against dora" in claims
    for heading in ("Accuracy", "Are maps of different classes alike?", "Are maps noisy?", "Do the maps say what", "Sanity",
                    "What changed inside: dora", "Images worth a look"):
        assert heading in findings or heading == "Sanity" and "depend on what was learned" in findings
    for line in findings.splitlines():  # every figure that is linked is there
        if line.startswith("!["):
            assert (finished / line.rsplit("(", 1)[1].rstrip(")")).is_file(), line
    assert "mosaics of 2 x 2 images take 4 classes" in findings, "what was not measured is named"


def test_results_can_be_paired_again(finished):
    results = Results(read_results(finished / "results.csv"))
    assert results.known("seed") == [0, 1] and results.known("method") == ["linear", "dora"]
    pairs = results.pairs("linear", "dora", "srg", split="val", relevance="lrp_magnitude", target="true")
    assert pairs.first.shape == (2, 4) and not pairs.n_missing
    baseline = results.pairs("linear", "dora", "srg", split="val", relevance="random", target="true")
    above = results.pairs("linear", "dora", "srg_above_random", split="val", relevance="lrp_magnitude", target="true")
    assert np.allclose(above.first, pairs.first - baseline.first, atol=1e-5)
    likeness = results.pairs("linear", "dora", "spearman", split="val", relevance="lrp_magnitude", target="random")
    assert likeness.first.shape == (2, 6) and (np.abs(likeness.first) <= 1).all()


def test_a_second_call_reuses_everything_and_gives_the_same_bytes(shop, finished, capsys, monkeypatch):
    written = files(finished)
    for one in measures.MEASUREMENTS.values():
        monkeypatch.setattr(type(one), "compute", None, raising=False)
    assert command(study, *shop.options, *SMALL, "--seeds", 2, "--relevance", "lrp_magnitude", "--out", finished) == 0
    assert files(finished) == written


def test_a_changed_setting_recomputes_only_what_depends_on_it(shop, tmp_path):
    argv = [*shop.options, *SMALL, "--relevance", "lrp_magnitude", "--out", tmp_path]
    assert command(study, *argv, "--metrics", "quick", "perturbation") == 0

    def stamps() -> dict[str, int]:
        return {p.relative_to(tmp_path).as_posix(): p.stat().st_mtime_ns for p in tmp_path.rglob("measures/*.csv")}

    before = stamps()
    assert not any("sanity" in name for name in before), "only what was asked for"
    assert command(study, *argv, "--metrics", "quick", "perturbation", "--metric-images", 5) == 0
    changed = {name for name, stamp in stamps().items() if before[name] != stamp}
    assert changed and all("perturbation" in name or "noise" in name for name in changed)
    assert len(changed) == sum("perturbation" in name or "noise" in name for name in before)


def test_an_interrupted_study_continues_where_it_stopped(shop, tmp_path, monkeypatch):
    argv = [*shop.options, *SMALL, "--relevance", "lrp_magnitude", "--metrics", "quick", "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(study, "look_inside", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command(study, *argv) == 130
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("measures/*.csv")}
    assert kept and not (tmp_path / "claims.md").exists()
    assert command(study, *argv) == 0 and (tmp_path / "claims.md").is_file()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())


def test_a_study_of_drawn_scenes_says_where_relevance_lies(shop, tmp_path):
    assert command(study, "--data", "scenes", "--train-images", 48, "--val-images", 24, *shop.model, *SMALL,
                   "--methods", "linear", "lora:blocks=5,rank=1", "--metrics", "quick", "mosaics", "--out", tmp_path) == 0
    assert {"compare/regions.png", "compare-val_shuffled/grid.png", "lora-blocks5-rank1-seed0/config.json"} <= set(files(tmp_path))
    findings = (tmp_path / "findings.md").read_text()
    assert "| val_shuffled | surface |" in findings and "| val | evidence |" in findings
    assert "in a mosaic" in findings
    assert "not judged" in (tmp_path / "claims.md").read_text()  # the earlier study knew no LoRA
    rows = list(csv.DictReader((tmp_path / "compare" / "comparison.csv").open()))
    for row in rows:  # every pixel belongs to one of these, and all relevance lies somewhere
        parts = [float(row[f"area_{region}"]) for region in ("evidence", "players", "surface", "distractor")]
        assert sum(parts) <= 1.001 and float(row["area_people_and_the_ball"]) >= parts[0]


def test_several_data_sets_stand_side_by_side(shop, colours, tmp_path):
    second = colour_folder(tmp_path / "shades", train=8, val=4, classes=("red", "grey", "blue", "green"))
    assert command(study, "--data", colours, second, *shop.model, *SMALL, "--relevance", "lrp_magnitude", "--metrics", "quick",
                   "--out", tmp_path / "out") == 0
    names = set(files(tmp_path / "out"))
    assert {"verdicts.png", f"{colours.name}/claims.md", "shades/findings.md", "shades/linear-seed0/config.json"} <= names


@pytest.mark.parametrize("methods", [["linear"], ["linear", "linear"], ["dora", "dora:rank=8"]])
def test_a_study_needs_two_different_methods(tmp_path, refused, methods):
    assert "give two or more different methods" in refused(study, "--methods", *methods, "--out", tmp_path / "out")


def test_data_sets_of_one_name_are_refused(shop, colours, tmp_path, refused):
    twin = colour_folder(tmp_path / colours.name, train=4, val=2)
    assert "two have one name" in refused(study, "--data", colours, twin, *shop.model, "--out", tmp_path / "out")


def test_a_study_of_other_settings_needs_overwrite(shop, tmp_path, refused):
    argv = [*shop.options, "--images", 4, "--metric-images", 2, "--metrics", "quick", "--rows", 1, "--out", tmp_path / "out"]
    assert command(study, *argv, "--epochs", 1) == 0
    assert "recipe.epochs: 1 -> 2" in refused(study, *argv, "--epochs", 2)
    assert command(study, *argv, "--epochs", 2, "--overwrite") == 0
    assert load_run(tmp_path / "out" / "dora-seed0").config["recipe"]["epochs"] == 2


def test_random_classes_are_the_same_for_every_run_and_never_the_true_one(shop):
    data = load_data("scenes", image_size=32, train_images=24, val_images=24)
    args = study.build_parser().parse_args(["--others", "3"])
    subject = Subject(load_run(shop.linear), "linear", data, "val", args, None)
    images, probability = subject.images(None), np.random.default_rng(0).random((24, 12))
    first, second = targets_of(subject, images, probability), targets_of(subject, images, probability[::-1])
    true, runner_up = np.asarray(data.splits["val"].labels)[images.indices], first[:, 4]
    assert (first[:, 0] == true).all() and (first[:, 1:4] == second[:, 1:4]).all()
    assert all(len({*row[:4]}) == 4 for row in first)
    for row, p, t in zip(runner_up, probability, true):
        assert row == max((c for c in range(12) if c != t), key=lambda c: p[c])
