"""What the optimiser is told: which parameters decay, how fast each layer learns, and when."""

import math
from collections.abc import Callable
from fnmatch import fnmatch

from timm.models import group_parameters
from torch import nn

from models.adapters import timm_model, trainable_parameters


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Return what trains as an optimiser's groups, each with `params`, `weight_decay` and `lr`.

    Weight decay is for matrices; biases, norms, DoRA's magnitudes, and what timm's model names (positions, class and
    register tokens) have a scale of their own. A layer learns at `learning_rate` times `layer_decay` to the power of
    its distance from the head (Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022). Layers are counted as
    timm does: embedding, each block (the last one with the final norm), head; with `layer_decay` 1 all are one.
    Groups go from first to last layer, undecayed before decayed, parameters in the model's order, at whatever rates.
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
    """Return step (from 0) -> factor of the learning rate: a line up over a share of all steps, a cosine to zero."""
    total = max(1, total_steps)
    warm = max(1, round(warmup_share * total))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return factor


def _layers(inner: nn.Module) -> dict[str, int]:
    """Return each parameter's layer, counted from the images, frozen ones too; a module that is no timm model has none.

    An adapter's names begin with those of its block, so that timm's patterns find them.
    """
    if not hasattr(inner, "group_matcher"):
        return {}
    return group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)


def _decays(inner: nn.Module, name: str) -> bool:
    # a magnitude is a vector on a linear layer, but has four dimensions on a convolution
    exempt = [*getattr(inner, "no_weight_decay", set)(), "*lora_magnitude_vector*"]
    return inner.get_parameter(name).ndim > 1 and not any(fnmatch(name, pattern) for pattern in exempt)
