"""Draw generic objects for the pretraining images: random combinations of parts (rods, rings, discs, boards, wheels).

Lengths are in person heights. The role of a part's pixels is its kind, and whether a person touches the object.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.scenes.drawing import Canvas, Frame, distinct_colour, random_colour, shade

PART_KINDS = (
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
BACKGROUND_ROLES = 3  # OTHER, SURFACE, PLAYERS; then for every kind one role untouched and one touched
CLASSES = BACKGROUND_ROLES + 2 * len(PART_KINDS)


@dataclass(frozen=True)
class ObjectBrush:
    """Draws the parts of one object.

    canvas: the picture.
    frame: coordinates of the part.
    colours: the object's two colours.
    touched: whether a person touches the object.
    random: for random details.
    """

    canvas: Canvas
    frame: Frame
    colours: tuple
    touched: bool
    random: np.random.Generator

    def moved(self, point, degrees=0.0, scale=1.0):
        """Return the brush with its frame moved to `point`, turned anticlockwise and scaled."""
        return self.at(self.frame.moved(point, degrees, scale))

    def at(self, frame):
        """Return the brush with another frame."""
        return ObjectBrush(self.canvas, frame, self.colours, self.touched, self.random)

    def role(self, kind):
        """Return the role of the pixels of a kind of part."""
        return BACKGROUND_ROLES + 2 * PART_KINDS.index(kind) + self.touched

    def polygon(self, kind, points, colour, outline=(28, 28, 32)):
        self.canvas.polygon(points, colour, self.role(kind), self.frame, outline)

    def stroke(self, kind, points, width, colour):
        self.canvas.stroke(points, width, colour, self.role(kind), self.frame)

    def ellipse(self, kind, radii, colour, centre=(0.0, 0.0), outline=(28, 28, 32)):
        self.canvas.ellipse(centre, radii, colour, self.role(kind), self.frame, 0.0, outline)


# --- parts: a part is attached at the origin and extends to +x ---


def rod(brush, length, width):
    brush.stroke("rod", [(0, 0), (length, 0)], width, brush.colours[0])
    if brush.random.random() < 0.4:
        brush.stroke("rod", [(0, 0), (0.2 * length, 0)], width * 1.3, brush.colours[1])


def arc(brush):
    depth, half = brush.random.uniform(0.08, 0.3), brush.random.uniform(0.25, 0.5)
    curve = [(-depth * abs(t) ** 1.7, half * t) for t in np.linspace(-1, 1, 13)]
    brush.stroke("arc", curve, brush.random.uniform(0.03, 0.06), brush.colours[0])
    if brush.random.random() < 0.5:
        brush.stroke("arc", [curve[0], (-brush.random.uniform(0, 0.35), 0.0), curve[-1]], 0.01, (240, 240, 236))


def disc(brush, radius):
    pattern = ("disc", "dotted disc", "crossed disc")[brush.random.integers(3)]
    brush.ellipse(pattern, (radius, radius), brush.colours[0], (radius, 0))
    turned = brush.moved((radius, 0), brush.random.uniform(0, 180))
    if pattern == "dotted disc":
        for t in np.arange(brush.random.integers(3, 7)):
            spot = 0.55 * radius * math.cos(t * 1.2), 0.55 * radius * math.sin(t * 1.2)
            turned.ellipse(pattern, (radius * 0.24, radius * 0.24), brush.colours[1], spot, None)
    elif pattern == "crossed disc":
        for offset in (-0.5, 0.0, 0.5)[brush.random.integers(2) :: 2] if brush.random.random() < 0.5 else (-0.35, 0.35):
            reach = math.sqrt(1 - offset**2) * radius
            turned.stroke(
                pattern, [(offset * radius, -reach), (offset * radius, reach)], radius * 0.16, brush.colours[1]
            )
        turned.stroke(pattern, [(-radius, 0), (radius, 0)], radius * 0.14, brush.colours[1])


def ring(brush, radius):
    oval = radius * brush.random.uniform(0.4, 1.0)
    brush.canvas.ring(
        (radius, 0), (radius, oval), brush.random.uniform(0.02, 0.05), brush.colours[1], brush.role("ring"), brush.frame
    )


def mesh(brush, radius):
    oval = radius * brush.random.uniform(0.6, 1.0)
    brush.ellipse("mesh", (radius, oval), (236, 236, 230, 110), (radius, 0), None)
    for t in np.linspace(-0.7, 0.7, brush.random.integers(3, 6)):
        reach = math.sqrt(1 - t * t)
        brush.stroke(
            "mesh", [(radius - radius * reach, oval * t), (radius + radius * reach, oval * t)], 0.005, (246, 246, 242)
        )
        brush.stroke(
            "mesh", [(radius + radius * t, -oval * reach), (radius + radius * t, oval * reach)], 0.005, (246, 246, 242)
        )
    brush.canvas.ring((radius, 0), (radius, oval), 0.03, brush.colours[0], brush.role("mesh"), brush.frame)


def box(brush, radius):
    width, height = radius * brush.random.uniform(0.2, 1.2), radius * brush.random.uniform(0.7, 1.2)
    for i in range(brush.random.integers(1, 4)):
        left, tall = i * width, height * brush.random.uniform(0.6, 1.0)
        brush.polygon(
            "box", [(left, -tall), (left + width, -tall), (left + width, tall), (left, tall)], brush.colours[i % 2]
        )


def hook(brush, radius):
    side = brush.random.choice((-1, 1))
    brush.polygon(
        "hook",
        [
            (-0.03, -0.03 * side),
            (0.05, -0.02 * side),
            (0.06, 2 * radius * side),
            (0.0, 2.1 * radius * side),
            (-0.03, 0.05 * side),
        ],
        brush.colours[1],
    )


def tip(brush, radius):
    brush.polygon("tip", [(radius, 0), (-0.2 * radius, 0.6 * radius), (-0.2 * radius, -0.6 * radius)], brush.colours[1])


def lens(brush):
    half, width, blunt = (
        brush.random.uniform(0.35, 0.65),
        brush.random.uniform(0.06, 0.2),
        brush.random.uniform(0.4, 1.0),
    )
    side = [(half * math.cos(t), width * math.sin(t) ** blunt) for t in np.linspace(0, math.pi, 15)]
    brush.polygon("lens", side + [(u, -v) for u, v in reversed(side)], brush.colours[0])
    for x in brush.random.uniform(-0.6, 0.6, brush.random.integers(0, 3)) * half:
        brush.polygon(
            "lens",
            [(x, width * 0.7), (x + 0.1, width * 0.7), (x + 0.1, -width * 0.7), (x, -width * 0.7)],
            brush.colours[1],
            None,
        )


def taper(brush, length):
    thick = brush.random.uniform(0.04, 0.09)
    brush.polygon(
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
        brush.colours[0],
    )


def wheel(brush, radius):
    for t in np.arange(0, math.pi, math.pi / brush.random.integers(2, 6)):
        c, s = radius * math.cos(t), radius * math.sin(t)
        brush.stroke("wheel", [(-c, -s), (c, s)], 0.01, (176, 178, 184))
    brush.canvas.ring(
        (0, 0),
        (radius, radius),
        brush.random.uniform(0.025, 0.06),
        shade(brush.colours[1], 0.5),
        brush.role("wheel"),
        brush.frame,
    )


def bulb(brush, radius):
    brush.polygon(
        "bulb",
        [(-radius, 0.5 * radius), (0, 0.6 * radius), (0, -0.6 * radius), (-radius, -0.5 * radius)],
        brush.colours[1],
    )
    brush.ellipse("bulb", (radius, 0.8 * radius), brush.colours[0], (0.6 * radius, 0))
    brush.ellipse("bulb", (0.5 * radius, 0.3 * radius), shade(brush.colours[0], 0.8), (0.2 * radius, 0.5 * radius))


def frame(brush):
    count = brush.random.integers(3, 6)
    corners = [
        (brush.random.uniform(0.7, 1.2) * 0.28 * math.cos(t), 0.28 * math.sin(t))
        for t in np.arange(count) * 2 * math.pi / count
    ]
    brush.stroke("frame", corners + corners[:1], brush.random.uniform(0.025, 0.045), brush.colours[0])
    brush.stroke("frame", [corners[0], corners[2]], 0.03, brush.colours[0])


ENDS = (ring, mesh, box, hook, tip, disc, bulb)


# --- objects: random combinations of parts ---


def rod_with_ends(brush):
    """Draw a rod with a part at one end or at both."""
    length = brush.random.uniform(0.2, 0.9)
    rod(brush, length, brush.random.uniform(0.018, 0.05))
    end = ENDS[brush.random.integers(len(ENDS))]
    if brush.random.random() < 0.75:
        end(brush.moved((length, 0)), brush.random.uniform(0.06, 0.18))
    if brush.random.random() < 0.3:
        end(brush.moved((0, 0), 180), brush.random.uniform(0.06, 0.18))


def vehicle(brush):
    """Draw two wheels joined by a frame or a board."""
    radius, half = brush.random.uniform(0.05, 0.24), brush.random.uniform(0.2, 0.35)
    for x in (-half, half):
        wheel(brush.moved((x, 0)), radius)
    if brush.random.random() < 0.5:
        frame(brush.moved((0, 0.14)))
    else:
        rod(brush.moved((-half, radius)), 2 * half, 0.05)


def single_part(brush):
    """Draw a single part."""
    choice, radius = brush.random.integers(9), brush.random.uniform(0.06, 0.2)
    if choice < 3:
        disc(brush, radius * 0.8)
    elif choice == 3:
        wheel(brush, radius)
    else:
        (box, bulb, ring, mesh, disc)[choice - 4](brush, radius)


def long_object(brush):
    """Draw a board, a club, a bow or two boards side by side."""
    choice = brush.random.integers(4)
    if choice == 0:
        taper(brush, brush.random.uniform(0.4, 0.75))
    elif choice == 1:
        arc(brush)
    else:
        lens(brush)
        if choice == 3:
            lens(brush.moved((0.05, -0.1), brush.random.uniform(-10, 10)))


OBJECTS = (rod_with_ends, rod_with_ends, rod_with_ends, vehicle, single_part, single_part, long_object, long_object)


def draw_object(brush):
    """Draw a random object."""
    OBJECTS[brush.random.integers(len(OBJECTS))](brush)


def make_object_brush(canvas, frame, touched, ground, random):
    """Return a brush with random colours that stand out from the ground's."""
    main = distinct_colour(random, ground)
    second = distinct_colour(random, ground, main, distance=90) if random.random() < 0.8 else random_colour(random)
    return ObjectBrush(canvas, frame, (main, second), touched, random)
