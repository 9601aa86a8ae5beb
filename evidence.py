"""From what was measured to what can be said about one data set: claims, tables, figures and sentences."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from comparison import REGIONS
from data.datasets import ImageData
from errors import UsageError
from explain import METHODS as RELEVANCES
from measures import CELLS, DISTRACTOR, RANDOM, RUNNER_UP, TRUE
from models.adapt import Settings
from models.runs import Run
from report.claims import Claim, Evidence, claims
from report.confusions import Confusion, confusion_pairs, most_different
from report.depth import RULE as DEPTH_RULE
from report.depth import DepthRun, depth_changes, depth_words
from report.depth_figures import depth_heads, depth_profiles
from report.findings import Section, claim_sentence
from report.overview import verdict_overview
from report.rainclouds import Cloud, Metric, rainclouds
from report.removal import RunCurves, removal_curves
from report.results import Results
from report.statistics import single
from report.tables import estimate, interval, number, percent
from report.verdicts import Measured, agreement, measure

# Ways to measure likeness beside the Spearman correlation with random classes, as claims (b') and on.
OTHERWISE = {
    "Spearman, head centred": ("spearman_centred", RANDOM),
    "Spearman, runner-up class": ("spearman", RUNNER_UP),
    "SSIM": ("ssim", RANDOM),
}
# metric, target -> its name, and what a reader needs to know of it
CLASS_DEPENDENCE = {
    ("spearman", RANDOM): "likeness to random classes' maps (Spearman)",
    ("spearman", RUNNER_UP): "likeness to the runner-up class's map (Spearman)",
    ("spearman_centred", RANDOM): "likeness to random classes' maps, head centred (Spearman)",
    ("spearman_centred", RUNNER_UP): "likeness to the runner-up class's map, head centred (Spearman)",
    ("ssim", RANDOM): "likeness to random classes' maps (SSIM)",
}
SCATTER = {
    ("entropy", TRUE): "normalised entropy, true class",
    ("entropy", RANDOM): "normalised entropy, random classes",
    ("gini", RANDOM): "Gini index, random classes (higher: more concentrated)",
    ("total_variation", RANDOM): "total variation, random classes (higher: rougher)",
    ("mass_outside_top", RANDOM): "mass outside the top 20 % of patches, random classes",
}
FAITHFULNESS = {
    ("srg_above_random", TRUE): "SRG above the model's own random baseline (higher: more faithful)",
    ("srg", TRUE): "SRG (higher: more faithful)",
    ("morf", TRUE): "MoRF (lower: more faithful)",
    ("lerf", TRUE): "LeRF (higher: more faithful)",
    ("insertion", TRUE): "insertion (higher: more faithful)",
    ("deletion", TRUE): "deletion (lower: more faithful)",
}
MOSAICS = {("mosaic_share", TRUE): f"share of relevance in the class's own cell (chance {1 / CELLS ** 2:g})"}


@dataclass
class Study:
    """All that was found about one data set.

    methods: labels, in the order asked for; kinds: what they are. runs: (label, seed) -> run. results: every
    observation. relevances: the methods of explanation, the first being that of claims and pictures. depth: (label,
    seed) -> the run before fine-tuning and this one. maps: (label, seed) -> true class's maps of `val` (N, gh, gw), by
    the first relevance.
    """

    out: Path
    data: ImageData
    methods: list[str]
    kinds: list[Settings]
    seeds: list[int]
    relevances: list[str]
    runs: dict[tuple[str, int], Run]
    results: Results
    depth: dict[tuple[str, int], tuple[DepthRun, DepthRun]] = field(default_factory=dict)
    maps: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.methods, 2))

    def values(self, method: str, metric: str, target: str, relevance: str, split: str = "val") -> np.ndarray | None:
        """Values (S, N) of one method, or None where this was not measured."""
        found = self.both(method, method, metric, target, relevance, split)
        return None if found is None else found[0]

    def both(self, first: str, second: str, metric: str, target: str, relevance: str,
             split: str = "val") -> tuple[np.ndarray, np.ndarray] | None:
        try:
            found = self.results.pairs(first, second, metric, split=split, target=target, relevance=relevance)
        except UsageError:      # not asked for, or not defined here
            return None
        return found.first, found.second


# ---- claims

def evidence_of(study: Study, method: str) -> list[Evidence]:
    """One Evidence a seed, from predictions and measurements."""
    main = study.relevances[0]
    found = []
    for place, seed in enumerate(study.seeds):
        predictions = read_csv(study.runs[method, seed].folder / "predictions.csv")

        def column(split: str, name: str) -> np.ndarray:
            return np.array([row[name] for row in predictions if row["split"] == split])

        def explained(metric: str, target: str) -> np.ndarray | None:
            values = study.values(method, metric, target, main)
            return None if values is None else values[place]

        noise = explained("noise", TRUE)
        otherwise = {name: explained(*which) for name, which in OTHERWISE.items()}
        found.append(Evidence(
            method, column("val", "probability"), column("val", "correct") == 1, column("train", "correct") == 1,
            explained("spearman", RANDOM), explained("cosine", RANDOM), explained("entropy", RANDOM),
            float("nan") if noise is None else float(np.nanmedian(noise)), seed,
            {name: values for name, values in otherwise.items() if values is not None}))
    return found


def judged(first: Settings, second: Settings) -> bool:
    """Tell whether the earlier study's claims are about these two: a linear probe and DoRA."""
    return (first.method, second.method) == ("linear", "dora")


