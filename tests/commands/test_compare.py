"""compare.py: what it writes, what it reuses, which classes it explains, what an interruption leaves."""

import csv
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from running import command, files, written
from tiny import NAME, SIZE

import compare
from commands import comparison_output
from data.scenes.scene import SPORTS
from evaluation import maps, measurements

FEW = ["--images", 6, "--rows", 2, "--relevance", "lrp_magnitude"]  # whose maps are never 0
TAGGED = f"{NAME}.r160_in1k"  # the same model by another name
WRITTEN = {"grid.png", "maps.npz", "comparison.csv", "comparison.json", "differences.png"}


@pytest.fixture(scope="module")
def compared(shop, tmp_path_factory) -> Path:
    """A comparison of both runs on six images; read only."""
    out = tmp_path_factory.mktemp("compared")
    assert command(compare, shop.linear, shop.dora, *FEW, "--out", out) == 0
    return out


@pytest.fixture
def grids(monkeypatch) -> list[tuple]:
    """What is asked of `comparison_grid`: (runs, rows) and the words around them; nothing is drawn."""
    asked = []

    def asked_for(_path, runs, rows, _style, title, footnote):
        asked.append((runs, rows, footnote))

    monkeypatch.setattr(comparison_output, "comparison_grid", asked_for)
    return asked


@pytest.fixture
def explained(monkeypatch) -> list:
    """A weak reference to every batch of images whose maps are computed, and not read from what is stored."""
    batches, explain = [], maps.relevance

    def relevance(model, images, *arguments, **options):
        batches.append(weakref.ref(images))
        return explain(model, images, *arguments, **options)

    monkeypatch.setattr(maps, "relevance", relevance)
    return batches


