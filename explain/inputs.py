"""Checks of the images and targets that a model is to be explained for.

Letters: B images, K targets, H x W pixels.
"""

import torch
from torch import Tensor

from explain.types import TimmModule


def check_images(model: TimmModule, images: Tensor) -> None:
    """Raise ValueError unless images are what the model takes.

    model: one that `check_explainable` accepts.
    images: expected (B, 3, H, W), B > 0, in the dtype and on the device of the model's weights, of its size.
    """
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


def check_targets(model: TimmModule, images: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless targets are classes of the model, for each image.

    model: one that `check_explainable` accepts.
    images: (B, 3, H, W).
    targets: expected (B, K) int64, K > 0, on the images' device.
    """
    if targets.dim() != 2 or len(targets) != len(images):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; expected (B, K) with "
            f"B = {len(images)} images. One target per image: targets.unsqueeze(1)."
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets are {targets.dtype}; expected torch.int64 class indices.")
    if targets.device != images.device:
        raise ValueError(f"targets are on {targets.device}, images on {images.device}; move one.")
    if not targets.shape[1]:
        raise ValueError("targets have shape (B, 0): name at least one class per image.")
    classes = model.head.out_features
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"targets go from {int(targets.min())} to {int(targets.max())}; the model's classes are 0 to {classes - 1}."
        )
