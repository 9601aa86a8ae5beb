"""METHODS: the ways to adapt a pretrained model, their settings, and the text form of both. Imports no torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from common.errors import ExplainedError, UsageError

TARGETS = {"qkv": r"attn\.qkv", "proj": r"attn\.proj", "fc1": r"mlp\.fc1", "fc2": r"mlp\.fc2"}  # names within a block


@dataclass(frozen=True)
class Method:
    """A way to adapt a pretrained model.

    description: what trains, for --help.
    adapter: whether it trains a peft adapter beside the head; only these take settings.
    whole: whether it trains the whole backbone, which is then saved.
    """

    description: str
    adapter: bool = False
    whole: bool = False


METHODS: dict[str, Method] = {
    "linear": Method("the head alone, on features of the frozen backbone"),
    "dora": Method("weight-decomposed low-rank adapters (Liu et al., ICML 2024)", adapter=True),
    "lora": Method("low-rank adapters (Hu et al., ICLR 2022)", adapter=True),
    "full": Method("every parameter", whole=True),
}


@dataclass(frozen=True)
class MethodSettings:
    """One way to adapt and, for adapters, where they are and how large.

    method: a name in METHODS.
    targets: adapted linear layers of a block, names in TARGETS.
    blocks: indices of the adapted blocks, counted from 0; None adapts all.
    rank: rank of the adapter's two matrices.
    alpha: the adapter's product is scaled by alpha / rank.
    """

    method: str = "linear"
    targets: tuple[str, ...] = tuple(TARGETS)
    blocks: tuple[int, ...] | None = None
    rank: int = 8
    alpha: float = 16.0

    @property
    def kind(self) -> Method:
        """The entry of METHODS."""
        return METHODS[self.method]

    def label(self) -> str:
        """Return the text form: the method and the settings that differ from its defaults."""
        defaults = MethodSettings(self.method)
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(defaults, f.name)]
        return (
            self.method + ":" * bool(changed) + ",".join(f"{name}={written(getattr(self, name))}" for name in changed)
        )

    def record(self) -> dict[str, Any]:
        """Return the settings as a run's config.json holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "MethodSettings":
        """Return the settings that `record` gave. Raises ExplainedError for a record of something else."""
        names = {f.name for f in fields(cls)}
        if not isinstance(record, dict) or set(record) != names or record["method"] not in METHODS:
            raise ExplainedError(f"it holds unknown settings ({record}); expected {', '.join(sorted(names))}")
        tuples: dict[str, Any] = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        return cls(**record | tuples)


def parse_settings(text: str) -> MethodSettings:
    """Parse `dora` or `dora:blocks=9,targets=fc1+fc2,rank=4,alpha=8`; blocks also as ranges, 9-11 or 0+9-11.

    Raises UsageError naming the part that is wrong.
    """
    method, _, rest = text.partition(":")
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    settings = MethodSettings(method)
    seen: set[str] = set()
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key in seen:
            raise UsageError(f"{key!r} is given twice in {text!r}")
        seen.add(key)
        if key not in _READERS:
            raise UsageError(f"unknown setting {key!r} in {text!r}; expected {', '.join(_READERS)}")
        if not METHODS[method].adapter:
            raise UsageError(f"{method!r} takes no settings; {key!r} belongs to {', '.join(adapter_methods())}")
        try:
            settings = replace(settings, **{key: _READERS[key](value)})
        except ValueError as error:
            raise UsageError(f"cannot read {part!r} in {text!r}: {error}") from error
    return settings


def adapter_methods() -> list[str]:
    """Return the names of the methods that train an adapter."""
    return [name for name, method in METHODS.items() if method.adapter]


def written(value: object) -> str:
    """Return a setting's value in its text form."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_blocks(text: str) -> tuple[int, ...]:
    blocks: set[int] = set()
    for part in text.split("+"):
        first, _, last = part.partition("-")
        found = range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError(f"the range {part} is empty")
        blocks |= set(found)
    return tuple(sorted(blocks))


def _read_targets(text: str) -> tuple[str, ...]:
    names = text.split("+")
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise ValueError(f"unknown target(s) {', '.join(unknown)}; expected {', '.join(TARGETS)} joined by '+'")
    return tuple(name for name in TARGETS if name in names)


def _read_rank(text: str) -> int:
    if (rank := int(text)) < 1:
        raise ValueError("a rank is at least 1")
    return rank


def _read_alpha(text: str) -> float:
    alpha = float(text)
    if not 0 < alpha < float("inf"):
        raise ValueError("alpha is positive and finite")
    return alpha


_READERS: dict[str, Callable[[str], Any]] = {
    "targets": _read_targets,
    "blocks": _read_blocks,
    "rank": _read_rank,
    "alpha": _read_alpha,
}
