"""Put a method on a pretrained ViT: what trains, and how adapters merge back into a plain model.

peft is imported by the functions that create or load an adapter: the other methods, and models that are explained, do
not wait for it.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import nn

from common.errors import UsageError
from models.methods import TARGETS, MethodSettings, written
from models.tensor_files import check_names
from models.types import TimmModel

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"  # peft's name of the file


def adapt(model: TimmModel, settings: MethodSettings) -> TimmModel:
    """Freeze and unfreeze the parameters of a pretrained model with a head, in place; return the model to train.

    model: a timm model.
    settings: the method; an adapter wraps the model in a PeftModel, whose output is the model's until its first step.
        The head always trains.
    Raises UsageError where the model lacks the layers that an adapter asks for.
    """
    return _ADAPT[settings.method](model, settings)


def check_settings(model: TimmModel, settings: MethodSettings) -> None:
    """Raise UsageError where a model lacks the layers that an adapter asks for; it may be on the meta device."""
    if settings.kind.adapter:
        target_pattern(model, settings)


def plain(model: TimmModel) -> TimmModel:
    """Return the plain timm model of an adapted one, adapters merged into a copy; other models are returned as is."""
    return merged(copy.deepcopy(model)) if is_adapted(model) else model


def merged(model: TimmModel) -> TimmModel:
    """Return the plain timm model of an adapted one, which is used up: for models that nobody else holds."""
    return model.merge_and_unload(safe_merge=True) if is_adapted(model) else model


def timm_model(model: TimmModel) -> TimmModel:
    """Return the timm model inside, adapters in place: the module that has `head` and `blocks`."""
    return model.get_base_model() if is_adapted(model) else model


def is_adapted(model: TimmModel) -> bool:
    """Tell whether a model is a PeftModel; where peft was never imported, none can be."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def heads_of(model: TimmModel) -> list[nn.Linear]:
    """Return a timm model's classifier, or both of a distilled one, whose logits timm averages."""
    found = model.get_classifier()
    return list(found) if isinstance(found, tuple) else [found]


def trainable_parameters(model: TimmModel) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def target_pattern(model: TimmModel, settings: MethodSettings) -> str:
    """Return the regular expression that names the adapted layers; a full match, as peft reads it.

    A list of suffixes would also match the patch embedding's `proj`, and would ignore names that match nothing.
    Raises UsageError where a block or target does not exist in the model.
    """
    depth = len(getattr(model, "blocks", ()))
    if not depth:
        raise UsageError(f"{type(model).__name__} has no blocks to adapt; choose a ViT, or --method linear or full")
    blocks = settings.blocks if settings.blocks is not None else tuple(range(depth))
    missing = [b for b in blocks if not 0 <= b < depth]
    if missing:
        raise UsageError(
            f"blocks {written(tuple(missing))} do not exist; {type(model).__name__} has {depth} blocks, counted from 0"
        )
    layers = "|".join(TARGETS[target] for target in settings.targets)
    pattern = rf"blocks\.({'|'.join(map(str, blocks))})\.({layers})"
    matched = [name for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    expected = len(blocks) * len(settings.targets)
    if len(matched) != expected:
        raise UsageError(
            f"{type(model).__name__} has {len(matched)} of the {expected} linear layers asked for "
            f"({written(settings.targets)}); choose other targets, or --method linear or full"
        )
    return pattern


def load_adapter(model: TimmModel, folder: Path) -> PeftModel:
    """Put a saved peft adapter of any kind on a model; parameter names are compared both ways.

    folder: as peft's `save_pretrained` writes it.
    Raises ValueError where names differ, and as peft and torch do.
    """
    from peft import PeftModel, get_peft_model_state_dict

    adapted = PeftModel.from_pretrained(model, folder)
    # a ViT has no embedding layers; looking for them, peft would ask the hub for the base's config
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_names(set(expected), set(load_file(folder / ADAPTER_WEIGHTS)))
    return adapted


def _linear(model: TimmModel, settings: MethodSettings) -> TimmModel:
    return _free_heads(model.requires_grad_(False))


def _full(model: TimmModel, settings: MethodSettings) -> TimmModel:
    return model.requires_grad_(True)


def _dora(model: TimmModel, settings: MethodSettings) -> TimmModel:
    from models.dora import speed_up_dora

    adapted = _with_lora(model, settings, use_dora=True)
    speed_up_dora(adapted)
    return adapted


def _lora(model: TimmModel, settings: MethodSettings) -> TimmModel:
    return _with_lora(model, settings, use_dora=False)


def _with_lora(model: TimmModel, settings: MethodSettings, use_dora: bool) -> TimmModel:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, use_dora=use_dora, target_modules=target_pattern(model, settings)
    )
    adapted = get_peft_model(model, config)
    _free_heads(timm_model(adapted))
    return adapted


def _free_heads(model: TimmModel) -> TimmModel:
    for head in heads_of(model):
        head.requires_grad_(True)
    return model


_ADAPT: dict[str, Callable[[TimmModel, MethodSettings], TimmModel]] = {
    "linear": _linear,
    "dora": _dora,
    "lora": _lora,
    "full": _full,
}
