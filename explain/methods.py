"""FUNCTIONS: name of a relevance method -> the function that computes its maps. explain/registry.py describes them.

Shapes: B images, K targets. A function computes maps (B, K, grid_h, grid_w).
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from explain.aggregate import attention, gradcam, gradient_attention, lrp, lrp_magnitude, rollout
from explain.attribution import (
    attnlrp,
    attnlrp_epsilon,
    cp_lrp,
    input_x_gradient,
    integrated_gradients,
    lrp_blend,
    lrp_contrast,
    lrp_depth,
)
from explain.trace import Network


def random(network: Network, images: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Draw uniform numbers in [0, 1), the baseline of every metric.

    A map depends on the seed, the target and the image's pixels (as float32) alone, not on the rest of the batch or the
    device.

    seed: any integer.
    """
    grid = network.grid(images)
    maps = [
        [torch.rand(grid, generator=generator_for(image, seed, target), dtype=torch.float64) for target in row]
        for image, row in zip(images, targets.tolist())
    ]
    return torch.stack([torch.stack(row) for row in maps]).to(images.dtype).to(images.device)


def generator_for(image: Tensor, *numbers: int) -> torch.Generator:
    """Return a generator that depends on an image's pixels (as float32) and some numbers alone.

    image: (3, H, W), on any device.
    numbers: seeds; also integers of numpy and torch.

    Returns a generator on the CPU.
    """
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    # Plain ints, as repr writes numpy's and torch's in another way.
    digest = hashlib.blake2b(repr(tuple(map(int, numbers))).encode() + pixels, digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


# (Network, images (B, 3, H, W), targets (B, K), **options) -> maps (B, K, grid_h, grid_w), or a tuple that begins with
# them where an option asks for more.
FUNCTIONS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "lrp": lrp,
    "lrp_magnitude": lrp_magnitude,
    "attnlrp": attnlrp,
    "attnlrp_epsilon": attnlrp_epsilon,
    "cp_lrp": cp_lrp,
    "lrp_depth": lrp_depth,
    "lrp_contrast": lrp_contrast,
    "lrp_blend": lrp_blend,
    "gradient_attention": gradient_attention,
    "gradcam": gradcam,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
    "rollout": rollout,
    "attention": attention,
    "random": random,
}
