"""An antialiased canvas, colours and light.

Everything is drawn at three times the resolution and averaged down. Besides the picture, the canvas keeps a map of
roles: for every fine pixel, the role of what was painted there last. Things painted later occlude those before.

Coordinates: the image is the unit square, x to the right, y down. A `Frame` maps local coordinates, with y up, into it.
Colours are RGB or RGBA tuples, 0 to 255.
"""

import colorsys
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3
ROLES = ("other", "surface", "players", "evidence", "distractor")
OTHER, SURFACE, PLAYERS, EVIDENCE, DISTRACTOR = range(len(ROLES))
# Strings, spokes and poles are thinner than a pixel; without a larger weight their pixels would count as background.
ROLE_WEIGHT = np.array([1.0, 1.0, 1.0, 1.6, 1.6], dtype=np.float32)


Point = tuple[float, float]
Colour = tuple[int, ...]
LeftOut = Mapping[tuple[str, int], "Callable[[Canvas], None] | None"]


@dataclass(frozen=True)
class Frame:
    """Local coordinates (u, v), v up, in the unit square: x = x0 + a u + b v, y = y0 + c u + d v."""

    x0: float
    y0: float
    a: float
    b: float
    c: float
    d: float

    @classmethod
    def upright(cls, x: float, y: float, scale: float, squash: float = 1.0) -> "Frame":
        """Return an upright frame.

        x, y: its origin in the unit square.
        scale: image sides per local unit.
        squash: factor of heights, below 1 for what lies on the ground.
        """
        return cls(x, y, scale, 0.0, 0.0, -scale * squash)

    def __call__(self, point: Point) -> Point:
        """Map a local point into the unit square."""
        u, v = point
        return self.x0 + self.a * u + self.b * v, self.y0 + self.c * u + self.d * v

    def moved(self, point: Point, degrees: float = 0.0, scale: float = 1.0) -> "Frame":
        """Return the frame with its origin at `point` of this one, turned anticlockwise and scaled."""
        x, y = self(point)
        cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
        return Frame(
            x,
            y,
            self.a * cos + self.b * sin,
            self.b * cos - self.a * sin,
            self.c * cos + self.d * sin,
            self.d * cos - self.c * sin,
        )

    @property
    def scale(self) -> float:
        """Image sides per local unit, the geometric mean over directions."""
        return math.sqrt(abs(self.a * self.d - self.b * self.c))


UNIT = Frame(0.0, 0.0, 1.0, 0.0, 0.0, 1.0)


