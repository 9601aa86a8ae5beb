"""Matrix products in float16, as tensor cores take them, for the methods whose maps stay what they are.

Relative distance (L2) of a map to float32's, median and worst of 32 maps: lrp_magnitude 0.18 and 0.33 %,
gradient_attention 0.15 and 0.31 %, attnlrp 0.27 and 0.54 %, attnlrp_epsilon 0.25 and 0.41 %, cp_lrp 0.23 and
0.61 %, lrp_depth 0.15 and 0.64 %, lrp_contrast 0.16 and 0.30 %, rollout 0.03 and 0.04 %, attention 0.25 and 0.53 %.
Beyond 2 %, so not offered: lrp 31 and 150 %, gradcam 0.36 and 7.1 %, integrated_gradients 1.4 and 8.2 %,
input_x_gradient 0.57 and 2.8 % (seed 1). DeiT-Tiny 224, 16 photos of 100-sports, the predicted class and a random one;
python benchmarks/explain.py --weights FILE --batch 1 --targets 1 --rounds 1 --precision PHOTOS, on a CPU, which rounds
as a GPU does. How much faster a GPU becomes is not measured.
bfloat16 is not offered: it has three binary digits less, so that distances are eight times as large.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Methods that float16 changes by more than 2 %, and why.
NOT_IN_HALF = {
    "lrp": "its residual rule has poles, which any rounding moves",
    "gradcam": "it weighs heads by means of gradients that nearly cancel",
    "input_x_gradient": "the plain gradient's parts nearly cancel",
    "integrated_gradients": "the plain gradients that it sums nearly cancel",
}
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
COMPOSED = (torch.ops.aten.matmul.default, torch.ops.aten.linear.default)  # arrive whole in inference mode


def check_method(precision: str | None, method: str) -> None:
    """Raise ValueError for an unknown precision, or for one that a method is not offered in."""
    if precision not in (None, "float16"):
        raise ValueError(f"precision is {precision!r}; expected None (the images' own) or 'float16'.")
    if precision and method in NOT_IN_HALF:
        raise ValueError(f"{method} differs by more than 2 % in float16: {NOT_IN_HALF[method]}. Leave precision out.")


def check_images_of(precision: str | None, images: Tensor) -> None:
    """Raise ValueError where float16 products are asked for, and the images' are no float32 ones."""
    if precision and images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}; precision='float16' replaces float32 products: leave it out.")


class HalfProducts(TorchDispatchMode):
    """While active, matrix products of float32 tensors take float16 factors and give float32.

    All else (sums, norms, divisions, softmax, the patch convolution, the head) is left in float32.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in COMPOSED:
            with self:
                return function.decompose(*args, **(kwargs or {}))
        if function in PRODUCTS:
            return half_product(*args)
        return function(*args, **(kwargs or {}))


def half_product(left: Tensor, right: Tensor) -> Tensor:
    """(..., M, P) @ (..., P, Q) in float16, returned in float32.

    float16 ends at 65504, and below 6e-5 it loses digits, so each row of the left factor and each column of the right
    one is divided by its largest magnitude first: what it then loses is small beside its row or column, whatever
    stands in other images and for other targets. Sums of P products of at most 1 are in range up to P = 65504.
    """
    rows, columns = _largest(left, -1), _largest(right, -2)
    left, right = (left / rows).half(), (right / columns).half()
    # CPUs multiply float16 slowly, if at all; to round before and after comes to the same.
    product = (left.float() @ right.float()).half() if left.device.type == "cpu" else left @ right
    return product.float().mul_(rows).mul_(columns)


def _largest(x: Tensor, dim: int) -> Tensor:
    return x.abs().amax(dim, keepdim=True).clamp_(min=1e-30)
