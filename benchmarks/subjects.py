"""What the benchmarks work on: a timm model, and photos as it takes them."""

from pathlib import Path

import timing  # noqa: F401, beside this file; it finds the project's folders
import timm
import torch
from torch import Tensor, nn

from common.errors import UsageError
from data.images import EXTENSIONS, open_image
from data.transforms import evaluation_transform


def load(name: str, weights: str | None) -> nn.Module:
    """Return a timm model in evaluation mode, with weights from a safetensors file or random ones."""
    if weights is None:
        return timm.create_model(name).eval()
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=weights)).eval()


def photos(folder: Path, model: nn.Module, count: int, option: str) -> Tensor:
    """Return photos (count, 3, H, W) as the model takes them, spread evenly over all files below a folder.

    Raises UsageError, naming the command line's option, where there are fewer.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if len(files) < count:
        raise UsageError(f"{option} {folder} holds {len(files)} images; expected {count} or more, in any subfolder")
    transform = evaluation_transform(timm.data.resolve_model_data_config(model))
    return torch.stack([transform(open_image(path)) for path in files[:: len(files) // count][:count]])
