"""Draw the background of a scene: a playing surface in perspective, and sky, stands or a hall behind it."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.scenes.drawing import OTHER, SURFACE, Canvas, Colour, Frame, Point, jitter, random_colour, shade

SURFACES = ("asphalt", "clay court", "grass", "gym mat", "ice", "parquet", "sand", "sea", "snow")
BASE_COLOUR = {
    "asphalt": (104, 106, 112),
    "clay court": (198, 96, 58),
    "grass": (84, 150, 62),
    "gym mat": (40, 84, 168),
    "ice": (206, 228, 240),
    "parquet": (206, 156, 94),
    "sand": (226, 202, 150),
    "sea": (34, 116, 150),
    "snow": (240, 243, 250),
}
INDOORS = ("gym mat", "ice", "parquet")
# Standard deviation of a surface's fine and coarse texture, of 255.
GRAIN = {
    "asphalt": (9, 7),
    "clay court": (8, 10),
    "grass": (12, 9),
    "gym mat": (2, 6),
    "ice": (4, 10),
    "parquet": (5, 8),
    "sand": (9, 10),
    "sea": (12, 14),
    "snow": (4, 8),
}


@dataclass(frozen=True)
class View:
    """Perspective of the ground plane.

    horizon: y of the horizon in the unit square.
    turn: angle of the markings in radians.
    shift: of the vanishing point along x.
    """

    horizon: float
    turn: float
    shift: float

    def __call__(self, across: float, depth: float) -> Point:
        """Map a point of the ground plane into the unit square; depth 1 lies at the lower edge of the image."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        across, depth = across * cos - (depth - 2) * sin, 2 + across * sin + (depth - 2) * cos
        depth = max(depth, 0.35)
        return 0.5 + self.shift * (1 - 1 / depth) + across / depth, self.horizon + (1 - self.horizon) / depth

    def ground_line(self, start: Point, end: Point, width: float) -> list[Point]:
        """Return the corners of a line painted on the ground from `start` to `end`, both (across, depth)."""
        (x1, z1), (x2, z2) = start, end
        length = math.hypot(x2 - x1, z2 - z1)
        nx, nz = (z1 - z2) / length * width / 2, (x2 - x1) / length * width / 2
        return [self(x1 + nx, z1 + nz), self(x2 + nx, z2 + nz), self(x2 - nx, z2 - nz), self(x1 - nx, z1 - nz)]


def draw_background(canvas: Canvas, surface: str, view: View, random: np.random.Generator) -> Colour:
    """Draw everything behind the players; return the colour of the surface.

    canvas: the picture.
    surface: a name in SURFACES.
    view: perspective of the ground.
    random: for colours, markings and what stands behind.
    """
    colour = jitter(BASE_COLOUR[surface], random, 16)
    if surface == "gym mat" and random.random() < 0.4:
        colour = jitter(((44, 128, 96), (150, 44, 52), (90, 70, 150))[random.integers(3)], random, 12)
    indoors = surface in INDOORS
    if random.random() < (0.45 if indoors else 0.2):
        draw_stands(canvas, view.horizon, random)
    elif indoors:
        draw_hall(canvas, view.horizon, random)
    else:
        draw_sky(canvas, view.horizon, surface, random)
    canvas.rectangle(0, view.horizon, 1, 1, colour, SURFACE)
    MARKINGS[surface](canvas, view, colour, random)
    return colour


def draw_sky(canvas, horizon, surface, random):
    """Draw sky and clouds and, unless the surface is the sea, hills and trees."""
    top, low = jitter((96, 158, 224), random, 34), jitter((204, 222, 238), random, 22)
    for i in range(12):
        mix = i / 11
        band = tuple(round(a * (1 - mix) + b * mix) for a, b in zip(top, low))
        canvas.rectangle(0, horizon * i / 12, 1, horizon, band, OTHER)
    for _ in range(random.integers(0, 4)):
        x, y, size = random.uniform(0, 1), random.uniform(0, horizon * 0.6), random.uniform(0.03, 0.08)
        for shift in (-1, 0, 1):
            canvas.ellipse((x + shift * size, y), (size * 1.3, size * 0.5), (255, 255, 255, 190), OTHER)
    if surface == "sea":
        return
    hills = (150, 166, 186) if surface == "snow" else (120, 148, 116)
    _ridge(canvas, horizon, random.uniform(0.03, 0.16), jitter(hills, random), random)
    if random.random() < 0.6:
        _trees(canvas, horizon, random)


