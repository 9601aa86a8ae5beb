"""compare.py and visualize.py with --layers: relevance by block and head."""

import csv
import json
from itertools import product

import numpy as np
import pytest
import torch
from running import command, files, written
from tiny import NAME

import compare
import visualize
from commands import comparison_output
from commands.visualize_files import slug
from data.datasets import load_data
from data.images import open_image
from data.options import DataOptions
from data.sampling import stratified
from data.transforms import Prepared, evaluation_transform
from evaluation.depth import heads_add_up
from evaluation.statistics.paired import single
from explain import relevance
from explain.registry import METHODS
from models.runs import load_run
from report.figures import class_heatmaps

FEW = ["--images", 6, "--rows", 2]
ONE = ["--images", 2, "--rows", 1]
BLOCKS, HEADS = 6, 2  # of the tiny ViT
WITH = [name for name, method in METHODS.items() if "layers" in method.options]
WITHOUT = [name for name in METHODS if name not in WITH]


@pytest.fixture(scope="module")
def compared(shop, tmp_path_factory):
    """A comparison with --layers by a signed method."""
    out = tmp_path_factory.mktemp("compared")
    argv = [shop.linear, shop.dora, *FEW, "--relevance", "attnlrp_epsilon", "--layers", "--out", out]
    assert command(compare, *argv) == 0
    return out


def table(out) -> dict[tuple[str, ...], dict]:
    """Return the rows of layers.csv by run, target, block, head."""
    with (out / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["run"], row["target"], row["block"], row["head"]): row for row in rows}
    assert len(found) == len(rows)
    return found


# ---- compare.py


@pytest.fixture
def profiles(monkeypatch) -> list[tuple]:
    """What compare.py asks of `layer_profiles`: (runs, difference, targets), and the words around them."""
    asked = []
    monkeypatch.setattr(comparison_output, "layer_profiles", lambda _path, *args, **named: asked.append((args, named)))
    return asked


@pytest.mark.parametrize("method", ["rollout", "lrp", "attnlrp_epsilon", "lrp_depth"])
@pytest.mark.usefixtures("no_pictures")
def test_the_figure_says_what_a_heads_relevance_is(shop, tmp_path, profiles, method):
    argv = [shop.linear, shop.dora, *ONE, "--relevance", method, "--layers", "--out", tmp_path]
    assert command(compare, *argv) == 0
    ((_, words),) = profiles
    adds = method in ("rollout", "lrp")
    assert words["title"].startswith(
        f"Where in the network {'relevance arises' if adds else 'heads carry relevance'}: {method}"
    )
    assert ("adds to the map" in words["footnote"]) == adds
    assert ("carries away from each patch" in words["footnote"] and "does not add up" in words["footnote"]) == (
        not adds
    )


@pytest.mark.usefixtures("no_pictures")
def test_panels_are_headed_by_the_class_that_is_explained(shop, tmp_path, profiles):
    model = ["--weights", shop.weights, "--image-size", 32, *ONE, "--layers"]
    tagged = f"{NAME}.r160_in1k"  # the same model by another name
    assert command(compare, NAME, tagged, *model, "--data", shop.colours, "--out", tmp_path / "own") == 0
    assert command(compare, NAME, shop.dora, *model, "--out", tmp_path / "one") == 0
    argv = [shop.linear, shop.dora, *ONE, "--layers", "--second", "runner-up", "--out", tmp_path / "runner-up"]
    assert command(compare, *argv) == 0
    ((_, difference, own), own_words), ((_, _, one), one_words), ((_, _, runner_up), _) = profiles
    assert own == ("predicted class", "random class") and "true class" not in own_words["footnote"]
    assert one == ("true class", "random class") and runner_up == ("true class", "runner-up class")
    assert f"For {NAME}, with classes of its own, the true class is the one it predicts" in one_words["footnote"]
    assert not difference.by_head[..., 0].any(), "the same model twice"


def test_compare_writes_shares_of_every_block_and_head(shop, compared):
    assert {"layers.png", "layers.csv"} <= set(files(compared))
    rows = table(compared)
    heads = ["all", *map(str, range(HEADS))]
    assert list(rows) == list(
        product(["linear", "dora", "dora minus linear"], ["true", "second"], map(str, range(BLOCKS)), heads)
    )
    for run, target in product(["linear", "dora"], ["true", "second"]):
        shares = [float(row["share"]) for name, row in rows.items() if name[:2] == (run, target) and name[3] != "all"]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    for (run, target, block, head), row in rows.items():
        assert float(row["low"]) <= float(row["share"]) <= float(row["high"]) and row["images"] == "6"
        if run == "dora minus linear":
            dora, linear = (float(rows[name, target, block, head]["share"]) for name in ("dora", "linear"))
            assert float(row["share"]) == pytest.approx(dora - linear, abs=1e-5)


