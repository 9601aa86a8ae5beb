"""Draw the equipment of every sport.

Lengths are in player heights; thin parts are enlarged so that they show in a picture of 96 pixels.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.scenes.drawing import Canvas, Colour, Frame, Point, distinct_colour, shade

DARK, PALE, STRING = (28, 28, 32), (246, 246, 242), (120, 120, 116)


@dataclass(frozen=True)
class Brush:
    """Draws equipment in a frame.

    canvas: the picture.
    frame: coordinates of the equipment.
    main, second: its colours.
    role: of its pixels.
    random: for random details.
    """

    canvas: Canvas
    frame: Frame
    main: tuple
    second: tuple
    role: int
    random: np.random.Generator

    def moved(self, point: Point, degrees: float = 0.0, scale: float = 1.0) -> "Brush":
        """Return the brush with its frame moved to `point`, turned anticlockwise and scaled."""
        return Brush(
            self.canvas, self.frame.moved(point, degrees, scale), self.main, self.second, self.role, self.random
        )

    def stroke(self, points, width, colour=None):
        self.canvas.stroke(points, width, colour or self.main, self.role, self.frame)

    def polygon(self, points, colour=None, outline=DARK):
        self.canvas.polygon(points, colour or self.main, self.role, self.frame, outline)

    def ellipse(self, centre, radii, colour=None, outline=DARK, degrees=0.0):
        self.canvas.ellipse(centre, radii, colour or self.main, self.role, self.frame, degrees, outline)

    def ring(self, centre, radii, width, colour=None):
        self.canvas.ring(centre, radii, width, colour or self.main, self.role, self.frame)


def make_brush(canvas: Canvas, frame: Frame, role: int, random: np.random.Generator, background: Colour) -> Brush:
    """Return a brush in two random colours that stand out from the background and from each other."""
    main = distinct_colour(random, background)
    return Brush(canvas, frame, main, distinct_colour(random, background, main, distance=90), role, random)


# --- equipment in use: the origin of the brush is where a hand or foot touches it ---


def bow(brush, pull=0.0):
    limb = [
        (0.05 - 0.2 * abs(t) ** 1.6 + (0.05 * max(0, abs(t) - 0.85) / 0.15), 0.46 * t) for t in np.linspace(-1, 1, 19)
    ]
    brush.stroke(limb, 0.075, DARK)
    brush.stroke(limb, 0.052)
    brush.stroke([(0.05, -0.07), (0.05, 0.07)], 0.07, brush.second)
    brush.stroke([limb[0], (-pull if pull else limb[0][0], 0.0), limb[-1]], 0.012, PALE)


def arrow(brush, length=0.62):
    brush.stroke([(0, 0), (length, 0)], 0.026, brush.second)
    brush.polygon([(length + 0.08, 0), (length - 0.04, 0.055), (length - 0.04, -0.055)], DARK, None)
    for side in (-1, 1):
        brush.polygon([(0, 0), (0.12, 0), (0.07, 0.05 * side), (-0.05, 0.05 * side)], brush.main, None)


def bat(brush):
    half = [(-0.03, 0.035), (0.0, 0.024), (0.18, 0.028), (0.36, 0.074), (0.6, 0.084), (0.66, 0.05)]
    brush.polygon(half + [(u, -v) for u, v in reversed(half)])
    brush.stroke([(0.0, 0), (0.14, 0)], 0.05, brush.second)


def baseball(brush):
    brush.ellipse((0, 0), (0.06, 0.06), PALE)
    for side in (-1, 1):
        brush.stroke(
            [(side * (0.05 - 0.028 * math.cos(t)), 0.045 * math.sin(t)) for t in (-1, -0.5, 0, 0.5, 1)],
            0.012,
            (206, 40, 40),
        )


def basketball(brush):
    radius, seam = 0.115, DARK if sum(brush.main) > 200 else PALE
    brush.ellipse((0, 0), (radius, radius))
    brush.stroke([(-radius, 0), (radius, 0)], 0.014, seam)
    brush.stroke([(0, -radius), (0, radius)], 0.014, seam)
    for side in (-1, 1):
        arc = [(side * (0.09 - 0.05 * math.cos(t)), radius * 0.86 * math.sin(t)) for t in np.linspace(-1.2, 1.2, 7)]
        brush.stroke(arc, 0.014, seam)


def hoop(brush):
    """Draw post, board, rim and net; the origin is the foot of the post, and the rim lies towards -x."""
    brush.stroke([(0.16, 0), (0.16, 1.2), (0.05, 1.3)], 0.045, shade(brush.second, 0.7))
    brush.polygon([(0.0, 1.1), (0.06, 1.13), (0.06, 1.56), (0.0, 1.53)], PALE)
    rim = (-0.15, 1.17)
    for t in np.linspace(-1, 1, 5):
        brush.stroke([(rim[0] + 0.14 * t, rim[1]), (rim[0] + 0.08 * t, rim[1] - 0.2)], 0.01, PALE)
    for drop in (0.07, 0.15):
        brush.stroke(
            [(rim[0] - 0.13 + drop * 0.3, rim[1] - drop), (rim[0] + 0.13 - drop * 0.3, rim[1] - drop)], 0.01, PALE
        )
    brush.ring(rim, (0.15, 0.035), 0.026)


def glove(brush):
    """Draw a boxing glove; the fist points to +x."""
    brush.polygon([(-0.13, 0.06), (-0.03, 0.068), (-0.03, -0.068), (-0.13, -0.06)], brush.second)
    brush.ellipse((0.07, 0.0), (0.13, 0.105))
    brush.ellipse((0.02, 0.065), (0.065, 0.04), shade(brush.main, 0.8), degrees=15)


def bicycle(brush):
    radius, rear, front = 0.215, (-0.3, 0.215), (0.32, 0.215)
    saddle, crank, head = (-0.13, 0.56), (-0.02, 0.22), (0.22, 0.56)
    for wheel in (rear, front):
        for t in np.arange(0, math.pi, math.pi / 4):
            spoke = radius * math.cos(t), radius * math.sin(t)
            brush.stroke(
                [(wheel[0] - spoke[0], wheel[1] - spoke[1]), (wheel[0] + spoke[0], wheel[1] + spoke[1])],
                0.006,
                (176, 178, 184),
            )
        brush.ring(wheel, (radius, radius), 0.034, DARK)
    brush.stroke([rear, crank, head, (-0.11, 0.5), rear], 0.032)
    brush.stroke([crank, saddle], 0.032)
    brush.stroke([front, head, (0.2, 0.64), (0.29, 0.64)], 0.03)
    brush.stroke([(saddle[0] - 0.07, 0.57), (saddle[0] + 0.06, 0.565)], 0.045, brush.second)
    brush.ellipse(crank, (0.045, 0.045), brush.second)


def football(brush):
    radius = 0.105
    turn = brush.random.uniform(0, 1.2)
    brush.ellipse(
        (0, 0), (radius, radius), (PALE, (250, 226, 90), (252, 190, 160), (176, 226, 250))[brush.random.integers(4)]
    )
    spot = [(0.042 * math.cos(turn + t), 0.042 * math.sin(turn + t)) for t in np.arange(5) * 2 * math.pi / 5]
    brush.polygon(spot, DARK, None)
    for t in np.arange(5) * 2 * math.pi / 5:
        c, s = math.cos(turn + t), math.sin(turn + t)
        brush.stroke([(0.04 * c, 0.04 * s), (0.08 * c, 0.08 * s)], 0.01, DARK)
        edge = [(0.075, 0), (0.093, 0.035), (0.101, 0.0), (0.093, -0.035)]
        brush.polygon([(u * c - v * s, u * s + v * c) for u, v in edge], DARK, None)


def hockey_stick(brush, length=0.78):
    """Draw a stick; the shaft runs from the origin (the upper hand) to +x, the blade from its end to +y."""
    brush.stroke([(-0.08, 0), (length, 0)], 0.036)
    brush.stroke([(-0.08, 0), (0.05, 0)], 0.045, brush.second)
    brush.polygon(
        [
            (length - 0.035, -0.03),
            (length + 0.05, -0.02),
            (length + 0.05, 0.25),
            (length - 0.02, 0.27),
            (length - 0.035, 0.05),
        ],
        brush.second,
    )


def puck(brush):
    brush.polygon(
        [(-0.075, 0.03), (-0.075, -0.015), (-0.04, -0.03), (0.04, -0.03), (0.075, -0.015), (0.075, 0.03)], DARK, None
    )
    brush.ellipse((0, 0.03), (0.075, 0.024), (72, 72, 78), None)


def skateboard(brush):
    """Draw a skateboard from the side; the origin is the middle of the deck's upper side."""
    for x in (-0.19, 0.19):
        brush.stroke([(x, -0.02), (x, -0.06)], 0.035, (150, 152, 158))
        brush.ellipse((x, -0.075), (0.048, 0.048), brush.second)
        brush.ellipse((x, -0.075), (0.016, 0.016), PALE, None)
    brush.stroke([(-0.38, 0.055), (-0.3, 0.0), (0.3, 0.0), (0.38, 0.055)], 0.046)
    brush.stroke([(-0.3, 0.012), (0.3, 0.012)], 0.012, DARK)