def claims_of(study: Study) -> dict[tuple[str, str], list[Claim]]:
    evidence = [evidence_of(study, method) for method in study.methods]
    return {(a[0].label, b[0].label): claims(a, b, judged(x, y))
            for (a, x), (b, y) in combinations(list(zip(evidence, study.kinds)), 2)}


def read_csv(path: Path) -> list[dict]:
    """Read a CSV file of ours: numbers as floats, empty fields as NaN."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str):
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


# ---- tables of paired differences

def compared(study: Study, metrics: dict, relevance: str, split: str = "val") -> list[tuple[str, tuple[str, str], Measured, np.ndarray]]:
    """(metric's name, methods, what was measured, differences image by image) for each metric and pair there is."""
    found = []
    for (metric, target), name in metrics.items():
        for pair in study.pairs:
            values = study.both(*pair, metric, target, relevance, split)
            if values is not None and np.isfinite(values[0] - values[1]).any():
                a, b = values
                found.append((name, pair, measure(a, b), (a - b).mean(0)))
    return found


def rows_of(found) -> list[dict]:
    return [{"": name, "first": pair[0], "its mean": number(m.mean_a), "second": pair[1], "mean": number(m.mean_b),
             "difference [95 %, images]": estimate(m.difference, m.low, m.high),
             "seed by seed": ", ".join(number(d, signed=True) for d in m.seeds.differences), "images": m.n,
             "says": side(m)} for name, pair, m, _ in found]


def side(m: Measured) -> str:
    """What interval and seeds leave: higher, lower or undecided, for the first method against the second."""
    signs = {float(np.sign(d)) for d in m.seeds.differences}
    if not (m.low > 0 or m.high < 0) or len(signs) != 1:
        return f"undecided (smallest detectable {number(m.smallest_detectable)})"
    return "first higher" if m.difference > 0 else "first lower"


def clouds(found, title: str) -> Metric:
    return Metric(title, "difference", [Cloud(f"{pair[0]} minus {pair[1]}", differences, m) for _, pair, m, differences in found])


def draw_clouds(path: Path, found, title: str) -> None:
    """A panel a metric of what `compared` found."""
    names = list(dict.fromkeys(name for name, *_ in found))
    rainclouds(path, [clouds([one for one in found if one[0] == name], name) for name in names], title)


# ---- sections of findings.md

def sections_of(study: Study, groups: dict[tuple[str, str], list[Claim]]) -> Iterator[Section]:
    """Draw the figures into study.out and yield the report's sections."""
    yield from accuracy(study, groups)
    yield Section("The picture", ["What speaks for the true class and for another one, for some images, first seed: the "
                                  "numbers below say how much of it is general."],
                  figure=study.out / "compare" / "grid.png", caption="Heatmaps of the runs, side by side.")
    yield from class_dependence(study, groups)
    yield from scatter(study, groups)
    yield from faithfulness(study)
    yield from localisation(study)
    yield from depth(study)
    yield from sanity(study)
    yield from confusions(study)


def accuracy(study: Study, groups) -> Iterator[Section]:
    figure = study.out / "verdicts.png"
    verdict_overview(figure, {f"{a} against {b}": found for (a, b), found in groups.items()},
                     f"Claims about {Path(study.data.name).name}")
    yield Section("Accuracy", [claim_sentence(claim) for found in groups.values() for claim in found
                               if claim.letter in "ade"],
                  rows=[accuracy_row(study, method, seed, split) for method in study.methods for seed in study.seeds
                        for split in study.runs[method, seed].summary["accuracy"]],
                  figure=figure, caption="Each claim's difference with its interval over images, and each seed's.")


def accuracy_row(study: Study, method: str, seed: int, split: str) -> dict:
    run = study.runs[method, seed]
    found = run.summary["accuracy"][split]
    return {"run": method, "seed": seed, "split": split, "images": found["images"], "accuracy": percent(found["accuracy"]),
            "95 % (Wilson)": f"{percent(found['low'])} to {percent(found['high'])}",
            "chosen": " ".join(f"{key} {value:.2g}" for key, value in run.summary["chosen"].items())}


def class_dependence(study: Study, groups) -> Iterator[Section]:
    for place, relevance in enumerate(study.relevances):
        found = compared(study, CLASS_DEPENDENCE, relevance)
        if not found:
            continue
        figure = study.out / f"class-dependence-{relevance}.png"
        draw_clouds(figure, found, f"Likeness of the true class's map and others', {relevance}")
        said = [claim_sentence(claim) for claims_found in groups.values() for claim in claims_found
                if claim.letter.startswith("b")] if not place else []
        yield Section(f"Are maps of different classes alike? ({relevance})", said, rows_of(found), figure,
                      "Paired differences of likeness, image by image; lower likeness is more class-specific.")


def scatter(study: Study, groups) -> Iterator[Section]:
    for place, relevance in enumerate(study.relevances):
        found = compared(study, SCATTER, relevance)
        if not found:
            continue
        figure = study.out / f"scatter-{relevance}.png"
        draw_clouds(figure, found, f"Scatter of maps, {relevance}")
        said = [claim_sentence(claim) for claims_found in groups.values() for claim in claims_found
                if claim.letter == "c"] if not place else []
        said += [noise_sentence(study, relevance)]
        yield Section(f"Are maps noisy? ({relevance})", said, rows_of(found), figure,
                      "Paired differences of scatter, image by image.")


def noise_sentence(study: Study, relevance: str) -> str:
    parts = []
    for method in study.methods:
        values = study.values(method, "noise", TRUE, relevance)
        if values is not None:
            parts.append(f"{method} {percent(float(np.nanmedian(values)), 2)}")
    return f"Invisible input noise moves a map by (median): {', '.join(parts)}." if parts else ""


def faithfulness(study: Study) -> Iterator[Section]:
    for relevance in study.relevances:
        found = compared(study, FAITHFULNESS, relevance)
        if not found:
            continue
        fractions, curves = curves_of(study, relevance)
        figure = study.out / f"perturbation-{relevance}.png"
        removal_curves(figure, fractions, curves, f"Removing patches by relevance, {relevance}",
                       note="Removed patches are set to the data mean.")
        yield Section(f"Do the maps say what the models use? ({relevance})",
                      ["Raw curves differ between models whatever the maps; the model's own random baseline is taken off "
                       "where it says so."],
                      rows_of(found), figure, "Probability of the true class as patches are removed.")


def curves_of(study: Study, relevance: str) -> tuple[np.ndarray, list[RunCurves]]:
    names = [name for name in study.results.known("metric") if name.startswith("morf_at_")]
    fractions = np.array(sorted(float(name.removeprefix("morf_at_")) for name in names))

    def stacked(method: str, order: str, of: str) -> np.ndarray:
        return np.stack([study.values(method, f"{order}_at_{f:g}", TRUE, of) for f in fractions], axis=-1)

    return fractions, [RunCurves(method, stacked(method, "morf", relevance), stacked(method, "lerf", relevance),
                                 (stacked(method, "morf", "random") + stacked(method, "lerf", "random")) / 2)
                       for method in study.methods]


def localisation(study: Study) -> Iterator[Section]:
    for relevance in study.relevances:
        rows, title = rows_of(compared(study, MOSAICS, relevance)), f"Does relevance find its class in a mosaic? ({relevance})"
        if rows:
            yield Section(title, [f"Grid pointing game: {CELLS} x {CELLS} images of different classes in one; every class is "
                                  "explained, and the share of its positive relevance in its own cell is measured."], rows)
        elif len(study.data.class_names) < CELLS ** 2:
            yield Section(title, [f"Not measured: mosaics of {CELLS} x {CELLS} images take {CELLS ** 2} classes, and "
                                  f"{Path(study.data.name).name} has {len(study.data.class_names)}."])
    for relevance in study.relevances:
        rows = [row for split in study.results.known("split") for row in region_rows(study, relevance, split)]
        if rows:
            yield Section(f"Where relevance lies on drawn scenes ({relevance})",
                          ["Share of the true class's positive relevance on a region over the region's share of the area: "
                           "1 is no preference. Means over images, seed by seed; interval over images."], rows)


def region_rows(study: Study, relevance: str, split: str) -> list[dict]:
    rows = []
    for region in REGIONS:
        for method in study.methods:
            values = study.values(method, f"ratio_{region.replace(' ', '_')}", TRUE, relevance, split)
            if values is not None:
                rows.append({"split": split, "region": region, "method": method, "ratio [95 %]": mean_of(values, 2),
                             "seed by seed": ", ".join(number(float(np.nanmean(v)), 2) for v in values),
                             "images": values.shape[1]})
    for method in study.methods:
        own = study.values(method, "share_distractor", DISTRACTOR, relevance, split)
        others = study.values(method, "share_distractor", TRUE, relevance, split)
        if own is not None and others is not None and own.shape == others.shape:
            m = measure(own, others)
            rows.append({"split": split, "region": "unused equipment: its own class's map less the true class's (share)",
                         "method": method, "ratio [95 %]": estimate(m.difference, m.low, m.high),
                         "seed by seed": ", ".join(number(d, 3, True) for d in m.seeds.differences), "images": m.n})
    return rows


def mean_of(values: np.ndarray, digits: int = 3) -> str:
    """Mean over seeds and images of (S, N), with its interval over images."""
    found = single(values.mean(0))
    return f"{number(found.mean, digits)} {interval(found.low, found.high, digits)}"


def depth(study: Study) -> Iterator[Section]:
    """Attention and relevance by depth, before against after; the figures are of the first seed."""
    for place, method in enumerate(dict.fromkeys(method for method, _ in study.depth)):
        sentences, first, stem = [], not place, method.replace(":", "-").replace(",", "-").replace("=", "")
        for seed in study.seeds:
            if (method, seed) not in study.depth:
                continue
            before, after = study.depth[method, seed]
            by_block, by_head = depth_changes(before, after), depth_changes(before, after, by_head=True)
            words = depth_words(before, after, by_block, by_head)
            sentences += [f"Seed {seed}: {words[0]}", *words[1:]] if seed == study.seeds[0] else [f"Seed {seed}: {words[0]}"]
            if seed == study.seeds[0]:
                depth_profiles(study.out / f"depth-{stem}.png", [before, after], [by_block],
                               f"{method}: attention and relevance by depth, seed {seed}")
                depth_heads(study.out / f"heads-{stem}.png", before, after, by_head,
                            f"{method}: attention by block and head, seed {seed}")
        yield Section(f"What changed inside: {method}", sentences,
                      figure=study.out / f"depth-{stem}.png",
                      caption="Depth profiles before and after fine-tuning, with intervals over images.")
        yield Section(f"Head by head: {method}", [f"Rule: {DEPTH_RULE}"] if first else [], figure=study.out / f"heads-{stem}.png",
                      caption="Attention by block and head, before, after and their difference.")


def sanity(study: Study) -> Iterator[Section]:
    rows = []
    for relevance in study.relevances:
        stages = [name for name in study.results.known("metric") if name.startswith("cascade_")]
        for method in study.methods:
            emprt = study.values(method, "emprt", TRUE, relevance)
            if emprt is None:
                continue
            likeness = {stage: study.values(method, stage, TRUE, relevance) for stage in stages}
            rows.append({"relevance": relevance, "method": method, "images": emprt.shape[1],
                         "eMPRT [95 %] (expected above 0)": mean_of(emprt),
                         **{f"likeness after {stage.removeprefix('cascade_')}": number(float(np.nanmean(likeness[stage])), 2)
                            for stage in (stages[0], stages[len(stages) // 2], stages[-1])}})
    if rows:
        yield Section("Do the maps depend on what was learned?",
                      ["The model's parameters are shuffled from the head down, and maps compared with the original's "
                       "(Spearman of magnitudes; expected to fall to 0)."], rows)


def confusions(study: Study) -> Iterator[Section]:
    """Pairs of classes that some run takes for one another, where likeness to the runner-up differs most."""
    pairs = confused_pairs(study)
    chosen = most_different(pairs, fewest_images=2)
    if not chosen:
        return
    figure = study.out / "confusions.png"
    confusion_pairs(figure, chosen, "likeness of the true and the runner-up class's maps (Spearman)",
                    "Confused classes whose maps differ most between methods")
    yield Section("Confused classes", [f"The pair whose maps' likeness differs most between methods: {chosen[0].true} taken for "
                                       f"{chosen[0].predicted} ({chosen[0].images} images)."],
                  figure=figure, caption="Likeness of the two classes' maps, method by method.")


def confused_pairs(study: Study) -> list[Confusion]:
    main, values = study.relevances[0], {}
    wrong: dict[tuple[str, str], list[int]] = {}
    for method in study.methods:
        values[method] = study.values(method, "spearman", RUNNER_UP, main)
        for seed in study.seeds:
            rows = [row for row in read_csv(study.runs[method, seed].folder / "predictions.csv") if row["split"] == "val"]
            number_of = {row["image"]: i for i, row in enumerate(rows)}
            for row in rows:
                if row["correct"] != 1:
                    wrong.setdefault((row["label"], row["predicted"]), []).append(number_of[row["image"]])
    if any(found is None for found in values.values()):
        return []
    pairs = []
    for (true, predicted), images in wrong.items():
        unique = sorted({image for image in images if image < min(v.shape[1] for v in values.values())})
        spread = {method: single(found[:, unique].mean(0)) for method, found in values.items()}
        pairs.append(Confusion(true, predicted, len(unique), len(images),
                               {method: (one.mean, one.low, one.high) for method, one in spread.items()}))
    return pairs


def summary_of(study: Study, groups) -> list[str]:
    """The lines at the top: every claim, then every other difference that interval and seeds leave."""
    lines = [f"({claim.letter}) {claim_sentence(claim)}" for found in groups.values() for claim in found]
    main = study.relevances[0]
    for metrics in (FAITHFULNESS, MOSAICS):
        for name, pair, m, _ in compared(study, dict(list(metrics.items())[:1]), main):
            lines.append(f"{name[0].upper()}{name[1:]}: {pair[0]} {number(m.mean_a)}, {pair[1]} {number(m.mean_b)}, difference "
                         f"{estimate(m.difference, m.low, m.high)} ({m.n} images, {agreement(m.seeds)}).")
    for (method, seed), (before, after) in study.depth.items():
        if seed == study.seeds[0]:
            lines.append(depth_words(before, after, depth_changes(before, after))[0])
    return lines


def facts_of(study: Study, model: str, data_seed: int, notes: Sequence[str]) -> list[str]:
    """Say what was compared, so that the file can be read alone."""
    sizes = ", ".join(f"{len(split)} in {name}" for name, split in study.data.splits.items() if name != "test")
    kinds = ", ".join(f"{name} ({RELEVANCES[name].description})" for name in study.relevances)
    return [f"data: {study.data.name}, {len(study.data.class_names)} classes; images: {sizes}; data seed {data_seed}",
            f"model: {model}; methods: {', '.join(study.methods)}; training seeds: {len(study.seeds)}",
            f"relevance: {kinds}", *(f"note: {note}" for note in notes)]