def test_the_table_holds_the_shares_of_the_images_compared(shop, compared):
    data = load_data(DataOptions(str(shop.colours)), image_size=32)
    split = data.splits["val"]
    maps = np.load(compared / "maps.npz")
    indices = stratified(split.labels, 6, 0)
    targets = torch.tensor([[data.class_names.index(name) for name in names[:2]] for names in maps["classes_0"]])
    rows = table(compared)
    shares = {}
    for name in ("linear", "dora"):
        run = load_run(shop.root / name)
        prepared = Prepared(split, evaluation_transform(run.config.data_config))
        images = torch.stack([prepared[int(i)][0] for i in indices])
        added = relevance(run.model, images, targets, "attnlrp_epsilon", layers=True)[1].abs().sum((-2, -1)).double()
        shares[name] = np.array([[added[i, k] / added[i, k].sum() for k in range(2)] for i in range(6)])
    shares["dora minus linear"] = shares["dora"] - shares["linear"]
    for (name, values), (k, target), block in product(shares.items(), enumerate(("true", "second")), range(BLOCKS)):
        for head in range(HEADS):
            expected = single(values[:, k, block, head])
            row = rows[name, target, str(block), str(head)]
            found = [float(row[column]) for column in ("share", "low", "high")]
            assert np.allclose(found, [expected.mean, expected.low, expected.high], rtol=1e-3, atol=1e-6)
        whole = single(values[:, k, block].sum(-1))
        assert float(rows[name, target, str(block), "all"]["share"]) == pytest.approx(whole.mean, rel=1e-3, abs=1e-6)


def test_layers_change_nothing_else_and_are_another_comparison(shop, compared, tmp_path, capsys):
    argv = [shop.linear, shop.dora, *FEW, "--relevance", "attnlrp_epsilon", "--out", tmp_path]
    assert command(compare, *argv) == 0
    without, same = written(tmp_path), written(compared)
    assert set(same) - set(without) == {"layers.png", "layers.csv"}
    configurations = [json.loads(found["comparison.json"])["configuration"] for found in (without, same)]
    assert configurations[0]["layers"] is False and configurations[1] == configurations[0] | {"layers": True}
    assert all(without[name] == same[name] for name in ("grid.png", "comparison.csv"))
    capsys.readouterr()
    assert command(compare, *argv, "--layers") == 2 and "layers" in capsys.readouterr().err
    assert command(compare, *argv, "--layers", "--overwrite") == 0
    printed = capsys.readouterr().out
    assert "maps.npz, layers.png, layers.csv (6 images of val" in printed
    assert all(written(tmp_path)[name] == same[name] for name in ("layers.csv", "layers.png"))
    assert command(compare, *argv, "--overwrite") == 0
    assert written(tmp_path) == without, "no layers of the comparison before lie beside one without"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", WITH)
def test_every_method_that_says_it_has_layers_is_drawn(shop, tmp_path, method):
    argv = [shop.linear, shop.dora, *ONE, "--relevance", method, "--layers", "--out", tmp_path]
    assert command(compare, *argv) == 0
    blocks = {name[2] for name in table(tmp_path)}
    assert blocks == ({str(BLOCKS - 1)} if method == "attention" else set(map(str, range(BLOCKS))))


# ---- visualize.py


def test_visualize_draws_a_matrix_for_each_method_and_class(shop, tmp_path, capsys):
    photo = shop.colours / "val" / "red" / "00.png"
    argv = [shop.dora, photo, "--targets", "true", "blue", "--relevance", "lrp_magnitude", "cp_lrp", "rollout", "--out"]
    capsys.readouterr()
    assert command(visualize, *argv, tmp_path / "with", "--layers") == 0
    printed = capsys.readouterr().out.split()
    drawn = {
        f"00-layers-{method}-{column}-{name}.png"
        for method in ("lrp_magnitude", "cp_lrp")
        for column, name in ((1, "red"), (2, "blue"))
    } | {"00-layers-rollout-1-every-class.png"}
    assert set(files(tmp_path / "with")) == drawn | {"00.png"}
    assert sorted(printed) == sorted(str(tmp_path / "with" / name) for name in files(tmp_path / "with"))
    assert command(visualize, *argv, tmp_path / "without") == 0
    assert files(tmp_path / "without") == {"00.png": files(tmp_path / "with")["00.png"]}


