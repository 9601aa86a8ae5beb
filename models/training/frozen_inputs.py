"""The inputs of the part that trains: features and tokens of the images, computed once or read from a cache."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from common.console import warn
from common.devices import RunningOptions
from models.adapters import adapt
from models.methods import MethodSettings
from models.training.frozen_features import CacheEntry, Features, cached_features, cached_tokens, token_bytes
from models.training.images import TrainingImages
from models.training.loading import ImageDataset, LoaderStatistics, LoadingOptions
from models.training.model_halves import first_trained_block
from models.training.process_group import ProcessGroup
from models.training.recipe import Recipe
from models.types import TimmModel


@dataclass
class FrozenInputs:
    """Features and tokens of the images of a training.

    images: the images.
    cache: folder of the cache; None keeps features in memory.
    options: device and loader; its statistics are of what was computed.
    group: processes that share the computation.
    block: the block whose input tokens are stored along with the features, or None.
    """

    images: TrainingImages
    cache: Path | None
    options: LoadingOptions
    group: ProcessGroup
    block: int | None = None
    found: dict[tuple[str, int | None], Features] = field(default_factory=dict)

    def features(self, model: TimmModel, split: str, view: int | None = None) -> Features:
        """Return the pooled features of a split, or of one view of it; kept in memory once they were asked for."""
        if (split, view) not in self.found:
            dataset, entry = self._source(split, view)
            self.found[split, view] = cached_features(model, dataset, entry, self.options, self.group, self.block)
        return self.found[split, view]

    def tokens(self, model: TimmModel, block: int, split: str, view: int | None = None) -> Features:
        """Return the tokens that enter a block, of a split or of one view of it."""
        dataset, entry = self._source(split, view)
        return cached_tokens(model, block, dataset, entry, self.options, self.group)

    @property
    def training_views(self) -> list[int | None]:
        """The views of the training images, or [None] for the images as they are."""
        return list(range(self.images.views)) or [None]

    def take_statistics(self) -> LoaderStatistics:
        """Return what was loaded since the last call."""
        done = self.options.statistics
        self.options = LoadingOptions(self.options.device, self.options.workers, self.options.progress)
        return done

    def _source(self, split: str, view: int | None) -> tuple[ImageDataset, CacheEntry]:
        if view is None:
            dataset, name = self.images.unaugmented(split), split
        else:
            dataset, name = self.images.view(view), f"{split}, view {view}"
        return dataset, CacheEntry(self.cache, self.images.key(split, view), name)


def block_to_cache(
    model: TimmModel, settings: MethodSettings, recipe: Recipe, images: TrainingImages, running: RunningOptions
) -> int | None:
    """Return the first block that trains where its input tokens are cached, or None; print how much space they take.

    model: before it is adapted; it stays as it is.
    settings, recipe: how it will be trained.
    images: the images to train on.
    running: the cache and its limit.
    """
    if running.cache is None:
        return None
    frozen = 0 if settings.kind.whole else min(settings.blocks or (0,))  # blocks before the first that trains
    first = first_trained_block(adapt(copy.deepcopy(model), settings)) if frozen else None
    mixed = bool(recipe.mixup or recipe.cutmix)
    if first is None or mixed:
        if frozen:
            why = (
                "mixup and cutmix change the images in every step"
                if mixed
                else ("with --drop-path, or in this model, their output differs in training")
            )
            warn(f"blocks before {frozen} are frozen, but run in every step: {why}")
        return None
    count = len(images.unaugmented("val")) + len(images.labels) * (1 + images.views)
    size = token_bytes(model, count) / 2**30
    if size > running.cache_limit:
        warn(
            f"the tokens before block {first} would take {size:.1f} GiB, more than --cache-limit "
            f"{running.cache_limit:g}: the blocks before it are run in every epoch"
        )
        return None
    how = "run once" if images.repeats else "run once for unaugmented images, and in every epoch for augmented ones"
    print(f"blocks before {first} are frozen and {how}: up to {size:.2f} GiB in {running.cache}")
    return first