def _ridge(canvas, horizon, height, colour, random):
    xs = np.linspace(-0.05, 1.05, 9)
    ridge = [(x, horizon - height * random.uniform(0.2, 1.0)) for x in xs]
    canvas.polygon([(-0.05, horizon), *ridge, (1.05, horizon)], colour, OTHER)


def _trees(canvas, horizon, random):
    leaf = jitter((52, 98, 58), random, 22)
    for x in random.uniform(0, 1, random.integers(2, 8)):
        height = random.uniform(0.06, 0.2)
        if random.random() < 0.5:
            canvas.polygon(
                [(x - height * 0.3, horizon), (x, horizon - height), (x + height * 0.3, horizon)], leaf, OTHER
            )
        else:
            canvas.stroke([(x, horizon), (x, horizon - height * 0.5)], 0.012, (96, 70, 48), OTHER)
            canvas.ellipse((x, horizon - height * 0.65), (height * 0.35, height * 0.4), leaf, OTHER)


def draw_stands(canvas, horizon, random):
    """Draw rows of spectators behind an advertising board."""
    canvas.rectangle(0, 0, 1, horizon, jitter((84, 88, 104), random, 24), OTHER)
    board = min(0.09, horizon * 0.3)
    rows, dot = 5, random.uniform(0.012, 0.018)
    for row in range(rows):
        y = (horizon - board) * (row + 0.6) / rows
        for x in np.arange(random.uniform(0, 0.05), 1, 0.065):
            if random.random() < 0.75:
                tone = tuple(int(c) for c in random.integers(70, 190, 3))
                canvas.ellipse((x, y + dot * 1.6), (dot * 1.4, dot * 1.5), tone, OTHER)
                canvas.ellipse((x, y), (dot, dot), (186, 146, 118), OTHER)
    edges = np.linspace(0, 1, random.integers(3, 6))
    for left, right in pairwise(edges):
        canvas.rectangle(left, horizon - board, right, horizon, random_colour(random), OTHER)


def draw_hall(canvas, horizon, random):
    """Draw the wall of a hall with panels and, at random, windows and a banner."""
    wall = jitter((206, 200, 186), random, 30)
    canvas.rectangle(0, 0, 1, horizon, wall, OTHER)
    for x in np.arange(random.uniform(0, 0.2), 1, 0.2):
        canvas.stroke([(x, 0), (x, horizon)], 0.006, shade(wall, 0.85), OTHER)
    if random.random() < 0.6:
        for x in np.arange(random.uniform(0.02, 0.1), 1, 0.28):
            canvas.rectangle(x, 0.02, x + 0.18, horizon * 0.4, (216, 234, 244), OTHER)
    canvas.rectangle(0, horizon * 0.82, 1, horizon, shade(wall, random.uniform(0.5, 0.8)), OTHER)
    if random.random() < 0.5:
        x = random.uniform(0.05, 0.6)
        canvas.rectangle(x, horizon * 0.5, x + 0.3, horizon * 0.7, random_colour(random), OTHER)


def _lines(canvas, view, lines, width, colour):
    for start, end in lines:
        canvas.polygon(view.ground_line(start, end, width), colour, SURFACE)


def _grass(canvas, view, colour, random):
    for near in np.arange(0.4, 6, 1.2):
        canvas.polygon(view.ground_line((-9, near), (9, near), 0.6), (*shade(colour, 1.14), 150), SURFACE)
    white, side = (240, 244, 238, 230), random.uniform(-0.9, 0.9)
    _lines(
        canvas,
        view,
        [((-9, random.uniform(1.3, 3)), (9, random.uniform(1.3, 3))), ((side, 0.4), (side, 12))],
        0.045,
        white,
    )
    for x, depth in random.uniform((-1.5, 1), (1.5, 4), (26, 2)):
        x, y = view(x, depth)
        canvas.stroke([(x, y), (x + 0.006, y - 0.02 / depth - 0.006)], 0.004, (*shade(colour, 0.7), 170), SURFACE)