def table(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of comparison.csv by run."""
    rows: dict[str, list[dict[str, str]]] = {}
    with (folder / "comparison.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["run"], []).append(row)
    return rows


# ---- what it writes


def test_a_picture_maps_and_numbers_are_written_and_reused(shop, compared, capsys, explained):
    assert set(written(compared)) == WRITTEN
    found = np.load(compared / "maps.npz")  # would refuse pickles
    targets = 1 + 2 + 1  # the true class, both others, as three are asked for, and the runner-up
    assert found["maps_0"].shape == found["maps_1"].shape == (6, targets, SIZE // 16, SIZE // 16)
    assert found["classes_0"].shape == (6, targets) and (found["classes_0"][:, 0] == found["true"]).all()
    assert list(found["runs"]) == ["linear", "dora"] and len(set(found["images"])) == 6
    rows = table(compared)
    assert {run: [row["image"] for row in part] for run, part in rows.items()} == {
        run: list(found["images"]) for run in ("linear", "dora")
    }
    before = files(compared)
    capsys.readouterr()
    assert command(compare, shop.linear, shop.dora, *FEW, "--out", compared) == 0
    assert "finished: reused" in capsys.readouterr().out and files(compared) == before and not explained


def test_columns_are_named_by_metric_and_target(compared):
    linear, dora = table(compared)["linear"][0], table(compared)["dora"][0]
    assert list(linear)[:10] == [
        "image",
        "run",
        "true",
        "explained",
        "second",
        "second_is",
        "predicted",
        "correct",
        "probability_true",
        "probability_second",
    ]
    numbers = {
        *(f"{metric}_{target}" for metric in ("spearman", "cosine", "ssim") for target in ("random", "runner_up")),
        *(f"{metric}_{target}" for metric in ("entropy", "gini", "total_variation") for target in ("true", "random")),
        "noise_true",
        "spearman_to_first_run",
        "cosine_to_first_run",
    }
    assert numbers <= set(linear) and float(linear["spearman_to_first_run"]) == 1 and dora["spearman_to_first_run"]
    assert linear["second_is"] == "random" and linear["second"] != linear["true"] == linear["explained"]


def test_numbers_are_those_of_the_maps(compared):
    """Not of another image, target or run: taken from maps.npz once more."""
    found, rows = np.load(compared / "maps.npz"), table(compared)
    for i, run in enumerate(("linear", "dora")):
        share = found[f"maps_{i}"][:, 0].reshape(6, -1).clip(min=0).astype(np.float64)
        share /= share.sum(1, keepdims=True)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(share.shape[1])
        assert np.allclose([float(row["entropy_true"]) for row in rows[run]], entropy, atol=1e-5)
    first, second = (found[f"maps_{i}"][:, 0].reshape(6, -1).astype(np.float64) for i in (0, 1))
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert np.allclose([float(row["cosine_to_first_run"]) for row in rows["dora"]], cosine, atol=1e-5)
    summary = {run["label"]: run for run in json.loads((compared / "comparison.json").read_text())["runs"]}
    for run in rows:
        mean = np.mean([float(row["entropy_random"]) for row in rows[run]])
        assert summary[run]["means"]["entropy_random"]["mean"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_a_map_that_is_zero_has_no_noise_and_is_counted(shop, tmp_path, monkeypatch, capsys):
    """GradCAM's maps often are: a change relative to nothing is not a number."""
    measure = measurements.input_noise_change

    def some_zero(model, images, *args, **named):
        change = measure(model, images, *args, **named)
        change[0] = np.nan  # the first image of every batch
        return change

    monkeypatch.setattr(measurements, "input_noise_change", some_zero)
    argv = [shop.linear, shop.dora, "--images", 4, "--rows", 1, "--batch-size", 4, "--out", tmp_path]
    assert command(compare, *argv) == 0
    kept = [float(row["noise_true"]) for row in table(tmp_path)["linear"] if row["noise_true"]]
    assert len(kept) == 3
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith(f"changes maps by {100 * np.median(kept):.2f} % (median; 1 of 4 maps are 0 and left out)")


@pytest.mark.usefixtures("no_pictures")
def test_frames_are_explained_where_there_are_some(shop, tmp_path, grids):
    models = {
        "own": [NAME, TAGGED, "--weights", shop.weights, "--image-size", SIZE, "--data", shop.colours],
        "one": [shop.linear, NAME, "--weights", shop.weights, "--image-size", SIZE],
        "none": [shop.linear, shop.dora],
    }
    for name, given in models.items():
        assert command(compare, *given, "--images", 2, "--rows", 1, "--out", tmp_path / name) == 0
    notes = [note for _, _, note in grids]
    assert ["Frames" in note for note in notes] == [False, True, True]
    assert ["from all but the true one" in note for note in notes] == [False, True, True]
    assert ["classes of its own" in note for note in notes] == [True, True, False]
    frames = [[[cell.frame for cell in pair] for pair in rows[0].cells] for _, rows, _ in grids]
    assert frames[0] == [[None, None], [None, None]] and frames[1][1] == [None, None]
    assert all(one in (["correct", None], ["wrong", None]) for one in (frames[1][0], *frames[2]))


@pytest.mark.usefixtures("no_pictures")
def test_images_are_picked_by_name(shop, tmp_path, grids, refused):
    argv = [shop.linear, shop.dora, "--out", tmp_path / "out", "--pick"]
    assert "--pick red/0.png is not an image of this split; did you mean" in refused(compare, *argv, "red/0.png")
    assert command(compare, *argv, "val/red/04.png", "val/blue/01.png") == 0
    ((_, rows, _),) = grids
    assert [row.caption.splitlines()[0] for row in rows] == ["val/blue/01.png", "val/red/04.png"]
    assert {run: [row["image"] for row in part] for run, part in table(tmp_path / "out").items()} == dict.fromkeys(
        ("linear", "dora"), ["val/blue/01.png", "val/red/04.png"]
    )
    assert "pick" in refused(compare, *argv, "val/red/04.png")


# ---- which classes are explained


def test_random_classes_are_the_same_for_every_run_and_never_the_true_one(compared):
    found = np.load(compared / "maps.npz")
    first, second = (found[f"classes_{i}"] for i in (0, 1))
    assert (first[:, :3] == second[:, :3]).all()
    assert all(len(set(row)) == 3 for row in first[:, :3]), "no class twice, so the true one is none of them"


@pytest.mark.usefixtures("no_pictures")
def test_a_random_class_may_be_one_that_a_run_predicts(shop, tmp_path):
    """It is uniform over all classes but the true one, from the data seed and the image alone."""
    drawn = {}
    for seed in (0, 1):
        argv = [shop.linear, shop.dora, "--data", shop.colours, "--data-seed", seed, "--images", 18, "--rows", 1]
        assert command(compare, *argv, "--random-classes", 1, "--out", tmp_path / str(seed)) == 0
        found = np.load(tmp_path / str(seed) / "maps.npz")
        assert found["classes_0"].shape == (18, 3) and (found["classes_0"][:, :2] == found["classes_1"][:, :2]).all()
        drawn[seed] = dict(zip(found["images"], found["classes_0"][:, 1]))
    assert drawn[0].keys() == drawn[1].keys() and drawn[0] != drawn[1]
    assert len(set(drawn[0].values())) == 3


@pytest.mark.usefixtures("no_pictures")
def test_the_second_heatmap_shows_the_class_asked_for(shop, tmp_path, grids):
    rows, heads, pick = {}, {}, ["val/blue/01.png", "val/red/04.png"]
    for second in ("auto", "random", "runner-up"):
        out = tmp_path / second
        assert command(compare, shop.linear, shop.dora, "--pick", *pick, "--second", second, "--out", out) == 0
        rows[second], found = table(out), np.load(out / "maps.npz")
        runs, drawn, _ = grids[-1]
        heads[second] = [run.target_heads for run in runs]
        for i, run in enumerate(("linear", "dora")):
            classes = [row["second"] for row in rows[second][run]]
            assert classes == list(found[f"classes_{i}"][:, 3 if second == "runner-up" else 1])
            assert {row["second_is"] for row in rows[second][run]} == {second if second != "auto" else "random"}
            assert [row.cells[i][1].caption.split()[0] for row in drawn] == classes
    assert rows["auto"] == rows["random"] and heads["auto"] == heads["random"] == [("true class", "random class")] * 2
    assert heads["runner-up"] == [("true class", "runner-up class")] * 2


@pytest.fixture(scope="module")
def scenes(shop, tmp_path_factory) -> list:
    """Two runs on drawn scenes: a linear probe, and the same with another seed."""
    import train

    root = tmp_path_factory.mktemp("scenes")
    data = ["--data", "scenes", "--train-images", 24, "--val-images", 48]
    for name, smoothing in (("one", "0.1"), ("two", "0")):
        argv = [*data, *shop.model, "--label-smoothing", smoothing, "--out", root / name]
        assert command(train, *argv) == 0
    return [root / "one", root / "two"]


@pytest.mark.usefixtures("no_pictures")
def test_where_a_scene_has_a_distractor_its_class_is_the_second(scenes, tmp_path, grids):
    assert command(compare, *scenes, *FEW, "--images", 24, "--rows", 4, "--out", tmp_path / "auto") == 0
    assert command(compare, *scenes, *FEW, "--images", 24, "--second", "random", "--out", tmp_path / "random") == 0
    rows, random = table(tmp_path / "auto"), table(tmp_path / "random")
    found = np.load(tmp_path / "auto" / "maps.npz")
    labels = list(rows)
    assert found["maps_0"].shape[1] == 1 + 3 + 1 + 1 and set(found["true"]) == set(SPORTS)
    for i, label in enumerate(labels):
        for k, row in enumerate(rows[label]):
            distracted = row["second_is"] == "distractor"
            assert row["second_is"] in ("distractor", "random")
            assert row["second"] == found[f"classes_{i}"][k, 5 if distracted else 1]
            assert (row["share_distractor_for_its_class"] != "") == distracted == (row["share_distractor"] != "")
            assert (row["area_evidence"] != "") == (row["rank_accuracy_evidence"] != "")  # not always in view
            assert row["second"] != row["true"] and random[label][k]["second"] == found[f"classes_{i}"][k, 1]
    kinds = {row["second_is"] for row in rows[labels[0]]}
    assert kinds == {"distractor", "random"} and {row["second_is"] for row in random[labels[0]]} == {"random"}
    (runs, drawn, note), (others, *_) = grids
    assert [run.target_heads[1] for run in runs] == ["distractor's or random class"] * 2
    assert [run.target_heads[1] for run in others] == ["random class"] * 2
    assert "(distractor)" in note and sum("unused" in row.caption for row in drawn) == 2, "half of the rows"
    assert (tmp_path / "auto" / "regions.png").is_file()


# ---- batches, and what an interruption leaves


@pytest.mark.usefixtures("no_pictures")
def test_images_are_forgotten_when_the_next_batch_is_read(shop, tmp_path, monkeypatch):
    alive, living, explain = [], [], maps.relevance

    def relevance(model, images, *arguments, **options):
        alive.append(weakref.ref(images))
        living.append(sum(reference() is not None for reference in alive))
        return explain(model, images, *arguments, **options)

    monkeypatch.setattr(maps, "relevance", relevance)
    assert command(compare, shop.linear, shop.dora, "--batch-size", 3, "--rows", 1, "--out", tmp_path) == 0
    assert len(alive) == 2 * 18 / 3 and max(living) <= 2


@pytest.mark.usefixtures("no_pictures")
def test_the_size_of_batches_changes_nothing_but_rounding(shop, tmp_path):
    found = []
    for size in (5, 18):
        out = tmp_path / str(size)
        assert command(compare, shop.linear, shop.dora, "--batch-size", size, "--rows", 1, "--out", out) == 0
        found.append(np.load(out / "maps.npz"))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0] if not name.startswith("maps_"))
    for name in ("maps_0", "maps_1"):
        assert np.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6 * found[1][name].max())


