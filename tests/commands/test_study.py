"""study.py: what it leaves, what it reuses, what it refuses."""

import csv
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import TORCHRUN, command, files, process, written
from scene_folder import scene_folder
from scipy.stats import spearmanr
from tiny import colour_folder

import study
from commands.study_output import rules_of
from evaluation.maps import StoredMaps
from evaluation.measurements import MEASURES
from evaluation.observations import Results, read_results
from evaluation.targets import Targets
from explain.methods import FUNCTIONS
from explain.registry import COMPARISON_METHOD
from models.runs import load_run

SMALL = ["--epochs", 1, "--images", 8, "--metric-images", 4, "--rows", 2, "--batch-size", 4]
METHOD = ["--relevance", "lrp_magnitude"]
TWICE = [*SMALL, *METHOD, "--seeds", 2]
KINDS = ("maps", "centred", "robustness", "faithfulness", "grid_pointing", "randomisation")


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory) -> Path:
    """A study with two seeds; read only, but `copied` may be written to."""
    out = tmp_path_factory.mktemp("study")
    assert command(study, *shop.options, *TWICE, "--out", out) == 0
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "copied")


@pytest.fixture
def trained(finished, tmp_path) -> Path:
    """A folder with the two runs of seed 0, of which nothing is measured yet."""
    for name in ("linear-seed0", "dora-seed0"):
        shutil.copytree(finished / name, tmp_path / "trained" / name)
    return tmp_path / "trained"


def results_of(out: Path) -> Results:
    return Results(read_results(out / "results.csv"))


def stored_of(out: Path, run: str) -> Path:
    """Return the folder in which what was measured of a run is stored."""
    rows = list(read_results(out / "results.csv"))
    method, seed = run.split("-seed")
    image = next(row for row in rows if (row.method, row.seed, row.metric) == (method, int(seed), "probability"))
    for folder in (out / "measurements").iterdir():
        found = read_results(folder / "val-maps-lrp_magnitude.csv")
        if any((row.image, row.metric, row.value) == (image.image, "probability", image.value) for row in found):
            return folder
    raise AssertionError(f"nothing is stored of {run}")


def never(*_):
    raise AssertionError("measured again")


# ---- what it leaves


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
        "similarity-lrp_magnitude.png",
        "complexity-lrp_magnitude.png",
        "compare/grid.png",
        "worth-a-look/grid.png",
        "linear-seed1/curves.png",
        "dora-seed1/curves.png",
    } <= set(files(finished))
    claims, findings, details = ((finished / name).read_text() for name in ("claims.md", "findings.md", "details.md"))
    assert all(f"| {letter} |" in claims for letter in ("a", "b", "b'", "c", "d", "e"))
    assert "linear against dora" in claims
    for heading in (
        "What an earlier study claimed",
        "What changed between methods, and what did not",
        "The picture",
        "Accuracy",
        "Class-dependence, complexity and robustness",
        "Faithfulness",
        "What changed inside",
    ):
        assert f"## {heading}" in findings
    for heading in (
        "Claims in words",
        "Accuracy",
        "Are maps of different classes similar?",
        "How complex are the maps?",
        "Are the maps faithful to the models?",
        "What changed inside: dora",
        "Head by head: dora",
        "Do the maps depend on learned parameters?",
        "Images worth a look",
    ):
        assert f"## {heading}" in details
    assert len(findings.split()) < 1500, "two pages"
    for line in (*findings.splitlines(), *details.splitlines()):  # every figure that is linked is there
        if line.startswith("!["):
            assert (finished / line.rsplit("(", 1)[1].rstrip(")")).is_file(), line
    assert "mosaics of 2 x 2 images need 4 classes" in details, "what was not measured is named"
    assert "too few images" in findings and "lrp_magnitude" in findings


def test_few_images_name_no_side(finished):
    """Eight images per split: whatever they say, no table and no sentence decides."""
    text = (finished / "findings.md").read_text() + (finished / "details.md").read_text()
    assert not re.search(r"(linear|dora) higher|\| (linear|dora) \|\n", text)
    assert "No difference between linear and dora is decided" in text