class Canvas:
    """A picture and its map of roles.

    size: pixels per side of the finished picture.
    left_out: (part, role) of what is not painted -> what is called, once, where it would have been painted first; None
        for nothing. Whoever draws it still does, so that random numbers and all that is painted later stay the same.

    The drawing methods take `points` in the coordinates of `frame`, a `colour` that may have an alpha, the `role` of
    what is drawn, and widths and radii in local units.
    """

    def __init__(self, size: int, left_out: LeftOut | None = None):
        self.size, self.fine = size, size * SUPERSAMPLING
        self.part, self._left_out = "", dict(left_out or {})
        self.image = Image.new("RGB", (self.fine, self.fine))
        self.roles = Image.new("L", (self.fine, self.fine))
        # The RGBA mode blends translucent colours into the RGB picture.
        self.pen, self.role_pen = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.roles)

    @contextmanager
    def painting(self, part: str) -> Iterator[None]:
        """Name what is painted within the block."""
        outer, self.part = self.part, part
        try:
            yield
        finally:
            self.part = outer

    def _shows(self, role: int) -> bool:
        """Tell whether what is about to be painted is painted; paint what stands in its place."""
        key = self.part, role
        if key not in self._left_out:
            return True
        instead, self._left_out[key] = self._left_out[key], None
        if instead is not None:
            with self.painting(f"instead of {self.part}"):
                instead(self)
        return False

    def polygon(self, points, colour, role, frame=UNIT, outline=None, outline_width=0.015):
        """Fill a polygon; outline: colour of its edge, None for no edge."""
        if not self._shows(role):
            return
        fine = self._fine(points, frame)
        self.pen.polygon(fine, fill=colour)
        self.role_pen.polygon(fine, fill=role)
        if outline is not None:
            self._line(fine + fine[:2], max(1, round(outline_width * frame.scale * self.fine)), outline, role)

    def rectangle(self, left, top, right, bottom, colour, role):
        """Fill an upright rectangle of the unit square."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, role)

    def stroke(self, points, width, colour, role, frame=UNIT):
        """Draw a polyline with round joints and ends, at least 0.45 % of the image's side wide."""
        if not self._shows(role):
            return
        fine = self._fine(points, frame)
        pixels = max(width * frame.scale, 0.0045) * self.fine
        self._line(fine, max(1, round(pixels)), colour, role)
        if pixels >= 4:
            for x, y in (fine[0], fine[-1]):
                self._dot(x, y, pixels / 2 - 0.5, colour, role)

    def limb(self, start, end, start_radius, end_radius, colour, role, frame=UNIT):
        """Fill a capsule from `start` to `end` whose radius changes linearly."""
        if not self._shows(role):
            return
        (x1, y1), (x2, y2) = self._fine((start, end), frame)
        r1, r2 = start_radius * frame.scale * self.fine, end_radius * frame.scale * self.fine
        length = math.hypot(x2 - x1, y2 - y1) or 1.0
        nx, ny = (y1 - y2) / length, (x2 - x1) / length
        quad = [
            (x1 + nx * r1, y1 + ny * r1),
            (x2 + nx * r2, y2 + ny * r2),
            (x2 - nx * r2, y2 - ny * r2),
            (x1 - nx * r1, y1 - ny * r1),
        ]
        self.pen.polygon(quad, fill=colour)
        self.role_pen.polygon(quad, fill=role)
        self._dot(x1, y1, r1, colour, role)
        self._dot(x2, y2, r2, colour, role)

    def ellipse(self, centre, radii, colour, role, frame=UNIT, degrees=0.0, outline=None, outline_width=0.015):
        """Fill an ellipse with `radii` along its own axes, turned by `degrees` anticlockwise."""
        inner = frame.moved(centre, degrees)
        points = [(radii[0] * c, radii[1] * s) for c, s in CIRCLE]
        self.polygon(points, colour, role, inner, outline, outline_width)

    def ring(self, centre, radii, width, colour, role, frame=UNIT, degrees=0.0):
        """Draw the outline of an ellipse."""
        inner = frame.moved(centre, degrees)
        self.stroke([(radii[0] * c, radii[1] * s) for c, s in CIRCLE + CIRCLE[:2]], width, colour, role, inner)

    def _fine(self, points, frame):
        fine = self.fine
        return [(x * fine, y * fine) for x, y in map(frame, points)]

    def _line(self, fine_points, width, colour, role):
        joint = "curve" if width > 3 and len(fine_points) > 2 else None
        self.pen.line(fine_points, fill=colour, width=width, joint=joint)
        self.role_pen.line(fine_points, fill=role, width=width, joint=joint)

    def _dot(self, x, y, radius, colour, role):
        box = (x - radius, y - radius, x + radius, y + radius)
        self.pen.ellipse(box, fill=colour)
        self.role_pen.ellipse(box, fill=role)

    def pixels(self) -> np.ndarray:
        """Return the averaged picture, (size, size, 3) float32 from 0 to 255."""
        return np.asarray(self.image.reduce(SUPERSAMPLING), dtype=np.float32)

    def coverage(self) -> np.ndarray:
        """Return the fraction of each pixel that each role covers, (len(ROLES), size, size) float32; they sum to 1."""
        roles = np.asarray(self.roles)
        layers = [
            Image.fromarray((roles == role).view(np.uint8) * np.uint8(255)).reduce(SUPERSAMPLING)
            for role in range(len(ROLES))
        ]
        return np.stack([np.asarray(layer, dtype=np.float32) for layer in layers]) / 255


