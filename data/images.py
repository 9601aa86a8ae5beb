"""Open one image file the way a person sees it."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# What Pillow raises for files that are no image, are cut off, or are too large to be one.
BROKEN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def open_image(source: str | Path | bytes) -> Image.Image:
    """Return the RGB image in a file or in its bytes, fully decoded.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, and palette,
    grey and CMYK images become RGB. Raises one of `BROKEN_IMAGE` when the data is not a whole image.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()  # verify() alone would miss a truncated file
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_bytes(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scaled_to_bytes(image: Image.Image) -> Image.Image:
    # convert("RGB") would clip at 255 and turn nearly every 16-bit pixel white
    values = np.asarray(image, dtype=np.float64)
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255)
    full_scale = 65535.0 if sixteen_bit else 255.0
    if image.mode == "F" and values.max(initial=0) <= 1:
        full_scale = 1.0
    return Image.fromarray(np.clip(values / full_scale * 255, 0, 255).astype(np.uint8))
