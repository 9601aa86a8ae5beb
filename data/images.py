"""Open an image file in RGB, as image viewers show it, and a mask file of the same size."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# What Pillow raises for files that are not images, are truncated, or are too large.
BROKEN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B"})


class MaskFormatError(ValueError):
    """The file is an image, but not a grayscale or 1-bit PNG: which pixels it marks is not defined."""


def open_image(source: str | Path | bytes) -> Image.Image:
    """Decode an image completely; return it in RGB.

    EXIF rotation is applied, transparency is composited over white, 16-bit grey is scaled to 8 bits, and palette,
    grey and CMYK images are converted.

    source: the file, or its bytes.

    Raises one of `BROKEN_IMAGE` where the data is not a complete image.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
        opened.load()  # verify() alone would miss a truncated file
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_bytes(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def orientation_of(path: str | Path) -> int:
    """Return an image file's EXIF orientation: 1 (shown as stored) to 8. Raises one of `BROKEN_IMAGE`."""
    with Image.open(path) as image:  # before load(), which turns a TIFF file and drops its orientation
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def open_mask(source: str | Path | bytes, orientation: int = 1) -> np.ndarray:
    """Return the pixels of a mask that are not 0, bool (h, w).

    A mask marks the pixels as the image's file stores them, so that it is turned by the image's EXIF orientation; a
    mask with an orientation of its own is turned by that.

    source: a grayscale or 1-bit PNG file, or its bytes.
    orientation: EXIF orientation of the image, 1 to 8.

    Raises MaskFormatError for other formats, and one of `BROKEN_IMAGE` where the data is not a complete image.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()
        if image.format != "PNG" or image.mode not in GREY_MODES:
            raise MaskFormatError(f"a {image.format} file of mode {image.mode} is not a grayscale or 1-bit PNG")
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
