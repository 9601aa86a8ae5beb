"""Drawn scenes are deterministic, balanced, and what they say about their pixels is true."""

from functools import lru_cache

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from data.options import DATA_SEED_LIMIT
from data.scenes import scene as scenes
from data.scenes.drawing import EVIDENCE, PLAYERS, SURFACE, Canvas, role_of_pixels
from data.scenes.scene import CHANCE_BIAS, MASKS, SPLITS, SPORTS, SURFACES, USUAL_SURFACE, draw_scene

COUNT = 240


@lru_cache
def drawn(split="train", bias=0.9, count=COUNT):
    return [draw_scene(5, split, i, 96, bias) for i in range(count)]


@lru_cache
def plans(split, bias, count=4000):
    """What scenes will show, without drawing them."""
    return [scenes.plan_scene(5, split, i, bias) for i in range(count)]


def test_names():
    assert len(SPORTS) >= 10 and list(SPORTS) == sorted(SPORTS)
    assert len(SURFACES) >= 8 and set(USUAL_SURFACE.values()) <= set(SURFACES) and set(USUAL_SURFACE) == set(SPORTS)
    assert len(set(USUAL_SURFACE.values())) >= 8


def test_the_same_arguments_give_the_same_bytes():
    for index in range(len(SPORTS)):
        first, second = draw_scene(3, "val", index), draw_scene(3, "val", index)
        assert first.image.tobytes() == second.image.tobytes()
        assert all(np.array_equal(first.masks[name], second.masks[name]) for name in MASKS)
        assert (first.label, first.surface, first.distractor) == (second.label, second.surface, second.distractor)


def test_seed_split_and_index_all_matter():
    images = {draw_scene(seed, split, index).image.tobytes() for seed in (0, 1) for split in SPLITS for index in (0, 1)}
    assert len(images) == 12


def test_global_random_numbers_are_left_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    draw_scene(0, "train", 0)
    assert np.random.random() == expected


def test_another_size_shows_the_same_layout():
    for index in range(len(SPORTS)):
        small, large = draw_scene(1, "train", index, 96), draw_scene(1, "train", index, 192)
        shrunk = large.image.resize((96, 96), Image.BOX)
        difference = np.abs(np.asarray(small.image, dtype=float) - np.asarray(shrunk, dtype=float))
        assert difference.mean() < 8
        for name in MASKS:
            assert abs(small.masks[name].mean() - large.masks[name].mean()) < 0.02
        assert (small.label, small.surface, small.distractor) == (large.label, large.surface, large.distractor)


def test_the_bias_changes_the_surface_only():
    for index in range(len(SPORTS)):
        usual, other = draw_scene(2, "train", index, context_bias=1.0), draw_scene(2, "train", index, context_bias=0.0)
        assert usual.label == other.label and usual.distractor == other.distractor
        assert SURFACES[usual.surface] == USUAL_SURFACE[SPORTS[usual.label]] and usual.surface != other.surface
        for name in ("evidence", "distractor", "players"):
            assert np.array_equal(usual.masks[name], other.masks[name])


@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_balanced_in_every_run(split):
    labels = [plan.label for plan in plans(split, 0.9)]
    for start in range(40):
        assert sorted(labels[start : start + len(SPORTS)]) == list(range(len(SPORTS)))


def usual_share(split, bias):
    hits = [SURFACES[plan.surface] == USUAL_SURFACE[SPORTS[plan.label]] for plan in plans(split, bias)]
    return np.mean(hits), len(hits)


@pytest.mark.parametrize(
    "split, bias, expected",
    [
        ("train", 0.9, 0.9),
        ("val", 0.9, 0.9),
        ("train", 0.0, 0.0),
        ("train", 1.0, 1.0),
        ("train", CHANCE_BIAS, CHANCE_BIAS),
        ("val_shuffled", 0.9, CHANCE_BIAS),
    ],
)
def test_share_of_usual_surfaces(split, bias, expected):
    share, count = usual_share(split, bias)
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("split, bias", [("train", CHANCE_BIAS), ("val_shuffled", 0.9)])
def test_surface_is_independent_of_the_class(split, bias):
    table = np.zeros((len(SPORTS), len(SURFACES)))
    for plan in plans(split, bias):
        table[plan.label, plan.surface] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.chisquare(table.sum(0)).pvalue > 1e-3


