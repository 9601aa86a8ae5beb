"""Drawn sport scenes whose evidence is known pixel by pixel.

The class of a scene is the sport whose equipment is *in use* by a player. Its playing surface is a cue that usually
agrees with the class in training (`context_bias`) and tells nothing about it in the split `val_shuffled`. In some
scenes a second sport's equipment lies unused. A scene is a function of (data seed, split, index) alone; nothing is
stored.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.options import DATA_SEED_LIMIT
from data.scenes.drawing import DISTRACTOR, ROLES, SURFACE, Canvas, Frame, Light, role_of_pixels
from data.scenes.people import Figure, Outfit, Pose
from data.scenes.sports import KINDS, draw_lying, draw_player_at_work
from data.scenes.surfaces import GRAIN, SURFACES, View, draw_clutter, draw_place, shadow

SPORTS = tuple(sorted(KINDS))
USUAL_SURFACE = {sport: KINDS[sport].surface for sport in SPORTS}
MASKS = ("evidence", "distractor", "players", "surface")
SPLITS = ("train", "val", "val_shuffled")
CHANCE_BIAS = 1 / len(SURFACES)  # at this bias the surface is independent of the class


@dataclass(frozen=True)
class Scene:
    """One drawn image and what is known about it.

    image: RGB, size x size. label: index in SPORTS. surface: index in SURFACES. distractor: index in SPORTS, or -1
    for none. masks: for every name of MASKS a bool array (size, size); a pixel belongs to at most one of them.
    """

    image: Image.Image
    label: int
    surface: int
    distractor: int
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What a scene will show, decided before anything is drawn."""

    label: int
    surface: int
    distractor: int


def draw_scene(
    data_seed: int, split: str, index: int, size: int = 96, context_bias: float = 0.9, distractors: float = 0.3
) -> Scene:
    """Draws the scene `index` of a split; the same arguments give the same bytes, and another `size` the same layout.

    data_seed: 0 up to DATA_SEED_LIMIT. index: from 0, without end. size: pixels a side. context_bias: probability
    that the surface is the class's usual one, else uniform over the others; ignored by `val_shuffled`, whose surfaces
    are uniform. distractors: share of scenes in which a second sport's equipment lies unused. Raises ValueError for
    an unknown split, a data seed out of range, a negative index, a size below 16 and a probability outside [0, 1].
    """
    check_scene(data_seed, split, index, size, context_bias, distractors)
    plan, random = plan_scene(data_seed, split, index, context_bias, distractors), _stream(data_seed, split, index, 1)
    canvas, light = Canvas(size), Light.draw(random)
    # The place has a stream of its own: on another surface the same people do the same.
    _draw(canvas, plan, random, _stream(data_seed, split, index, 2))
    return _finish(canvas, plan, light, mirror=random.random() < 0.5)


def plan_scene(data_seed: int, split: str, index: int, context_bias: float = 0.9, distractors: float = 0.3) -> Plan:
    """Label, surface and distractor of a scene without drawing it; arguments as for `draw_scene`, not checked."""
    # All numbers are drawn in any case, so that no option shifts what another one decides.
    random, bias = _stream(data_seed, split, index, 0), CHANCE_BIAS if split == "val_shuffled" else context_bias
    on_usual, other_surface, lies, other_sport = (
        random.random(),
        random.integers(1, len(SURFACES)),
        random.random(),
        random.integers(1, len(SPORTS)),
    )
    label = _label(data_seed, split, index)
    usual = SURFACES.index(USUAL_SURFACE[SPORTS[label]])
    surface = usual if on_usual < bias else (usual + int(other_surface)) % len(SURFACES)
    return Plan(label, surface, (label + int(other_sport)) % len(SPORTS) if lies < distractors else -1)


def _stream(data_seed, split, index, purpose):
    return np.random.default_rng([data_seed, SPLITS.index(split), index, purpose])


