"""Types for annotations."""

from typing import Any, TypeAlias

# A model made by timm, possibly inside a PeftModel. timm ships no types, and torch declares every attribute of a module
# as `Tensor | Module`, so attributes such as `blocks` and `head` cannot be checked.
TimmModel: TypeAlias = Any
