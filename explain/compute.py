"""Compute relevance maps: `relevance(model, images, targets)`.

Letters: B images, K targets, H x W pixels, grid_h x grid_w patches.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from explain.batching import Chunks, images_at_once, targets_at_once
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
    """Relevance of each patch for each target class.

    model: a plain timm VisionTransformer (see `check_explainable`), in train or eval mode, frozen
        or not; dropout is never applied, and the model is left as it was.
    images: (B, 3, H, W) as the model takes them (normalised), float32 or float64 as its weights.
    targets: (B, K) int64, the classes to explain; all K come from one forward pass.
    method: a name in METHODS; the default is the most faithful to the class's probability, a contrast with its
        competitors. To ask what the maps of several classes share, take COMPARISON_METHOD.
    options: that method's own, named by its docstring; a method for which an option makes no sense lacks it, and says
        which it has:
        contrast ("none", "mean", "softmax", "log_p"), centre_head (bool): what is explained, for
            every method that knows a class (see targets.class_weights); "none" but for lrp_contrast and lrp_blend;
        start_block (int): the first block that is aggregated;
        layers (bool): also return (B, K, L, h, grid_h, grid_w), by block and head;
        gap (bool): also return (B, K), what relevance was lost on the way (see `conservation_gap`).
    precision: None, the images' own throughout, or "float16": matrix products take float16 factors. For float32 on
        GPUs with tensor cores, and for methods whose maps stay within 2 % (see precision.py).
    On an accelerator all images and targets go through together; where its memory is full, half of the images are tried
    again, and of one image half of the targets, which costs the attempt: give smaller batches, then. On a CPU as many
    go through at once as its cache holds, and of one image at least 16 targets.
    Returns maps (B, K, grid_h, grid_w), images' dtype and device, no gradient; with layers or gap a
    tuple of maps and these, in that order. Each method's scale is its own: compare shapes, or
    normalise.

    float32 is true float32, also where torch's flags allow TF32 or bfloat16 (see precision.true_float32).
    Around a torch.autocast the result is the same: it is switched off inside, as it would round sums
    and divisions too, and bfloat16's three digits are too few for the smaller differences that maps
    are compared for. Cast model and images to float64 to check a map.

    The model runs once per call, on the first image in eval mode, to compare its logits with the traced ones (see
    logit_check.py). Hooks that only read are allowed, and see that forward pass alone; a hook, local or global, or a
    forward replaced on a class, that changes the logits is refused.

    Raises UnsupportedModel (a ValueError), ValueError for wrong inputs.
    """
    described = find_method(method, {**options, "precision": precision})
    network, compute = Network(model), FUNCTIONS[method]
    _check_inputs(model, images, targets)
    check_images_of(precision, images)
    # Where the map is the same for every target, it is computed once, and there is nothing to split.
    count = targets.shape[1]
    together = targets_at_once(network, images, count) if described.uses_target else count
    image_chunks = Chunks(len(images), images_at_once(network, images, together))
    target_chunks = Chunks(count, together)

    def explain(rows: slice) -> tuple[Tensor, ...]:
        """Maps, and what options add to them, of some images and all their targets."""
        some = images[rows]
        # The forward pass is recorded once for all chunks of targets: with 20 of 100 targets per chunk, another record
        # for each would add up to 4 % to the time of methods that go down through all blocks, and make gradcam four
        # times as slow (DeiT-Tiny). Keeping it takes no more memory, as a chunk needs it to its end.
        # integrated_gradients records the images of its path, 16, for each chunk.
        shared = network.sharing_record(some)
        if check and rows.start == 0 and precision is None:
            check_logits(model, some[:1], shared.record(some).logits[:1])
        found = target_chunks.map(
            lambda columns: as_tuple(compute(shared, some, targets[rows, columns], **options)),
            may_halve=len(some) == 1,  # images are halved before targets
        )
        return tuple(torch.cat(chunks, dim=1) for chunks in zip(*found))

    check = method != "random"  # which reads the pixels alone
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), true_float32():
        if check and precision is not None:  # compared before products are rounded
            check_logits(model, images[:1], network.record(images[:1]).logits)
        with HalfProducts() if precision == "float16" else nullcontext():
            results = tuple(torch.cat(chunks) for chunks in zip(*image_chunks.map(explain)))
    return results[0] if len(results) == 1 else results


def as_tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if torch.is_tensor(found) else found


def conservation_gap(
    model: TimmModule, images: Tensor, targets: Tensor, method: str = DEFAULT_METHOD, **options
) -> Tensor:
    """What entered less what arrived of a relevance method's relevance, (B, K).

    lrp, lrp_magnitude: of the 1 that enters at the logit, at the first block's input. Others: of the
    explained quantity (a logit, a contrast; integrated_gradients: its change), in the map. Each
    method's docstring says what absorbs it. Arguments as for `relevance`; raises ValueError for a
    method that conserves nothing and so has no gap.
    """
    return relevance(model, images, targets, method, gap=True, **options)[-1]


def _check_inputs(model: TimmModule, images: Tensor, targets: Tensor) -> None:
    check_images(model, images)
    if targets.dim() != 2 or len(targets) != len(images):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; expected (B, K) with "
            f"B = {len(images)} images. One target an image: targets.unsqueeze(1)."
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets are {targets.dtype}; expected torch.int64 class indices.")
    if targets.device != images.device:
        raise ValueError(f"targets are on {targets.device}, images on {images.device}; move one.")
    if not targets.shape[1]:
        raise ValueError("targets have shape (B, 0): name at least one class an image.")
    classes = model.head.out_features
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"targets go from {int(targets.min())} to {int(targets.max())}; the model's classes are 0 to {classes - 1}."
        )


def check_images(model: TimmModule, images: Tensor) -> None:
    """Raise ValueError unless images (B, 3, H, W) are what the model, an explainable one, takes."""
    embed, weight = model.patch_embed, model.head.weight
    channels = embed.proj.in_channels
    if images.dim() != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, {channels}, H, W), B > 0.")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"images are {images.dtype}; expected torch.float32 or torch.float64.")
    if (images.dtype, images.device) != (weight.dtype, weight.device):
        raise ValueError(
            f"images are {images.dtype} on {images.device}, the model {weight.dtype} on "
            f"{weight.device}; convert one to the other."
        )
    size = tuple(images.shape[-2:])
    if embed.strict_img_size and embed.img_size is not None and size != tuple(embed.img_size):
        raise ValueError(
            f"images are {size[0]} x {size[1]} pixels; the model takes "
            f"{embed.img_size[0]} x {embed.img_size[1]}. Resize them, or call "
            f"model.set_input_size({size})."
        )
    patch = embed.patch_size
    if not embed.dynamic_img_pad and (size[0] % patch[0] or size[1] % patch[1]):
        raise ValueError(
            f"images are {size[0]} x {size[1]} pixels, which patches of {patch[0]} x {patch[1]} do not divide."
        )