CIRCLE = [(math.cos(2 * math.pi * i / 22), math.sin(2 * math.pi * i / 22)) for i in range(22)]


def role_of_pixels(coverage: np.ndarray) -> np.ndarray:
    """Return the role of each pixel, the largest by weighted coverage: (len(ROLES), size, size) -> (size, size) int."""
    return (coverage * ROLE_WEIGHT[:, None, None]).argmax(axis=0)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor < 1) or lighter (factor > 1)."""
    if factor <= 1:
        return tuple(round(channel * factor) for channel in colour[:3])
    return tuple(round(255 - (255 - channel) / factor) for channel in colour[:3])


def jitter(colour: Colour, random: np.random.Generator, amount: float = 14) -> Colour:
    """Change every channel by up to `amount` of 255."""
    moves = random.uniform(-amount, amount, 3)
    return tuple(int(min(255, max(0, channel + move))) for channel, move in zip(colour, moves))


def random_colour(random: np.random.Generator) -> Colour:
    """Draw a saturated colour or, with probability 0.2, a grey, black or white."""
    if random.random() < 0.2:
        return (int(random.choice((25, 70, 200, 245))),) * 3
    hsv = random.random(), random.uniform(0.55, 1.0), random.uniform(0.5, 1.0)
    return tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(*hsv))


def distinct_colour(random: np.random.Generator, *backgrounds: Colour, distance: float = 120) -> Colour:
    """Draw a random colour at a Euclidean distance of at least `distance` (0 to 441) from every background.

    After 20 tries, the last one is returned.
    """
    # Tries use a generator of their own, so that backgrounds do not change what the caller draws later.
    tries = np.random.default_rng(random.integers(2**63))
    for _ in range(20):
        colour = random_colour(tries)
        if all(math.dist(colour, background[:3]) >= distance for background in backgrounds):
            break
    return colour


@dataclass(frozen=True)
class Light:
    """How a camera records the painted colours.

    slope: (2,) change of brightness along y and x.
    tint: (3,) factors of the channels.
    contrast: factor of the distance from mid-grey.
    fine, coarse: texture of the ground, (h, w) standard normal; resized to the image, so that sizes look alike.
    """

    slope: np.ndarray
    tint: np.ndarray
    contrast: float
    fine: np.ndarray
    coarse: np.ndarray

    @classmethod
    def sample(cls, random: np.random.Generator) -> "Light":
        """Draw a random light."""
        return cls(
            random.uniform(-0.22, 0.22, 2),
            random.uniform(0.88, 1.12, 3) * random.uniform(0.72, 1.12),
            random.uniform(0.8, 1.1),
            random.standard_normal((48, 48)),
            random.standard_normal((7, 5)),
        )

    def expose(self, canvas: Canvas, surface_coverage: np.ndarray, grain: tuple[float, float]) -> np.ndarray:
        """Return the finished picture, (size, size, 3) uint8.

        canvas: what was painted.
        surface_coverage: fraction of each pixel that shows the surface, (size, size).
        grain: standard deviations of the fine and the coarse texture, of 255.
        """
        size = canvas.size
        texture = grain[0] * _resized(self.fine, size) + grain[1] * _resized(self.coarse, size)
        pixels = canvas.pixels() + (texture * surface_coverage)[..., None]
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        slope = 1 + self.slope[0] * axis[:, None] + self.slope[1] * axis[None, :]
        return (((pixels - 128) * self.contrast + 128) * slope[..., None] * self.tint).clip(0, 255).astype(np.uint8)


def _resized(field, size):
    return np.asarray(Image.fromarray(field.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