def _clay(canvas, view, colour, random):
    white, left = (246, 240, 232), random.uniform(-1.2, -0.2)
    depth = random.uniform(1.2, 1.8)
    lines = [
        ((left, 0.4), (left, 9)),
        ((left + 1.6, 0.4), (left + 1.6, 9)),
        ((left, depth), (left + 1.6, depth)),
        ((left + 0.8, depth), (left + 0.8, 9)),
    ]
    _lines(canvas, view, lines, 0.05, white)
    for x, depth in random.uniform((-1.5, 1), (1.5, 3.5), (8, 2)):
        canvas.ellipse(view(x, depth), (0.09 / depth, 0.018 / depth), (*shade(colour, 0.85), 140), SURFACE)


def _asphalt(canvas, view, colour, random):
    paint = (238, 238, 232) if random.random() < 0.6 else (232, 190, 60)
    side = random.uniform(-0.5, 0.5)
    _lines(canvas, view, [((side, near), (side, near + 0.6)) for near in np.arange(0.4, 8, 1.2)], 0.07, paint)
    _lines(canvas, view, [((side + 1.4, 0.4), (side + 1.4, 12)), ((side - 1.4, 0.4), (side - 1.4, 12))], 0.06, paint)
    for _ in range(random.integers(1, 5)):
        x, depth = random.uniform(-1, 1), random.uniform(1, 2.5)
        crack = [view(x + random.uniform(-0.1, 0.1) + 0.09 * i, depth + random.uniform(-0.06, 0.06)) for i in range(5)]
        canvas.stroke(crack, 0.004, shade(colour, 0.6), SURFACE)


def _gym_mat(canvas, view, colour, random):
    second = shade(colour, random.choice((0.8, 1.25)))
    for i in range(-4, 4):
        for j in range(8):
            if (i + j) % 2:
                left, near = i * 0.7, 0.4 + j * 0.7
                corners = [(left, near), (left + 0.7, near), (left + 0.7, near + 0.7), (left, near + 0.7)]
                canvas.polygon([view(*corner) for corner in corners], second, SURFACE)


def _ice(canvas, view, colour, random):
    for _ in range(14):
        x, depth, slant = random.uniform(-1.5, 1.5), random.uniform(1, 4), random.uniform(-0.5, 0.5)
        canvas.stroke([view(x, depth), view(x + 0.4, depth + slant)], 0.003, (255, 255, 255, 170), SURFACE)
    red, blue = (206, 48, 62), (52, 84, 178)
    line = (-9, random.uniform(1.2, 4)), (9, random.uniform(1.2, 4))
    _lines(canvas, view, [line], 0.12, red if random.random() < 0.5 else blue)
    cx, cz, radius = random.uniform(-0.8, 0.8), random.uniform(1.3, 2.6), random.uniform(0.5, 0.9)
    circle = [view(cx + radius * math.cos(t), cz + radius * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 36)]
    canvas.stroke(circle, 0.009, red, SURFACE)


def _parquet(canvas, view, colour, random):
    for x in np.arange(-4, 4, 0.22):
        tone = (*shade(colour, random.uniform(0.86, 1.0)), 150)
        canvas.polygon(view.ground_line((x, 0.4), (x, 14), 0.2), tone, SURFACE)
        depth = random.uniform(0.8, 3)
        canvas.polygon(view.ground_line((x - 0.1, depth), (x + 0.1, depth), 0.02), shade(colour, 0.7), SURFACE)
    paint, side, depth = random_colour(random), random.uniform(-0.9, 0.9), random.uniform(1.2, 3)
    _lines(canvas, view, [((side, 0.4), (side, 12)), ((-9, depth), (9, depth))], 0.06, paint)
    arc = [view(side + 1.0 * math.cos(t), depth + 0.9 * math.sin(t)) for t in np.linspace(0, math.pi, 20)]
    canvas.stroke(arc, 0.01, paint, SURFACE)