def skateboard_from_below(brush):
    brush.stroke([(-0.3, 0), (0.3, 0)], 0.22, DARK)
    brush.stroke([(-0.3, 0), (0.3, 0)], 0.19)
    brush.stroke([(-0.08, 0.0), (0.08, 0.0)], 0.08, brush.second)
    for x in (-0.22, 0.22):
        brush.stroke([(x, -0.1), (x, 0.1)], 0.03, (150, 152, 158))
        for y in (-0.12, 0.12):
            brush.ellipse((x, y), (0.05, 0.05), PALE)


def ski(brush):
    """Draw one ski; the tip turns up at +x."""
    brush.stroke([(-0.52, 0.0), (0.5, 0.0), (0.57, 0.03), (0.62, 0.09)], 0.042)
    brush.stroke([(-0.12, 0.012), (0.1, 0.012)], 0.05, brush.second)


def pole(brush, length=0.55):
    """Draw a ski pole; the grip lies at the origin, the tip at +x."""
    brush.stroke([(-0.03, 0), (length, 0)], 0.02, brush.second)
    brush.stroke([(-0.05, 0), (0.04, 0)], 0.04, DARK)
    brush.stroke([(length - 0.07, -0.05), (length - 0.07, 0.05)], 0.024, DARK)


def surfboard(brush):
    """Draw a surfboard from above; the nose points to +x."""
    half = [
        (0.66 * math.cos(t), 0.165 * math.sin(t) ** 0.8 * (1.0 - 0.15 * math.cos(t)))
        for t in np.linspace(0, math.pi, 17)
    ]
    brush.polygon(half + [(u, -v) for u, v in reversed(half)])
    brush.polygon([(-0.3, 0.145), (-0.18, 0.155), (-0.18, -0.155), (-0.3, -0.145)], brush.second, None)
    brush.polygon([(0.3, 0.125), (0.4, 0.11), (0.4, -0.11), (0.3, -0.125)], brush.second, None)
    brush.stroke([(-0.63, 0), (0.62, 0)], 0.014, DARK)


