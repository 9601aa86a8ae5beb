"""METHODS: name -> a way to explain. The dictionary feeds code and command-line choices alike.

Shapes: B images, K targets. A method computes maps (B, K, grid_h, grid_w).
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Method:
    """A way to explain, and what its maps mean.

    compute: (Network, images (B, 3, H, W), targets (B, K), **options) -> (B, K, grid_h, grid_w), or
        a tuple that begins with it, where an option asks for more
    signed: maps have negative parts that mean evidence against the target; they are linear in what is
        explained, so that the map of a difference of logits is the difference of their maps
    uses_target: maps differ between targets for what the model computes (not for a random seed)
    passes: cost of a map in forward passes of its image, about, at K = 2 (DeiT-Tiny 224, one CPU
        thread, float32, default options; docs/benchmark.md measures it)
    """

    name: str
    compute: Callable[..., Tensor | tuple[Tensor, ...]]
    signed: bool
    uses_target: bool
    passes: float
    source: str
    description: str

    @property
    def contrast(self) -> str | None:
        """What it explains where nothing else is said, one of start.CONTRASTS; None where it knows no class."""
        option = inspect.signature(self.compute).parameters.get("contrast")
        return None if option is None else option.default


def random(network: Network, images: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), the baseline of every metric.

    A map is a function of seed, target and the image's own pixels (as float32), whatever else is
    in the batch and whatever the device.
    """
    grid = network.grid(images)
    maps = [
        [torch.rand(grid, generator=generator_for(image, seed, target), dtype=torch.float64) for target in row]
        for image, row in zip(images, targets.tolist())
    ]
    return torch.stack([torch.stack(row) for row in maps]).to(images.dtype).to(images.device)


def generator_for(image: Tensor, *numbers: int) -> torch.Generator:
    """Generator fixed by an image's pixels (as float32) and some numbers, on any device."""
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    # Plain ints, as numpy's and torch's are written otherwise.
    digest = hashlib.blake2b(repr(tuple(map(int, numbers))).encode() + pixels, digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "lrp",
            lrp,
            False,
            True,
            4.7,
            "Chefer, Gur, Wolf, CVPR 2021",
            "transformer attribution as published: gradient times LRP relevance of attention",
        ),
        Method(
            "lrp_magnitude",
            lrp_magnitude,
            False,
            True,
            4.5,
            "after Chefer, Gur, Wolf, CVPR 2021",
            "transformer attribution with sums split by magnitudes: repeatable under noise",
        ),
        Method(
            "attnlrp",
            attnlrp,
            True,
            True,
            2.9,
            "Achtibat et al., ICML 2024",
            "AttnLRP with the paper's composite: input times gradient, changed to keep relevance",
        ),
        Method(
            "attnlrp_epsilon",
            attnlrp_epsilon,
            True,
            True,
            1.8,
            "Achtibat et al., ICML 2024",
            "AttnLRP with the epsilon rule alone, at the tokens",
        ),
        Method(
            "cp_lrp",
            cp_lrp,
            True,
            True,
            2.4,
            "Ali et al., ICML 2022; gamma of Achtibat et al., ICML 2024",
            "LRP with attention held constant",
        ),
        Method(
            "lrp_depth",
            lrp_depth,
            True,
            True,
            2.4,
            "ours; after Ali et al., ICML 2022 and Mehri et al., 2024",
            "CP-LRP's relevance of each token, averaged over depth",
        ),
        Method(
            "lrp_contrast",
            lrp_contrast,
            True,
            True,
            2.4,
            "ours; start after Iwana et al., ICCV workshops 2019",
            "lrp_depth against competing classes: what moves the probability",
        ),
        Method(
            "lrp_blend",
            lrp_blend,
            True,
            True,
            3.7,
            "ours; after Achtibat et al., ICML 2024 and Ali et al., ICML 2022",
            "the mean of lrp_contrast and of AttnLRP over depth",
        ),
        Method(
            "gradient_attention",
            gradient_attention,
            False,
            True,
            1.8,
            "Chefer, Gur, Wolf, ICCV 2021",
            "gradient times attention, aggregated over blocks",
        ),
        Method(
            "gradcam",
            gradcam,
            False,
            True,
            0.6,
            "Selvaraju et al., ICCV 2017; on attention: Chefer et al., CVPR 2021",
            "the last attention, its heads weighted by their mean gradient",
        ),
        Method(
            "input_x_gradient",
            input_x_gradient,
            True,
            True,
            1.8,
            "Shrikumar et al., 2016 (arXiv:1605.01713)",
            "pixels times gradient",
        ),
        Method(
            "integrated_gradients",
            integrated_gradients,
            True,
            True,
            30.5,
            "Sundararajan, Taly, Yan, ICML 2017",
            "pixels times the gradient's mean on the way from the data's mean; cost by its steps, 16",
        ),
        Method(
            "rollout",
            rollout,
            False,
            False,
            0.6,
            "Abnar and Zuidema, ACL 2020",
            "attention multiplied over blocks; knows no target",
        ),
        Method(
            "attention",
            attention,
            False,
            False,
            0.6,
            "Dosovitskiy et al., ICLR 2021 (attention maps)",
            "the last attention, the class token's or the pool's; knows no target",
        ),
        Method(
            "random",
            random,
            False,
            False,
            0.0,
            "baseline of every metric",
            "uniform noise, fixed by seed, image and target",
        ),
    )
}

DEFAULT_METHOD = "lrp_blend"  # the most faithful: docs/candidates.md
# For maps of several classes that are compared: a contrast makes another class's map the negative of the predicted
# one's.
COMPARISON_METHOD = "lrp_depth"
