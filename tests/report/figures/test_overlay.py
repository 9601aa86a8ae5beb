"""report.figures.overlay: heatmaps to colours over a photo."""

import numpy as np
import pytest
from PIL import Image

from report.figures.overlay import normalise, overlay


def test_normalising_alone_and_together():
    heat = np.array([1.0, 4.0]).reshape(1, 2, 1, 1) * np.array([[-1.0, 0.5], [1.0, 0.0]])
    alone = normalise(heat)
    assert alone.max(axis=(-2, -1)).tolist() == [[1, 1]] and alone.min() == 0
    assert normalise(heat, shared=True).max(axis=(-2, -1)).tolist() == [[0.25, 1]]
    assert normalise(heat, shared=1).max(axis=(-2, -1)).tolist() == [[0.25, 1]]


def test_the_type_of_floats_is_kept_and_whole_numbers_are_taken_as_floats():
    assert normalise(np.ones((2, 2), np.float32)).dtype == np.float32
    assert normalise(np.array([[1, 4]])).tolist() == [[0.25, 1]]


def test_signed_maps_are_symmetrical_about_a_half():
    heat = np.array([[-2.0, 0.0], [1.0, 2.0]])
    assert normalise(heat, signed=True).tolist() == [[0, 0.5], [0.75, 1]]
    assert np.allclose(normalise(-heat, signed=True), 1 - normalise(heat, signed=True))


def test_nothing_to_show():
    assert (normalise(np.zeros((2, 2))) == 0).all() and (normalise(-np.ones((2, 2))) == 0).all()
    assert (normalise(np.zeros((2, 2)), signed=True) == 0.5).all()
    assert normalise(np.full((1, 1), 1e-42, np.float32)).max() == pytest.approx(1), "tiny maps too"


def test_overlay_blends_the_photo():
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    heat = np.linspace(0, 1, 80).reshape(8, 10)
    assert np.array_equal(overlay(image, heat, alpha=0), image)
    assert np.array_equal(overlay(image / 255, heat), overlay(Image.fromarray(image), heat))
    hot, cold = overlay(image, np.ones((8, 10)), alpha=1), overlay(image, np.zeros((8, 10)), alpha=1)
    assert hot.dtype == np.uint8 and hot.sum() > cold.sum()
    grey = overlay(image, heat, alpha=0, grey=True)
    assert np.ptp(grey, axis=-1).max() == 0 and np.abs(grey[..., 0] - image @ [0.299, 0.587, 0.114]).max() < 1
    with pytest.raises(ValueError, match="to_heatmap"):
        overlay(image, heat[:4])
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, heat, alpha=2)
