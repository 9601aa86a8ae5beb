"""Depth runs whose differences are known: of a linear probe, and of a fine-tuned one before anything is moved."""

from dataclasses import replace

import numpy as np

from evaluation.statistics.depth import DepthRun

IMAGES, LAYERS, HEADS = 24, 4, 3
UNIFORM = {"entropy": 1.0, "distance": 6.0, "on_patches": 0.9, "on_prefix": 0.05, "on_itself": 0.05}


def run(label="linear", seed=0, images=IMAGES, layers=LAYERS, heads=HEADS, registers=False, pool=False) -> DepthRun:
    """A run whose measures differ between images, blocks and heads, and by 0.001 between seeds."""
    shape = images, layers, heads
    base = np.random.default_rng(99).uniform(0.3, 0.6, shape) + np.random.default_rng(seed).normal(0, 0.001, shape)
    measures = {"entropy": base, "distance": 6 * base, "on_itself": 0.1 * base}
    measures["relevance"] = base / base.sum((1, 2), keepdims=True)
    measures["on_prefix"] = 0.2 * base if registers else np.zeros(shape)
    measures["on_patches"] = 1 - measures["on_itself"] - measures["on_prefix"]
    names = tuple(map(str, range(layers)))
    if pool:
        names = (*names[:-1], "pool")
        measures["distance"][:, -1] = np.nan
    return DepthRun(label, names, measures, UNIFORM)


def tuned(label="lora", seed=1, **more) -> DepthRun:
    run_of = run(label, seed, **more)
    random, shape = np.random.default_rng(seed), run_of.measures["entropy"].shape
    return replace(run_of, divergence=random.uniform(0, 0.1, shape), cka=np.linspace(1, 0.8, shape[1] + 1))


def moved(one: DepthRun, measure: str, layer: int, by: float, head: int | slice = slice(None)) -> DepthRun:
    values = one.measures[measure].copy()
    values[:, layer, head] += by
    return replace(one, measures={**one.measures, measure: values})


def verdicts(changes) -> dict:
    return {(one.measure, one.block, one.head): one.verdict for one in changes}
