"""Draw each sport: a player who uses its equipment, or the unused equipment on the ground.

Lengths are in player heights. A player stands at the origin and faces +x.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.scenes import equipment
from data.scenes.drawing import EVIDENCE, Canvas, Colour, Frame, Point
from data.scenes.equipment import Brush, make_brush
from data.scenes.people import Figure, Outfit, Pose


@dataclass(frozen=True)
class PlayerDrawing:
    """Draws a player with equipment.

    canvas: the picture.
    frame: coordinates of the player, one unit per player height.
    outfit: the player's colours.
    brush: draws equipment in `frame`.
    random: for the pose.
    """

    canvas: Canvas
    frame: Frame
    outfit: Outfit
    brush: Brush
    random: np.random.Generator

    def near(self, x: float, y: float, spread: float = 0.03) -> Point:
        """Return a random point at most `spread` from (x, y) in each coordinate."""
        move = self.random.uniform(-spread, spread, 2)
        return x + move[0], y + move[1]

    def figure(self, **pose) -> Figure:
        """Return the player in a pose; see Pose."""
        return Figure(self.canvas, self.frame, Pose(**pose), self.outfit)

    def coin_flip(self) -> bool:
        """Return True with probability 0.5."""
        return self.random.random() < 0.5


def direction(start: Point, end: Point) -> float:
    """Return the direction from start to end in degrees."""
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def play_archery(drawing: PlayerDrawing):
    aim = drawing.random.uniform(-0.05, 0.08)
    figure = drawing.figure(
        hip=(-0.02, 0.5), neck=(-0.01, 0.81), hands=((0.37, 0.77 + aim), (0.03, 0.8)), feet=((-0.12, 0), (0.13, 0))
    )
    figure.paint_far()
    figure.paint_near_leg()
    front, back = figure.hands
    degrees = direction(back, front)
    equipment.bow(drawing.brush.moved(front, degrees), pull=math.dist(front, back))
    equipment.arrow(drawing.brush.moved(back, degrees))
    figure.paint_near_arm()


def play_baseball(drawing: PlayerDrawing):
    waiting = drawing.coin_flip()
    hand = drawing.near(-0.1, 0.74) if waiting else drawing.near(0.24, 0.62, 0.04)
    figure = drawing.figure(
        hip=(-0.03, 0.47),
        neck=(0.0, 0.77),
        hands=(hand, (hand[0] + 0.03, hand[1] + 0.02)),
        feet=((-0.17, 0), (0.17, 0)),
    )
    figure.paint_far()
    figure.paint_near_leg()
    degrees = drawing.random.uniform(95, 145) if waiting else drawing.random.uniform(-5, 35)
    equipment.bat(drawing.brush.moved(figure.hands[1], degrees))
    equipment.baseball(
        drawing.brush.moved(drawing.near(0.62, 0.6, 0.06) if waiting else drawing.near(0.72, 0.98, 0.06))
    )
    figure.paint_near_arm()


def play_basketball(drawing: PlayerDrawing):
    equipment.hoop(drawing.brush.moved((0.78, 0.0)))
    if drawing.coin_flip():
        hand = drawing.near(0.14, 1.06)
        figure = drawing.figure(
            hip=(0, 0.54), neck=(0.02, 0.84), hands=(hand, hand), feet=((-0.08, 0.05), (0.06, 0.03))
        )
        ball = figure.hands[1][0] + 0.02, figure.hands[1][1] + 0.12
    else:
        figure = drawing.figure(
            hip=(-0.05, 0.44),
            neck=(0.06, 0.72),
            hands=(drawing.near(-0.2, 0.5), drawing.near(0.32, 0.5)),
            feet=((-0.2, 0), (0.15, 0)),
        )
        ball = figure.hands[1][0] + 0.03, drawing.random.uniform(0.16, 0.36)
    figure.paint()
    equipment.basketball(drawing.brush.moved(ball, drawing.random.uniform(-40, 40)))


def play_boxing(drawing: PlayerDrawing):
    punch = drawing.coin_flip()
    near = drawing.near(0.42, 0.78) if punch else drawing.near(0.24, 0.8)
    figure = drawing.figure(
        hip=(-0.04, 0.47), neck=(0.03, 0.77), hands=(drawing.near(0.28, 0.7), near), feet=((-0.16, 0), (0.15, 0))
    )
    figure.paint()
    for hand, elbow in zip(figure.hands, figure.elbows):
        degrees = direction(elbow, hand)
        equipment.glove(
            drawing.brush.moved(
                (hand[0] + 0.04 * math.cos(math.radians(degrees)), hand[1] + 0.04 * math.sin(math.radians(degrees))),
                degrees,
            )
        )


def play_cycling(drawing: PlayerDrawing):
    turn = drawing.random.uniform(0, 2 * math.pi)
    pedals = [(-0.02 + side * 0.08 * math.cos(turn), 0.2 + side * 0.08 * math.sin(turn)) for side in (-1, 1)]
    figure = drawing.figure(
        hip=(-0.14, 0.64), neck=drawing.near(0.1, 0.88, 0.04), hands=((0.29, 0.65), (0.28, 0.65)), feet=tuple(pedals)
    )
    figure.paint_far()
    equipment.bicycle(drawing.brush)
    figure.paint_near_leg()
    figure.paint_near_arm()


def play_football(drawing: PlayerDrawing):
    foot = drawing.near(0.3, 0.14, 0.05)
    figure = drawing.figure(
        hip=(-0.03, 0.5),
        neck=(-0.07, 0.8),
        hands=(drawing.near(0.2, 0.6, 0.05), drawing.near(-0.32, 0.6, 0.05)),
        feet=((-0.08, 0), foot),
    )
    figure.paint()
    foot = figure.feet[1]
    equipment.football(
        drawing.brush.moved(
            (foot[0] + drawing.random.uniform(0.15, 0.2), foot[1] + drawing.random.uniform(-0.02, 0.08))
        )
    )


def play_ice_hockey(drawing: PlayerDrawing):
    top = drawing.near(0.02, 0.56)
    blade = drawing.random.uniform(0.5, 0.6), 0.02
    degrees = direction(top, blade)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    figure = drawing.figure(
        hip=(-0.1, 0.45),
        neck=(0.08, 0.73),
        hands=(top, (top[0] + 0.25 * cos, top[1] + 0.25 * sin)),
        feet=((-0.22, 0), (0.12, 0)),
    )
    figure.paint_far()
    figure.paint_near_leg()
    equipment.hockey_stick(drawing.brush.moved(figure.hands[0], degrees), length=math.dist(figure.hands[0], blade))
    equipment.puck(drawing.brush.moved((blade[0] + 0.28, 0.0)))
    figure.paint_near_arm()


def play_skateboarding(drawing: PlayerDrawing):
    air = drawing.random.uniform(0.12, 0.3) if drawing.coin_flip() else 0.11
    tilt = drawing.random.uniform(-18, 18) if air > 0.12 else 0.0
    board = drawing.brush.moved((0, air), tilt)
    equipment.skateboard(board)
    rise = 0.19 * math.tan(math.radians(tilt))
    figure = drawing.figure(
        hip=(-0.03, 0.38 + air),
        neck=(0.05, 0.67 + air),
        hands=(drawing.near(-0.33, 0.68 + air, 0.06), drawing.near(0.37, 0.66 + air, 0.06)),
        feet=((-0.2, air + 0.01 - rise), (0.17, air + 0.01 + rise)),
    )
    figure.paint()


def play_skiing(drawing: PlayerDrawing):
    slope = drawing.random.uniform(-16, 6)
    tilted = PlayerDrawing(
        drawing.canvas,
        drawing.frame.moved((0, 0.05), slope),
        drawing.outfit,
        drawing.brush.moved((0, 0.05), slope),
        drawing.random,
    )
    hands = tilted.near(0.22, 0.5), tilted.near(0.24, 0.44)
    figure = tilted.figure(hip=(-0.12, 0.38), neck=(0.08, 0.66), hands=hands, feet=((-0.05, 0.05), (0.0, 0.0)))
    equipment.pole(tilted.brush.moved(figure.hands[0], tilted.random.uniform(195, 222)))
    equipment.ski(tilted.brush.moved((0.03, 0.05)))
    figure.paint_far()
    equipment.ski(tilted.brush.moved((-0.02, 0.0)))
    figure.paint_near_leg()
    figure.paint_near_arm()
    equipment.pole(tilted.brush.moved(figure.hands[1], tilted.random.uniform(198, 225)))


def play_surfing(drawing: PlayerDrawing):
    tilt = drawing.random.uniform(-6, 12)
    brush = drawing.brush.moved((0, 0.05), tilt)
    squash = drawing.random.uniform(0.5, 0.75)
    frame = brush.frame
    flat = Frame(frame.x0, frame.y0, frame.a, frame.b * squash, frame.c, frame.d * squash)
    equipment.surfboard(Brush(brush.canvas, flat, brush.main, brush.second, brush.role, brush.random))
    rise = 0.2 * math.tan(math.radians(tilt))
    figure = drawing.figure(
        hip=(-0.02, 0.42),
        neck=(0.05, 0.7),
        hands=(drawing.near(-0.32, 0.72, 0.06), drawing.near(0.38, 0.66, 0.06)),
        feet=((-0.2, 0.05 - rise), (0.17, 0.05 + rise)),
    )
    figure.paint()


def play_tennis(drawing: PlayerDrawing):
    serve = drawing.coin_flip()
    hand = drawing.near(0.2, 1.0) if serve else drawing.near(0.36, 0.62, 0.06)
    figure = drawing.figure(
        hip=(0, 0.5), neck=(0.02, 0.8), hands=(drawing.near(-0.22, 0.6, 0.06), hand), feet=((-0.16, 0), (0.14, 0))
    )
    figure.paint()
    degrees = drawing.random.uniform(15, 75) if serve else drawing.random.uniform(-20, 60)
    equipment.racket(drawing.brush.moved(figure.hands[1], degrees))
    equipment.tennis_ball(
        drawing.brush.moved(drawing.near(0.78, 1.3, 0.06) if serve else drawing.near(0.88, 0.42, 0.06))
    )


def play_weightlifting(drawing: PlayerDrawing):
    height = (0.42, 0.77, 1.08)[drawing.random.integers(3)]
    bent = height < 0.5
    figure = drawing.figure(
        hip=(0, 0.42 if bent else 0.5),
        neck=(0.0, 0.7 if bent else 0.8),
        hands=((-0.2, height), (0.2, height)),
        feet=((-0.13, 0), (0.13, 0)),
        spread=0.11,
        knees_out=True,
    )
    figure.paint_far()
    figure.paint_near_leg()
    equipment.barbell(drawing.brush.moved((0, (figure.hands[0][1] + figure.hands[1][1]) / 2)))
    figure.paint_near_arm()


@dataclass(frozen=True)
class Sport:
    """How a sport is drawn.

    surface: its usual playing surface.
    draw_player: draws a player with the equipment.
    draw_unused: draws the equipment on the ground.
    left, right, top: how far a player with equipment extends from the feet.
    length: of the equipment on the ground.
    upright: whether equipment on the ground is seen from the side (balls, barbells), and not foreshortened.
    """

    surface: str
    draw_player: Callable[[PlayerDrawing], None]
    draw_unused: Callable[[Brush], None]
    left: float
    right: float
    top: float
    length: float
    upright: bool = False


SPORT_DRAWINGS = {
    "archery": Sport("grass", play_archery, equipment.unused_archery, 0.22, 0.74, 1.28, 1.0),
    "baseball": Sport("sand", play_baseball, equipment.unused_baseball, 0.5, 0.92, 1.4, 0.75),
    "basketball": Sport("parquet", play_basketball, equipment.basketball, 0.3, 1.0, 1.58, 0.24, upright=True),
    "boxing": Sport("gym mat", play_boxing, equipment.unused_boxing, 0.26, 0.62, 1.0, 0.6),
    "cycling": Sport("asphalt", play_cycling, equipment.unused_cycling, 0.54, 0.56, 1.1, 1.05),
    "football": Sport("grass", play_football, equipment.football, 0.4, 0.66, 1.0, 0.24, upright=True),
    "ice hockey": Sport("ice", play_ice_hockey, equipment.unused_ice_hockey, 0.32, 0.98, 0.95, 1.0),
    "skateboarding": Sport("asphalt", play_skateboarding, equipment.skateboard_from_below, 0.45, 0.48, 1.2, 0.85),
    "skiing": Sport("snow", play_skiing, equipment.unused_skiing, 0.58, 0.66, 0.95, 1.15),
    "surfing": Sport("sea", play_surfing, equipment.surfboard, 0.68, 0.7, 1.0, 1.35),
    "tennis": Sport("clay court", play_tennis, equipment.unused_tennis, 0.3, 0.96, 1.58, 0.8),
    "weightlifting": Sport("gym mat", play_weightlifting, equipment.barbell, 0.66, 0.66, 1.32, 1.3, upright=True),
}


def draw_player_with_equipment(
    sport: str, canvas: Canvas, frame: Frame, outfit: Outfit, random: np.random.Generator, background: Colour
) -> None:
    """Draw a player who uses the sport's equipment.

    sport: a name in SPORT_DRAWINGS.
    canvas: the picture.
    frame: coordinates of the player, one unit per player height.
    outfit: the player's colours.
    random: for pose and equipment.
    background: colour that the equipment stands out from.
    """
    brush = make_brush(canvas, frame, EVIDENCE, random, background)
    SPORT_DRAWINGS[sport].draw_player(PlayerDrawing(canvas, frame, outfit, brush, random))


def draw_unused_equipment(
    sport: str,
    canvas: Canvas,
    x: float,
    y: float,
    scale: float,
    role: int,
    random: np.random.Generator,
    background: Colour,
    lies: bool = True,
) -> None:
    """Draw the sport's equipment on the ground or, where it does not lie there, as it is seen from the side.

    sport: a name in SPORT_DRAWINGS.
    canvas: the picture.
    x, y: its place in the unit square.
    scale: image sides per player height.
    role: of its pixels.
    random: for its direction and colours.
    background: colour that it stands out from.
    """
    drawn = SPORT_DRAWINGS[sport]
    squash = 1.0 if drawn.upright or not lies else random.uniform(0.45, 0.65)
    frame = Frame.upright(x, y, scale, squash).moved((0, 0), random.uniform(-35, 35))
    drawn.draw_unused(make_brush(canvas, frame, role, random, background))
