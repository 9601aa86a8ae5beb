"""The sports: for each one its usual surface, a player who uses its equipment, and the equipment lying unused.

Lengths are in player heights. A player faces +x and stands at the origin; hands and feet go where the equipment needs
them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.scenes import equipment as gear
from data.scenes.drawing import EVIDENCE, Canvas, Frame
from data.scenes.equipment import Brush, brush_for
from data.scenes.people import Figure, Outfit, Pose


@dataclass(frozen=True)
class Artist:
    """What a sport needs to paint a player at work: `frame` is the player's, one unit a player height."""

    canvas: Canvas
    frame: Frame
    outfit: Outfit
    brush: Brush
    random: np.random.Generator

    def about(self, x, y, spread=0.03):
        """A point near (x, y), so that no two poses are the same."""
        move = self.random.uniform(-spread, spread, 2)
        return x + move[0], y + move[1]

    def figure(self, **pose):
        return Figure(self.canvas, self.frame, Pose(**pose), self.outfit)

    def either(self):
        """A fair coin."""
        return self.random.random() < 0.5


def towards(start, end):
    """The direction from start to end in degrees."""
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def use_archery(artist):
    aim = artist.random.uniform(-0.05, 0.08)
    figure = artist.figure(
        hip=(-0.02, 0.5), neck=(-0.01, 0.81), hands=((0.37, 0.77 + aim), (0.03, 0.8)), feet=((-0.12, 0), (0.13, 0))
    )
    figure.paint_far()
    figure.paint_near_leg()
    front, back = figure.hands
    degrees = towards(back, front)
    gear.bow(artist.brush.moved(front, degrees), pull=math.dist(front, back))
    gear.arrow(artist.brush.moved(back, degrees))
    figure.paint_near_arm()


def use_baseball(artist):
    waiting = artist.either()
    hand = artist.about(-0.1, 0.74) if waiting else artist.about(0.24, 0.62, 0.04)
    figure = artist.figure(
        hip=(-0.03, 0.47),
        neck=(0.0, 0.77),
        hands=(hand, (hand[0] + 0.03, hand[1] + 0.02)),
        feet=((-0.17, 0), (0.17, 0)),
    )
    figure.paint_far()
    figure.paint_near_leg()
    degrees = artist.random.uniform(95, 145) if waiting else artist.random.uniform(-5, 35)
    gear.bat(artist.brush.moved(figure.hands[1], degrees))
    gear.baseball(artist.brush.moved(artist.about(0.62, 0.6, 0.06) if waiting else artist.about(0.72, 0.98, 0.06)))
    figure.paint_near_arm()


def use_basketball(artist):
    gear.hoop(artist.brush.moved((0.78, 0.0)))
    if artist.either():
        hand = artist.about(0.14, 1.06)
        figure = artist.figure(hip=(0, 0.54), neck=(0.02, 0.84), hands=(hand, hand), feet=((-0.08, 0.05), (0.06, 0.03)))
        ball = figure.hands[1][0] + 0.02, figure.hands[1][1] + 0.12
    else:
        figure = artist.figure(
            hip=(-0.05, 0.44),
            neck=(0.06, 0.72),
            hands=(artist.about(-0.2, 0.5), artist.about(0.32, 0.5)),
            feet=((-0.2, 0), (0.15, 0)),
        )
        ball = figure.hands[1][0] + 0.03, artist.random.uniform(0.16, 0.36)
    figure.paint()
    gear.basketball(artist.brush.moved(ball, artist.random.uniform(-40, 40)))


def use_boxing(artist):
    punch = artist.either()
    near = artist.about(0.42, 0.78) if punch else artist.about(0.24, 0.8)
    figure = artist.figure(
        hip=(-0.04, 0.47), neck=(0.03, 0.77), hands=(artist.about(0.28, 0.7), near), feet=((-0.16, 0), (0.15, 0))
    )
    figure.paint()
    for hand, elbow in zip(figure.hands, figure.elbows):
        degrees = towards(elbow, hand)
        gear.glove(
            artist.brush.moved(
                (hand[0] + 0.04 * math.cos(math.radians(degrees)), hand[1] + 0.04 * math.sin(math.radians(degrees))),
                degrees,
            )
        )


