"""The earlier study's claims, from the results of a study."""

import numpy as np

from evaluation.options import RANDOM, RUNNER_UP, TRUE
from evaluation.quantities import Quantity
from evaluation.statistics.claims import Claim, Evidence, MapEvidence, claims
from evaluation.study_results import StudyResults, judged

# Ways to measure likeness beside the Spearman correlation with random classes, as claims (b') and on.
OTHERWISE = {
    "Spearman, head centred": ("spearman_centred", RANDOM),
    "Spearman, runner-up class": ("spearman", RUNNER_UP),
    "SSIM": ("ssim", RANDOM),
}
NAMES = {"val": "validation"}  # what the images of a split are called, where it is not the split's name


def evidence_of(study: StudyResults, method: str) -> list[Evidence]:
    """Return one Evidence per training seed, from predictions and measurements."""
    return [_evidence(study, method, place, seed) for place, seed in enumerate(study.seeds)]


def _evidence(study: StudyResults, method: str, place: int, seed: int) -> Evidence:
    def predicted(split: str, name: str) -> np.ndarray:
        return np.array([row[name] for row in study.predictions(method, seed, split)])

    return Evidence(
        method,
        predicted(study.split, "probability"),
        predicted(study.split, "correct") == 1,
        predicted("train", "correct") == 1,
        {relevance: _map_evidence(study, method, place, relevance) for relevance in study.relevances},
        seed,
    )


def _map_evidence(study: StudyResults, method: str, place: int, relevance: str) -> MapEvidence:
    def explained(metric: str, target: str) -> np.ndarray | None:
        values = study.values(method, Quantity(metric, target), relevance)
        return None if values is None else values[place]

    noise = explained("noise", TRUE)
    variants = {name: explained(*which) for name, which in OTHERWISE.items()}
    return MapEvidence(
        _always(explained("spearman", RANDOM)),
        _always(explained("cosine", RANDOM)),
        _always(explained("entropy", RANDOM)),
        float("nan") if noise is None else float(np.nanmedian(noise)),
        {name: values for name, values in variants.items() if values is not None},
    )


def _always(values: np.ndarray | None) -> np.ndarray:
    assert values is not None  # maps are always measured
    return values


def claims_of(study: StudyResults) -> dict[tuple[str, str], list[Claim]]:
    """Every pair of methods -> its claims; their p-values are corrected together."""
    evidence = {method: evidence_of(study, method) for method in study.methods}
    kinds = dict(zip(study.methods, study.settings))
    pairs = [(evidence[a], evidence[b], judged(kinds[a], kinds[b])) for a, b in study.pairs]
    return dict(zip(study.pairs, claims(pairs, NAMES.get(study.split, study.split))))
