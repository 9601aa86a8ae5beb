"""Vectors of one value per image, checked, with their mean and standard error."""

import numpy as np
from scipy import stats


def check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless two vectors have as many values."""
    if a.shape != b.shape:
        raise ValueError(f"expected one value per image for both runs, got {len(a)} and {len(b)} values")


def vector(values) -> np.ndarray:
    """Return values as a float64 vector. Raises ValueError for another number of dimensions."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected one value per image, shape (n_images,), got shape {values.shape}")
    return values


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean; NaN for fewer than two values."""
    return float(stats.sem(values)) if len(values) > 1 else float("nan")


def mean(values: np.ndarray) -> float:
    """Return the mean; NaN for no value."""
    return float(values.mean()) if len(values) else float("nan")
