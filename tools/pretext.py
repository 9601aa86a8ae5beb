"""Draw pretraining images: people with generic objects in their hands, at their feet or on the ground, anywhere.

No sport and no surface is a label. The labels of a pixel are the *kind* of part that it shows (rod, ring, disc) and
whether a person touches the object. Background, people, objects and light are independent of one another.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.options import DATA_SEED_LIMIT
from data.scenes.drawing import SUPERSAMPLING, SURFACE, Canvas, Frame, Light
from data.scenes.people import Figure, Outfit, Pose
from data.scenes.surfaces import GRAIN, SURFACES, View, draw_background, draw_clutter, draw_shadow
from tools.drawn_objects import box, bulb, disc, draw_object, make_object_brush, ring

FIRST_DATA_SEED = DATA_SEED_LIMIT  # scenes of sports refuse data seeds from here on
POSE_SIZE = 12  # x and y of hands, feet, neck and hip


@dataclass(frozen=True)
class Example:
    """A pretraining image and its labels.

    image: (size, size, 3) uint8.
    parts: (size, size) uint8, the role of each pixel, below CLASSES.
    people: number of people, 1 to 3.
    pose: (POSE_SIZE,) float32, joints of the nearest person in the unit square.
    horizon: its y in the unit square.
    """

    image: np.ndarray
    parts: np.ndarray
    people: int
    pose: np.ndarray
    horizon: float


def draw_example(data_seed, index, size=96):
    """Draw a pretraining image; the same arguments give the same Example.

    data_seed: FIRST_DATA_SEED or more.
    index: number of the image, from 0.
    size: pixels per side.
    """
    if data_seed < FIRST_DATA_SEED:
        raise ValueError(f"data seeds of pretraining start at {FIRST_DATA_SEED}, got {data_seed}")
    random = np.random.default_rng(np.random.SeedSequence([data_seed, index]))
    canvas, light, surface = Canvas(size), Light.sample(random), SURFACES[random.integers(len(SURFACES))]
    feet, height = random.uniform(0.75, 0.93), random.uniform(0.42, 0.76)
    view = View(
        float(np.clip(feet - random.uniform(0.5, 0.95) * height, 0.12, 0.62)),
        random.uniform(-0.6, 0.6),
        random.uniform(-0.3, 0.3),
    )
    ground = draw_background(canvas, surface, view, random)
    for _ in range(random.integers(0, 3)):
        draw_clutter(canvas, view, random, height)
    people = int(random.choice((1, 1, 2, 3)))
    for nearness in sorted(random.uniform(0.5, 0.8, people - 1)):
        _draw_person(
            canvas,
            random.uniform(0.1, 0.9),
            view.horizon + (feet - view.horizon) * nearness,
            height * nearness,
            ground,
            random,
            random.random() < 0.3,
        )
    x = random.uniform(0.25, 0.75)
    figure = _draw_person(canvas, x, feet, height, ground, random, busy=random.random() < 0.9)
    for _ in range(random.choice((0, 1, 1, 2))):
        _draw_untouched(canvas, x, view, feet, height, ground, random)
    joints = [figure.frame(point) for point in (*figure.hands, *figure.feet, figure.pose.neck, figure.pose.hip)]
    return Example(*_exposed(canvas, light, surface), people, np.array(joints, dtype=np.float32).ravel(), view.horizon)


def _exposed(canvas, light, surface):
    parts = np.asarray(canvas.roles)
    coverage = Image.fromarray(((parts == SURFACE) * 255).astype(np.uint8)).resize((canvas.size,) * 2, Image.BOX)
    image = light.expose(canvas, np.asarray(coverage, dtype=np.float32) / 255, GRAIN[surface])
    return image, np.ascontiguousarray(parts[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING])


def _any_pose(random):
    """Return a random pose that a person can take."""
    crouch, lean = random.uniform(0.0, 0.14), random.uniform(-0.08, 0.2)
    hip = random.uniform(-0.12, 0.05), 0.52 - crouch
    neck = hip[0] + lean, hip[1] + math.sqrt(max(0.3**2 - lean**2, 0.04))
    angles, reach = np.radians(random.uniform(-110, 110, 2)), random.uniform(0.15, 0.38, 2)
    hands = [
        (neck[0] + side * r * math.cos(a), neck[1] + r * math.sin(a))
        for a, r, side in zip(angles, reach, random.choice((-1, 1, 1), 2))
    ]
    if random.random() < 0.4:
        hands[0] = (hands[1][0] + random.uniform(-0.1, 0.1), hands[1][1] + random.uniform(-0.1, 0.1))
    feet = [(-random.uniform(0.03, 0.22), 0.0), (random.uniform(0.03, 0.3), max(0.0, random.uniform(-0.2, 0.2)))]
    return Pose(
        hip, neck, tuple(hands), tuple(feet), spread=random.uniform(0.04, 0.11), knees_out=bool(random.random() < 0.2)
    )


def _draw_person(canvas, x, y, height, ground, random, busy):
    """Draw a person in a random pose, with an object in hand or at the feet if `busy`; return the figure."""
    side = random.choice((-1.0, 1.0))
    figure = Figure(
        canvas, Frame(x, y, height * side, 0.0, 0.0, -height), _any_pose(random), Outfit.sample(random, ground)
    )
    draw_shadow(canvas, x, y, 0.24 * height)
    place = random.integers(4) if busy else -1
    if place == 0:
        draw_object(
            make_object_brush(
                canvas,
                figure.frame.moved((random.uniform(-0.1, 0.1), random.uniform(0.0, 0.1)), random.uniform(-25, 25)),
                True,
                ground,
                random,
            )
        )
    figure.paint_far()
    figure.paint_near_leg()
    if place == 1:
        draw_object(
            make_object_brush(
                canvas,
                figure.frame.moved(figure.feet[1], random.uniform(-40, 40)).moved((0.1, 0.03)),
                True,
                ground,
                random,
            )
        )
    if place > 1:
        _hold(figure, canvas, ground, random)
    figure.paint_near_arm()
    return figure


def _hold(figure, canvas, ground, random):
    """Draw one object in the near hand, or the same part in both."""
    brush = make_object_brush(canvas, figure.frame.moved(figure.hands[1], random.uniform(0, 360)), True, ground, random)
    if random.random() < 0.2:
        part = (disc, box, bulb, ring)[random.integers(4)]
        for hand in figure.hands:
            part(brush.at(figure.frame.moved(hand, random.uniform(0, 360))), random.uniform(0.08, 0.14))
    else:
        draw_object(brush.moved((random.choice((0.0, 0.0, -0.2)), 0.0)))


def _draw_untouched(canvas, person_x, view, feet, height, ground, random):
    """Draw an object on the ground, away from the nearest person."""
    nearness = random.uniform(0.55, 1.12)
    side = 1 if person_x < random.uniform(0.3, 0.7) else -1
    x = min(max(person_x + side * random.uniform(0.34, 0.6), 0.06), 0.94)
    y = min(view.horizon + (feet - view.horizon) * nearness, 0.94)
    frame = Frame.upright(x, y, height * random.uniform(0.7, 1.1), random.uniform(0.4, 1.0)).moved(
        (0, 0), random.uniform(0, 360)
    )
    draw_object(make_object_brush(canvas, frame, False, ground, random))
