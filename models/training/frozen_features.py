"""Compute once what is frozen: pooled features, or the tokens that enter the first block that trains."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.errors import ExplainedError
from models.adapters import timm_model
from models.training.cache import CHUNK_ROWS, Cache, Compute, Rows, Span
from models.training.loading import ImageDataset, LoadingOptions, load
from models.training.model_halves import FrozenPart
from models.training.process_group import SINGLE_PROCESS, ProcessGroup
from models.types import TimmModel

BATCH_SIZE = CHUNK_ROWS // 8  # divides a chunk, so that an interrupted computation goes on in the same batches
LARGEST_HALF = torch.finfo(torch.float16).max  # 65504
Indices = Sequence[int] | np.ndarray | torch.Tensor


class UnstorableTokens(ExplainedError):
    """Tokens exceed the range of half precision, so they are not cached; training on images is still possible."""


@dataclass(frozen=True)
class CacheEntry:
    """Where features of one data set are stored, and what they depend on.

    folder: of the cache; None keeps them in memory.
    key: JSON that names everything they depend on: backbone, data, transform, view.
    name: of the data set, for the progress bar.
    """

    folder: Path | None
    key: dict[str, Any]
    name: str = ""


@dataclass(frozen=True)
class Features:
    """The input of the part that trains, a row per image.

    stored: pooled features (M, D) float32, or tokens (M, N, D) float16.
    labels: classes (N,) int64.
    indices: rows of `stored` that are meant (N,) int64.
    """

    stored: Rows
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def inputs(self) -> torch.Tensor:
        """All rows in memory, float32; every use reads them again."""
        return self.rows(range(len(self)))

    def rows(self, indices: Indices) -> torch.Tensor:
        """Return the rows of some images, float32; only these are read."""
        return self.stored.rows(self.indices[torch.as_tensor(indices)]).float()

    def select(self, indices: Indices) -> "Features":
        """Return some of the images."""
        indices = torch.as_tensor(indices)
        return Features(self.stored, self.labels[indices], self.indices[indices])


def cached_features(
    model: TimmModel,
    dataset: ImageDataset,
    entry: CacheEntry,
    options: LoadingOptions,
    group: ProcessGroup = SINGLE_PROCESS,
    entering: int | None = None,
) -> Features:
    """Return the pooled features of every image; those that the cache holds are not computed again.

    model: a timm model, put into evaluation mode.
    dataset: item -> (image tensor, label).
    entry: where they are stored; damaged chunks are computed again, with a line that says so.
    options: device and loader.
    group: the processes that share the computation.
    entering: a block; the tokens that enter it are stored along with the features, for `cached_tokens` to find.
    """

    def pooled(images: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    compute = _through(model, pooled, dataset, options, f"features {entry.name}")
    if entering is not None and entry.folder is not None:
        compute = _keeping(compute, timm_model(model).blocks[entering], _token_cache(entry, entering, len(dataset)))
    return _stored(Cache(entry.folder, "features", entry.key, len(dataset), ("inputs", "labels")), compute, group)


def cached_tokens(
    model: TimmModel,
    first: int,
    dataset: ImageDataset,
    entry: CacheEntry,
    options: LoadingOptions,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Features:
    """Return the tokens that enter a block for every image, stored as float16; otherwise as `cached_features`.

    first: the block, from `first_trained_block`; it is added to the key.
    Raises UnstorableTokens, in all processes alike, where a token is beyond the range of float16.
    """
    frozen = FrozenPart(model, first)
    compute = _through(frozen, frozen, dataset, options, f"tokens {entry.name}", _halved)
    return _stored(_token_cache(entry, first, len(dataset)), compute, group)


def token_bytes(model: TimmModel, count: int) -> int:
    """Return the size on disk of the tokens of `count` images, in bytes; it is the same before every block."""
    vit = timm_model(model)
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    return count * tokens * vit.embed_dim * torch.finfo(torch.float16).bits // 8


def _stored(cache: Cache, compute: Compute, group: ProcessGroup) -> Features:
    problem = None
    try:
        cache.fill(compute, group.rank, group.count)
    except UnstorableTokens as error:
        problem = str(error)
    if problems := list(filter(None, group.all_gather(problem))):  # after this, all chunks are there
        raise UnstorableTokens(problems[0])
    arrays = cache.open()
    labels = arrays["labels"].rows(range(len(arrays["labels"])))
    return Features(arrays["inputs"], labels, torch.arange(len(labels)))


def _token_cache(entry: CacheEntry, first: int, rows: int) -> Cache:
    return Cache(entry.folder, "tokens", {**entry.key, "enter_block": first}, rows, ("inputs", "labels"))


def _keeping(compute: Compute, block: nn.Module, tokens: Cache) -> Compute:
    """Return `compute`, which also stores the input of a block of the model that it runs."""

    def kept(spans: list[Span]) -> Iterator[dict[str, np.ndarray]]:
        entered: list[torch.Tensor] = []
        hook = block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].float().cpu()))
        try:
            for span, arrays in zip(spans, compute(spans), strict=True):
                if entered:
                    try:
                        tokens.keep(span, {"inputs": _halved(torch.cat(entered).numpy()), "labels": arrays["labels"]})
                    except UnstorableTokens:  # `cached_tokens` raises it, if it is called
                        hook.remove()
                entered.clear()
                yield arrays
        finally:
            hook.remove()

    return kept


def _through(
    module: nn.Module,
    forward: Callable[[torch.Tensor], torch.Tensor],
    dataset: ImageDataset,
    options: LoadingOptions,
    title: str,
    convert: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> Compute:
    """Return a function that runs images through a module by `forward`, chunk by chunk, as Cache.fill asks for it."""
    device, statistics = options.device, options.statistics

    @torch.no_grad()
    def compute(spans: list[Span]) -> Iterator[dict[str, np.ndarray]]:
        begun = time.monotonic()
        module.eval().to(device)
        batches = [
            list(range(i, min(i + BATCH_SIZE, stop))) for start, stop in spans for i in range(start, stop, BATCH_SIZE)
        ]
        loader = load(dataset, batches, options.workers, statistics)  # one for all spans: workers start slowly
        hidden = None if options.progress else True
        results = iter(tqdm(loader, title, len(batches), unit="batch", delay=2, leave=False, disable=hidden))
        for start, stop in spans:
            inputs, labels = [], []
            for images, batch_labels in islice(results, math.ceil((stop - start) / BATCH_SIZE)):
                with torch.autocast(device.type, enabled=False):  # runs that share a cache may differ in precision
                    inputs.append(forward(images.to(device)).float().cpu())
                labels.append(batch_labels)
            yield {"inputs": convert(torch.cat(inputs).numpy()), "labels": torch.cat(labels).numpy()}
        statistics.seconds += time.monotonic() - begun

    return compute


def _halved(tokens: np.ndarray) -> np.ndarray:
    largest = np.abs(tokens).max()
    if LARGEST_HALF < largest < np.inf:  # values that are not finite are refused by the cache
        raise UnstorableTokens(
            f"tokens reach {largest:.4g}, beyond the {LARGEST_HALF:.0f} of half precision, so they "
            f"cannot be cached; --no-cache runs the frozen blocks in every epoch"
        )
    return tokens.astype(np.float16)
