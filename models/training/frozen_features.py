"""What is frozen is computed once: pooled features, or the tokens that enter the first block that trains."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from timm.layers import DropPath, PatchDropout
from timm.models import VisionTransformer
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import ExplainedError
from models.adapters import timm_model
from models.training.cache import CHUNK_ROWS, Cache, Compute, Rows, Span
from models.training.loading import Loading, load
from models.training.process_group import Share

BATCH_SIZE = CHUNK_ROWS // 8  # divides a chunk, so that an interrupted computation goes on in the same batches
LARGEST_HALF = torch.finfo(torch.float16).max  # 65504
BEFORE_BLOCKS = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")


class UnstorableTokens(ExplainedError):
    """Tokens are beyond half precision, so they are not cached; training on images is still possible."""


@dataclass(frozen=True)
class Features:
    """What enters the part that trains, one row an image, and `labels` (N,) int64.

    `stored` holds pooled features (M, D) float32 or tokens (M, N, D) float16, of which `indices` are meant.
    """

    stored: Rows
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def inputs(self) -> torch.Tensor:
        """All rows in memory, float32; each use reads them anew."""
        return self.rows(range(len(self)))

    def rows(self, indices) -> torch.Tensor:
        """Return the rows of some images, float32; only these are read."""
        return self.stored.rows(self.indices[torch.as_tensor(indices)]).float()

    def select(self, indices) -> "Features":
        indices = torch.as_tensor(indices)
        return Features(self.stored, self.labels[indices], self.indices[indices])


def cached_features(
    model: nn.Module,
    dataset: Dataset,
    key: dict,
    folder: Path | None,
    device: torch.device,
    workers: int = 0,
    name: str = "",
    progress: bool = False,
    share: Share = Share(),
    entering: int | None = None,
    loading: Loading | None = None,
) -> Features:
    """Return the pooled features of every image, of which only those are computed that do not lie in `folder` already.

    `key` must name everything that the features depend on (backbone hash, data fingerprint, transform, view). Damaged
    chunks are computed anew, with a line that says so; `folder` None turns the cache off. entering: a block; while
    features are computed, the tokens that enter it are stored as well, for `cached_tokens` to find. loading: to which
    the time of what is computed is added, and of loading its images.
    """

    def pooled(images: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    compute = _through(model, pooled, dataset, device, workers, f"features {name}", progress, loading=loading)
    if entering is not None and folder is not None:
        compute = _keeping(
            compute, timm_model(model).blocks[entering], _token_cache(folder, key, entering, len(dataset))
        )
    return _stored(Cache(folder, "features", key, len(dataset), ("inputs", "labels")), compute, share)


def compute_features(
    model: nn.Module, dataset: Dataset, device: torch.device, workers: int = 0, name: str = "", progress: bool = False
) -> Features:
    """Run the frozen backbone over every image once; the model is put into evaluation mode."""
    return cached_features(model, dataset, {}, None, device, workers, name, progress)


def cached_tokens(
    model: nn.Module,
    first: int,
    dataset: Dataset,
    key: dict,
    folder: Path | None,
    device: torch.device,
    workers: int = 0,
    name: str = "",
    progress: bool = False,
    share: Share = Share(),
    loading: Loading | None = None,
) -> Features:
    """Return the tokens that enter block `first` for every image, like `cached_features`, stored as float16.

    `first` comes from `first_trained_block` and need not be in the key. Raises UnstorableTokens, in all processes
    alike, where a token is beyond the range of float16.
    """
    frozen = Frozen(model, first)
    compute = _through(frozen, frozen, dataset, device, workers, f"tokens {name}", progress, _halved, loading)
    return _stored(_token_cache(folder, key, first, len(dataset)), compute, share)


def token_bytes(model: nn.Module, first: int, count: int) -> int:
    """Return how many bytes the tokens of `count` images take on disk; they are of one size before every block."""
    vit = timm_model(model)
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    return count * tokens * vit.embed_dim * torch.finfo(torch.float16).bits // 8


def first_trained_block(model: nn.Module) -> int | None:
    """Return the first block with a parameter that trains, or the number of blocks where only what follows trains.

    None where nothing can be computed once: block 0 or what precedes it trains, the model is no VisionTransformer of
    timm's, or its frozen part acts otherwise in training (dropout, patch dropout, drop path, batch norm).
    """
    vit = timm_model(model)
    if type(vit) not in (VisionTransformer, VisionTransformerDistilled):
        return None  # a subclass may run its blocks in another way
    trained = [i for i, block in enumerate(vit.blocks) if any(p.requires_grad for p in block.parameters())]
    first = min(trained, default=len(vit.blocks))
    frozen = Frozen(model, first)
    changes = any(p.requires_grad for p in frozen.parameters()) or any(map(_differs_in_training, frozen.modules()))
    return None if changes or first == 0 else first


class Frozen(nn.Module):
    """Images (B, 3, H, W) -> the tokens (B, N, D) that enter block `first`: in evaluation mode, without gradient.

    Modules and parameters are the model's own.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__()
        vit = timm_model(model)
        for name in BEFORE_BLOCKS:
            self.add_module(name, getattr(vit, name))
        for name, parameter in vit.named_parameters(recurse=False):  # class and register tokens, positions
            self.register_parameter(name, parameter)
        self.blocks = vit.blocks[:first]
        self._vit = (vit,)  # no submodule: this module's mode and device are not the other half's

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.eval()
        tokens = self._vit[0]._pos_embed(self.patch_embed(images))
        return self.blocks(self.norm_pre(self.patch_drop(tokens)))