def use_cycling(artist):
    turn = artist.random.uniform(0, 2 * math.pi)
    pedals = [(-0.02 + side * 0.08 * math.cos(turn), 0.2 + side * 0.08 * math.sin(turn)) for side in (-1, 1)]
    figure = artist.figure(
        hip=(-0.14, 0.64), neck=artist.about(0.1, 0.88, 0.04), hands=((0.29, 0.65), (0.28, 0.65)), feet=tuple(pedals)
    )
    figure.paint_far()
    gear.bicycle(artist.brush)
    figure.paint_near_leg()
    figure.paint_near_arm()


def use_football(artist):
    foot = artist.about(0.3, 0.14, 0.05)
    figure = artist.figure(
        hip=(-0.03, 0.5),
        neck=(-0.07, 0.8),
        hands=(artist.about(0.2, 0.6, 0.05), artist.about(-0.32, 0.6, 0.05)),
        feet=((-0.08, 0), foot),
    )
    figure.paint()
    foot = figure.feet[1]
    gear.football(
        artist.brush.moved((foot[0] + artist.random.uniform(0.15, 0.2), foot[1] + artist.random.uniform(-0.02, 0.08)))
    )


def use_ice_hockey(artist):
    top = artist.about(0.02, 0.56)
    blade = artist.random.uniform(0.5, 0.6), 0.02
    degrees = towards(top, blade)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    figure = artist.figure(
        hip=(-0.1, 0.45),
        neck=(0.08, 0.73),
        hands=(top, (top[0] + 0.25 * cos, top[1] + 0.25 * sin)),
        feet=((-0.22, 0), (0.12, 0)),
    )
    figure.paint_far()
    figure.paint_near_leg()
    gear.hockey_stick(artist.brush.moved(figure.hands[0], degrees), length=math.dist(figure.hands[0], blade))
    gear.puck(artist.brush.moved((blade[0] + 0.28, 0.0)))
    figure.paint_near_arm()


def use_skateboarding(artist):
    air = artist.random.uniform(0.12, 0.3) if artist.either() else 0.11
    tilt = artist.random.uniform(-18, 18) if air > 0.12 else 0.0
    board = artist.brush.moved((0, air), tilt)
    gear.skateboard(board)
    rise = 0.19 * math.tan(math.radians(tilt))
    figure = artist.figure(
        hip=(-0.03, 0.38 + air),
        neck=(0.05, 0.67 + air),
        hands=(artist.about(-0.33, 0.68 + air, 0.06), artist.about(0.37, 0.66 + air, 0.06)),
        feet=((-0.2, air + 0.01 - rise), (0.17, air + 0.01 + rise)),
    )
    figure.paint()


def use_skiing(artist):
    slope = artist.random.uniform(-16, 6)
    tilted = Artist(
        artist.canvas,
        artist.frame.moved((0, 0.05), slope),
        artist.outfit,
        artist.brush.moved((0, 0.05), slope),
        artist.random,
    )
    hands = tilted.about(0.22, 0.5), tilted.about(0.24, 0.44)
    figure = tilted.figure(hip=(-0.12, 0.38), neck=(0.08, 0.66), hands=hands, feet=((-0.05, 0.05), (0.0, 0.0)))
    gear.pole(tilted.brush.moved(figure.hands[0], tilted.random.uniform(195, 222)))
    gear.ski(tilted.brush.moved((0.03, 0.05)))
    figure.paint_far()
    gear.ski(tilted.brush.moved((-0.02, 0.0)))
    figure.paint_near_leg()
    figure.paint_near_arm()
    gear.pole(tilted.brush.moved(figure.hands[1], tilted.random.uniform(198, 225)))


def use_surfing(artist):
    tilt = artist.random.uniform(-6, 12)
    brush = artist.brush.moved((0, 0.05), tilt)
    squash = artist.random.uniform(0.5, 0.75)
    frame = brush.frame
    flat = Frame(frame.x0, frame.y0, frame.a, frame.b * squash, frame.c, frame.d * squash)
    gear.surfboard(Brush(brush.canvas, flat, brush.main, brush.second, brush.role, brush.random))
    rise = 0.2 * math.tan(math.radians(tilt))
    figure = artist.figure(
        hip=(-0.02, 0.42),
        neck=(0.05, 0.7),
        hands=(artist.about(-0.32, 0.72, 0.06), artist.about(0.38, 0.66, 0.06)),
        feet=((-0.2, 0.05 - rise), (0.17, 0.05 + rise)),
    )
    figure.paint()


