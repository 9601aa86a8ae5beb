"""The table of metrics: every metric that the code observes is in it, and it needs no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import measurements
from evaluation.metrics.depth import MEASURES as ATTENTION
from evaluation.metrics.faithfulness import Curves
from evaluation.metrics.registry import ABOVE_RANDOM, FAMILIES, METRICS, info_of
from evaluation.statistics.depth import MEASURES as DEPTH


def test_every_observed_metric_is_in_the_table():
    """Beside this, `write_results` refuses every other name."""
    perturbation = [name for name in ("srg", "morf", "lerf", "insertion", "deletion")]
    observed = {
        *measurements.SIMILARITY,
        *(f"{name}_centred" for name in measurements.SIMILARITY),
        *measurements.COMPLEXITY,
        *("share", "area", "ratio", "rank_accuracy", "pointing", "outside", "mosaic_share", "noise"),
        *perturbation,
        *(name + ABOVE_RANDOM for name in perturbation),
        *("morf_curve", "lerf_curve", "cascade", "emprt", "probability", "correct"),
        *("effect", "effect_log_p", "relevance_on", "relevance_share"),
        *(f"depth_{name}" for name in (*ATTENTION, *DEPTH, "divergence", "cka")),
    }
    assert observed == set(METRICS)
    for name in perturbation:
        assert any(hasattr(Curves, end) for end in (name, f"{name}_mean"))


def test_rows_are_complete():
    assert {info.family for info in METRICS.values()} == set(FAMILIES)
    for name, info in METRICS.items():
        assert info.name == name and info.title and info.direction in ("higher", "lower", None)
        for word in ("higher", "lower", "chance", "("):
            assert word not in info.title, "direction and chance are fields"
    assert len({info.title for info in METRICS.values()}) == len(METRICS), "titles tell metrics apart"


def test_direction_and_chance_in_words():
    assert info_of("mosaic_share").note == "higher is better; chance 0.25"
    assert info_of("gini").note == "higher is more concentrated; chance: 1/3 for uniform random maps"
    assert info_of("area").note == ""


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="metric 'sgr' is not known; expected one of spearman, "):
        info_of("sgr")


def test_the_table_needs_no_torch():
    code = "import sys; import evaluation.metrics.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
