"""How many images go through a model together."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from common.errors import out_of_memory
from explain.trace import Network

Result = TypeVar("Result")

# Elements of the largest tensor (attention or hidden layer, times targets) that stays in a CPU's
# cache; a pass over more images at once is slower, as it waits for memory.
CACHE_ELEMENTS = 400_000


def images_at_once(network: Network, images: Tensor, targets: int) -> int:
    """Return how many images go through together: all on an accelerator, what fits the cache on a CPU."""
    if images.device.type != "cpu":
        return len(images)
    grid_h, grid_w = network.grid(images)
    tokens = grid_h * grid_w + network.model.num_prefix_tokens
    block = network.model.blocks[0]
    widest = max(block.attn.num_heads * tokens, block.mlp.fc1.out_features)
    return max(1, CACHE_ELEMENTS // (tokens * widest * targets))


def in_parts(compute: Callable[[slice], Result], count: int, step: int) -> list[Result]:
    """Return what `compute` gives for `count` images, `step` at a time, or fewer where a device's memory is full.

    What does not fit is tried again by halves, down to single images; what was computed before is kept. Raises what
    `compute` does, the last error of memory included.
    """
    results, start = [], 0
    while start < count:
        try:
            results.append(compute(slice(start, start + step)))
            start += step
            continue
        except (RuntimeError, MemoryError) as error:
            tried = min(step, count - start)
            if tried == 1 or not out_of_memory(error):
                raise
        step = -(-tried // 2)  # out of the except clause, where the error's frames still hold what filled the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results