def test_results_can_be_paired_again(finished):
    results = results_of(finished)
    assert results.known("seed") == [0, 1] and results.known("method") == ["linear", "dora"]
    imputed = {"split": "val", "target": "true", "imputation": "mean"}
    pairs = results.pairs("linear", "dora", "srg", relevance="lrp_magnitude", place="", **imputed)
    assert pairs.first.shape == (2, 4) and not pairs.n_missing
    for metric in ("srg", "morf", "deletion"):
        plain, baseline = (
            results.pairs("linear", "dora", metric, relevance=name, **imputed) for name in ("lrp_magnitude", "random")
        )
        above = results.pairs("linear", "dora", f"{metric}_above_random", relevance="lrp_magnitude", **imputed)
        assert np.allclose(above.first, plain.first - baseline.first, atol=1e-5)
    curve = [
        results.pairs("linear", "dora", "morf_curve", relevance="lrp_magnitude", place=place, **imputed).first
        for place in results.known("place", "morf_curve")[:-1]
    ]
    morf = results.pairs("linear", "dora", "morf", relevance="lrp_magnitude", **imputed).first
    assert np.allclose(np.mean(curve, axis=0), morf, atol=1e-5)
    similarity = results.pairs("linear", "dora", "spearman", split="val", relevance="lrp_magnitude", target="random")
    assert similarity.first.shape == (2, 8) and (np.abs(similarity.first) <= 1).all()
    depth = results.pairs("linear", "dora", "depth_entropy", place="5")
    assert depth.first.shape == (2, 4) and ((0 <= depth.second) & (depth.second <= 1)).all()


def test_maps_are_measured_as_their_definitions_say(finished):
    """Values of results.csv, from the stored maps."""
    results = results_of(finished)
    for seed in (0, 1):
        stored = StoredMaps.load(stored_of(finished, f"dora-seed{seed}") / "val-maps-lrp_magnitude")
        assert stored.maps.shape[1] == 1 + 2 + 1, "three classes have two others"

        def row(metric: str, target: str, seed=seed) -> np.ndarray:
            return results.pairs("dora", "dora", metric, seed, target=target, relevance="lrp_magnitude").first[0]

        similar = [[spearmanr(one[0].ravel(), other.ravel()).statistic for other in one[1:]] for one in stored.maps]
        assert np.allclose(row("spearman", "random"), np.mean([one[:2] for one in similar], axis=1), atol=1e-5)
        assert np.allclose(row("spearman", "runner-up"), [one[2] for one in similar], atol=1e-5)
        share = stored.maps[:, 0].clip(min=0).reshape(len(stored.maps), -1)
        share /= share.sum(1, keepdims=True)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(share.shape[1])
        assert np.allclose(row("entropy", "true"), entropy, atol=1e-5)


