"""Matrix products in float16, as tensor cores take them, for the methods whose maps stay what they are.

Offered to methods whose maps stay within 2 % of float32's (relative distance, L2, the worst of 32 maps, with default
options), whatever the other class: docs/results/benchmark.md has them all, from

    python benchmarks/explain.py --weights FILE --memory --precision PHOTOS --out docs/results/benchmark.md

on a CPU, which rounds as a GPU does. How much faster a GPU becomes is not measured. bfloat16 is not offered: it has
three binary digits less, its distances are seven to ten times as large, and beyond 2 % for every method that asks for a
class.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
COMPOSED = (torch.ops.aten.matmul.default, torch.ops.aten.linear.default)  # arrive whole in inference mode


def check_images_of(precision: str | None, images: Tensor) -> None:
    """Raise ValueError where float16 products are asked for, and the images' are no float32 ones."""
    if precision and images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}; precision='float16' replaces float32 products: leave it out.")


class HalfProducts(TorchDispatchMode):
    """While active, matrix products of float32 tensors take factors of 16 bits and give float32.

    All else (sums, norms, divisions, softmax, the patch convolution) is left in float32.
    dtype: of the factors; torch.bfloat16 is there to be measured.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in COMPOSED:
            with self:
                return function.decompose(*args, **(kwargs or {}))
        if function in PRODUCTS:
            return half_product(*args, dtype=self.dtype)
        return function(*args, **(kwargs or {}))


def half_product(left: Tensor, right: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    """(..., M, P) @ (..., P, Q) in 16 bits, returned in float32.

    float16 ends at 65504, and below 6e-5 it loses digits, so each row of the left factor and each column of the right
    one is divided by its largest magnitude first: what it then loses is small beside its row or column, whatever
    stands in other images and for other targets. Sums of P products of at most 1 are in range up to P = 65504.
    """
    rows, columns = _largest(left, -1), _largest(right, -2)
    left, right = (left / rows).to(dtype), (right / columns).to(dtype)
    # CPUs multiply float16 slowly, if at all; to round before and after comes to the same.
    product = (left.float() @ right.float()).to(dtype) if left.device.type == "cpu" else left @ right
    return product.float().mul_(rows).mul_(columns)


def _largest(x: Tensor, dim: int) -> Tensor:
    return x.abs().amax(dim, keepdim=True).clamp_(min=1e-30)
