"""From what was measured to numbers about one data set: claims, and methods compared measure by measure."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.tables import ABSENT, estimate, number, percent
from data.datasets import ImageData
from evaluation.comparison import REGIONS
from evaluation.measurements import CELLS, DISTRACTOR, RANDOM, RUNNER_UP, TRUE
from evaluation.observations import Results
from evaluation.statistics.claims import Claim, Evidence, claims
from evaluation.statistics.depth import DepthRun
from evaluation.statistics.paired import holm, single
from evaluation.statistics.verdicts import Judgement, Measured, judge, measure, measure_accuracy
from models.adapters import Settings
from models.runs import Run
from report.figures.confused_classes import Confusion
from report.figures.perturbation_curves import RunCurves

# Ways to measure likeness beside the Spearman correlation with random classes, as claims (b') and on.
OTHERWISE = {
    "Spearman, head centred": ("spearman_centred", RANDOM),
    "Spearman, runner-up class": ("spearman", RUNNER_UP),
    "SSIM": ("ssim", RANDOM),
}


@dataclass(frozen=True)
class Metric:
    """A measure that methods are compared by: where it stands in results.csv, and what a reader needs to know of it.

    points: values are fractions of images, told in percent and their differences in points.
    """

    title: str
    metric: str
    target: str = TRUE
    split: str = "val"
    removal: str = ""
    place: str = ""
    points: bool = False


CLASS_DEPENDENCE = (
    Metric("likeness to random classes' maps (Spearman)", "spearman", RANDOM),
    Metric("likeness to random classes' maps, head centred (Spearman)", "spearman_centred", RANDOM),
    Metric("likeness to the runner-up class's map (Spearman)", "spearman", RUNNER_UP),
    Metric("likeness to the runner-up class's map, head centred (Spearman)", "spearman_centred", RUNNER_UP),
    Metric("likeness to random classes' maps (SSIM)", "ssim", RANDOM),
    Metric("likeness to random classes' maps (cosine)", "cosine", RANDOM),
    Metric("likeness to the runner-up class's map (SSIM)", "ssim", RUNNER_UP),
    Metric("likeness to the runner-up class's map (cosine)", "cosine", RUNNER_UP),
)
ROUGHNESS = Metric("total variation, random classes (higher: rougher)", "total_variation", RANDOM)
SCATTER = (
    Metric("normalised entropy, random classes", "entropy", RANDOM),
    Metric("normalised entropy, true class", "entropy"),
    Metric("Gini index, random classes (higher: more concentrated)", "gini", RANDOM),
    ROUGHNESS,
    Metric("mass outside the top 20 % of patches, random classes", "mass_outside_top", RANDOM),
)
MOSAICS = (Metric(f"share of relevance in the class's own cell of a mosaic (chance {1 / CELLS**2:g})", "mosaic_share"),)
PERTURBED = {
    "srg": "SRG (higher: more faithful)",
    "morf": "MoRF (lower: more faithful)",
    "lerf": "LeRF (higher: more faithful)",
    "insertion": "insertion (higher: more faithful)",
    "deletion": "deletion (lower: more faithful)",
}
ABOVE = "_above_random"
LEANING = {
    "evidence": (
        ("ratio", "relevance on the evidence, over its share of the area (1: no preference)"),
        ("rank_accuracy", "rank accuracy on the evidence (higher: better)"),
        ("pointing", "pointing game on the evidence (higher: better)"),
        ("outside", "relevance outside the evidence"),
    ),
    "surface": (("ratio", "relevance on the surface, over its share of the area (1: no preference)"),),
}


def faithfulness(removal: str) -> tuple[Metric, ...]:
    """Metrics of removing patches, each also less the same model's own random baseline."""
    return tuple(
        Metric(title + (" less the model's own random baseline" if end else ""), name + end, removal=removal)
        for name, title in PERTURBED.items()
        for end in (ABOVE, "")
    )


def leaning(split: str) -> tuple[Metric, ...]:
    """Metrics of where relevance lies, on splits whose images have masks."""
    return tuple(
        Metric(f"{title}, {split}", metric, split=split, place=region)
        for region, found in LEANING.items()
        for metric, title in found
    )


