"""Generic things for the pretraining images: random combinations of parts (rods, rings, discs, boards, wheels, ...).

Lengths are in player heights. Every part is painted in the role of its kind, lying or touched.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.scenes.drawing import Canvas, Frame, any_colour, distinct_colour, shade

KINDS = (
    "rod",
    "arc",
    "disc",
    "dotted disc",
    "crossed disc",
    "ring",
    "mesh",
    "box",
    "hook",
    "tip",
    "lens",
    "taper",
    "wheel",
    "bulb",
    "frame",
)
BACKGROUND_ROLES = 3  # OTHER, SURFACE, PLAYERS; then for every kind one role lying and one touched
CLASSES = BACKGROUND_ROLES + 2 * len(KINDS)


@dataclass(frozen=True)
class Maker:
    """Paints parts of one thing in its colours, as lying or touched."""

    canvas: Canvas
    frame: Frame
    colours: tuple
    touched: bool
    random: np.random.Generator

    def moved(self, point, degrees=0.0, scale=1.0):
        """The same maker with another origin."""
        return self.at(self.frame.moved(point, degrees, scale))

    def at(self, frame):
        """The same maker somewhere else."""
        return Maker(self.canvas, frame, self.colours, self.touched, self.random)

    def role(self, kind):
        return BACKGROUND_ROLES + 2 * KINDS.index(kind) + self.touched

    def polygon(self, kind, points, colour, outline=(28, 28, 32)):
        self.canvas.polygon(points, colour, self.role(kind), self.frame, outline)

    def stroke(self, kind, points, width, colour):
        self.canvas.stroke(points, width, colour, self.role(kind), self.frame)

    def ellipse(self, kind, radii, colour, centre=(0.0, 0.0), outline=(28, 28, 32)):
        self.canvas.ellipse(centre, radii, colour, self.role(kind), self.frame, 0.0, outline)


# --- parts: the origin is where a part is attached, +x leads away from it ---


def rod(maker, length, width):
    maker.stroke("rod", [(0, 0), (length, 0)], width, maker.colours[0])
    if maker.random.random() < 0.4:
        maker.stroke("rod", [(0, 0), (0.2 * length, 0)], width * 1.3, maker.colours[1])


def arc(maker):
    depth, half = maker.random.uniform(0.08, 0.3), maker.random.uniform(0.25, 0.5)
    curve = [(-depth * abs(t) ** 1.7, half * t) for t in np.linspace(-1, 1, 13)]
    maker.stroke("arc", curve, maker.random.uniform(0.03, 0.06), maker.colours[0])
    if maker.random.random() < 0.5:
        maker.stroke("arc", [curve[0], (-maker.random.uniform(0, 0.35), 0.0), curve[-1]], 0.01, (240, 240, 236))


def disc(maker, radius):
    pattern = ("disc", "dotted disc", "crossed disc")[maker.random.integers(3)]
    maker.ellipse(pattern, (radius, radius), maker.colours[0], (radius, 0))
    turned = maker.moved((radius, 0), maker.random.uniform(0, 180))
    if pattern == "dotted disc":
        for t in np.arange(maker.random.integers(3, 7)):
            spot = 0.55 * radius * math.cos(t * 1.2), 0.55 * radius * math.sin(t * 1.2)
            turned.ellipse(pattern, (radius * 0.24, radius * 0.24), maker.colours[1], spot, None)
    elif pattern == "crossed disc":
        for offset in (-0.5, 0.0, 0.5)[maker.random.integers(2) :: 2] if maker.random.random() < 0.5 else (-0.35, 0.35):
            reach = math.sqrt(1 - offset**2) * radius
            turned.stroke(
                pattern, [(offset * radius, -reach), (offset * radius, reach)], radius * 0.16, maker.colours[1]
            )
        turned.stroke(pattern, [(-radius, 0), (radius, 0)], radius * 0.14, maker.colours[1])


def ring(maker, radius):
    oval = radius * maker.random.uniform(0.4, 1.0)
    maker.canvas.ring(
        (radius, 0), (radius, oval), maker.random.uniform(0.02, 0.05), maker.colours[1], maker.role("ring"), maker.frame
    )


def mesh(maker, radius):
    oval = radius * maker.random.uniform(0.6, 1.0)
    maker.ellipse("mesh", (radius, oval), (236, 236, 230, 110), (radius, 0), None)
    for t in np.linspace(-0.7, 0.7, maker.random.integers(3, 6)):
        reach = math.sqrt(1 - t * t)
        maker.stroke(
            "mesh", [(radius - radius * reach, oval * t), (radius + radius * reach, oval * t)], 0.005, (246, 246, 242)
        )
        maker.stroke(
            "mesh", [(radius + radius * t, -oval * reach), (radius + radius * t, oval * reach)], 0.005, (246, 246, 242)
        )
    maker.canvas.ring((radius, 0), (radius, oval), 0.03, maker.colours[0], maker.role("mesh"), maker.frame)


def box(maker, radius):
    width, height = radius * maker.random.uniform(0.2, 1.2), radius * maker.random.uniform(0.7, 1.2)
    for i in range(maker.random.integers(1, 4)):
        left, tall = i * width, height * maker.random.uniform(0.6, 1.0)
        maker.polygon(
            "box", [(left, -tall), (left + width, -tall), (left + width, tall), (left, tall)], maker.colours[i % 2]
        )


def hook(maker, radius):
    side = maker.random.choice((-1, 1))
    maker.polygon(
        "hook",
        [
            (-0.03, -0.03 * side),
            (0.05, -0.02 * side),
            (0.06, 2 * radius * side),
            (0.0, 2.1 * radius * side),
            (-0.03, 0.05 * side),
        ],
        maker.colours[1],
    )


def tip(maker, radius):
    maker.polygon("tip", [(radius, 0), (-0.2 * radius, 0.6 * radius), (-0.2 * radius, -0.6 * radius)], maker.colours[1])


def lens(maker):
    half, width, blunt = (
        maker.random.uniform(0.35, 0.65),
        maker.random.uniform(0.06, 0.2),
        maker.random.uniform(0.4, 1.0),
    )
    side = [(half * math.cos(t), width * math.sin(t) ** blunt) for t in np.linspace(0, math.pi, 15)]
    maker.polygon("lens", side + [(u, -v) for u, v in reversed(side)], maker.colours[0])
    for x in maker.random.uniform(-0.6, 0.6, maker.random.integers(0, 3)) * half:
        maker.polygon(
            "lens",
            [(x, width * 0.7), (x + 0.1, width * 0.7), (x + 0.1, -width * 0.7), (x, -width * 0.7)],
            maker.colours[1],
            None,
        )


def taper(maker, length):
    thick = maker.random.uniform(0.04, 0.09)
    maker.polygon(
        "taper",
        [
            (0, 0.02),
            (length * 0.4, 0.025),
            (length * 0.9, thick),
            (length, thick * 0.6),
            (length, -thick * 0.6),
            (length * 0.9, -thick),
            (length * 0.4, -0.025),
            (0, -0.02),
        ],
        maker.colours[0],
    )


def wheel(maker, radius):
    for t in np.arange(0, math.pi, math.pi / maker.random.integers(2, 6)):
        c, s = radius * math.cos(t), radius * math.sin(t)
        maker.stroke("wheel", [(-c, -s), (c, s)], 0.01, (176, 178, 184))
    maker.canvas.ring(
        (0, 0),
        (radius, radius),
        maker.random.uniform(0.025, 0.06),
        shade(maker.colours[1], 0.5),
        maker.role("wheel"),
        maker.frame,
    )


def bulb(maker, radius):
    maker.polygon(
        "bulb",
        [(-radius, 0.5 * radius), (0, 0.6 * radius), (0, -0.6 * radius), (-radius, -0.5 * radius)],
        maker.colours[1],
    )
    maker.ellipse("bulb", (radius, 0.8 * radius), maker.colours[0], (0.6 * radius, 0))
    maker.ellipse("bulb", (0.5 * radius, 0.3 * radius), shade(maker.colours[0], 0.8), (0.2 * radius, 0.5 * radius))


def frame(maker):
    count = maker.random.integers(3, 6)
    corners = [
        (maker.random.uniform(0.7, 1.2) * 0.28 * math.cos(t), 0.28 * math.sin(t))
        for t in np.arange(count) * 2 * math.pi / count
    ]
    maker.stroke("frame", corners + corners[:1], maker.random.uniform(0.025, 0.045), maker.colours[0])
    maker.stroke("frame", [corners[0], corners[2]], 0.03, maker.colours[0])


ENDS = (ring, mesh, box, hook, tip, disc, bulb)


# --- things: random combinations of parts ---


def staff(maker):
    """A rod with something at one end or both."""
    length = maker.random.uniform(0.2, 0.9)
    rod(maker, length, maker.random.uniform(0.018, 0.05))
    end = ENDS[maker.random.integers(len(ENDS))]
    if maker.random.random() < 0.75:
        end(maker.moved((length, 0)), maker.random.uniform(0.06, 0.18))
    if maker.random.random() < 0.3:
        end(maker.moved((0, 0), 180), maker.random.uniform(0.06, 0.18))


def vehicle(maker):
    """Two wheels joined by a frame or a board."""
    radius, half = maker.random.uniform(0.05, 0.24), maker.random.uniform(0.2, 0.35)
    for x in (-half, half):
        wheel(maker.moved((x, 0)), radius)
    if maker.random.random() < 0.5:
        frame(maker.moved((0, 0.14)))
    else:
        rod(maker.moved((-half, radius)), 2 * half, 0.05)


def single(maker):
    """One part by itself."""
    choice, radius = maker.random.integers(9), maker.random.uniform(0.06, 0.2)
    if choice < 3:
        disc(maker, radius * 0.8)
    elif choice == 3:
        wheel(maker, radius)
    else:
        (box, bulb, ring, mesh, disc)[choice - 4](maker, radius)


def long_thing(maker):
    """A board, a club, a bow or two boards side by side."""
    choice = maker.random.integers(4)
    if choice == 0:
        taper(maker, maker.random.uniform(0.4, 0.75))
    elif choice == 1:
        arc(maker)
    else:
        lens(maker)
        if choice == 3:
            lens(maker.moved((0.05, -0.1), maker.random.uniform(-10, 10)))


THINGS = (staff, staff, staff, vehicle, single, single, long_thing, long_thing)


def make_thing(maker):
    """Paints a thing of a random sort."""
    THINGS[maker.random.integers(len(THINGS))](maker)


def maker_for(canvas, frame, touched, ground, random):
    """A maker with random colours that stand out from the ground's."""
    main = distinct_colour(random, ground)
    second = distinct_colour(random, ground, main, distance=90) if random.random() < 0.8 else any_colour(random)
    return Maker(canvas, frame, (main, second), touched, random)