def check_scene(data_seed, split, index, size, context_bias, distractors):
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; scenes have {', '.join(SPLITS)}")
    if not 0 <= data_seed < DATA_SEED_LIMIT:
        raise ValueError(f"scenes have data seeds from 0 to {DATA_SEED_LIMIT - 1}, got {data_seed}")
    if index < 0 or size < 16:
        raise ValueError(f"expected index >= 0 and size >= 16, got {index} and {size}")
    for name, value in (("context_bias", context_bias), ("distractors", distractors)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability in [0, 1], got {value}")


def _label(data_seed, split, index):
    """Any len(SPORTS) scenes in a row hold each class once: one order of the classes, the split's own, is repeated."""
    order = np.random.default_rng([data_seed, SPLITS.index(split), 1]).permutation(len(SPORTS))
    return int(order[index % len(SPORTS)])


def _draw(canvas, plan, random, place_random):
    """Paints from far to near: place, clutter, other players, the player at work, lying equipment."""
    sport = KINDS[SPORTS[plan.label]]
    width_left = 0.96 if plan.distractor < 0 else 0.7
    feet = random.uniform(0.84, 0.93) if plan.distractor < 0 else random.uniform(0.76, 0.84)
    height = min(random.uniform(0.52, 0.76), width_left / (sport.left + sport.right), (feet - 0.03) / sport.top)
    x = 0.02 + sport.left * height + random.random() * max(0.0, width_left - (sport.left + sport.right) * height)
    view = View(
        float(np.clip(feet - random.uniform(0.5, 0.95) * height, 0.12, 0.62)),
        random.uniform(-0.6, 0.6),
        random.uniform(-0.3, 0.3),
    )
    ground = draw_place(canvas, SURFACES[plan.surface], view, place_random)
    for _ in range(random.integers(0, 3)):
        draw_clutter(canvas, view, random, height)
    for _ in range(random.choice((0, 0, 1, 2))):
        _draw_bystander(canvas, view, feet, height, ground, random)
    shadow(canvas, x, feet, 0.26 * height)
    draw_player_at_work(
        SPORTS[plan.label], canvas, Frame.upright(x, feet, height), Outfit.draw(random, ground), random, ground
    )
    if plan.distractor >= 0:
        _draw_distractor(canvas, SPORTS[plan.distractor], x + sport.right * height, feet, height, ground, random)


def _draw_bystander(canvas, view, feet, height, ground, random):
    """A player without equipment, further away than the one at work."""
    nearness = random.uniform(0.45, 0.75)
    x, y = random.uniform(0.05, 0.95), view.horizon + (feet - view.horizon) * nearness
    side = random.choice((-1.0, 1.0))
    frame = Frame(x, y, height * nearness * side, 0.0, 0.0, -height * nearness)
    hands = [(s * random.uniform(0.08, 0.24), random.uniform(0.42, 0.62)) for s in (-1, 1)]
    stride = random.uniform(0.05, 0.14)
    shadow(canvas, x, y, 0.2 * height * nearness)
    pose = Pose(
        hands=tuple(hands),
        feet=((-stride, 0.0), (stride, 0.0)),
        hip=(0.0, 0.5),
        neck=(random.uniform(-0.03, 0.05), 0.8),
    )
    Figure(canvas, frame, pose, Outfit.draw(random, ground)).paint()


def _draw_distractor(canvas, sport, right_edge, feet, height, ground, random):
    """Equipment on the ground, nearer than the player and beside rather than below the feet."""
    length = KINDS[sport].length
    scale = min(height * random.uniform(0.8, 1.0), 0.42 / length)
    low = min(max(right_edge + 0.02, 0.55) + 0.3 * scale * length, 0.8)
    x, y = random.uniform(low, 0.82), min(feet + random.uniform(0.0, 0.1), 0.97 - 0.22 * scale * length)
    draw_lying(sport, canvas, x, y, scale, DISTRACTOR, random, ground)


def _finish(canvas, plan, light, mirror):
    coverage = canvas.coverage()
    pixels, roles = light.expose(canvas, coverage[SURFACE], GRAIN[SURFACES[plan.surface]]), role_of_pixels(coverage)
    if mirror:
        pixels, roles = pixels[:, ::-1], roles[:, ::-1]
    masks = {name: roles == ROLES.index(name) for name in MASKS}
    return Scene(Image.fromarray(np.ascontiguousarray(pixels)), plan.label, plan.surface, plan.distractor, masks)
