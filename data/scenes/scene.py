"""Draw sport scenes whose evidence is known for every pixel.

The class of a scene is the sport whose equipment a player *uses*. Its playing surface is a context cue: it usually
agrees with the class in training (`context_bias`), and is independent of it in the split `val_shuffled`. In some scenes
a distractor, the equipment of a second sport, lies unused on the ground. A scene is a function of (data seed, split,
index) only; nothing is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.options import DATA_SEED_LIMIT
from data.scenes.drawing import (
    DISTRACTOR,
    EVIDENCE,
    PLAYERS,
    ROLES,
    SURFACE,
    Canvas,
    Colour,
    Frame,
    LeftOut,
    Light,
    role_of_pixels,
)
from data.scenes.people import Figure, Outfit, Pose
from data.scenes.sports import SPORT_DRAWINGS, draw_player_with_equipment, draw_unused_equipment
from data.scenes.surfaces import GRAIN, SURFACES, View, draw_background, draw_clutter, draw_shadow

SPORTS = tuple(sorted(SPORT_DRAWINGS))
USUAL_SURFACE = {sport: SPORT_DRAWINGS[sport].surface for sport in SPORTS}
MASKS = ("evidence", "distractor", "players", "surface")
SPLITS = ("train", "val", "val_shuffled")
# What can be changed in a scene, all else being equal; see Change.
FACTORS = ("evidence", "exchanged evidence", "distractor", "player", "bystander", "surface", "clutter", "light")
CHOSEN, FIRST_LIGHT, FIRST_EXCHANGE = 3, 10, 20  # purposes of random numbers, see _generator
MOST_BYSTANDERS = 2
LIGHTS, EXCHANGES = 3, 3  # other lights, and other sports' equipment, that a scene's changes try
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
class Change:
    """One factor of a scene, changed, while everything else stays equal to the pixel.

    factor: a name in FACTORS. "evidence" is removed; "exchanged evidence" gives way to another sport's equipment, in
        its place and at the player's scale, while the pose stays. The distractor, the player (who uses the equipment,
        which stays), a bystander and all clutter are removed, with their shadows. The surface gives way to another one,
        with what stands behind it. The light is another one: brightness, tint, contrast and texture.
    value: the index in SPORTS of the other equipment, the index in SURFACES of the other surface, the number of the
        bystander or of the light; 0 where there is one such change.
    """

    factor: str
    value: int = 0


@dataclass(frozen=True)
class Plan:
    """What a scene shows, chosen before it is drawn: the fields of Scene without its pixels."""

    label: int
    surface: int
    distractor: int


def draw_scene(
    data_seed: int,
    split: str,
    index: int,
    size: int = 96,
    context_bias: float = 0.9,
    distractors: float = 0.3,
    change: Change | None = None,
) -> Scene:
    """Draw a scene; the same arguments give the same bytes, and another `size` gives the same layout.

    data_seed: 0 to DATA_SEED_LIMIT - 1.
    split: a name in SPLITS.
    index: number of the scene in the split, from 0 without limit.
    size: pixels per side, 16 or more.
    context_bias: probability that the surface is the class's usual one; otherwise it is uniform over the others.
        Ignored in `val_shuffled`, where it is uniform over all.
    distractors: probability of a distractor.
    change: what is changed in it, one of `changes_of`; None for nothing. Label, surface and distractor are then those
        before the change, masks those of the picture.

    Raises ValueError for an unknown split, for numbers out of range, and for a change that the scene does not allow.
    """
    check_scene(data_seed, split, index, size, context_bias, distractors)
    sketch = _Sketch(data_seed, split, index, plan_scene(data_seed, split, index, context_bias, distractors))
    return sketch.draw(size, change)


def changes_of(
    data_seed: int, split: str, index: int, context_bias: float = 0.9, distractors: float = 0.3
) -> list[Change]:
    """Return the changes of single factors that a scene allows; takes the parameters of `draw_scene`.

    All other surfaces, and EXCHANGES other sports' equipment and LIGHTS other lights, the same at every call.
    """
    check_scene(data_seed, split, index, 16, context_bias, distractors)
    plan = plan_scene(data_seed, split, index, context_bias, distractors)
    sketch = _Sketch(data_seed, split, index, plan)
    others = [i for i in range(len(SPORTS)) if i not in (plan.label, plan.distractor)]
    exchanged = sketch.generator(CHOSEN).permutation(others)[:EXCHANGES]
    painted = sketch.paint(Canvas(16), plan.surface)
    found = [Change("evidence"), *(Change("exchanged evidence", int(sport)) for sport in exchanged)]
    found += [Change("distractor")] if plan.distractor >= 0 else []
    found += [Change("player"), *(Change("bystander", i) for i in range(painted.bystanders))]
    found += [Change("surface", i) for i in range(len(SURFACES)) if i != plan.surface]
    found += [Change("clutter")] if painted.clutter else []
    return found + [Change("light", i) for i in range(LIGHTS)]


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


@dataclass(frozen=True)
class _Painted:
    """What was decided while a scene was painted.

    light: its own light.
    mirror: whether the picture is mirrored.
    height: of the player, image sides.
    ground: colour of its own surface.
    clutter, bystanders: how many there are.
    """

    light: Light
    mirror: bool
    height: float
    ground: Colour
    clutter: int
    bystanders: int


@dataclass(frozen=True)
class _Sketch:
    """A scene that can be drawn several times, with and without changes.

    data_seed, split, index: which scene.
    plan: what it shows.
    """

    data_seed: int
    split: str
    index: int
    plan: Plan

    def generator(self, purpose: int) -> np.random.Generator:
        """Return the scene's random numbers for a purpose."""
        return _generator(self.data_seed, self.split, self.index, purpose)

    def draw(self, size: int, change: Change | None) -> Scene:
        """Draw the scene, changed in at most one factor. Raises ValueError for a change that it does not allow."""
        factor, value = (change.factor, change.value) if change else ("", 0)
        if change is not None:
            self._check(change)
        left_out: LeftOut = _left_out(factor, value)
        if factor == "exchanged evidence":
            left_out = {EVIDENCE_DRAWN: self._exchange(value, size)}
        canvas, surface = Canvas(size, left_out), value if factor == "surface" else self.plan.surface
        painted = self.paint(canvas, surface)
        if value >= {"bystander": painted.bystanders, "clutter": painted.clutter}.get(factor, value + 1):
            raise ValueError(f"scene {self.split}/{self.index} does not allow {change}; see changes_of")
        light = Light.sample(self.generator(FIRST_LIGHT + value)) if factor == "light" else painted.light
        return _render(canvas, self.plan, surface, light, painted.mirror)

    def _check(self, change: Change) -> None:
        """Raise ValueError for a change that the scene does not allow, as far as this is known before it is painted."""
        if change.factor not in FACTORS:
            raise ValueError(f"unknown factor {change.factor!r}; a scene has {', '.join(FACTORS)}")
        counts = {
            "distractor": int(self.plan.distractor >= 0),
            "bystander": MOST_BYSTANDERS,
            "exchanged evidence": len(SPORTS),
            "surface": len(SURFACES),
            "light": LIGHTS,
        }
        own = {"exchanged evidence": self.plan.label, "surface": self.plan.surface}.get(change.factor)
        if not 0 <= change.value < counts.get(change.factor, 1) or change.value == own:
            raise ValueError(f"scene {self.split}/{self.index} does not allow {change}; see changes_of")

    def _exchange(self, sport: int, size: int) -> Callable[[Canvas], None]:
        """Return what paints another sport's equipment in the middle of the scene's own evidence."""
        first = Canvas(size)
        painted = self.paint(first, self.plan.surface)
        drawn = np.argwhere(np.asarray(first.roles) == EVIDENCE)
        y, x = (drawn.min(0) + drawn.max(0) + 1) / 2 / first.fine
        scale = min(painted.height, 0.6 / SPORT_DRAWINGS[SPORTS[sport]].length)
        random = self.generator(FIRST_EXCHANGE + sport)
        return lambda canvas: draw_unused_equipment(
            SPORTS[sport], canvas, x, y, scale, EVIDENCE, random, painted.ground, lies=False
        )

    def paint(self, canvas: Canvas, surface: int) -> _Painted:
        """Paint from far to near: background, clutter, bystanders, the player with equipment, the distractor.

        surface: the painted one; people keep the colours that stand out from the scene's own.
        """
        plan, random = self.plan, self.generator(1)
        light, sport = Light.sample(random), SPORT_DRAWINGS[SPORTS[plan.label]]
        width_left = 0.96 if plan.distractor < 0 else 0.7
        feet = random.uniform(0.84, 0.93) if plan.distractor < 0 else random.uniform(0.76, 0.84)
        height = min(random.uniform(0.52, 0.76), width_left / (sport.left + sport.right), (feet - 0.03) / sport.top)
        x = 0.02 + sport.left * height + random.random() * max(0.0, width_left - (sport.left + sport.right) * height)
        view = View(
            float(np.clip(feet - random.uniform(0.5, 0.95) * height, 0.12, 0.62)),
            random.uniform(-0.6, 0.6),
            random.uniform(-0.3, 0.3),
        )
        # The background has a generator of its own, so that another surface leaves the people unchanged.
        shown = canvas if surface == plan.surface else Canvas(16)
        ground = draw_background(shown, SURFACES[plan.surface], view, self.generator(2))
        if surface != plan.surface:
            draw_background(canvas, SURFACES[surface], view, self.generator(2))
        clutter = int(random.integers(0, 3))
        with canvas.painting("clutter"):
            for _ in range(clutter):
                draw_clutter(canvas, view, random, height)
        bystanders = int(random.choice((0, 0, 1, MOST_BYSTANDERS)))
        for number in range(bystanders):
            with canvas.painting(f"bystander {number}"):
                _draw_bystander(canvas, view, feet, height, ground, random)
        with canvas.painting("player"):
            draw_shadow(canvas, x, feet, 0.26 * height)
            frame, outfit = Frame.upright(x, feet, height), Outfit.sample(random, ground)
            draw_player_with_equipment(SPORTS[plan.label], canvas, frame, outfit, random, ground)
        if plan.distractor >= 0:
            with canvas.painting("distractor"):
                edge = x + sport.right * height
                _draw_distractor(canvas, SPORTS[plan.distractor], edge, feet, height, ground, random)
        return _Painted(light, random.random() < 0.5, height, ground, clutter, bystanders)


EVIDENCE_DRAWN = "player", EVIDENCE


def _left_out(factor: str, value: int) -> dict[tuple[str, int], None]:
    """Return what a change leaves out, as Canvas takes it."""
    if factor == "evidence":
        return {EVIDENCE_DRAWN: None}
    if factor == "player":  # the equipment stays
        return {("player", role): None for role in (PLAYERS, SURFACE)}
    if factor in ("clutter", "distractor", "bystander"):
        part = f"bystander {value}" if factor == "bystander" else factor
        return {(part, role): None for role in range(len(ROLES))}
    return {}


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


def _render(canvas, plan, surface, light, mirror):
    coverage = canvas.coverage()
    pixels, roles = light.expose(canvas, coverage[SURFACE], GRAIN[SURFACES[surface]]), role_of_pixels(coverage)
    if mirror:
        pixels, roles = pixels[:, ::-1], roles[:, ::-1]
    masks = {name: roles == ROLES.index(name) for name in MASKS}
    return Scene(Image.fromarray(np.ascontiguousarray(pixels)), plan.label, plan.surface, plan.distractor, masks)