def test_the_table_beside_the_picture_holds_the_values_of_results(finished):
    """One pipeline: comparison.csv and results.csv are two forms of the same measurements."""
    results = results_of(finished)
    with (finished / "compare" / "comparison.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "dora"]
    pairs = results.pairs("dora", "dora", "entropy", 0, target="random", relevance="lrp_magnitude")
    assert [row["image"] for row in rows] == list(pairs.images)
    assert np.allclose([float(row["entropy_random"]) for row in rows], pairs.first[0], rtol=1e-5)


def test_the_folder_of_images_worth_a_look_holds_those_and_no_others(finished):
    details = (finished / "details.md").read_text().split("## Images worth a look")[1]
    named = sorted(
        line.split(" | ")[0].removeprefix("| ") for line in details.splitlines() if line.startswith("| val/")
    )
    with (finished / "worth-a-look" / "comparison.csv").open(newline="") as file:
        rows = [(row["run"], row["image"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [(run, image) for run in ("dora", "linear") for image in named]
    maps = np.load(finished / "worth-a-look" / "maps.npz")
    assert sorted(maps["images"]) == named and len(maps["maps_0"]) == len(named) < 8


def test_images_worth_a_look_are_chosen_by_rule():
    right, wrong = (0.9, 0.1), (0.2, 0.8)
    targets = Targets(np.zeros((4, 1), int), 0, np.zeros(4, bool))
    before, after = (
        StoredMaps(np.zeros(0), targets, np.array(found))
        for found in ((right, right, wrong, wrong), (right, wrong, wrong, right))
    )
    found = rules_of("linear", "dora", before, after, np.array([0.5, 0.1, 0.9, 0.3]), data_seed=0)
    drawn = found.pop("drawn at random")
    assert {rule: images.tolist() for rule, images in found.items()} == {
        "maps differ most": [1, 3, 0, 2],
        "maps differ least": [2, 0, 3, 1],
        "right in linear, wrong in dora": [1],
        "wrong in linear, right in dora": [3],
    }
    assert sorted(drawn) == [0, 1, 2, 3] and np.array_equal(drawn, np.random.default_rng(0).permutation(4))


# ---- what it reuses


def test_a_second_call_reuses_everything_and_gives_the_same_bytes(
    shop, finished, copied, no_pictures, capsys, monkeypatch
):
    before = {name: content for name, content in files(finished).items() if not name.endswith(".png")}
    for name, one in MEASURES.items():
        monkeypatch.setitem(MEASURES, name, replace(one, compute=never))
    monkeypatch.setattr("evaluation.measurement_cache.compare_depth", never)
    monkeypatch.setattr("evaluation.measurement_cache.store_maps", never)
    assert command(study, *shop.options, *TWICE, "--out", copied) == 0
    after = {name: content.replace(bytes(copied), bytes(finished)) for name, content in files(copied).items()}
    assert after.items() >= before.items()
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert steps[0].startswith("[1/45, 44 left] train linear") and steps[-1].startswith("[45/45, 0 left]")
    assert sum("depth" in line for line in steps) == 2 and sum("picture" in line for line in steps) == 2
    assert sum(line.endswith(", stored") for line in steps) == 4 * 9, "nine measurements of each run"


def test_a_fresh_study_gives_the_same_bytes(shop, finished, tmp_path):
    assert command(study, *shop.options, *TWICE, "--out", tmp_path) == 0
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


def test_nothing_is_explained_again_for_a_picture(shop, trained, no_pictures, monkeypatch):
    """The pictures and the table beside them are drawn from the stored maps."""
    calls: Counter = Counter()
    write, doing = study_module().write_study, ["measuring"]

    def counted(function):
        def explain(*arguments, **options):
            calls[doing[-1]] += 1
            return function(*arguments, **options)

        return explain

    def writing(*arguments):
        doing.append("writing")
        write(*arguments)

    for name, function in FUNCTIONS.items():
        monkeypatch.setitem(FUNCTIONS, name, counted(function))
    monkeypatch.setattr(study_module(), "write_study", writing)
    argv = [*shop.options, *SMALL, *METHOD, "--metrics", "maps", "--rows", 3, "--out", trained]
    assert command(study, *argv) == 0
    assert doing == ["measuring", "writing"] and set(calls) == {"measuring"}
    assert {"compare/grid.png", "compare/maps.npz", "worth-a-look/grid.png"} <= set(files(trained))


def study_module():
    import commands.study

    return commands.study


@pytest.mark.slow
def test_torchrun_studies_what_one_process_studies(shop, tmp_path):
    argv = ["study.py", *shop.options, *TWICE, "--out"]
    alone, together = process(*argv, tmp_path / "one"), process(*TORCHRUN, *argv, tmp_path / "two")
    said = [running.communicate(timeout=600) for running in (alone, together)]
    assert (alone.returncode, together.returncode) == (0, 0), said
    lines = said[1][0].splitlines()
    shared = [line.split(": ", 1)[1] for line in lines if line.startswith("2 processes, ")]
    assert shared[:4] == [f"train {method}, seed {seed}" for seed in range(2) for method in ("linear", "dora")]
    assert len(shared) == 4 + 3 * 7 + 2, "7 measurements of three models, as a probe is one for all seeds; two by depth"
    measuring = [line for line in lines if re.match(rf"\[.*: ({'|'.join(KINDS)})", line)]
    assert len(measuring) == 28 and all(line.endswith(", stored") for line in measuring), "the first finds it done"
    one, two = (
        {name: content.replace(f"/{folder}".encode(), b"") for name, content in files(tmp_path / folder).items()}
        for folder in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name] and not name.endswith("timings.json")] == []


def test_a_changed_setting_recomputes_only_what_depends_on_it(shop, copied, no_pictures):
    argv = [*shop.options, *TWICE, "--out", copied]

    def stamps() -> dict[str, int]:
        return {"/".join(p.parts[-2:]): p.stat().st_mtime_ns for p in copied.glob("measurements/*/*.csv")}

    before = stamps()
    assert command(study, *argv, "--imputation", "mean", "blur") == 0
    assert {name: stamp for name, stamp in stamps().items() if "blur" not in name} == before
    assert (copied / "perturbation-lrp_magnitude-blur.png").is_file()
    assert "imputation: blur" in (copied / "details.md").read_text()
    assert command(study, *argv, "--metrics", "quick", "randomisation", "--metric-images", 5) == 0
    changed = {name for name, stamp in stamps().items() if before.get(name) not in (None, stamp)}
    kinds = {name.split("-")[1] for name in changed}
    assert kinds == {"robustness", "randomisation"}, "those of expensive images that were asked for"


def test_only_what_was_asked_for_is_measured(shop, trained, no_pictures):
    argv = [*shop.options, *SMALL, *METHOD, "--metrics", "faithfulness", "--imputation", "blur", "--out", trained]
    assert command(study, *argv) == 0
    kinds = {path.name.split("-")[1] for path in trained.glob("measurements/*/*.csv")}
    assert kinds == {"maps", "faithfulness"}
    findings = (trained / "findings.md").read_text()
    assert "## Faithfulness" in findings and "perturbation-lrp_magnitude-blur.png" in findings
    assert "| srg_above_random" not in findings and "SRG minus that of random maps" in findings


def test_a_changed_picture_is_drawn_again_without_being_asked(shop, copied, no_pictures, monkeypatch):
    drawn: list[int] = []

    def grid(_path, _runs, rows, *_style, **_words):
        drawn.append(len(rows))

    monkeypatch.setattr("commands.comparison_output.comparison_grid", grid)
    assert command(study, *shop.options, *TWICE, "--metrics", "quick", "--rows", 3, "--out", copied) == 0
    assert drawn[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize("change", [["--relevance", "rollout"], ["--methods", "dora", "linear"]])
def test_a_picture_of_other_methods_is_another(shop, copied, change):
    before = (copied / "compare" / "grid.png").read_bytes()
    assert command(study, *shop.options, *TWICE, "--metrics", "quick", *change, "--out", copied) == 0
    assert (copied / "compare" / "grid.png").read_bytes() != before


@pytest.mark.parametrize("where", ["robustness", "faithfulness", "compare_depth"])
def test_an_interrupted_study_continues_where_it_stopped(shop, trained, no_pictures, monkeypatch, where):
    argv = [*shop.options, *SMALL, *METHOD, "--metrics", "quick", "faithfulness", "--out", trained]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "compare_depth":
            patch.setattr(f"evaluation.measurement_cache.{where}", interrupt)
        else:
            patch.setitem(MEASURES, where, replace(MEASURES[where], compute=interrupt))
        assert command(study, *argv) == 130
    kept = {p: p.stat().st_mtime_ns for p in trained.glob("measurements/*/*.json")}
    assert kept and not (trained / "claims.md").exists()
    assert command(study, *argv) == 0 and (trained / "claims.md").is_file()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())


def test_runs_with_equal_weights_share_what_is_measured_of_them(shop, copied, no_pictures):
    """A second seed whose weights are the first's is measured without being measured; maps that were deleted come
    back."""
    stored = len(list((copied / "measurements").iterdir()))
    assert stored == 3, "both seeds of the probe are one"
    maps = stored_of(copied, "dora-seed0") / "val-maps-lrp_magnitude.npy"
    maps.unlink()
    shutil.copytree(copied / "linear-seed0", copied / "linear-seed2")
    config = json.loads((copied / "linear-seed2" / "config.json").read_text())
    (copied / "linear-seed2" / "config.json").write_text(json.dumps(config | {"seed": 2}))
    argv = [*SMALL, *METHOD, "--metrics", "quick", "--seeds", 3]
    assert command(study, *shop.options, *argv, "--out", copied) == 0
    assert len(list((copied / "measurements").iterdir())) == stored + 1, "DoRA's third seed alone"
    assert maps.is_file()
    found = results_of(copied).pairs("linear", "dora", "entropy", target="true")
    assert (found.first[0] == found.first[2]).all() and (found.second[0] != found.second[2]).any()


# ---- data and methods


def test_a_study_of_drawn_scenes_says_where_relevance_lies(shop, tmp_path, no_pictures):
    argv = ["--data", "scenes", "--train-images", 48, "--val-images", 24, *shop.model, *SMALL]
    argv += ["--methods", "linear", "lora:blocks=5,rank=1", "--metrics", "quick", "grid_pointing", "--out", tmp_path]
    assert command(study, *argv) == 0
    drawn = {"compare/regions.png", "compare-val_shuffled/grid.png", "lora-blocks5-rank1-seed0/config.json"}
    assert drawn <= set(files(tmp_path))
    findings, details = ((tmp_path / name).read_text() for name in ("findings.md", "details.md"))
    assert "| val_shuffled | surface |" in details and "| val | evidence |" in details
    assert "relevance on the surface" in findings or "surface of val" in findings
    for metric in ("rank accuracy", "pointing game", "relevance outside the evidence"):
        assert metric in details
    assert "accuracy on val_shuffled" in findings
    assert "not judged" in (tmp_path / "claims.md").read_text()  # the earlier study knew no LoRA
    with (tmp_path / "compare" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # every pixel belongs to one of these, and all relevance lies somewhere
        parts = [float(row.get(f"area_{region}") or 0) for region in ("evidence", "players", "surface", "distractor")]
        assert sum(parts) <= 1.001 and float(row["area_people_and_the_ball"]) >= parts[0]


def test_a_folder_with_masks_is_measured_like_drawn_scenes(shop, tmp_path, no_pictures):
    """Scenes saved as files, four classes: no code knows them, and every measurement takes them."""
    folder = scene_folder(tmp_path / "photos", train=6, val=3, classes=4)
    assert command(study, "--data", folder, *shop.model, *SMALL, "--out", tmp_path / "out") == 0
    results = results_of(tmp_path / "out")
    measured = results.known("metric")
    assert {"rank_accuracy", "pointing", "outside", "emprt", "srg", "noise"} <= set(measured)
    inside, outside = (
        results.pairs("linear", "dora", metric, target="true", place="evidence", relevance=COMPARISON_METHOD).first
        for metric in ("share", "outside")
    )
    assert np.allclose(inside + outside, 1, atol=1e-5)
    assert "evidence" in (tmp_path / "out" / "details.md").read_text()


def test_without_a_linear_probe_depth_is_compared_with_the_untuned_backbone(shop, tmp_path, no_pictures):
    argv = [*SMALL, "--methods", "dora", "lora:rank=1", "--metrics", "quick", "--out", tmp_path]
    assert command(study, *shop.options, *argv) == 0
    assert "From un-tuned to dora" in (tmp_path / "findings.md").read_text()
    results = results_of(tmp_path)
    assert "un-tuned" in results.known("method") and "depth_relevance" not in results.known("metric")
    before, after = (
        results.pairs(*pair, "depth_entropy", place="0") for pair in (("un-tuned", "dora"), ("un-tuned", "lora:rank=1"))
    )
    assert (before.first == after.first).all(), "both started from one backbone"


def test_a_method_that_was_not_asked_first_is_still_judged(shop, copied, no_pictures):
    argv = [*TWICE, "--methods", "dora", "linear", "--metrics", "quick", "--out", copied]
    assert command(study, *shop.options, *argv) == 0
    assert "## linear against dora" in (copied / "claims.md").read_text()


def test_several_data_sets_stand_side_by_side(shop, colours, tmp_path, no_pictures):
    second = colour_folder(tmp_path / "shades", train=8, val=4, classes=("red", "grey", "blue", "green"))
    argv = ["--data", colours, second, *shop.model, *SMALL, *METHOD, "--metrics", "grid_pointing"]
    argv += ["--methods", "linear", "lora:blocks=5,rank=1", "--out", tmp_path / "out"]
    assert command(study, *argv) == 0
    names = set(files(tmp_path / "out"))
    folders = {f"{colours.name}/claims.md", "shades/findings.md", "shades/linear-seed0/config.json"}
    assert {"verdicts.png", *folders} <= names
    assert results_of(tmp_path / "out").known("data") == [colours.name, "shades"]
    mosaics = [row for row in read_results(tmp_path / "out" / "results.csv") if row.metric == "mosaic_share"]
    assert {row.data for row in mosaics} == {"shades"}, "which has the four classes that a mosaic takes"
    assert Counter(row.method for row in mosaics) == {"linear": 4, "lora:blocks=5,rank=1": 4}, (
        "of images that both predict correctly"
    )
    claims = (tmp_path / "out" / "claims.md").read_text()
    assert [line.split(":")[0] for line in claims.splitlines() if line.startswith("# ")] == ["# colours", "# shades"]


# ---- what it refuses


def test_a_study_of_other_settings_needs_overwrite(shop, copied, no_pictures, capsys):
    before = written(copied)
    argv = [*shop.options, *TWICE, "--metrics", "quick", "--out", copied]
    argv[argv.index("--epochs") + 1] = 2
    assert command(study, *argv) == 2
    assert "recipe.augment_views: 1 -> 2" in capsys.readouterr().err and written(copied) == before
    assert command(study, *argv, "--overwrite") == 0
    assert load_run(copied / "dora-seed0").config.recipe["epochs"] == 2
