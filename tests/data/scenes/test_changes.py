"""A scene with one factor changed: what is changed is as said, and all else is equal to the pixel."""

from functools import lru_cache

import numpy as np
import pytest

from data.scenes.scene import FACTORS, LIGHTS, MASKS, SPORTS, SURFACES, Change, changes_of, draw_scene

COUNT = 36  # scenes, three of each sport
EDGE = 1  # pixels around a mask that it shares with what it covers


@lru_cache
def scene(index: int, change: Change | None = None):
    return draw_scene(5, "val", index, change=change)


@lru_cache
def changes(index: int) -> list[Change]:
    return changes_of(5, "val", index)


def pairs(factor: str) -> list[tuple[int, Change]]:
    """Scenes with a change of this factor, at most two such changes of each."""
    return [(i, one) for i in range(COUNT) for one in [c for c in changes(i) if c.factor == factor][:2]]


def moved(index: int, change: Change) -> np.ndarray:
    """Where the picture changes, (H, W) bool."""
    first, second = (np.asarray(one.image) for one in (scene(index), scene(index, change)))
    return (first != second).any(-1)


def widened(mask: np.ndarray, by: int = EDGE) -> np.ndarray:
    """The mask and its neighbours."""
    padded = np.pad(mask, by)
    sides = range(2 * by + 1)
    return np.any([padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in sides for x in sides], axis=0)


def test_every_factor_can_be_changed_in_some_scene():
    found = {change.factor for index in range(COUNT) for change in changes(index)}
    assert found == set(FACTORS)
    for index in range(COUNT):
        of = [change.value for change in changes(index) if change.factor == "surface"]
        assert sorted([*of, scene(index).surface]) == list(range(len(SURFACES)))
        assert len(set(changes(index))) == len(changes(index)) and changes(index) == changes_of(5, "val", index)


def test_a_scene_without_a_change_is_the_scene():
    assert draw_scene(5, "val", 3).image.tobytes() == draw_scene(5, "val", 3, change=None).image.tobytes()
    first, second = (draw_scene(5, "val", 3, change=changes(3)[0]) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()


@pytest.mark.parametrize("factor, mask", [("evidence", "evidence"), ("distractor", "distractor")])
def test_what_is_removed_is_gone_and_nothing_else(factor, mask):
    """Pixels that change are those of its mask and their edge; behind it stands what it hid."""
    beyond = []
    for index, change in pairs(factor):
        before, after = scene(index), scene(index, change)
        own = widened(before.masks[mask], 2)  # thin strings cover less of a pixel than what is behind them
        assert not after.masks[mask].any() and before.masks[mask].any()
        assert (before.masks[mask] & ~moved(index, change)).mean() < 0.002
        beyond.append((moved(index, change) & ~own).mean())
        for name in set(MASKS) - {mask}:
            assert not (before.masks[name] & ~after.masks[name] & ~own).any()
    assert np.mean(beyond) < 0.005, "of the picture: parts too thin for any mask"


def test_the_player_goes_and_the_equipment_stays():
    beyond = []
    for index, change in pairs("player"):
        before, after = scene(index), scene(index, change)
        assert before.masks["evidence"].sum() <= 1.02 * after.masks["evidence"].sum(), "what the player hid shows"
        assert before.masks["players"].sum() > after.masks["players"].sum()
        others = widened(before.masks["players"] | before.masks["surface"], 1)
        beyond.append((moved(index, change) & ~others).mean())
    assert np.mean(beyond) < 0.002, "the player and the shadow on the ground"


def test_bystanders_go_one_by_one():
    for index, change in pairs("bystander"):
        count = sum(one.factor == "bystander" for one in changes(index))
        assert change.value < count
        evidence = [one.masks["evidence"] for one in (scene(index), scene(index, change))]
        assert (evidence[0] != evidence[1]).sum() <= 5, "it is in front of them, and shares edges with them"
        assert moved(index, change).mean() < 0.25


def test_another_surface_leaves_people_and_equipment():
    inside = []
    for index, change in pairs("surface"):
        before, after = scene(index), scene(index, change)
        for name in ("evidence", "distractor", "players"):
            assert np.array_equal(before.masks[name], after.masks[name])
            inner = ~widened(~before.masks[name])
            inside.append([(moved(index, change) & inner).sum(), inner.sum()])
        assert moved(index, change)[before.masks["surface"]].mean() > 0.9
        assert (after.label, after.surface) == (before.label, before.surface), "those before the change"
    changed, of = np.sum(inside, axis=0)
    assert changed < 0.05 * of, "what shows between spokes and strings"


def test_other_equipment_stands_where_the_evidence_was():
    for index, change in pairs("exchanged evidence"):
        before, after = scene(index), scene(index, change)
        assert change.value not in (before.label, before.distractor)
        gone = moved(index, Change("evidence"))
        assert after.masks["evidence"].any(), SPORTS[change.value]
        assert not np.array_equal(np.asarray(after.image), np.asarray(scene(index, Change("evidence")).image))
        both = widened(gone | before.masks["evidence"] | after.masks["evidence"], 2)
        assert (moved(index, change) & ~both).sum() <= 0.02 * both.sum()
        old, new = (np.argwhere(one.masks["evidence"]).mean(0) for one in (before, after))
        assert np.abs(old - new).max() < 36, "within a third of the picture"
        assert np.array_equal(before.masks["distractor"] & ~both, after.masks["distractor"] & ~both)


def test_another_light_moves_no_edge():
    for index, change in pairs("light"):
        assert all(np.array_equal(scene(index).masks[name], scene(index, change).masks[name]) for name in MASKS)
        assert moved(index, change).mean() > 0.8
    assert len({scene(0, Change("light", i)).image.tobytes() for i in range(LIGHTS)} | {scene(0).image.tobytes()}) == 4


def test_clutter_goes_with_its_shadow():
    for index, change in pairs("clutter"):
        before, after = scene(index), scene(index, change)
        assert 0 < moved(index, change).mean() < 0.2
        for name in ("evidence", "distractor", "players"):
            assert (before.masks[name] & ~after.masks[name]).sum() <= 5, "edges apart, it is in front of clutter"


@pytest.mark.parametrize(
    "change, words",
    [
        (Change("weather"), "unknown factor 'weather'"),
        (Change("bystander", 7), "does not allow"),
        (Change("surface", len(SURFACES)), "does not allow"),
        (Change("light", LIGHTS), "does not allow"),
    ],
)
def test_what_a_scene_does_not_allow_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        draw_scene(5, "val", 0, change=change)


def test_its_own_surface_and_equipment_are_no_change():
    for change in (Change("surface", scene(0).surface), Change("exchanged evidence", scene(0).label)):
        with pytest.raises(ValueError, match="does not allow"):
            draw_scene(5, "val", 0, change=change)
    without = next(i for i in range(COUNT) if scene(i).distractor < 0)
    with pytest.raises(ValueError, match="does not allow"):
        draw_scene(5, "val", without, change=Change("distractor"))
