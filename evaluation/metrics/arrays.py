"""Array operations that the metrics of relevance maps share. Letters: gh x gw patches."""

import numpy as np
import torch


def to_array(values) -> np.ndarray:
    """Return a tensor on any device, an array or nested lists as a float64 array."""
    if torch.is_tensor(values):
        values = values.detach().cpu().double().numpy()  # on the CPU: Apple GPUs have no float64
    return np.asarray(values, dtype=np.float64)


def flatten_grid(values: np.ndarray) -> np.ndarray:
    """Reshape (..., gh, gw) to (..., gh * gw)."""
    return values.reshape(*values.shape[:-2], -1)


def aligned(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 arrays broadcast to one shape. Raises ValueError where the last two axes differ."""
    a, b = to_array(a), to_array(b)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"the maps' last two axes are {a.shape[-2:]} and {b.shape[-2:]}; expected equal.")
    a, b = np.broadcast_arrays(a, b)
    return a, b


def aligned_flat(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Return both broadcast to one shape (..., gh * gw). Raises ValueError where the last two axes differ."""
    a, b = aligned(a, b)
    return flatten_grid(a), flatten_grid(b)


def stretch(maps: np.ndarray) -> np.ndarray:
    """Rescale each map (..., gh, gw) from its own range to [0, 1]; NaN where it is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = maps / np.abs(maps).max((-2, -1), keepdims=True)  # the range of huge values would overflow
        lowest, highest = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
        return (maps - lowest) / (highest - lowest)


def positive_distribution(maps) -> np.ndarray:
    """Divide the positive parts of each map (..., gh, gw) by their sum; NaN where nothing is positive."""
    positive = to_array(maps).clip(min=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = positive / positive.max((-2, -1), keepdims=True)  # the sum of tiny values would underflow
        return positive / positive.sum((-2, -1), keepdims=True)