def racket(brush):
    """Draw a racket; the grip lies at the origin, the head at +x."""
    centre, (long, wide) = 0.42, (0.2, 0.155)
    brush.stroke([(-0.06, 0), (0.13, 0)], 0.05, brush.second)
    brush.stroke([(0.12, 0), (0.19, 0)], 0.036)
    for side in (-1, 1):
        brush.stroke([(0.19, 0), (0.28, 0.09 * side)], 0.028)
    brush.canvas.ellipse((centre, 0), (long, wide), (236, 236, 230, 170), brush.role, brush.frame)
    for t in (-0.6, -0.2, 0.2, 0.6):
        reach = math.sqrt(1 - t * t)
        brush.stroke([(centre - long * reach, wide * t), (centre + long * reach, wide * t)], 0.006, STRING)
        brush.stroke([(centre + long * t, -wide * reach), (centre + long * t, wide * reach)], 0.006, STRING)
    # A dark rim makes the head stand out from spectators and trees of any colour.
    brush.ring((centre, 0), (long, wide), 0.056, DARK)
    brush.ring((centre, 0), (long, wide), 0.034)


def tennis_ball(brush):
    brush.ellipse((0, 0), (0.055, 0.055), ((214, 236, 60), (250, 160, 60), (240, 130, 170))[brush.random.integers(3)])
    brush.stroke([(-0.045, 0.02), (0.0, -0.01), (0.045, 0.02)], 0.012, PALE)


def barbell(brush):
    brush.stroke([(-0.62, 0), (0.62, 0)], 0.03, (148, 150, 158))
    for side in (-1, 1):
        for x, reach, colour in ((0.4, 0.2, brush.main), (0.47, 0.2, brush.second), (0.535, 0.13, brush.main)):
            brush.polygon(
                [
                    (side * (x - 0.032), -reach),
                    (side * (x + 0.032), -reach),
                    (side * (x + 0.032), reach),
                    (side * (x - 0.032), reach),
                ],
                colour,
            )


# --- unused equipment: the brush's frame lies flat on the ground and is turned at random ---


def unused_archery(brush):
    bow(brush.moved((0, 0), 90))
    arrow(brush.moved((-0.3, -0.2), 8))


def unused_baseball(brush):
    bat(brush.moved((-0.3, 0)))
    baseball(brush.moved((0.1, -0.2)))


def unused_boxing(brush):
    glove(brush.moved((-0.18, 0.06), 70))
    glove(brush.moved((0.16, -0.05), 130))


def unused_ice_hockey(brush):
    hockey_stick(brush.moved((-0.4, 0)))
    puck(brush.moved((0.0, 0.18)))


def unused_skiing(brush):
    ski(brush.moved((0, 0.06), 9))
    ski(brush.moved((0, -0.08), -9))
    pole(brush.moved((-0.25, 0.2), 4))
    pole(brush.moved((-0.25, -0.24), -6))


def unused_tennis(brush):
    racket(brush.moved((-0.25, 0)))
    tennis_ball(brush.moved((0.0, -0.22)))


def unused_cycling(brush):
    bicycle(brush.moved((0, -0.25)))
