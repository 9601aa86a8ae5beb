"""Every kind of image file looks as a person would see it, and what is no image is refused."""

import numpy as np
import pytest
from PIL import Image

from data.images import BROKEN_IMAGE, open_image


def pixels(path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_grey_becomes_equal_channels(tmp_path):
    Image.new("L", (4, 3), 100).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 100).all() and pixels(tmp_path / "a.png").shape == (3, 4, 3)


def test_one_bit_images_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / f"a.{suffix}")
    assert pixels(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 128, 255]


def test_a_nearly_black_sixteen_bit_image_stays_nearly_black(tmp_path):
    Image.fromarray(np.array([[0, 200]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").max() <= 1


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (255, 0, 0, 128))
    image.save(tmp_path / "a.png")
    solid, clear, half = pixels(tmp_path / "a.png")[0].tolist()
    assert solid == [255, 0, 0] and clear == [255, 255, 255]
    assert half[0] == 255 and half[1] == half[2] == pytest.approx(127, abs=1)


def test_grey_with_alpha_lies_over_white(tmp_path):
    Image.new("LA", (2, 2), (10, 0)).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 255).all()


def test_palette_colours_and_a_transparent_palette_entry(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert pixels(tmp_path / "opaque.png")[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert pixels(tmp_path / "clear.png")[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_cmyk_jpeg_keeps_its_colour(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.abs(pixels(tmp_path / "a.jpg") - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (2, 3)), (6, (0, 2)), (8, (3, 0))])
def test_exif_rotation_is_applied(tmp_path, orientation, corner):
    """The file's top left pixel is white; the orientation says where a person sees it (row, column)."""
    image = Image.new("RGB", (4, 3))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.argwhere(pixels(tmp_path / "a.png")[..., 0] == 255).tolist() == [list(corner)]


def test_bytes_and_file_give_the_same_image(tmp_path):
    Image.effect_noise((20, 10), 50).save(tmp_path / "a.jpg")
    assert open_image((tmp_path / "a.jpg").read_bytes()).tobytes() == open_image(tmp_path / "a.jpg").tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    Image.effect_noise((64, 64), 80).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) * 2 // 3])
    open_image(tmp_path / f"whole.{suffix}")
    with pytest.raises(BROKEN_IMAGE):
        open_image(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("content", [b"", b"<html>404: not found</html>"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BROKEN_IMAGE):
        open_image(tmp_path / "a.jpg")


def test_an_image_too_large_to_be_meant_is_refused(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BROKEN_IMAGE):
        open_image(tmp_path / "a.png")