def _sand(canvas, view, colour, random):
    for x, depth in random.uniform((-1.5, 1), (1.5, 4), (30, 2)):
        x, y = view(x, depth)
        tone = (*shade(colour, random.choice((0.84, 1.5))), 150)
        canvas.ellipse((x, y), (random.uniform(0.02, 0.07) / depth, 0.012 / depth), tone, SURFACE)
    for x, depth in random.uniform((-1, 1), (1, 2.5), (7, 2)):
        canvas.ellipse(view(x, depth), (0.006, 0.004), shade(colour, 0.55), SURFACE)


def _sea(canvas, view, colour, random):
    for _ in range(46):
        depth = 1 / random.uniform(0.06, 1.0)
        x, y = random.uniform(0, 1), view.horizon + (1 - view.horizon) / depth
        length, lift = random.uniform(0.05, 0.16) / depth**0.6, random.uniform(0.008, 0.03) / depth
        tone = (*((236, 248, 250) if random.random() < 0.3 else shade(colour, random.choice((0.72, 1.4)))), 190)
        wave = [(x + step * length / 2, y - lift * (step % 2)) for step in range(-2, 3)]
        canvas.stroke(wave, 0.016 / depth, tone, SURFACE)


def _snow(canvas, view, colour, random):
    for _ in range(6):
        x, depth = random.uniform(-1.2, 1.2), random.uniform(1, 4)
        canvas.ellipse(view(x, depth), (random.uniform(0.15, 0.4) / depth, 0.04 / depth), (206, 218, 238, 150), SURFACE)
    side, tone = random.uniform(-0.8, 0.8), (196, 210, 234)
    _lines(canvas, view, [((side, 0.4), (side + 0.6, 9)), ((side + 0.16, 0.4), (side + 0.76, 9))], 0.05, tone)


MARKINGS = {
    "asphalt": _asphalt,
    "clay court": _clay,
    "grass": _grass,
    "gym mat": _gym_mat,
    "ice": _ice,
    "parquet": _parquet,
    "sand": _sand,
    "sea": _sea,
    "snow": _snow,
}


def draw_shadow(canvas: Canvas, x: float, y: float, width: float) -> None:
    """Draw a soft shadow on the ground around (x, y) of the unit square."""
    for grow in (1.0, 0.65):
        canvas.ellipse((x, y), (width * grow, width * 0.16 * grow), (20, 24, 34, 60), SURFACE)


def draw_clutter(canvas: Canvas, view: View, random: np.random.Generator, scale: float) -> None:
    """Draw an object that belongs to no sport at a random place on the ground: a cone, a bottle, a bag or a post.

    canvas: the picture.
    view: perspective of the ground.
    random: for place, kind and colour.
    scale: image sides per player height.
    """
    x, depth = random.uniform(0.02, 0.98), random.uniform(1.25, 3)
    y, size = view.horizon + (1 - view.horizon) / depth, scale * 1.1 / depth
    colour, draw = random_colour(random), (_cone, _bottle, _bag, _post)[random.integers(4)]
    draw_shadow(canvas, x, y, size * 0.12)
    draw(canvas, Frame.upright(x, y, size), colour)


def _cone(canvas, frame, colour):
    canvas.polygon([(-0.1, 0), (-0.02, 0.25), (0.02, 0.25), (0.1, 0)], colour, OTHER, frame)


def _bottle(canvas, frame, colour):
    canvas.polygon([(-0.04, 0), (-0.04, 0.17), (0.04, 0.17), (0.04, 0)], colour, OTHER, frame)
    canvas.stroke([(0, 0.17), (0, 0.22)], 0.035, shade(colour, 0.6), OTHER, frame)


def _bag(canvas, frame, colour):
    canvas.polygon([(-0.16, 0), (-0.14, 0.16), (0.14, 0.16), (0.16, 0)], colour, OTHER, frame)
    canvas.stroke([(-0.07, 0.16), (0, 0.24), (0.07, 0.16)], 0.02, shade(colour, 0.6), OTHER, frame)


def _post(canvas, frame, colour):
    canvas.stroke([(0, 0), (0, 0.6)], 0.03, shade(colour, 0.7), OTHER, frame)
    canvas.ellipse((0, 0.6), (0.06, 0.06), colour, OTHER, frame)
