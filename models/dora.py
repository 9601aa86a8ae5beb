"""A faster forward and backward pass of peft's DoRA layers: the same function with fewer passes over the tokens.

DoRA (Liu et al., ICML 2024, equation 5) computes y = x W'^T + bias with W' = g (W + s B A), s = alpha / rank. The gain
g = m / ||W + s B A|| belongs to a row (an output neuron); its norm is a constant in the backward pass (section 4.3).
peft multiplies x by W, A and B one after another and joins the parts in a dozen elementwise passes over (tokens, out).
Here the forward pass merges W', which is small work beside the tokens', and multiplies once. The backward pass goes
through the rank and never forms the gradient of W': it costs what LoRA's costs, and one sum over tokens for m.

Shapes: x (..., in), W (out, in), A (rank, in), B (out, rank), m and g (out,). benchmarks/dora.py measures it.
"""

from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def speed_up_dora(model: nn.Module) -> nn.Module:
    """Give each DoRA layer on an `nn.Linear` the faster passes, in place; return the model.

    Only the classes of these layers change: parameters, names, saved files and merging are peft's, except for rows of W
    that are all zero, where peft divides 0 by 0. Layers of other kinds are left unchanged.
    """
    for layer in model.modules():
        if type(layer) is DoraLinearLayer:
            layer.__class__ = Magnitude
        elif _is_dora_linear(layer):
            layer.__class__ = FasterDoraLinear
    return model


def _is_dora_linear(layer: Any) -> bool:
    return type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear and len(layer.lora_magnitude_vector) > 0


class Magnitude(DoraLinearLayer):
    """peft's magnitude vector; a row of zeros counts as one of norm 1, and stays zero."""

    def get_weight_norm(self, *args, **kwargs) -> Tensor:
        return _without_zeros(super().get_weight_norm(*args, **kwargs))


class FasterDoraLinear(lora.Linear):
    """peft's LoRA layer; runs `dora_linear` where one DoRA adapter without dropout is active and not merged.

    `dora_linear` reads the base layer and the adapter's layers without calling them, so hooks on them are not called.
    """

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or not self._is_plain(names):
            return super().forward(x, *args, **kwargs)
        (name,) = names
        return dora_linear(
            x,
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.lora_magnitude_vector[name].weight,
            self.scaling[name],
        )

    def _is_plain(self, names: list[str]) -> bool:
        return (
            len(names) == 1
            and type(self.lora_variant.get(names[0])) is DoraLinearVariant
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
        )


def dora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, magnitude: Tensor, scaling: float
) -> Tensor:
    """Return the output (..., out) of a linear layer with DoRA, in x's dtype or that of autocast.

    x: input (..., in).
    weight: W (out, in) of the base layer; it gets no gradient.
    bias: (out,) of the base layer or None; it gets no gradient.
    a: A (rank, in).
    b: B (out, rank).
    magnitude: m (out,); an entry that is exactly 0 gets the gradient 0.
    scaling: s.
    W' is merged in the adapter's dtype before it is rounded to that of x.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        return _DoraLinear.apply(x.to(dtype), weight, bias, a, b, magnitude, scaling)


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, a, b, magnitude, scaling):
        merged, _ = _merge(weight, a, b, magnitude, scaling)
        y = F.linear(x, merged.to(x.dtype), None if bias is None else bias.to(x.dtype))
        # W' is merged again in the backward pass: keeping it for every layer would double the backbone's memory
        ctx.save_for_backward(x, y, weight, bias, a, b, magnitude)
        ctx.scaling = scaling
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, y, weight, bias, a, b, magnitude = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            merged, gain = _merge(weight, a, b, magnitude, ctx.scaling)
            grad_x = grad @ merged.to(grad.dtype) if ctx.needs_input_grad[0] else None
            grad, x, y = (tokens.reshape(-1, tokens.shape[-1]) for tokens in (grad, x, y))
            scale = ctx.scaling * gain[:, None]
            grad_a = (grad @ (scale * b).to(grad.dtype)).T @ x
            grad_b = scale * (grad.T @ (x @ a.to(x.dtype).T))
            grad_magnitude = _grad_magnitude(grad, y, bias, magnitude)
        return grad_x, None, None, grad_a.to(a.dtype), grad_b.to(b.dtype), grad_magnitude, None


def _grad_magnitude(grad: Tensor, y: Tensor, bias: Tensor | None, magnitude: Tensor) -> Tensor:
    """Return the sum over tokens of grad (y - bias) / m, since y - bias is m times what m multiplies."""
    total = (grad.to(magnitude.dtype) * y).sum(0)  # float16 would overflow
    if bias is not None:
        total -= bias * grad.sum(0, dtype=magnitude.dtype)
    return torch.where(magnitude == 0, 0.0, total / magnitude).to(magnitude.dtype)


def _merge(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return W' (out, in) and the gain of each row (out,), in the adapter's dtype."""
    merged = torch.addmm(weight.to(a.dtype), b, a, alpha=scaling)
    gain = magnitude / _without_zeros(torch.linalg.norm(merged, dim=1))
    return merged.mul_(gain[:, None]), gain


def _without_zeros(norm: Tensor) -> Tensor:
    return norm.masked_fill(norm == 0, 1.0)