def use_tennis(artist):
    serve = artist.either()
    hand = artist.about(0.2, 1.0) if serve else artist.about(0.36, 0.62, 0.06)
    figure = artist.figure(
        hip=(0, 0.5), neck=(0.02, 0.8), hands=(artist.about(-0.22, 0.6, 0.06), hand), feet=((-0.16, 0), (0.14, 0))
    )
    figure.paint()
    degrees = artist.random.uniform(15, 75) if serve else artist.random.uniform(-20, 60)
    gear.racket(artist.brush.moved(figure.hands[1], degrees))
    gear.tennis_ball(artist.brush.moved(artist.about(0.78, 1.3, 0.06) if serve else artist.about(0.88, 0.42, 0.06)))


def use_weightlifting(artist):
    height = (0.42, 0.77, 1.08)[artist.random.integers(3)]
    bent = height < 0.5
    figure = artist.figure(
        hip=(0, 0.42 if bent else 0.5),
        neck=(0.0, 0.7 if bent else 0.8),
        hands=((-0.2, height), (0.2, height)),
        feet=((-0.13, 0), (0.13, 0)),
        spread=0.11,
        knees_out=True,
    )
    figure.paint_far()
    figure.paint_near_leg()
    gear.barbell(artist.brush.moved((0, (figure.hands[0][1] + figure.hands[1][1]) / 2)))
    figure.paint_near_arm()


@dataclass(frozen=True)
class Sport:
    """`use` paints a player at work within `left`, `right` and `top` player heights of the feet; `lie` paints the
    equipment on the ground, `length` long; what rests on round parts, balls and barbells, is seen from the side
    (`upright`), all else foreshortened.
    """

    surface: str
    use: Callable
    lie: Callable
    left: float
    right: float
    top: float
    length: float
    upright: bool = False


KINDS = {
    "archery": Sport("grass", use_archery, gear.lie_archery, 0.22, 0.74, 1.28, 1.0),
    "baseball": Sport("sand", use_baseball, gear.lie_baseball, 0.5, 0.92, 1.4, 0.75),
    "basketball": Sport("parquet", use_basketball, gear.basketball, 0.3, 1.0, 1.58, 0.24, upright=True),
    "boxing": Sport("gym mat", use_boxing, gear.lie_boxing, 0.26, 0.62, 1.0, 0.6),
    "cycling": Sport("asphalt", use_cycling, gear.lie_cycling, 0.54, 0.56, 1.1, 1.05),
    "football": Sport("grass", use_football, gear.football, 0.4, 0.66, 1.0, 0.24, upright=True),
    "ice hockey": Sport("ice", use_ice_hockey, gear.lie_ice_hockey, 0.32, 0.98, 0.95, 1.0),
    "skateboarding": Sport("asphalt", use_skateboarding, gear.skateboard_from_below, 0.45, 0.48, 1.2, 0.85),
    "skiing": Sport("snow", use_skiing, gear.lie_skiing, 0.58, 0.66, 0.95, 1.15),
    "surfing": Sport("sea", use_surfing, gear.surfboard, 0.68, 0.7, 1.0, 1.35),
    "tennis": Sport("clay court", use_tennis, gear.lie_tennis, 0.3, 0.96, 1.58, 0.8),
    "weightlifting": Sport("gym mat", use_weightlifting, gear.barbell, 0.66, 0.66, 1.32, 1.3, upright=True),
}


def draw_player_at_work(sport, canvas, frame, outfit, random, background):
    """A player at `frame` who uses the sport's equipment."""
    KINDS[sport].use(Artist(canvas, frame, outfit, brush_for(canvas, frame, EVIDENCE, random, background), random))


def draw_lying(sport, canvas, x, y, scale, role, random, background):
    """The sport's equipment on the ground around (x, y), `scale` image sides to a player height."""
    kind = KINDS[sport]
    frame = Frame.upright(x, y, scale, 1.0 if kind.upright else random.uniform(0.45, 0.65)).moved(
        (0, 0), random.uniform(-35, 35)
    )
    kind.lie(brush_for(canvas, frame, role, random, background))
