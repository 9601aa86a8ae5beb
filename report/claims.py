"""What an earlier study saw in a few pictures, measured: claims with figures, intervals and verdicts, as Markdown."""

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

from report.statistics import RULE, Paired, mcnemar, overfitting, paired, single, verdict
from report.tables import estimate, interval, markdown_table, number, percent

FEWEST_IMAGES = 20
NO_VERDICT = "undecided (too few images)"


@dataclass(frozen=True)
class Evidence:
    """What one run contributes, paired by image with other runs.

    val_probability, val_correct: all validation images; train_correct: the images it was trained on; likeness
    (Spearman), likeness_cosine, entropy_other: the explained images; map_noise: median relative change of its maps.
    """

    label: str
    val_probability: np.ndarray
    val_correct: np.ndarray
    train_correct: np.ndarray
    likeness: np.ndarray
    likeness_cosine: np.ndarray
    entropy_other: np.ndarray
    map_noise: float


@dataclass(frozen=True)
class Claim:
    """One statement about two runs: figures, difference first minus second with its 95 % interval, verdict."""

    letter: str
    text: str
    first: str
    second: str
    difference: str
    test: str
    verdict: str


def claims(first: Evidence, second: Evidence, judged: bool = True) -> list[Claim]:
    """Measure claims (a) to (e) for two runs.

    Where `judged` is False the runs are not the kinds of the earlier study (linear probe first, DoRA second), and
    figures stand without verdicts.
    """
    a, b = first.label, second.label
    return [
        _paired_claim("a", f"{a} gives the true class a higher probability", first, second, "val_probability", 1, judged),
        _paired_claim("b", f"{b}'s maps of the true and the other class are more alike (Spearman)", first, second,
                      "likeness", -1, judged),
        _paired_claim("c", f"{a}'s map of the other class is more scattered (normalised entropy)", first, second,
                      "entropy_other", 1, judged),
        _accuracy_claim(first, second, judged),
        _overfitting_claim(first, second, judged),
    ]


def _paired_claim(letter, text, first: Evidence, second: Evidence, name: str, sign: int, judged: bool) -> Claim:
    p: Paired = paired(getattr(first, name), getattr(second, name))
    test = f"Wilcoxon {_p(p.p_value)}, effect {number(p.effect, 2, signed=True)}, n = {p.n}"
    return Claim(letter, text, number(p.mean_a), number(p.mean_b), estimate(p.difference, p.low, p.high), test,
                 _judge(p.n, p.difference, p.low, p.high, sign, judged, p.smallest_detectable))


def _accuracy_claim(first: Evidence, second: Evidence, judged: bool) -> Claim:
    m = mcnemar(first.val_correct, second.val_correct)
    test = f"McNemar exact {_p(m.p_value)}; only one right: {m.only_a} and {m.only_b} of {m.n}"
    return Claim("d", f"{first.label} is more accurate on validation", percent(m.correct_a / m.n), percent(m.correct_b / m.n),
                 estimate(m.difference, m.low, m.high), test, _judge(m.n, m.difference, m.low, m.high, 1, judged))


def _overfitting_claim(first: Evidence, second: Evidence, judged: bool) -> Claim:
    o = overfitting(first.train_correct, second.train_correct, first.val_correct, second.val_correct)
    n = min(len(first.train_correct), len(first.val_correct))
    return Claim("e", f"{second.label} overfits more (training minus validation accuracy)", percent(o.gap_a),
                 percent(o.gap_b), estimate(o.difference, o.low, o.high),
                 f"bootstrap over {len(first.train_correct)} training and {len(first.val_correct)} validation images",
                 _judge(n, o.difference, o.low, o.high, -1, judged))


