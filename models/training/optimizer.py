"""Parameter groups (weight decay, learning rate of each layer) and the learning-rate schedule."""

import math
from collections.abc import Callable
from fnmatch import fnmatch

from timm.models import group_parameters
from torch import nn

from models.adapters import timm_model, trainable_parameters
from models.types import TimmModel


def parameter_groups(
    model: TimmModel, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Return the trainable parameters as an optimiser's groups, each with `params`, `weight_decay` and `lr`.

    model: a timm model, with or without adapters, or any module.
    learning_rate: of the head.
    weight_decay: of matrices; biases, norms, DoRA's magnitudes, and the parameters that timm's model exempts (position
        embeddings, class and register tokens) have none.
    layer_decay: factor of the learning rate from each layer to the one before it (Clark et al., ELECTRA, ICLR 2020; Bao
        et al., BEiT, ICLR 2022). Layers are counted as in timm: embedding, each block (the last one with the final
        norm), head.
    Groups go from first to last layer, without decay before with decay, parameters in the model's order.
    """
    inner = timm_model(model)
    layers = _layers(inner) if layer_decay != 1 else {}
    last = max(layers.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable_parameters(inner).items():
        groups.setdefault((layers.get(name, last), _decays(inner, name)), []).append(parameter)
    return [
        {
            "params": groups[layer, decays],
            "weight_decay": weight_decay if decays else 0.0,
            "lr": learning_rate * layer_decay ** (last - layer),
        }
        for layer, decays in sorted(groups)
    ]


def warmup_cosine(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Return a schedule: step (from 0) -> factor of the learning rate.

    total_steps: after which the factor is zero.
    warmup_share: fraction of the steps in which the factor rises linearly to 1; a cosine follows.
    """
    total = max(1, total_steps)
    warm = max(1, round(warmup_share * total))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return factor


def _layers(inner: TimmModel) -> dict[str, int]:
    """Return the number of each parameter's layer, from the input, frozen ones too; {} for a module not of timm.

    An adapter's names begin with those of its block, so timm's patterns match them.
    """
    if not hasattr(inner, "group_matcher"):
        return {}
    return group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)


def _decays(inner: TimmModel, name: str) -> bool:
    # a magnitude is a vector on a linear layer, but has four dimensions on a convolution
    exempt = [*getattr(inner, "no_weight_decay", set)(), "*lora_magnitude_vector*"]
    return inner.get_parameter(name).ndim > 1 and not any(fnmatch(name, pattern) for pattern in exempt)
