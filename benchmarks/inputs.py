"""The inputs of benchmarks: a timm model, and photos preprocessed for it."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from common.errors import UsageError
from data.images import EXTENSIONS, open_image
from data.transforms import evaluation_transform


def load_model(name: str, weights: str | None) -> nn.Module:
    """Return a timm model in evaluation mode.

    name: its timm name.
    weights: a safetensors file; None leaves the weights random.
    """
    if weights is None:
        return timm.create_model(name).eval()
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=weights)).eval()


def load_photos(folder: Path, model: nn.Module, count: int, option: str) -> Tensor:
    """Return photos (count, 3, H, W), preprocessed for a model and evenly spread over all files below a folder.

    folder: where the files lie, in any subfolder.
    model: a timm model.
    count: number of photos.
    option: the command-line option that names the folder, for messages.

    Raises UsageError where there are fewer.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if len(files) < count:
        raise UsageError(f"{option} {folder} holds {len(files)} images; expected {count} or more, in any subfolder")
    transform = evaluation_transform(timm.data.resolve_model_data_config(model))
    return torch.stack([transform(open_image(path)) for path in files[:: len(files) // count][:count]])
