"""Draw sport scenes whose evidence is known for every pixel.

The class of a scene is the sport whose equipment a player *uses*. Its playing surface is a context cue: it usually
agrees with the class in training (`context_bias`), and is independent of it in the split `val_shuffled`. In some scenes
a distractor, the equipment of a second sport, lies unused on the ground. A scene is a function of (data seed, split,
index) only; nothing is stored.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.options import DATA_SEED_LIMIT
from data.scenes.drawing import DISTRACTOR, ROLES, SURFACE, Canvas, Frame, Light, role_of_pixels
from data.scenes.people import Figure, Outfit, Pose
from data.scenes.sports import SPORT_DRAWINGS, draw_player_with_equipment, draw_unused_equipment
from data.scenes.surfaces import GRAIN, SURFACES, View, draw_background, draw_clutter, draw_shadow

SPORTS = tuple(sorted(SPORT_DRAWINGS))
USUAL_SURFACE = {sport: SPORT_DRAWINGS[sport].surface for sport in SPORTS}
MASKS = ("evidence", "distractor", "players", "surface")
SPLITS = ("train", "val", "val_shuffled")
CHANCE_BIAS = 1 / len(SURFACES)  # at this bias the surface is independent of the class


@dataclass(frozen=True)
class Scene:
    """A drawn image and its annotation.

    image: RGB, size x size.
    label: index in SPORTS.
    surface: index in SURFACES.
    distractor: index in SPORTS of the unused equipment; -1 without.
    masks: name of MASKS -> bool (size, size); a pixel belongs to one mask at most.
    """

    image: Image.Image
    label: int
    surface: int
    distractor: int
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What a scene shows, chosen before it is drawn: the fields of Scene without its pixels."""

    label: int
    surface: int
    distractor: int


def draw_scene(
    data_seed: int, split: str, index: int, size: int = 96, context_bias: float = 0.9, distractors: float = 0.3
) -> Scene:
    """Draw a scene; the same arguments give the same bytes, and another `size` gives the same layout.

    data_seed: 0 to DATA_SEED_LIMIT - 1.
    split: a name in SPLITS.
    index: number of the scene in the split, from 0 without limit.
    size: pixels per side, 16 or more.
    context_bias: probability that the surface is the class's usual one; otherwise it is uniform over the others.
        Ignored in `val_shuffled`, where it is uniform over all.
    distractors: probability of a distractor.

    Raises ValueError for an unknown split and for numbers out of range.
    """
    check_scene(data_seed, split, index, size, context_bias, distractors)
    plan = plan_scene(data_seed, split, index, context_bias, distractors)
    random = _generator(data_seed, split, index, 1)
    canvas, light = Canvas(size), Light.sample(random)
    # The background has a generator of its own, so that another surface leaves the people unchanged.
    _paint(canvas, plan, random, _generator(data_seed, split, index, 2))
    return _render(canvas, plan, light, mirror=random.random() < 0.5)


def plan_scene(data_seed: int, split: str, index: int, context_bias: float = 0.9, distractors: float = 0.3) -> Plan:
    """Choose what a scene shows, without drawing it. Takes the parameters of `draw_scene`, and does not check them."""
    # All random numbers are drawn in any case, so that no option changes what another one decides.
    random, bias = _generator(data_seed, split, index, 0), CHANCE_BIAS if split == "val_shuffled" else context_bias
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


def _generator(data_seed, split, index, purpose):
    return np.random.default_rng([data_seed, SPLITS.index(split), index, purpose])


def check_scene(data_seed: int, split: str, index: int, size: int, context_bias: float, distractors: float) -> None:
    """Raise ValueError for parameters that `draw_scene` refuses."""
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
    """Return the class of a scene; any len(SPORTS) consecutive scenes hold each class once, in the split's order."""
    order = np.random.default_rng([data_seed, SPLITS.index(split), 1]).permutation(len(SPORTS))
    return int(order[index % len(SPORTS)])


def _paint(canvas, plan, random, background_random):
    """Paint from far to near: background, clutter, other players, the player with equipment, the distractor."""
    sport = SPORT_DRAWINGS[SPORTS[plan.label]]
    width_left = 0.96 if plan.distractor < 0 else 0.7
    feet = random.uniform(0.84, 0.93) if plan.distractor < 0 else random.uniform(0.76, 0.84)
    height = min(random.uniform(0.52, 0.76), width_left / (sport.left + sport.right), (feet - 0.03) / sport.top)
    x = 0.02 + sport.left * height + random.random() * max(0.0, width_left - (sport.left + sport.right) * height)
    view = View(
        float(np.clip(feet - random.uniform(0.5, 0.95) * height, 0.12, 0.62)),
        random.uniform(-0.6, 0.6),
        random.uniform(-0.3, 0.3),
    )
    ground = draw_background(canvas, SURFACES[plan.surface], view, background_random)
    for _ in range(random.integers(0, 3)):
        draw_clutter(canvas, view, random, height)
    for _ in range(random.choice((0, 0, 1, 2))):
        _draw_bystander(canvas, view, feet, height, ground, random)
    draw_shadow(canvas, x, feet, 0.26 * height)
    draw_player_with_equipment(
        SPORTS[plan.label], canvas, Frame.upright(x, feet, height), Outfit.sample(random, ground), random, ground
    )
    if plan.distractor >= 0:
        _draw_distractor(canvas, SPORTS[plan.distractor], x + sport.right * height, feet, height, ground, random)


def _draw_bystander(canvas, view, feet, height, ground, random):
    """Draw a player without equipment, further away than the one who uses equipment."""
    nearness = random.uniform(0.45, 0.75)
    x, y = random.uniform(0.05, 0.95), view.horizon + (feet - view.horizon) * nearness
    side = random.choice((-1.0, 1.0))
    frame = Frame(x, y, height * nearness * side, 0.0, 0.0, -height * nearness)
    hands = [(s * random.uniform(0.08, 0.24), random.uniform(0.42, 0.62)) for s in (-1, 1)]
    stride = random.uniform(0.05, 0.14)
    draw_shadow(canvas, x, y, 0.2 * height * nearness)
    pose = Pose(
        hands=tuple(hands),
        feet=((-stride, 0.0), (stride, 0.0)),
        hip=(0.0, 0.5),
        neck=(random.uniform(-0.03, 0.05), 0.8),
    )
    Figure(canvas, frame, pose, Outfit.sample(random, ground)).paint()


def _draw_distractor(canvas, sport, right_edge, feet, height, ground, random):
    """Draw unused equipment on the ground, nearer than the player, and beside the feet."""
    length = SPORT_DRAWINGS[sport].length
    scale = min(height * random.uniform(0.8, 1.0), 0.42 / length)
    low = min(max(right_edge + 0.02, 0.55) + 0.3 * scale * length, 0.8)
    x, y = random.uniform(low, 0.82), min(feet + random.uniform(0.0, 0.1), 0.97 - 0.22 * scale * length)
    draw_unused_equipment(sport, canvas, x, y, scale, DISTRACTOR, random, ground)


def _render(canvas, plan, light, mirror):
    coverage = canvas.coverage()
    pixels, roles = light.expose(canvas, coverage[SURFACE], GRAIN[SURFACES[plan.surface]]), role_of_pixels(coverage)
    if mirror:
        pixels, roles = pixels[:, ::-1], roles[:, ::-1]
    masks = {name: roles == ROLES.index(name) for name in MASKS}
    return Scene(Image.fromarray(np.ascontiguousarray(pixels)), plan.label, plan.surface, plan.distractor, masks)
