"""METHODS: what trains in a pretrained ViT, and how it merges back into a plain one."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from common.errors import UsageError
from models.dora import speed_up_dora

TARGETS = {"qkv": r"attn\.qkv", "proj": r"attn\.proj", "fc1": r"mlp\.fc1", "fc2": r"mlp\.fc2"}


@dataclass(frozen=True)
class Settings:
    """One way to adapt: the method and, for adapters, where and how large they are.

    `targets` are linear layers of a block (qkv, proj, fc1, fc2); `blocks` are 0-based indices, None for all;
    the adapter's product is scaled by alpha / rank.
    """

    method: str = "linear"
    targets: tuple[str, ...] = tuple(TARGETS)
    blocks: tuple[int, ...] | None = None
    rank: int = 8
    alpha: float = 16.0

    def label(self) -> str:
        """Return the method and whatever differs from the defaults, as it is written on the command line."""
        defaults = Settings(self.method)
        parts = [
            f"{f.name}={_written(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(defaults, f.name)
        ]
        return self.method + (":" + ",".join(parts) if parts else "")


@dataclass(frozen=True)
class Method:
    """How a method is put on a model, and whether its trained part is a peft adapter or the whole backbone."""

    adapt: Callable[[nn.Module, Settings], nn.Module]
    description: str
    adapter: bool = False
    whole: bool = False


def parse_settings(text: str) -> Settings:
    """Read `dora` or `dora:blocks=9,targets=fc1+fc2,rank=4,alpha=8`; blocks also as ranges, 9-11 or 0+9-11.

    Raises UsageError naming the part that cannot be read.
    """
    method, _, rest = text.partition(":")
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    settings = Settings(method)
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
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


def adapt(model: nn.Module, settings: Settings) -> nn.Module:
    """Freeze and free parameters of a pretrained model with a head, in place; adapters wrap it in a PeftModel.

    The head always trains. An adapter leaves the model's output unchanged until its first step.
    """
    return METHODS[settings.method].adapt(model, settings)


def check_settings(model: nn.Module, settings: Settings) -> None:
    """Raise UsageError when a model lacks the layers that an adapter asks for; the model may be on the meta device."""
    if METHODS[settings.method].adapter:
        target_pattern(model, settings)


def plain(model: nn.Module) -> nn.Module:
    """Return the plain timm model of an adapted one, adapters merged; a PeftModel itself stays as it is."""
    if isinstance(model, PeftModel):
        return copy.deepcopy(model).merge_and_unload(safe_merge=True)
    return model


def timm_model(model: nn.Module) -> nn.Module:
    """Return the timm model inside, with adapters still in place: the module that has `head` and `blocks`."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def heads_of(model: nn.Module) -> list[nn.Module]:
    """Return a timm model's classifier, or both of a distilled one, whose logits timm averages."""
    found = model.get_classifier()
    return list(found) if isinstance(found, tuple) else [found]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _linear(model: nn.Module, settings: Settings) -> nn.Module:
    return _free_heads(model.requires_grad_(False))


def _free_heads(model: nn.Module) -> nn.Module:
    for head in heads_of(model):
        head.requires_grad_(True)
    return model


def _full(model: nn.Module, settings: Settings) -> nn.Module:
    return model.requires_grad_(True)


def _with_adapter(dora: bool) -> Callable[[nn.Module, Settings], nn.Module]:
    def adapt_with_peft(model: nn.Module, settings: Settings) -> nn.Module:
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, use_dora=dora, target_modules=target_pattern(model, settings)
        )
        adapted = speed_up_dora(get_peft_model(model, config))
        _free_heads(timm_model(adapted))
        return adapted

    return adapt_with_peft


def target_pattern(model: nn.Module, settings: Settings) -> str:
    """Return the regular expression that names the adapted layers; a full match, as peft reads it.

    A list of suffixes would also catch the patch embedding's `proj` and pass over names that match nothing.
    Raises UsageError when a block or target does not exist in the model.
    """
    depth = len(getattr(model, "blocks", ()))
    if not depth:
        raise UsageError(f"{type(model).__name__} has no blocks to adapt; choose a ViT, or --method linear or full")
    blocks = settings.blocks if settings.blocks is not None else tuple(range(depth))
    missing = [b for b in blocks if not 0 <= b < depth]
    if missing:
        raise UsageError(
            f"blocks {_written(tuple(missing))} do not exist; {type(model).__name__} has {depth} blocks, counted from 0"
        )
    layers = "|".join(TARGETS[target] for target in settings.targets)
    pattern = rf"blocks\.({'|'.join(map(str, blocks))})\.({layers})"
    matched = [name for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    expected = len(blocks) * len(settings.targets)
    if len(matched) != expected:
        raise UsageError(
            f"{type(model).__name__} has {len(matched)} of the {expected} linear layers asked for "
            f"({_written(settings.targets)}); choose other targets, or --method linear or full"
        )
    return pattern


METHODS: dict[str, Method] = {
    "linear": Method(_linear, "the head alone, on features of the frozen backbone"),
    "dora": Method(
        _with_adapter(dora=True), "weight-decomposed low-rank adapters (Liu et al., ICML 2024)", adapter=True
    ),
    "lora": Method(_with_adapter(dora=False), "low-rank adapters (Hu et al., ICLR 2022)", adapter=True),
    "full": Method(_full, "every parameter", whole=True),
}


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


_READERS: dict[str, Callable] = {
    "targets": _read_targets,
    "blocks": _read_blocks,
    "rank": _read_rank,
    "alpha": _read_alpha,
}


def _written(value) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
