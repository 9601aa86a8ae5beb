"""The peak memory of explanations by method, number of images and number of targets. Part of explain.py."""

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from inputs import load_model
from torch import Tensor, nn

from common.tables import markdown_table, number
from explain import COMPARISON_METHOD, METHODS
from explain.storage import save_relevance

MODEL, BATCH, MORE_IMAGES, TARGETS = "vit_base_patch16_224", 8, 32, (1, 2, 10)
MEASURED = tuple(METHODS)


def memory(name: str, seed: int, device: torch.device) -> str:
    """Return a Markdown table of the peak memory of each method, and of one method for more images than a batch.

    Each peak is measured in a process of its own, because a process's peak never falls.

    name: timm name of the model.
    seed: of random weights and images.
    device: where to compute.
    """
    rows: list[dict] = []
    for method, images in [*((method, BATCH) for method in MEASURED), (COMPARISON_METHOD, MORE_IMAGES)]:
        rows.append({"": method, "images": images})
        for targets in TARGETS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                peak = process.submit(peak_memory, name, method, images, targets, seed, str(device)).result()
            rows[-1][f"K = {targets}"] = number(peak, 2)
            print(f"{name}, {method}, {images} images in batches of {BATCH}, K = {targets}: {peak:.2f} GiB", flush=True)
    return markdown_table(rows, align="l" + "r" * (1 + len(TARGETS)))


def peak_memory(name: str, method: str, images: int, targets: int, seed: int, device: str = "cpu") -> float:
    """Explain images in batches, with maps written to a file; return the peak memory in GiB.

    On a CPU it is the peak of this whole process, weights and libraries included; on a GPU, of the memory of tensors.

    name: timm name of the model.
    method: relevance method.
    images: number of random images.
    targets: targets per image.
    seed: of random weights and images.
    device: where to compute.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = load_model(name, None).to(device)
    with tempfile.TemporaryDirectory() as folder:
        save_relevance(Path(folder, "maps.npy"), model, batches(model, images, targets), images, method)
    return (device_peak(torch.device(device)) or process_peak()) / 2**30


def batches(model: nn.Module, images: int, targets: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of random images (B, 3, H, W) and targets (B, K), created on demand."""
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        yield torch.randn(count, 3, *model.patch_embed.img_size), torch.randint(0, model.num_classes, (count, targets))


def process_peak() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage of a child starts at the peak of its parent
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def device_peak(device: torch.device) -> int | None:
    """Return the peak of a GPU's memory for tensors since the last reset, in bytes; None for other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
