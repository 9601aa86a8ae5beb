"""The precision of maps: true float32 whatever torch's flags allow, and float16 matrix products where asked for.

float16 products, which GPUs with tensor cores compute faster, are offered to methods whose maps stay within 2 % of
float32's (relative distance, L2, the worst of 32 maps, with default options). docs/results/benchmark.md lists all:

    python benchmarks/explain.py --weights FILE --memory --precision PHOTOS --out docs/results/benchmark.md

It was measured on a CPU, which rounds as a GPU does; how much faster a GPU becomes was not measured. bfloat16 is not
offered: it has three binary digits less, its distances are seven to ten times as large, and above 2 % for every method
that uses a target.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
COMPOSED = (torch.ops.aten.matmul.default, torch.ops.aten.linear.default)  # arrive whole in inference mode


def check_images_of(precision: str | None, images: Tensor) -> None:
    """Raise ValueError where float16 products are asked for, but the images are not float32."""
    if precision and images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}; precision='float16' replaces float32 products: leave it out.")


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute products and convolutions of float32 tensors in float32, whatever torch's flags allow.

    By default torch lets convolutions on Ampere GPUs and later run in TF32, which has float16's ten binary digits.
    Users may allow it, or bfloat16, for matrix products too (torch.set_float32_matmul_precision), on CPUs as well. The
    flags belong to the process: its other threads see them changed meanwhile. They are restored at the end.
    """
    backends: Any = torch.backends  # its flags are not all declared
    products = backends.cuda.matmul, backends.mkldnn.matmul
    lowered, precisions = _lowered_matmul_precision(), [product.fp32_precision for product in products]
    changed = []
    try:
        if lowered:  # an earlier flag, which must not contradict the later ones below
            torch.set_float32_matmul_precision("highest")
        # Where nothing is set, a flag has the value of those before it, so that what differs from "ieee" is its own.
        for flag in (backends, backends.cudnn, *products, backends.cudnn.conv, backends.mkldnn.conv):
            if flag.fp32_precision != "ieee":
                changed.append((flag, flag.fp32_precision))
                flag.fp32_precision = "ieee"
        yield
    finally:
        for flag, precision in reversed(changed):
            flag.fp32_precision = precision
        if lowered:
            torch.set_float32_matmul_precision(lowered)
            for product, precision in zip(products, precisions):
                product.fp32_precision = precision


def _lowered_matmul_precision() -> str | None:
    """Return torch.get_float32_matmul_precision where it is below float32, else None."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the later flags, one for each backend, say something else
        return None
    return None if precision == "highest" else precision


class HalfProducts(TorchDispatchMode):
    """A mode in which matrix products of float32 tensors take factors of 16 bits and return float32.

    Everything else (sums, norms, divisions, softmax, the patch convolution) stays in float32.

    dtype: of the factors; torch.bfloat16 exists to be measured.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in COMPOSED:
            with self:
                return function.decompose(*args, **(kwargs or {}))
        if function in PRODUCTS:
            left, right = args
            return half_product(left, right, self.dtype)
        return function(*args, **(kwargs or {}))


def half_product(left: Tensor, right: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    """Multiply two float32 matrices in 16 bits.

    float16 ends at 65504, and below 6e-5 it loses digits. So each row of the left factor and each column of the right
    one is divided by its largest magnitude first: what is lost is then small relative to its row or column, whatever
    the values of other images and targets. Sums of P products of at most 1 are in range up to P = 65504.

    left: (..., M, P) float32.
    right: (..., P, Q) float32.
    dtype: of the factors.

    Returns (..., M, Q) float32.
    """
    rows, columns = _largest(left, -1), _largest(right, -2)
    left, right = (left / rows).to(dtype), (right / columns).to(dtype)
    # CPUs multiply float16 slowly, if at all; rounding before and after a float32 product is equivalent.
    product = (left.float() @ right.float()).to(dtype) if left.device.type == "cpu" else left @ right
    return product.float().mul_(rows).mul_(columns)


def _largest(x: Tensor, dim: int) -> Tensor:
    return x.abs().amax(dim, keepdim=True).clamp_(min=1e-30)