@pytest.mark.usefixtures("no_pictures")
def test_a_comparison_interrupted_among_its_batches_continues_with_the_run_that_it_was_at(
    shop, compared, tmp_path, monkeypatch, capsys
):
    seen, explain = [], maps.relevance

    def relevance(*arguments, **options):
        seen.append(None)
        if len(seen) == 4:  # in the second run's maps, when the first's are written
            raise KeyboardInterrupt
        return explain(*arguments, **options)

    argv = [shop.linear, shop.dora, *FEW, "--batch-size", 3, "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(maps, "relevance", relevance)
        assert command(compare, *argv) == 130
    assert capsys.readouterr().err.startswith("interrupted; ")
    left = set(files(tmp_path))
    assert not written(tmp_path) and len([name for name in left if name.endswith(".maps.json")]) == 1
    assert not any(Path(name).name.startswith(".") for name in left), "no half file"
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(maps, "relevance", lambda *args, **named: seen.append(None) or explain(*args, **named))
        assert command(compare, *argv) == 0
    assert len(seen) == 2, "the second run's two batches"
    assert [len(rows) for rows in table(tmp_path).values()] == [6, 6] and set(written(tmp_path)) == WRITTEN


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_comparison_that_is_replaced_and_interrupted_is_not_taken_for_finished(shop, tmp_path, monkeypatch):
    argv = [shop.linear, shop.dora, "--rows", 1, "--out", tmp_path]
    assert command(compare, *argv, "--images", 4) == 0

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison_output, "draw_grid", interrupt)
    assert command(compare, *argv, "--images", 5, "--overwrite") == 130
    assert "comparison.json" not in files(tmp_path)


