"""Attention, features and relevance by depth of a run before and after fine-tuning.

Letters: N images, L layers, h heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common import processes
from evaluation.images import Images
from evaluation.maps import explain_batch
from evaluation.metrics.depth import measure_depth
from evaluation.observations import Observation
from evaluation.options import TRUE
from evaluation.statistics.depth import DepthRun
from evaluation.subjects import Subject
from explain.registry import METHODS, RelevanceOptions

DEPTH_VERSION = 1  # increased when the code measures something else
BATCH_SIZE = 16  # images at once: all blocks of two models are in memory


def compare_depth(before: Subject, after: Subject, method: RelevanceOptions | None) -> dict[str, Any]:
    """Measure attention and features by depth of two models on the same images, and relevance by a method, if given.

    Returns arrays by name; those of `before` start with 0_, those of `after` with 1_.
    """
    images = after.images(after.options.metric_images, after.options.batch_size or BATCH_SIZE)
    batches = (x.to(after.device) for x in images.read(images.batches))
    depths = measure_depth([before.model, after.model], after.progress("depth", batches, len(images.batches)))
    found: dict[str, Any] = {f"{i}_{key}": value for i, one in enumerate(depths) for key, value in one.measures.items()}
    found |= {
        f"{i}_uniform_{key}": np.float64(value) for i, one in enumerate(depths) for key, value in one.uniform.items()
    }
    found |= {"divergence": depths[1].divergence, "cka": depths[1].cka}
    if method is not None:
        for i, subject in enumerate((before, after)):
            found[f"{i}_relevance"] = relevance_shares(subject, images, images.labels[:, None], method)[:, 0]
    return found


def relevance_shares(subject: Subject, images: Images, classes: np.ndarray, method: RelevanceOptions) -> np.ndarray:
    """Return each block's and head's share of the relevance of all heads, (N, K, L, h) float64.

    classes: (N, K), the targets of each image.
    """

    def work(batches: Sequence[range]) -> Iterator[np.ndarray]:
        for rows, x in zip(batches, images.read(batches)):
            _, layers = explain_batch(subject, x, classes[rows.start : rows.stop], method, layers=True)
            yield layer_shares(layers).numpy()

    found = processes.distribute(images.batches, work)
    return np.concatenate(list(subject.progress(f"{method.method} by depth", found, len(images.batches))))


def layer_shares(layers: torch.Tensor) -> torch.Tensor:
    """Return each block's and head's share of the relevance of all heads, (B, K, L, h) float64 on the CPU.

    A share is the sum of magnitudes over patches, divided by that of all blocks and heads: relevance for and against
    the target counts alike. NaN where no head has any.

    layers: the relevance of each head of each block, (B, K, L, h, grid_h, grid_w), as `explain.relevance` returns it.
    """
    sums = layers.abs().sum((-2, -1)).cpu().double()
    return sums / sums.sum((-2, -1), keepdim=True)


def heads_add_up(method: str) -> bool:
    """Tell whether the relevance of all heads of all blocks adds up to the method's map.

    It does where a map is the sum of what heads add block by block; these maps are unsigned. Signed maps are input
    times gradient: a head's relevance is what it carries away from each patch, and skip connections and MLPs carry the
    rest.
    """
    return not METHODS[method].signed


def layer_names(model: torch.nn.Module, count: int) -> list[str]:
    """Return the names of the last `count` layers: blocks as timm counts them, then attention pooling."""
    names = [str(i) for i in range(len(model.blocks))]  # type: ignore[arg-type]
    return (names + (["pool"] if model.attn_pool is not None else []))[-count:]


def depth_run_of(subject: Subject, place: int, found: Mapping[str, np.ndarray]) -> DepthRun:
    """Return what `compare_depth` measured of one of its two subjects.

    place: 0 before, 1 after. found: the arrays by name.
    """
    own = {key.removeprefix(f"{place}_"): found[key] for key in found if key.startswith(f"{place}_")}
    measures = {key: value for key, value in own.items() if not key.startswith("uniform_")}
    uniform = {key.removeprefix("uniform_"): float(value) for key, value in own.items() if key.startswith("uniform_")}
    names = tuple(layer_names(subject.model, next(iter(measures.values())).shape[1]))
    beside = (found["divergence"], found["cka"]) if place else (None, None)
    return DepthRun(subject.label, names, measures, uniform, *beside)


def depth_rows(subject: Subject, run: DepthRun) -> Iterator[Observation]:
    """Yield a run's depth profile as observations: per block, mean over heads; CKA is one value of all images."""
    names = subject.images(subject.options.metric_images).names
    profiles = {f"depth_{name}": run.by_block(name) for name in run.measures}
    if run.divergence is not None:
        profiles["depth_divergence"] = run.divergence.mean(-1)
    for metric, values in profiles.items():
        target = TRUE if metric == "depth_relevance" else ""
        for image, row in zip(names, values):
            for block, value in zip(run.blocks, row):
                yield subject.observe(image, "", target, metric, value, place=block)
    for block, value in zip(("input", *run.blocks), () if run.cka is None else run.cka):
        yield subject.observe("", "", "", "depth_cka", value, place=block)
