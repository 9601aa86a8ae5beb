"""Draw a contact sheet of scenes with and without their masks.

python tools/scene_sheet.py --out sheet.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages lie in the parent folder

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.files import atomic
from data.scenes.scene import SPLITS, SPORTS, SURFACES, check_scene, draw_scene

MASK_COLOURS = {
    "evidence": (230, 40, 50),
    "distractor": (250, 190, 0),
    "players": (40, 110, 230),
    "surface": (120, 200, 130),
}
LINE, GAP = 15, 6


def contact_sheet(scenes, columns=4):
    """Return a picture of the scenes, each with its class and surface above and its masks beside it; a legend below."""
    size = scenes[0].image.width
    cell_width, cell_height = 2 * size + 2 * GAP, size + 2 * LINE + GAP
    columns = min(columns, len(scenes))
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + LINE + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, scene in enumerate(scenes):
        x, y = GAP + i % columns * cell_width, GAP + i // columns * cell_height
        pen.multiline_text((x, y), _caption(scene), spacing=1, fill="black", font=font)
        sheet.paste(scene.image, (x, y + 2 * LINE))
        sheet.paste(coloured_masks(scene), (x + size + GAP // 2, y + 2 * LINE))
    x, y = GAP, rows * cell_height + GAP
    for name, colour in MASK_COLOURS.items():
        pen.rectangle((x, y, x + 12, y + 12), fill=colour)
        pen.text((x + 17, y), name, fill="black", font=font)
        x += 90
    return sheet


def _caption(scene):
    lying = f"\nlying: {SPORTS[scene.distractor]}" if scene.distractor >= 0 else ""
    return f"{SPORTS[scene.label]} on {SURFACES[scene.surface]}{lying}"


def coloured_masks(scene):
    """Return the grey image with coloured masks over it, RGB."""
    grey = np.asarray(scene.image.convert("L").convert("RGB"), dtype=np.float32)
    for name, colour in MASK_COLOURS.items():
        grey[scene.masks[name]] = 0.35 * grey[scene.masks[name]] + 0.65 * np.array(colour)
    return Image.fromarray(grey.astype(np.uint8))


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python tools/scene_sheet.py",
        description="Example: python tools/scene_sheet.py --out sheet.png\n\n"
        "Draws a contact sheet of sport scenes with and without their masks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("which scenes")
    what.add_argument("--count", type=int, default=20, help="number of scenes (default 20)")
    what.add_argument("--size", type=int, default=224, help="pixels per side (default 224)")
    what.add_argument("--data-seed", type=int, default=0, help="seed of the scenes (default 0)")
    what.add_argument("--split", choices=SPLITS, default="val", help="default val")
    what.add_argument(
        "--context-bias", type=float, default=0.9, help="probability of the usual surface, 0 to 1 (default 0.9)"
    )
    parser.add_argument_group("output").add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="image file to write, e.g. sheet.png"
    )
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count expects at least 1, got {options.count}")
    try:
        check_scene(options.data_seed, options.split, 0, options.size, options.context_bias, 0.0)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments=None):
    """Draw the sheet; return the exit status."""
    options = parse_arguments(arguments)
    scenes = [
        draw_scene(options.data_seed, options.split, i, options.size, options.context_bias)
        for i in range(options.count)
    ]
    try:
        with atomic(options.out) as path:
            contact_sheet(scenes).save(path)
    except (OSError, ValueError) as error:  # Pillow raises ValueError for an unknown suffix
        print(
            f"{options.out} cannot be written: {error}; name an image file in a folder you may write to",
            file=sys.stderr,
        )
        return 1
    print(f"{options.out}: {len(scenes)} scenes, split {options.split}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
