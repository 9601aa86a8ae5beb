"""Relevance maps for plain vision transformers: `relevance(model, images, targets)`.

The names below that need torch are imported at their first use, so that command lines answer --help and usage errors
from the registry alone. `relevance` is defined in explain/compute.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from explain.registry import (
    COMPARISON_METHOD,
    CONTRASTS,
    DEFAULT_METHOD,
    METHODS,
    PUBLISHED_METHOD,
    RelevanceMethod,
    RelevanceOptions,
    find_method,
    refuse_more_than_maps,
)

if TYPE_CHECKING:
    from explain.compute import conservation_gap, relevance
    from explain.inputs import check_images
    from explain.support import UnsupportedModel, check_explainable

__all__ = [
    "COMPARISON_METHOD",
    "CONTRASTS",
    "DEFAULT_METHOD",
    "METHODS",
    "PUBLISHED_METHOD",
    "RelevanceMethod",
    "RelevanceOptions",
    "UnsupportedModel",
    "check_explainable",
    "check_images",
    "conservation_gap",
    "find_method",
    "refuse_more_than_maps",
    "relevance",
]

_MODULE_OF = {  # no module of this package has the name of one of these: importing it would replace the function
    "UnsupportedModel": "explain.support",
    "check_explainable": "explain.support",
    "check_images": "explain.inputs",
    "conservation_gap": "explain.compute",
    "relevance": "explain.compute",
}


def __getattr__(name: str) -> object:
    """Import a public name that needs torch (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
