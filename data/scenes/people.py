"""Draw people: articulated figures with given positions of hands and feet, in clothes of random colours.

Lengths are in person heights; a person faces +x.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.scenes.drawing import PLAYERS, Canvas, Colour, Frame, Point, distinct_colour, random_colour, shade

SKIN = ((255, 219, 186), (240, 194, 152), (214, 160, 112), (172, 116, 74), (124, 80, 52), (84, 54, 38))
HAIR = ((30, 24, 20), (70, 44, 26), (120, 78, 40), (214, 176, 96), (150, 60, 30), (150, 150, 150))


@dataclass(frozen=True)
class Outfit:
    """The colours of a person."""

    skin: tuple
    hair: tuple
    shirt: tuple
    trousers: tuple
    shoes: tuple
    long_sleeves: bool
    shorts: bool

    @classmethod
    def sample(cls, random: np.random.Generator, background: Colour) -> "Outfit":
        """Draw a random outfit whose clothes stand out from the background colour."""
        shirt = distinct_colour(random, background, distance=90)
        return cls(
            SKIN[random.integers(len(SKIN))],
            HAIR[random.integers(len(HAIR))],
            shirt,
            distinct_colour(random, background, shirt, distance=80),
            random_colour(random),
            bool(random.random() < 0.5),
            bool(random.random() < 0.5),
        )


@dataclass(frozen=True)
class Pose:
    """Positions of a person's joints, relative to the point on the ground where the person stands.

    hip, neck: positions.
    hands, feet: positions of the far and of the near one.
    spread: half the shoulders' width, about 0.05 from the side and 0.11 from the front.
    knees_out: whether both knees bend outwards, as seen from the front, and not both forwards, as from the side.
    """

    hip: tuple = (0.0, 0.5)
    neck: tuple = (0.0, 0.8)
    hands: tuple = ((-0.16, 0.46), (0.16, 0.46))
    feet: tuple = ((-0.07, 0.0), (0.07, 0.0))
    spread: float = 0.05
    knees_out: bool = False


def two_bone_joints(start: Point, end: Point, upper: float, lower: float, side: int) -> tuple[Point, Point]:
    """Place two bones from `start` towards `end` (inverse kinematics).

    upper, lower: lengths of the bones.
    side: +1 or -1, to which side the middle joint bends.

    Returns the middle joint, and the end that is reached, which is `end` where the bones are long enough.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    distance = max(math.hypot(dx, dy), 1e-6)
    reach = min(max(distance, abs(upper - lower) + 1e-3), (upper + lower) * 0.999)
    dx, dy = dx / distance, dy / distance
    along = (reach**2 + upper**2 - lower**2) / (2 * reach)
    off = side * math.sqrt(max(upper**2 - along**2, 0.0))
    middle = start[0] + dx * along - dy * off, start[1] + dy * along + dx * off
    return middle, (start[0] + dx * reach, start[1] + dy * reach)


