"""How many images and targets go through a model together, and what to do where memory is full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from common.errors import out_of_memory
from explain.trace import Network

Result = TypeVar("Result")

# Elements of the largest tensor (attention or hidden layer, of all images and targets that go through together) that
# stay in a CPU's cache. More images at once are slower, as each operation waits for memory.
CACHE_ELEMENTS = 400_000
# More targets of one image than the cache holds are worth it, as what depends on the image alone is computed once for
# all of them. Of 100 targets of one image (DeiT-Tiny at 224 pixels, one thread, CPU time per map), with 2, 5 to 50 and
# all 100 of them at once: lrp_depth 67, 47 to 51 and 57 ms; lrp_magnitude 131, 110 to 121 and 130 ms; attnlrp_epsilon
# 42, 37 to 45 and 50 ms. So targets of this many elements, and at least MIN_TARGETS of them, go through together.
TARGET_ELEMENTS = 4_000_000
MIN_TARGETS = 16


def images_at_once(network: Network, images: Tensor, targets: int) -> int:
    """Return how many images go through together: all on an accelerator, as many as the cache holds on a CPU.

    images: (B, 3, H, W).
    targets: targets per image that go through together.
    """
    if images.device.type != "cpu":
        return len(images)
    return max(1, CACHE_ELEMENTS // (_largest_tensor(network, images) * targets))


def targets_at_once(network: Network, images: Tensor, targets: int) -> int:
    """Return how many of `targets` per image go through together: all on an accelerator, some on a CPU.

    The parts are as even as possible: 100 targets where 26 fit go through as four times 25.
    images: (B, 3, H, W).
    """
    if images.device.type != "cpu":
        return targets
    most = max(MIN_TARGETS, TARGET_ELEMENTS // _largest_tensor(network, images))
    parts = -(-targets // most)
    return -(-targets // parts)


def _largest_tensor(network: Network, images: Tensor) -> int:
    """Elements of one image's largest tensor: attention or the hidden layer."""
    grid_h, grid_w = network.grid(images)
    tokens = grid_h * grid_w + network.model.num_prefix_tokens
    block = network.model.blocks[0]
    return tokens * max(block.attn.num_heads * tokens, block.mlp.fc1.out_features)


@dataclass
class Chunks:
    """A range of images or targets that goes through chunk by chunk, in smaller chunks once memory was full.

    count: of the range.
    size: of a chunk; halved, also for later calls of `map`, where a chunk does not fit.
    """

    count: int
    size: int

    def map(self, compute: Callable[[slice], Result], may_halve: bool = True) -> list[Result]:
        """Return what `compute` returns for each chunk, a slice of the range.

        A chunk that does not fit into memory is tried again by halves, down to single items; results of the chunks
        before it are kept. Raises what `compute` does, an error of memory where one item does not fit, or where a
        chunk does not and `may_halve` is false.
        """
        results: list[Result] = []
        start = 0
        while start < self.count:
            tried = min(self.size, self.count - start)
            try:
                results.append(compute(slice(start, start + tried)))
                start += tried
                continue
            except (RuntimeError, MemoryError) as error:
                if tried == 1 or not may_halve or not out_of_memory(error):
                    raise
            self.size = -(-tried // 2)  # out of the except clause: the error's frames hold what filled the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results
