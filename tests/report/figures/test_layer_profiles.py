"""report.figures.layer_profiles: pictures show the shares that were handed in, and nothing is clipped."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import pytest
from made_up_shares import names, some_means, some_shares
from texts import check_texts

from report.figures.layer_profiles import layer_profiles

TARGETS = ("true class", "unused or random class")
VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"


@dataclass(frozen=True)
class Shares:
    """Mean shares: [mean, low, high] by block (K, L, 3) and by head (K, L, h, 3)."""

    label: str
    blocks: tuple[str, ...]
    by_block: np.ndarray
    by_head: np.ndarray


def means_of(label: str, layers: int = 3, heads: int = 2, seed: int = 0) -> Shares:
    """Return some means with made-up intervals."""
    by_block, by_head = some_means(layers, heads, seed)
    return Shares(label, tuple(names(layers)), by_block, by_head)


def alike(label: str, values: np.ndarray, spread: float = 0.0, blocks: list[str] | None = None) -> Shares:
    """Return means (K, L, h) with intervals `spread` to each side, in which a block is the sum of its heads."""
    by_block, by_head = (np.stack([mean, mean - spread, mean + spread], axis=-1) for mean in (values.sum(-1), values))
    return Shares(label, tuple(blocks or names(values.shape[1])), by_block, by_head)


@pytest.mark.parametrize(
    "layers, heads, labels",
    [(12, 12, ("linear", VARIANT)), (24, 16, ("linear", "full", VARIANT)), (1, 1, ("linear", "dora"))],
)
def test_profiles_clip_nothing_and_overlap_nothing(tmp_path, drawn, layers, heads, labels):
    runs = [means_of(label, layers, heads, seed) for seed, label in enumerate(labels)]
    difference = means_of(f"{labels[-1]} minus {labels[0]}", layers, heads)
    layer_profiles(
        tmp_path / "layers.png",
        runs,
        difference,
        TARGETS,
        "Where in the network relevance arises: " * 3,
        "Heads correspond by number. " * 9,
    )
    words = "".join("".join(text.get_text().split()) for text in check_texts(drawn[0]))  # wherever lines were broken
    for said in (*labels, *TARGETS, "percentage points", "share of all heads' relevance", "95 %"):
        assert "".join(said.split()) in words


def test_matrices_show_the_means_and_dots_what_is_told_apart_from_zero(tmp_path, drawn):
    runs = [means_of("linear"), means_of("dora", seed=1)]
    differences = np.zeros((2, 3, 2))
    differences[0, 2, 1], differences[1, 0, 0] = 0.0225, 0.01  # the second's interval includes 0
    layer_profiles(tmp_path / "layers.png", runs, alike("dora minus linear", differences, 0.02), TARGETS, "t")
    heats = [axes for axes in drawn[0].axes if axes.get_ylabel() == "block"]
    assert [axes.images[0].get_array().shape for axes in heats] == [(3, 2)] * 6
    shown = [axes.images[0] for axes in heats]
    assert np.allclose(shown[0].get_array(), 100 * runs[0].by_head[0, ..., 0])
    assert np.allclose(shown[4].get_array(), 100 * runs[1].by_head[1, ..., 0])
    largest = 100 * max(run.by_head[..., 0].max() for run in runs)
    assert all(np.allclose(shown[i].get_clim(), (0, largest)) for i in (0, 1, 3, 4)), "runs and targets share a scale"
    assert all(np.allclose(shown[i].get_clim(), (-2.25, 2.25)) for i in (2, 5)), "symmetric about zero"
    dots = [axes.collections[0].get_offsets().tolist() for axes in (heats[2], heats[5])]
    assert dots == [[[1, 2]], []]


@pytest.mark.parametrize("largest, ends", [(0.0, "1"), (1.0, "100"), (0.0225, "2.2"), (0.0004, "0.04")])
def test_the_scale_of_differences_is_read_in_points(tmp_path, drawn, largest, ends):
    """Also where nothing differs, and where all does."""
    differences = np.zeros((2, 3, 2))
    differences[0, 2, 1] = largest
    run = means_of("linear")
    layer_profiles(tmp_path / "layers.png", [run, run], alike("x minus x", differences), TARGETS, "t")
    words = [text.get_text() for text in check_texts(drawn[0])]
    assert f"\N{MINUS SIGN}{ends}" in words and f"+{ends}" in words


def test_runs_of_other_depths_share_an_axis_and_have_no_difference(tmp_path, drawn):
    deep = alike("deep", some_shares(6).mean(0))
    pooled = alike("pooled", some_shares(3).mean(0), blocks=[*names(2), "pool"])
    layer_profiles(tmp_path / "layers.png", [deep, pooled], None, TARGETS, "t")
    check_texts(drawn[0])
    profile = next(axes for axes in drawn[0].axes if axes.get_xlabel() == "block")
    assert [label.get_text() for label in profile.get_xticklabels()] == [*names(6), "pool"]
    line = profile.lines[1].get_ydata()
    shares = 100 * pooled.by_block[0, :, 0]
    assert np.allclose(line, [*shares[:2], *[np.nan] * 4, shares[2]], equal_nan=True)


def test_nothing_but_nan_is_drawn_as_nothing(tmp_path, drawn):
    nothing = alike("linear", np.full((2, 3, 2), np.nan))
    layer_profiles(tmp_path / "layers.png", [nothing, nothing], nothing, TARGETS, "t")
    check_texts(drawn[0])


def test_the_same_shares_give_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(path):
        layer_profiles(path, [means_of("x"), means_of("y", seed=1)], means_of("y minus x"), TARGETS, "t")
        return path.read_bytes()

    first = draw(tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "lines.markeredgewidth": 5, "image.cmap": "jet"}):
        assert draw(tmp_path / "b.png") == first