@pytest.fixture
def matrices(shop, tmp_path, monkeypatch):
    """What visualize.py asks to be drawn for the classes red and blue of a photo, and the layers (2, L, h, 2, 2)."""
    asked = []
    monkeypatch.setattr(class_heatmaps, "head_matrix", lambda *args, **named: asked.append(args))
    photo = shop.colours / "val" / "red" / "00.png"
    argv = [shop.dora, photo, "--targets", "red", "blue", "--relevance", "lrp_magnitude", "--layers", "--out", tmp_path]
    assert command(visualize, *argv) == 0
    run = load_run(shop.dora)
    image = evaluation_transform(run.config.data_config)(open_image(photo))[None]
    targets = torch.tensor([[run.class_names.index(name) for name in ("red", "blue")]])
    return list(zip(asked, relevance(run.model, image, targets, "lrp_magnitude", layers=True)[1][0], ("red", "blue")))


def test_a_matrix_has_a_cell_for_each_head_and_the_share_of_each_block(matrices):
    assert len(matrices) == 2
    for column, ((path, preview, cells, shares, names, *_), layers, name) in enumerate(matrices, start=1):
        assert path.name == f"00-layers-lrp_magnitude-{column}-{name}.png" and len(preview) == 2
        assert cells.shape == (BLOCKS, HEADS + 1, 32, 32, 3) and names == list(map(str, range(BLOCKS)))
        assert np.allclose(shares, layers.sum((1, 2, 3)) / layers.sum(), rtol=1e-4)


def test_heads_of_a_block_share_a_scale_and_blocks_do_not(matrices):
    pairs = 0
    for (_, preview, cells, *_), layers, _ in matrices:
        grey = np.asarray(preview[0].image).mean(-1)
        heat = (cells - 0.25 * grey[..., None]).sum(-1)  # what the colour map adds, as brightness
        patches = heat.reshape(BLOCKS, HEADS + 1, 2, 16, 2, 16).mean((3, 5)).reshape(BLOCKS, HEADS + 1, 4)
        there = [block for block in range(BLOCKS) if layers[block].any()]
        for block in there:
            added, shown = (layers[block] / layers[block].max()).flatten(), patches[block, :HEADS].flatten()
            for one, other in product(range(len(added)), repeat=2):
                if added[one] > added[other] + 0.3:
                    assert shown[one] > shown[other]
                    pairs += 1
            assert patches[block, HEADS].argmax() == int(layers[block].sum(0).argmax()), "all heads"
        brightest = heat[there, :HEADS].max((1, 2, 3))
        assert np.allclose(brightest, brightest[0], atol=6), "each block reaches the top of the scale"
    assert pairs > 40


@pytest.mark.parametrize(
    "name, expected",
    [
        ("figure skating", "figure-skating"),
        ("a/b: c, d.", "a-b-c-d"),
        ("Eiskunstläufer", "Eiskunstläufer"),
        ("x" * 300, "x" * 60),
    ],
)
def test_class_names_become_parts_of_file_names(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize("method", WITH)
@pytest.mark.usefixtures("no_pictures")
def test_a_matrix_says_what_a_heads_relevance_is(shop, tmp_path, monkeypatch, method):
    asked = []
    monkeypatch.setattr(class_heatmaps, "head_matrix", lambda *args, **named: asked.append((args, named)))
    photo = shop.colours / "val" / "red" / "00.png"
    argv = [shop.dora, photo, "--targets", "red", "--relevance", method, "--layers", "--out", tmp_path]
    assert command(visualize, *argv) == 0
    (*_, title, scale), words = asked[0]
    assert words["footnote"].count(class_heatmaps.READING) == 1
    name = "red" if METHODS[method].uses_target else "every class"
    start = "What each head adds to the map" if heads_add_up(method) else "What relevance each head carries away"
    assert title == f"{start} for {name}: {method}, dora, red/00.png"
    assert ("It does not add up to the map" in words["footnote"]) == (not heads_add_up(method))
    assert scale.limits == (("against", "for") if METHODS[method].signed else ("0", "max"))


# ---- refusals


@pytest.mark.parametrize("method", WITHOUT)
def test_a_method_without_layers_is_refused_up_front(shop, tmp_path, refused, method):
    """Before anything is loaded: the runs are not even there."""
    asked = ["--layers", "--out", tmp_path / "out"]
    message = refused(compare, tmp_path / "a", tmp_path / "b", "--relevance", method, *asked)
    assert f"{method} has no option 'layers'" in message and "drop" in message and "--layers" in message
    message = refused(visualize, tmp_path / "a", tmp_path / "b.png", "--relevance", "lrp", method, *asked)
    assert f"{method} has no option 'layers'" in message
