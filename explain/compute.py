"""Compute relevance maps: `relevance(model, images, targets)`.

Letters: B images, K targets, L layers, h heads, H x W pixels, grid_h x grid_w patches.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from explain.batching import Chunks, images_at_once, targets_at_once
from explain.inputs import check_images, check_targets
from explain.logit_check import check_logits
from explain.methods import FUNCTIONS
from explain.precision import HalfProducts, check_images_of, true_float32
from explain.registry import DEFAULT_METHOD, find_method
from explain.trace import Network
from explain.types import TimmModule


def relevance(
    model: TimmModule,
    images: Tensor,
    targets: Tensor,
    method: str = DEFAULT_METHOD,
    precision: str | None = None,
    **options,
) -> Tensor | tuple[Tensor, ...]:
    """Compute the relevance of each patch for each target class.

    model: a plain timm VisionTransformer (see `check_explainable`), in training or eval mode, frozen or not. Dropout is
        never applied, and the model is left as it was.
    images: (B, 3, H, W), normalised as the model expects them, float32 or float64 as its weights.
    targets: (B, K) int64, the classes to explain. One forward pass serves all K.
    method: a name in METHODS. The default is the most faithful to the class's probability on DeiT-Tiny; it explains
        the class against its competitors. To see what the maps of several classes share, take COMPARISON_METHOD.
    precision: None for the images' own, or "float16" for float16 factors in matrix products: for float32 images on GPUs
        with tensor cores, and for methods whose maps stay within 2 % (see precision.py).
    options: the method's own, which its function in methods.py describes and METHODS[method].options lists:
        contrast ("none", "mean", "softmax" or "log_p") and centre_head (bool): what is explained in place of the logit,
            for every method that uses targets (see contrasts.class_weights);
        start_block (int): the first block that is aggregated, counted from 0;
        layers (bool): also return (B, K, L, h, grid_h, grid_w), relevance by block and head;
        gap (bool): also return (B, K), the relevance that was lost (see `conservation_gap`).

    Returns maps (B, K, grid_h, grid_w) in the images' dtype and on their device, without gradient; with layers or gap a
    tuple of maps and these, in that order. Each method has its own scale: compare shapes, or normalise.
    Raises UnsupportedModel (a ValueError) for a model that cannot be explained, ValueError for other wrong inputs.

    Precision: float32 is true float32, also where torch's flags allow TF32 or bfloat16 (see precision.true_float32).
    torch.autocast is switched off inside, as it would round sums and divisions too, and bfloat16's three digits are too
    few for the small differences that maps are compared for. Cast model and images to float64 to check a map.

    Memory: on an accelerator all images and targets go through together. Where its memory is full, half of the images
    are tried again, and of a single image half of the targets; each failed attempt costs time, so give smaller batches
    then. On a CPU as many images go through together as its cache holds, and at least 16 targets of each.

    Hooks: the model itself runs once per call, on the first image in eval mode, to compare its logits with the traced
    ones (see logit_check.py). Hooks that only read are allowed, and see that forward pass alone. A local or global
    hook, or a forward replaced on a class, that changes the logits is refused.
    """
    uses_target = find_method(method, {**options, "precision": precision}).uses_target
    network, function = Network(model), FUNCTIONS[method]
    check_images(model, images)
    check_targets(model, images, targets)
    check_images_of(precision, images)
    count = targets.shape[1]
    # A map that is the same for every target is computed once: there is nothing to split.
    together = targets_at_once(network, images, count) if uses_target else count
    image_chunks = Chunks(len(images), images_at_once(network, images, together))
    target_chunks = Chunks(count, together)
    traced = method != "random"  # which reads the pixels alone

    def explain(rows: slice) -> tuple[Tensor, ...]:
        some = images[rows]
        shared = network.sharing_record(some)
        if traced and rows.start == 0 and precision is None:
            check_logits(model, some[:1], shared.record(some).logits[:1])
        return _in_target_chunks(
            lambda columns: as_tuple(function(shared, some, targets[rows, columns], **options)),
            target_chunks,
            may_halve=len(some) == 1,  # images are halved before targets
        )

    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), true_float32():
        if traced and precision is not None:  # compared before products are rounded
            check_logits(model, images[:1], network.record(images[:1]).logits)
        with HalfProducts() if precision == "float16" else nullcontext():
            results = tuple(torch.cat(outputs) for outputs in zip(*image_chunks.map(explain)))
    return results[0] if len(results) == 1 else results


def _in_target_chunks(
    compute: Callable[[slice], tuple[Tensor, ...]], chunks: Chunks, may_halve: bool
) -> tuple[Tensor, ...]:
    """Join what is computed for each chunk of targets, along K.

    The chunks share one record of the forward pass (Network.sharing_record). With 20 of 100 targets per chunk,
    recording it for each would add up to 4 % to the time of methods that go back through all blocks, and make gradcam
    four times as slow (DeiT-Tiny). Keeping it takes no more memory, as a chunk needs it to its end.
    integrated_gradients still records the images of its path, 16, for each chunk.
    """
    return tuple(torch.cat(outputs, dim=1) for outputs in zip(*chunks.map(compute, may_halve)))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the outputs of a method's function as a tuple, also where there are maps alone."""
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def conservation_gap(
    model: TimmModule, images: Tensor, targets: Tensor, method: str = DEFAULT_METHOD, **options
) -> Tensor:
    """Compute the relevance that a method loses: what it starts with less what arrives.

    lrp and lrp_magnitude start with 1 at the logit; what arrives at the input of the first block is subtracted. The
    others start with the explained quantity (a logit, a contrast; for integrated_gradients its change along the path);
    the sum of the map is subtracted. Each method's docstring says what absorbs the rest.

    model, images, targets, method, options: as for `relevance`.

    Returns (B, K).
    Raises what `relevance` does; ValueError for a method that does not conserve relevance, and so has no gap.
    """
    return relevance(model, images, targets, method, gap=True, **options)[-1]
