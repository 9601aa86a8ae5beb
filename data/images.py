"""Open one image file the way a person sees it, and one mask file that lies over it."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# What Pillow raises for files that are no image, are cut off, or are too large to be one.
BROKEN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B"})


class MaskFormatError(ValueError):
    """The file is a whole image but no grayscale or 1-bit PNG, so that what is marked in it is not certain."""


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


def orientation_of(path: str | Path) -> int:
    """Return an image file's EXIF orientation: 1 (seen as stored) to 8; raises one of `BROKEN_IMAGE`."""
    with Image.open(path) as image:  # asked before load(), with which a TIFF file is turned and forgets it
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def open_mask(source: str | Path | bytes, orientation: int = 1) -> np.ndarray:
    """Return what is not 0 in a grayscale or 1-bit PNG file or in its bytes: bool (h, w).

    The mask lies over the pixels as its image's file stores them, so it is turned by that image's EXIF
    `orientation`; a mask that carries an orientation of its own is turned by its own. Raises MaskFormatError for
    other images and one of `BROKEN_IMAGE` for what is no whole image.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()
        if image.format != "PNG" or image.mode not in GREY_MODES:
            raise MaskFormatError(f"a {image.format} file of mode {image.mode} is no grayscale or 1-bit PNG")
        image.getexif().setdefault(ExifTags.Base.Orientation, orientation)
        return np.asarray(ImageOps.exif_transpose(image)) != 0


def _scaled_to_bytes(image: Image.Image) -> Image.Image:
    # convert("RGB") would clip at 255 and turn nearly every 16-bit pixel white
    values = np.asarray(image, dtype=np.float64)
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255)
    full_scale = 65535.0 if sixteen_bit else 255.0
    if image.mode == "F" and values.max(initial=0) <= 1:
        full_scale = 1.0
    return Image.fromarray(np.clip(values / full_scale * 255, 0, 255).astype(np.uint8))