def _p(value: float) -> str:
    text = number(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _judge(n, difference, low, high, sign, judged, detectable: float | None = None) -> str:
    if not judged:
        return "not judged"
    if n < FEWEST_IMAGES:
        return NO_VERDICT
    outcome = verdict(difference, low, high, sign)
    if outcome == "undecided" and detectable is not None:
        return f"undecided (smallest detectable: {number(detectable)})"
    return outcome


def claims_markdown(groups: Mapping[str, Sequence[Claim]], facts: Sequence[str], evidence: Sequence[Evidence],
                    accuracies: Sequence[Mapping], sections: Sequence[str] = ()) -> str:
    """Return claims.md: what was compared, accuracies, one table of claims a group, noise, the rule, more sections."""
    lines = ["# What the earlier study saw, measured", "", *(f"- {fact}" for fact in facts), "", "## Accuracy", "",
             markdown_table(list(accuracies))]
    for title, rows in groups.items():
        first, second = title.split(", seed")[0].split(" against ")
        names = {"letter": "", "text": "claim", "first": first, "second": second, "difference": "difference [95 %]",
                 "test": "test", "verdict": "verdict"}
        table = [{key: getattr(row, key) for key in names} for row in rows]
        lines += [f"## {title}", "", markdown_table(table, names, "llrrlll")]
    lines += ["## How to read this", "", f"**Rule.** {RULE} With fewer than {FEWEST_IMAGES} images nothing is decided. "
              "Intervals speak about other images, not about other training seeds, and the five claims are judged one "
              "by one, without correction for their number.", "",
              "A difference is the first run's figure minus the second's. (a), (d): all validation images; (b), (c): the "
              "explained images; (e): training images that were not held out, without augmentation. Intervals: BCa "
              "bootstrap (a, b, c), Tango's score interval (d), percentile bootstrap (e).", "",
              "**Noise of the maps themselves** (median change of a map under invisible input noise; differences far below "
              "it would mean nothing): " + "; ".join(f"{e.label} {percent(e.map_noise, 2)}" for e in evidence) + ".", "",
              "**Likeness by cosine**, beside the Spearman figures of (b): "
              + "; ".join(f"{e.label} {number(float(np.nanmean(e.likeness_cosine)))}" for e in evidence) + ".", "",
              *sections]
    return "\n".join(lines).rstrip() + "\n"


def regions_markdown(split: str, rows: Mapping[str, Sequence[Mapping]], regions: Sequence[str]) -> str:
    """Return a section about drawn scenes: where the true class's relevance lies, and the distractor test.

    rows: run label -> rows of a comparison's CSV, numbers as floats (NaN where a region is absent).
    """
    lines = [f"## Where relevance lies: {split}", "",
             "Share of the true class's positive relevance on a region, the region's share of the area, and their ratio "
             "(1: no preference) with its 95 % interval over images that show the region.", "",
             markdown_table(_region_rows(rows, regions))]
    ranks = {label: single([row["rank_accuracy_evidence"] for row in part]) for label, part in rows.items()}
    lines += ["Relevance rank accuracy on the evidence, by pixel (chance: the area share): "
              + "; ".join(f"{label} {number(m.mean)} {interval(m.low, m.high)}" for label, m in ranks.items()) + ".", "",
              f"### Class-dependence: {split}", "",
              "In scenes with a second sport's equipment lying unused: how much of that sport's map lies on its equipment, "
              "against how much of the true class's map does. A method that sees classes puts more there for the "
              "equipment's own class.", "", markdown_table(_distractor_rows(rows))]
    return "\n".join(lines)


def _region_rows(rows: Mapping[str, Sequence[Mapping]], regions: Sequence[str]) -> list[dict]:
    table = []
    for region in regions:
        key = region.replace(" ", "_")
        for label, part in rows.items():
            seen = [row for row in part if row[f"area_{key}"] > 0]
            ratio = single([row[f"ratio_{key}"] for row in seen])
            table.append({
                "region": region, "run": label, "images": len(seen),
                "share of relevance": percent(single([row[f"share_{key}"] for row in seen]).mean),
                "share of area": percent(single([row[f"area_{key}"] for row in seen]).mean),
                "ratio [95 %]": f"{number(ratio.mean, 2)} {interval(ratio.low, ratio.high, 2)}",
            })
    return table


def _distractor_rows(rows: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    table = []
    for label, part in rows.items():
        both = [row for row in part if np.isfinite(row.get("share_distractor_for_its_class", np.nan))]
        own = [row["share_distractor_for_its_class"] for row in both]
        p = paired(own, [row["share_distractor"] for row in both])
        table.append({
            "run": label, "images": p.n, "its own class's map": percent(p.mean_a), "true class's map": percent(p.mean_b),
            "share of area": percent(single([row["area_distractor"] for row in both]).mean),
            "difference [95 %]": estimate(p.difference, p.low, p.high),
            "sees the class": NO_VERDICT if p.n < FEWEST_IMAGES else
            {"supported": "yes", "not supported": "no, the reverse"}.get(verdict(p.difference, p.low, p.high, 1), "undecided"),
        })
    return table
