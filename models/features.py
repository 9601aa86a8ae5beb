"""What is frozen is computed once: features of a frozen backbone, cached on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from files import atomic


@dataclass(frozen=True)
class Features:
    """What enters the classifier: `inputs` (N, D) float32, `labels` (N,) int64."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def select(self, indices) -> "Features":
        indices = torch.as_tensor(indices)
        return Features(self.inputs[indices], self.labels[indices])


def cached_features(
    model: nn.Module, dataset: Dataset, key: dict, folder: Path | None, device: torch.device,
    workers: int = 0, name: str = "", progress: bool = False,
) -> Features:
    """Return the pooled features of every image, from `folder` if they lie there under `key`.

    `key` must name everything that the features depend on (backbone hash, data fingerprint, transform). A damaged
    cache file is computed anew, with a line that says so; `folder` None turns the cache off.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = None if folder is None else folder / f"features-{digest}.safetensors"
    if path is not None and path.is_file():
        if (found := _read(path, len(dataset))) is not None:
            return found
        print(f"cached features {path} are damaged; computing them again")
    features = compute_features(model, dataset, device, workers, name, progress)
    if path is not None:
        with atomic(path) as temporary:
            save_file({"inputs": features.inputs, "labels": features.labels}, temporary)
    return features


@torch.no_grad()  # not inference mode, whose tensors a head could not be trained on
def compute_features(
    model: nn.Module, dataset: Dataset, device: torch.device, workers: int = 0, name: str = "", progress: bool = False,
    batch_size: int = 32,
) -> Features:
    """Run the frozen backbone over every image once; the model is put into evaluation mode."""
    model.eval().to(device)
    inputs, labels = [], []
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    for images, batch_labels in tqdm(loader, desc=f"features {name}", unit="batch", delay=2, leave=False,
                                     disable=None if progress else True):
        tokens = model.forward_features(images.to(device))
        inputs.append(model.forward_head(tokens, pre_logits=True).float().cpu())
        labels.append(batch_labels)
    return Features(torch.cat(inputs), torch.cat(labels))


def _read(path: Path, expected: int) -> Features | None:
    try:
        tensors = load_file(path)
        features = Features(tensors["inputs"], tensors["labels"])
    except (SafetensorError, KeyError, OSError):
        return None
    fits = len(features.inputs) == len(features.labels) == expected and features.inputs.isfinite().all()
    return features if fits else None