class Figure:
    """A person in a pose, painted in layers, so that equipment can be painted between them.

    `hands` and `feet` are the positions that arms and legs reach.

    canvas: the picture.
    frame: coordinates of the person, one unit per person height.
    pose: positions of the joints.
    outfit: colours.
    """

    def __init__(self, canvas: Canvas, frame: Frame, pose: Pose, outfit: Outfit):
        self.canvas, self.frame, self.pose, self.outfit = canvas, frame, pose, outfit
        spread, hips = pose.spread, min(pose.spread, 0.05)
        self.shoulders = [(pose.neck[0] + side * spread, pose.neck[1] - 0.03) for side in (-1, 1)]
        self.hips = [(pose.hip[0] + side * hips * 0.9, pose.hip[1]) for side in (-1, 1)]
        arms = [
            two_bone_joints(s, h, 0.19, 0.19, 1 if side < 0 or not pose.knees_out else -1)
            for s, h, side in zip(self.shoulders, pose.hands, (-1, 1))
        ]
        if not pose.knees_out:
            arms = [two_bone_joints(s, h, 0.19, 0.19, -1) for s, h in zip(self.shoulders, pose.hands)]
        legs = [
            two_bone_joints(s, f, 0.26, 0.26, -1 if side < 0 and pose.knees_out else 1)
            for s, f, side in zip(self.hips, pose.feet, (-1, 1))
        ]
        self.elbows, self.hands = [list(joints) for joints in zip(*arms)]
        self.knees, self.feet = [list(joints) for joints in zip(*legs)]

    def paint(self):
        """Paint the whole person."""
        self.paint_far()
        self.paint_near_leg()
        self.paint_near_arm()

    def paint_far(self):
        """Paint far arm, far leg, trunk and head."""
        self._arm(0, 0.82)
        self._leg(0, 0.82)
        self._trunk()
        self._head()

    def paint_near_leg(self):
        """Paint the near leg."""
        self._leg(1, 1.0)

    def paint_near_arm(self):
        """Paint the near arm."""
        self._arm(1, 1.0)

    def _limb(self, start, end, start_radius, end_radius, colour):
        self.canvas.limb(start, end, start_radius, end_radius, colour, PLAYERS, self.frame)

    def _arm(self, side, light):
        shoulder, elbow, hand = self.shoulders[side], self.elbows[side], self.hands[side]
        skin, sleeve = shade(self.outfit.skin, light), shade(self.outfit.shirt, light * 0.93)
        self._limb(elbow, hand, 0.029, 0.022, sleeve if self.outfit.long_sleeves else skin)
        self._limb(shoulder, elbow, 0.036, 0.03, sleeve)
        self._limb(hand, hand, 0.029, 0.029, skin)

    def _leg(self, side, light):
        hip, knee, foot = self.hips[side], self.knees[side], self.feet[side]
        skin, cloth = shade(self.outfit.skin, light), shade(self.outfit.trousers, light)
        ankle = foot[0], foot[1] + 0.025
        self._limb(knee, ankle, 0.04, 0.028, skin if self.outfit.shorts else cloth)
        self._limb(hip, knee, 0.055, 0.044, cloth)
        toe = (foot[0] + (0.06 if not self.pose.knees_out else 0.03 * (2 * side - 1)), foot[1] + 0.012)
        self._limb((foot[0] - 0.01, foot[1] + 0.018), toe, 0.027, 0.02, shade(self.outfit.shoes, light))

    def _trunk(self):
        (left, right), hip = self.shoulders, self.pose.hip
        width = max(self.pose.spread, 0.06)
        self._limb(hip, hip, 0.062, 0.062, self.outfit.trousers)
        self._limb(hip, ((left[0] + right[0]) / 2, left[1] - 0.02), 0.06, width * 0.95, self.outfit.shirt)
        self._limb(left, right, 0.036, 0.036, self.outfit.shirt)

    def _head(self):
        (hx, hy), (nx, ny) = self.pose.hip, self.pose.neck
        length = math.hypot(nx - hx, ny - hy)
        ux, uy = (nx - hx) / length, (ny - hy) / length
        # A head stays more upright than the back.
        cx, cy = nx + 0.6 * ux * 0.1 + 0.01, ny + 0.05 + 0.5 * abs(uy) * 0.1
        self._limb((nx, ny - 0.02), (cx, cy), 0.026, 0.026, shade(self.outfit.skin, 0.9))
        self._limb((cx, cy), (cx, cy), 0.068, 0.068, self.outfit.skin)
        back = 0.0 if self.pose.knees_out else -0.016
        cap = [(cx + back + 0.07 * math.cos(t), cy + 0.014 + 0.068 * math.sin(t)) for t in np.linspace(0.15, 3.5, 12)]
        self.canvas.polygon(cap, self.outfit.hair, PLAYERS, self.frame)