def test_what_is_stored_serves_another_picture_of_the_same_maps(shop, compared, tmp_path, explained):
    out = shutil.copytree(compared, tmp_path / "out")
    argv = [shop.linear, shop.dora, *FEW, "--rows", 3, "--second", "runner-up", "--normalise", "shared"]
    assert command(compare, *argv, "--overwrite", "--out", out) == 0
    assert not explained and (out / "grid.png").read_bytes() != (compared / "grid.png").read_bytes()


# ---- other settings


@pytest.mark.usefixtures("no_pictures")
def test_another_comparison_needs_overwrite(shop, compared, tmp_path, refused):
    out = shutil.copytree(compared, tmp_path / "out")
    argv = [shop.linear, shop.dora, *FEW, "--out", out]
    assert "images: 6 -> 5" in refused(compare, *argv, "--images", 5)
    assert 'second: "auto" -> "runner-up"' in refused(compare, *argv, "--second", "runner-up")
    assert "random_classes: 3 -> 1" in refused(compare, *argv, "--random-classes", 1)
    assert command(compare, *argv, "--images", 5, "--overwrite") == 0
    assert [len(rows) for rows in table(out).values()] == [5, 5]


@pytest.mark.usefixtures("no_pictures")
def test_what_is_explained_can_be_changed_and_another_choice_is_another_comparison(shop, tmp_path, capsys):
    out = tmp_path / "centred"
    options = [shop.linear, shop.dora, "--images", 4, "--rows", 1, "--relevance", "attnlrp_epsilon", "--out", out]
    assert command(compare, *options, "--centre-head") == 0
    centred = np.load(out / "maps.npz")["maps_0"]
    assert centred.min() < 0 < centred.max()  # a signed method
    assert command(compare, *options) == 2 and "centre_head" in capsys.readouterr().err
    assert command(compare, *options, "--overwrite") == 0
    assert not np.allclose(np.load(out / "maps.npz")["maps_0"], centred)


# ---- what is damaged


@pytest.mark.parametrize("content", [b"{", b'{"configuration": 3}', b"[]"])
def test_a_damaged_result_is_replaced_where_that_is_asked_for(shop, compared, tmp_path, content, no_pictures):
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    whole = (out / "comparison.json").read_bytes()
    (out / "comparison.json").write_bytes(content)
    argv = [shop.linear, shop.dora, *FEW, "--out", out]
    assert command(compare, *argv) in (1, 2) and (out / "comparison.json").read_bytes() == content
    assert command(compare, *argv, "--overwrite") == 0 and (out / "comparison.json").read_bytes() == whole


def test_a_file_that_is_missing_is_written_again(shop, compared, tmp_path, explained):
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    whole = written(out)
    (out / "grid.png").unlink()
    assert command(compare, shop.linear, shop.dora, *FEW, "--out", out) == 0
    assert written(out) == whole and not explained