@dataclass
class Study:
    """All that was found about one data set.

    methods: labels, in the order asked for; kinds: what they are. runs: (label, seed) -> run. results: every
    observation. relevances: the methods of explanation, the first being that of claims and pictures. removals: what
    took the place of removed patches, the first being that of claims and pictures. depth: (label, seed) -> the run
    before fine-tuning and this one. runners_up: (label, seed) -> image of `val` -> its class and the runner-up's
    number. asked: the kinds of measurements asked for. drawn: figures that are there, as both reports show some.
    """

    out: Path
    data: ImageData
    methods: list[str]
    kinds: list[Settings]
    seeds: list[int]
    relevances: list[str]
    removals: list[str]
    runs: dict[tuple[str, int], Run]
    results: Results
    depth: dict[tuple[str, int], tuple[DepthRun, DepthRun]] = field(default_factory=dict)
    runners_up: dict[tuple[str, int], dict[str, tuple[int, int]]] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    drawn: set[Path] = field(default_factory=set)

    @property
    def name(self) -> str:
        return Path(self.data.name).name

    @property
    def splits(self) -> list[str]:
        return self.results.known("split")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two methods; a linear probe stands first, as in the earlier study."""
        kinds = dict(zip(self.methods, self.kinds))
        return [(b, a) if judged(kinds[b], kinds[a]) else (a, b) for a, b in combinations(self.methods, 2)]

    def values(self, method: str, metric: Metric, relevance: str) -> np.ndarray | None:
        """Values (S, N) of one method, or None where this was not measured."""
        found = self.both(method, method, metric, relevance)
        return None if found is None else found[0]

    def both(self, first: str, second: str, metric: Metric, relevance: str) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            found = self.results.pairs(
                first,
                second,
                metric.metric,
                split=metric.split,
                target=metric.target,
                relevance=relevance,
                removal=metric.removal,
                place=metric.place,
            )
        except UsageError:  # not asked for, or not defined here
            return None
        return found.first, found.second

    def predictions(self, method: str, seed: int, split: str) -> list[dict]:
        rows = read_csv(self.runs[method, seed].folder / "predictions.csv")
        return [row for row in rows if row["split"] == split]

    def correct(self, method: str, split: str) -> np.ndarray:
        """Which images of a split are predicted rightly, (S, N)."""
        return np.array([[row["correct"] == 1 for row in self.predictions(method, seed, split)] for seed in self.seeds])


# ---- claims


def evidence_of(study: Study, method: str) -> list[Evidence]:
    """One Evidence a seed, from predictions and measurements."""
    main = study.relevances[0]
    found = []
    for place, seed in enumerate(study.seeds):

        def explained(metric: str, target: str) -> np.ndarray | None:
            values = study.values(method, Metric("", metric, target), main)
            return None if values is None else values[place]

        def predicted(split: str, name: str) -> np.ndarray:
            return np.array([row[name] for row in study.predictions(method, seed, split)])

        noise = explained("noise", TRUE)
        otherwise = {name: explained(*which) for name, which in OTHERWISE.items()}
        found.append(
            Evidence(
                method,
                predicted("val", "probability"),
                predicted("val", "correct") == 1,
                predicted("train", "correct") == 1,
                explained("spearman", RANDOM),
                explained("cosine", RANDOM),
                explained("entropy", RANDOM),
                float("nan") if noise is None else float(np.nanmedian(noise)),
                seed,
                {name: values for name, values in otherwise.items() if values is not None},
            )
        )
    return found


def judged(first: Settings, second: Settings) -> bool:
    """Tell whether the earlier study's claims are about these two: a linear probe and DoRA."""
    return (first.method, second.method) == ("linear", "dora")


def claims_of(study: Study) -> dict[tuple[str, str], list[Claim]]:
    """Every pair of methods -> its claims; their p-values are corrected together."""
    evidence = {method: evidence_of(study, method) for method in study.methods}
    kinds = dict(zip(study.methods, study.kinds))
    found = claims([(evidence[a], evidence[b], judged(kinds[a], kinds[b])) for a, b in study.pairs])
    return dict(zip(study.pairs, found))


def read_csv(path: Path) -> list[dict]:
    """Read a CSV file of ours: numbers as floats, empty fields as NaN."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str):
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


# ---- methods compared, measure by measure


@dataclass(frozen=True)
class Difference:
    """Two methods compared by one metric, first less second: each image's difference, averaged over seeds, (N,)."""

    metric: Metric
    pair: tuple[str, str]
    measured: Measured
    each: np.ndarray
    corrected_p: float
    judgement: Judgement

    @property
    def says(self) -> str:
        """What interval, seeds and corrected p-value leave: which method's figure is higher, or why that is open."""
        if self.judgement.word == "undecided":
            least = number(self.scale * self.measured.smallest_detectable, 1 if self.metric.points else 3)
            least += self._unit if least != ABSENT else ""
            return (
                "undecided (" + "; ".join(filter(None, (self.judgement.reason, f"smallest detectable {least}"))) + ")"
            )
        return f"{self.pair[0 if self.judgement.word == 'supported' else 1]} higher"

    @property
    def decided(self) -> bool:
        return self.judgement.word != "undecided"

    @property
    def scale(self) -> int:
        return 100 if self.metric.points else 1

    @property
    def estimate(self) -> str:
        m = self.measured
        return estimate(*(self.scale * value for value in (m.difference, m.low, m.high))) + self._unit

    @property
    def means(self) -> tuple[str, str]:
        """Both methods' means, over images and seeds."""
        show = percent if self.metric.points else number
        return show(self.measured.mean_a), show(self.measured.mean_b)

    @property
    def _unit(self) -> str:
        return " points" if self.metric.points else ""


