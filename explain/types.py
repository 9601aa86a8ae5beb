"""Types for annotations."""

from typing import Any, TypeAlias

# A model made by timm, or a part of one. timm ships no types, and torch declares every attribute of a module as
# `Tensor | Module`, so attributes such as `blocks`, `attn` and `weight` cannot be checked.
TimmModule: TypeAlias = Any