class Rest(nn.Module):
    """The tokens (B, N, D) that enter block `first` -> logits (B, C).

    Modules are the model's own, under their names there: to train this is to train the model. Tokens that the head does
    not read leave before the last block's MLP, which takes each token by itself; hooks on that block stay silent then.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__()
        vit = timm_model(model)
        self.blocks = nn.Sequential()
        for number in range(first, len(vit.blocks)):
            self.blocks.add_module(str(number), vit.blocks[number])
        for name, module in vit.named_children():
            if name not in (*BEFORE_BLOCKS, "blocks"):
                self.add_module(name, module)
        self._vit = (vit,)  # as in Frozen

    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's patterns of which parameter is of which layer; they find the names here, as these are the model's."""
        return self._vit[0].group_matcher(coarse)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        vit, blocks = self._vit[0], list(self.blocks)
        read = _tokens_read(vit)
        last = blocks.pop() if read and blocks and type(blocks[-1]) is Block else None
        for block in blocks:
            tokens = block(tokens)
        if last is not None:
            tokens = tokens + last.drop_path1(last.ls1(last.attn(last.norm1(tokens))))
            tokens = tokens[:, :read]
            tokens = tokens + last.drop_path2(last.ls2(last.mlp(last.norm2(tokens))))
        return vit.forward_head(self.norm(tokens))


def _tokens_read(vit: VisionTransformer) -> int | None:
    """Return how many of the first tokens the head reads, or None where it reads all."""
    if type(vit) is VisionTransformerDistilled:
        return 2  # the class token and the distillation token
    return 1 if vit.global_pool == "token" and vit.attn_pool is None else None


def _stored(cache: Cache, compute: Compute, share: Share) -> Features:
    problem = None
    try:
        cache.fill(compute, share.rank, share.count)
    except UnstorableTokens as error:
        problem = str(error)
    if problems := list(filter(None, share.exchange(problem))):  # after this, all chunks are there
        raise UnstorableTokens(problems[0])
    arrays = cache.open()
    labels = arrays["labels"].rows(range(len(arrays["labels"])))
    return Features(arrays["inputs"], labels, torch.arange(len(labels)))


def _token_cache(folder: Path | None, key: dict, first: int, rows: int) -> Cache:
    return Cache(folder, "tokens", {**key, "enter_block": first}, rows, ("inputs", "labels"))


def _keeping(compute: Compute, block: nn.Module, tokens: Cache) -> Compute:
    """Return `compute`, which also stores what enters a block of the model that it runs."""

    def kept(spans: list[Span]) -> Iterator[dict[str, np.ndarray]]:
        entered: list[torch.Tensor] = []
        hook = block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].float().cpu()))
        try:
            for span, arrays in zip(spans, compute(spans), strict=True):
                if entered:
                    try:
                        tokens.keep(span, {"inputs": _halved(torch.cat(entered).numpy()), "labels": arrays["labels"]})
                    except UnstorableTokens:  # which `cached_tokens` says, when it is asked
                        hook.remove()
                entered.clear()
                yield arrays
        finally:
            hook.remove()

    return kept


def _through(
    module: nn.Module,
    forward: Callable,
    dataset: Dataset,
    device: torch.device,
    workers: int,
    title: str,
    progress: bool,
    convert: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    loading: Loading | None = None,
) -> Compute:
    """Return what runs images through a module by `forward`, chunk by chunk, as Cache.fill asks for it."""
    loading = loading or Loading()

    @torch.no_grad()
    def compute(spans: list[Span]) -> Iterator[dict[str, np.ndarray]]:
        begun = time.monotonic()
        module.eval().to(device)
        batches = [
            list(range(i, min(i + BATCH_SIZE, stop))) for start, stop in spans for i in range(start, stop, BATCH_SIZE)
        ]
        loader = load(dataset, batches, workers, loading)  # one for all: workers start slowly
        results = iter(
            tqdm(loader, title, len(batches), unit="batch", delay=2, leave=False, disable=None if progress else True)
        )
        for start, stop in spans:
            inputs, labels = [], []
            for images, batch_labels in islice(results, math.ceil((stop - start) / BATCH_SIZE)):
                with torch.autocast(device.type, enabled=False):  # runs that share a cache may differ in precision
                    inputs.append(forward(images.to(device)).float().cpu())
                labels.append(batch_labels)
            yield {"inputs": convert(torch.cat(inputs).numpy()), "labels": torch.cat(labels).numpy()}
        loading.seconds += time.monotonic() - begun

    return compute


def _halved(tokens: np.ndarray) -> np.ndarray:
    largest = np.abs(tokens).max()
    if LARGEST_HALF < largest < np.inf:  # what is not finite is refused as such
        raise UnstorableTokens(
            f"tokens reach {largest:.4g}, beyond the {LARGEST_HALF:.0f} of half precision, so they "
            f"cannot be cached; --no-cache runs the frozen blocks in every epoch"
        )
    return tokens.astype(np.float16)


def _differs_in_training(module: nn.Module) -> bool:
    rates = {_DropoutNd: "p", DropPath: "drop_prob", PatchDropout: "prob"}
    return isinstance(module, _BatchNorm) or any(
        isinstance(module, kind) and getattr(module, rate) > 0 for kind, rate in rates.items()
    )