def compared(
    study: Study,
    metrics: Sequence[Metric],
    relevance: str,
    splits: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Difference]:
    """Compare pairs of methods (default: all) by metrics, and by accuracy on some splits; one family of p-values."""
    found, pairs = [], study.pairs if pairs is None else pairs
    for split in splits:
        metric = Metric(f"accuracy on {split}", "correct", split=split, points=True)
        for pair in pairs:
            a, b = (study.correct(method, split) for method in pair)
            found.append((metric, pair, measure_accuracy(a, b), (a * 1.0 - b).mean(0)))
    for metric in metrics:
        for pair in pairs:
            values = study.both(*pair, metric, relevance)
            if values is not None and np.isfinite(values[0] - values[1]).any():
                found.append((metric, pair, measure(*values), (values[0] - values[1]).mean(0)))
    corrected = holm([m.p_value for _, _, m, _ in found]) if found else []
    return [
        Difference(metric, pair, m, each, p, judge(m, 1, p)) for (metric, pair, m, each), p in zip(found, corrected)
    ]


def rows_of(found: Sequence[Difference]) -> list[dict]:
    """Rows of a table of differences."""
    return [
        {
            "": one.metric.title,
            "first": one.pair[0],
            "its mean": one.means[0],
            "second": one.pair[1],
            "mean": one.means[1],
            "difference [95 %, images]": one.estimate,
            "seed by seed; mean [95 %, seeds]": _seeds(one),
            "images": one.measured.n,
            "says": one.says,
        }
        for one in found
    ]


def _seeds(one: Difference) -> str:
    s, digits = one.measured.seeds, 1 if one.metric.points else 3
    each = ", ".join(number(one.scale * d, digits, signed=True) for d in s.differences)
    return each if len(s.differences) == 1 else f"{each}; {estimate(*(one.scale * v for v in (s.mean, s.low, s.high)))}"


# ---- what figures and tables need


def curves_of(study: Study, relevance: str, removal: str) -> tuple[np.ndarray, list[RunCurves]]:
    """Shares removed (T,), and each method's curves with its random baseline."""
    places = sorted(study.results.known("place", "morf_curve"), key=float)

    def stacked(method: str, order: str, of: str) -> np.ndarray:
        found = [
            study.values(method, Metric("", f"{order}_curve", removal=removal, place=place), of) for place in places
        ]
        return np.stack(found, axis=-1)

    return np.array([float(place) for place in places]), [
        RunCurves(
            method,
            stacked(method, "morf", relevance),
            stacked(method, "lerf", relevance),
            (stacked(method, "morf", "random") + stacked(method, "lerf", "random")) / 2,
        )
        for method in study.methods
    ]


def region_rows(study: Study, relevance: str, split: str) -> list[dict]:
    """Where the true class's relevance lies on a split with masks, method by method."""
    rows = []
    for region in REGIONS:
        for method in study.methods:
            values = study.values(method, Metric("", "ratio", split=split, place=region), relevance)
            if values is not None:
                rows.append(_region(split, region, method, values))
    for method in study.methods:
        own = study.values(method, Metric("", "share", DISTRACTOR, split, place="distractor"), relevance)
        other = study.values(method, Metric("", "share", TRUE, split, place="distractor"), relevance)
        if own is not None and other is not None and own.shape == other.shape:
            rows.append(
                _region(split, "unused equipment: its own class's share less the true class's", method, own - other)
            )
    return rows


def _region(split: str, region: str, method: str, values: np.ndarray) -> dict:
    return {
        "split": split,
        "region": region,
        "method": method,
        "ratio [95 %]": mean_of(values, 2),
        "seed by seed": ", ".join(
            number(float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else None, 2) for v in values
        ),
        "images": values.shape[1],
    }


def mean_of(values: np.ndarray, digits: int = 3) -> str:
    """Mean over seeds and images of (S, N), with its interval over images."""
    found = single(values.mean(0))
    return f"{number(found.mean, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def confused_pairs(study: Study) -> list[Confusion]:
    """Pairs of classes that some run takes for one another: likeness of the two classes' maps, method by method, on the
    images where every run has this other class as its runner-up, so that all are asked about the same two classes."""
    main, classes = study.relevances[0], study.data.class_names
    values = {method: study.values(method, Metric("", "spearman", RUNNER_UP), main) for method in study.methods}
    if any(found is None for found in values.values()):
        return []
    shared = _shared_runner_up(study)
    order = {name: i for i, name in enumerate(study.runners_up[study.methods[0], study.seeds[0]])}
    confused: dict[tuple[str, str], int] = {}
    for method, seed in study.runs:
        for row in study.predictions(method, seed, "val"):
            if row["correct"] != 1 and row["image"] in order:
                key = row["label"], row["predicted"]
                confused[key] = confused.get(key, 0) + 1
    pairs = []
    for (true, other), times in confused.items():
        images = [order[name] for name, (a, b) in shared.items() if (classes[a], classes[b]) == (true, other)]
        spread = {method: single(found[:, images].mean(0)) for method, found in values.items()}
        pairs.append(
            Confusion(true, other, len(images), times, {m: (s.mean, s.low, s.high) for m, s in spread.items()})
        )
    return pairs


def _shared_runner_up(study: Study) -> dict[str, tuple[int, int]]:
    """Image -> (true class, runner-up), where every method and seed has the same runner-up."""
    first, *found = study.runners_up.values()
    return {name: row for name, row in first.items() if all(one.get(name) == row for one in found)}