def test_unusual_surfaces_are_uniform_over_the_others():
    apart = [
        (plan.surface - SURFACES.index(USUAL_SURFACE[SPORTS[plan.label]])) % len(SURFACES)
        for plan in plans("train", 0.0)
    ]
    assert stats.chisquare(np.bincount(apart, minlength=len(SURFACES))[1:]).pvalue > 1e-3


def test_share_and_classes_of_distractors():
    chosen = plans("train", 0.9)
    lying = [plan for plan in chosen if plan.distractor >= 0]
    assert abs(len(lying) / len(chosen) - 0.3) <= 4 * np.sqrt(0.3 * 0.7 / len(chosen))
    assert all(plan.distractor != plan.label for plan in lying)
    apart = np.bincount([(plan.distractor - plan.label) % len(SPORTS) for plan in lying], minlength=len(SPORTS))
    assert stats.chisquare(apart[1:]).pvalue > 1e-3


@pytest.mark.parametrize("share, expected", [(0.0, set()), (1.0, {True})])
def test_distractors_can_be_turned_off_and_on(share, expected):
    found = {draw_scene(0, "train", i, distractors=share).distractor >= 0 for i in range(12)}
    assert found == (expected or {False})


def test_masks_are_disjoint_and_bool():
    for scene in drawn():
        assert tuple(scene.masks) == MASKS
        assert all(mask.dtype == bool and mask.shape == (96, 96) for mask in scene.masks.values())
        assert np.sum([mask for mask in scene.masks.values()], axis=0).max() == 1


def test_evidence_players_and_surface_are_always_seen():
    for scene in drawn():
        assert scene.masks["evidence"].mean() > 0.01, SPORTS[scene.label]
        assert scene.masks["players"].mean() > 0.01
        assert scene.masks["surface"].mean() > 0.1


def test_the_distractor_is_seen_just_where_there_is_one():
    for scene in drawn():
        assert scene.masks["distractor"].any() == (scene.distractor >= 0)
        if scene.distractor >= 0:
            assert scene.masks["distractor"].sum() >= 30, SPORTS[scene.distractor]


def test_evidence_is_drawn_whole():
    """Of what a player uses hardly anything is cut off by the image's edge."""
    for scene in drawn():
        evidence = scene.masks["evidence"]
        border = evidence[0].sum() + evidence[-1].sum() + evidence[:, 0].sum() + evidence[:, -1].sum()
        assert border <= 0.1 * evidence.sum(), SPORTS[scene.label]


def test_roles_follow_what_was_painted_last():
    canvas = Canvas(20)
    canvas.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], (90, 90, 90), SURFACE)
    canvas.polygon([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)], (200, 0, 0), EVIDENCE)
    canvas.ellipse((0.5, 0.5), (0.15, 0.15), (0, 0, 200), PLAYERS)
    roles, pixels = role_of_pixels(canvas.coverage()), canvas.pixels()
    assert roles[10, 10] == PLAYERS and roles[5, 10] == EVIDENCE and roles[1, 10] == SURFACE
    assert np.array_equal(pixels[10, 10], [0, 0, 200]) and np.array_equal(pixels[5, 10], [200, 0, 0])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"split": "test"}, "unknown split"),
        ({"data_seed": -1}, "data seeds"),
        ({"data_seed": DATA_SEED_LIMIT}, "data seeds"),
        ({"index": -1}, "index"),
        ({"size": 8}, "size"),
        ({"context_bias": 1.5}, "context_bias"),
        ({"context_bias": float("nan")}, "context_bias"),
        ({"distractors": -0.1}, "distractors"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        draw_scene(**{"data_seed": 0, "split": "train", "index": 0} | change)
