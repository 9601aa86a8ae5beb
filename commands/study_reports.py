"""What is written about one data set: findings.md, two pages for a reader in a hurry, and details.md with
everything."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.tables import number, percent
from evaluation.measurements import CELLS, TRUE
from evaluation.statistics.claims import MAIN, Claim
from evaluation.statistics.depth import RULE as DEPTH_RULE
from evaluation.statistics.depth import depth_changes, depth_words, which_blocks
from evaluation.statistics.verdicts import ONE_SEED, RULE
from evaluation.study_results import (
    CLASS_DEPENDENCE,
    MOSAICS,
    ROUGHNESS,
    SCATTER,
    Difference,
    Metric,
    Study,
    compared,
    confused_pairs,
    curves_of,
    faithfulness,
    leaning,
    mean_of,
    region_rows,
    rows_of,
)
from explain import METHODS as RELEVANCES
from report.figures.confused_classes import confusion_pairs, most_different
from report.figures.depth_profiles import depth_heads, depth_profiles
from report.figures.perturbation_curves import removal_curves
from report.figures.rainclouds import Cloud, rainclouds
from report.figures.rainclouds import Metric as Panel
from report.figures.verdict_overview import verdict_overview
from report.markdown import Section, claim_sentence

SPLITS = ("val", "val_shuffled")
TARGETS = (
    "*Random classes* are drawn among all but the true one, the same for every run; the *runner-up* is, for each run "
    "by itself, the most probable class but the true one. The picture's other class is one that no run predicts."
)
TABLE_RULE = (
    "A side is named only where the 95 % interval over images, every training seed and the p-value, corrected by "
    "Holm's method for its table, agree on it. An undecided difference is not a proof of equality."
)


# ---- findings.md: two pages


def findings(study: Study, groups: dict[tuple[str, str], list[Claim]]) -> Iterator[Section]:
    """Yield the short report's sections; their figures are drawn into study.out."""
    main, removal = study.relevances[0], study.removals[0]
    yield _what_was_claimed(study, groups)
    baseline = study.pairs[0][0]
    pairs = [pair for pair in study.pairs if baseline in pair]
    claimed = any(claim.judgement for found in groups.values() for claim in found)
    splits = [split for split in SPLITS if split in study.data.splits and not (claimed and split == "val")]
    differences = compared(study, key_metrics(study, claimed), main, splits, pairs)
    rest = ["Other pairs of methods: details.md."] if len(pairs) < len(study.pairs) else []
    yield Section(
        "What changed between methods, and what did not",
        [*changes(differences), " ".join([TABLE_RULE, *rest])],
        _short(differences),
    )
    yield Section(
        "The picture",
        ["What speaks for the true class and for another one, for some images, first seed."],
        figure=study.out / "compare" / "grid.png",
        caption="Heatmaps of the runs, side by side.",
    )
    yield Section(
        "Accuracy",
        [
            "Each seed's; train is what was trained on, held_out the tenth that chose the epoch or the penalty. "
            "Intervals and losses: details.md."
        ],
        accuracies(study),
    )
    likeness = compared(study, [*CLASS_DEPENDENCE[:2], SCATTER[0]], main)
    if likeness:
        yield Section(
            "Class-dependence and noise",
            [noise_sentence(study, main), TARGETS],
            figure=clouds(
                study, likeness, f"Likeness of two classes' maps, and their scatter, {main}", "class-dependence.png"
            ),
            caption="Paired differences, image by image; lower likeness is more class-specific.",
        )
    if compared(study, faithfulness(removal)[:1], main):
        yield Section(
            "Faithfulness",
            [],
            figure=curves(study, main, removal),
            caption="Probability of the true class as patches are removed.",
        )
    if places := compared(
        study, [metric for metric in key_metrics(study, claimed) if metric in MOSAICS or metric.place], main
    ):
        yield Section(
            "Localisation",
            [
                "In a mosaic of images of different classes, relevance of a class belongs in its own image; "
                "where images have masks, on what the class is told by, and not on what lies around."
            ],
            figure=clouds(study, places, f"Where relevance lies, {main}", "localisation.png"),
            caption="Paired differences, mosaic by mosaic or image by image; higher is on more of it.",
        )
    yield from _depth_in_short(study)


def accuracies(study: Study) -> list[dict]:
    """A row a method: its accuracy on each split, seed by seed."""
    splits = dict.fromkeys(split for run in study.runs.values() for split in run.summary["accuracy"])
    return [
        {
            "method": method,
            **{
                split: ", ".join(
                    percent(study.runs[method, seed].summary["accuracy"][split]["accuracy"]) for seed in study.seeds
                )
                for split in splits
            },
        }
        for method in study.methods
    ]


def _what_was_claimed(study: Study, groups: dict[tuple[str, str], list[Claim]]) -> Section:
    """The earlier study's claims, or, where no two methods are of its kind, all pairs' figures."""
    figure = study.out / "verdicts.png"
    of_its_kind = {pair: found for pair, found in groups.items() if any(claim.judgement for claim in found)}
    shown = of_its_kind or groups
    verdict_overview(
        figure,
        {f"{a} less {b}": [c for c in found if c.letter in MAIN] for (a, b), found in shown.items()},
        f"What an earlier study claimed, on {study.name}",
    )
    rows = [
        {
            "": claim.letter,
            "claim": claim.text,
            "first": claim.first,
            "second": claim.second,
            "first less second [95 %, images]": claim.difference,
            "verdict": claim.verdict,
        }
        for found in shown.values()
        for claim in found
        if claim.letter in MAIN
    ]
    about = [] if of_its_kind else ["No two of the methods are a linear probe and DoRA, so nothing is judged."]
    return Section(
        "What an earlier study claimed",
        [*about, *([ONE_SEED.capitalize() + "."] if len(study.seeds) == 1 else [])],
        rows,
        figure,
        "Each claim's difference with its interval over images, and each seed's.",
    )


def key_metrics(study: Study, claimed: bool) -> list[Metric]:
    """One or two measures a question, for the short report's one table; what the claims have judged is left to them, as
    a figure that is corrected in two families may get two verdicts."""
    regions = [metric for split in SPLITS for metric in leaning(split) if metric.metric == "ratio"]
    judged = [CLASS_DEPENDENCE[0], SCATTER[0]]
    found = [*CLASS_DEPENDENCE[:3], *SCATTER[:2], ROUGHNESS, faithfulness(study.removals[0])[0], *MOSAICS, *regions]
    return [metric for metric in found if not (claimed and metric in judged)]


def _short(found: Sequence[Difference]) -> list[dict]:
    return [
        {
            "": one.metric.title,
            "first": one.pair[0],
            "second": one.pair[1],
            "means": ", ".join(one.means),
            "difference [95 %]": one.estimate,
            "images": one.measured.n,
            "higher": one.says.removesuffix(" higher"),
        }
        for one in found
    ]


def changes(found: Sequence[Difference]) -> list[str]:
    """A sentence a pair: what is higher and lower for certain, and how much is open."""
    sentences = []
    for pair in dict.fromkeys(one.pair for one in found):
        mine = [one for one in found if one.pair == pair]
        sides = {
            word: [one.metric.title for one in mine if one.decided and one.measured.difference * sign > 0]
            for word, sign in (("Higher", 1), ("Lower", -1))
        }
        parts = [
            f"{word} for {pair[0]} than for {pair[1]}: {'; '.join(titles)}." for word, titles in sides.items() if titles
        ]
        left = sum(not one.decided for one in mine)
        parts = parts or [f"Nothing differs for certain between {pair[0]} and {pair[1]}."]
        sentences.append(
            " ".join(
                [
                    *parts,
                    f"Not found to differ: {left} of {len(mine)} measures, by more than their intervals' ends."
                    if left
                    else "All measures differ.",
                ]
            )
        )
    return sentences


def noise_sentence(study: Study, relevance: str) -> str:
    found = [(method, study.values(method, Metric("", "noise", TRUE), relevance)) for method in study.methods]
    parts = [f"{method} {percent(float(np.nanmedian(values)), 2)}" for method, values in found if values is not None]
    return f"Invisible input noise moves a map of {relevance} by (median): {', '.join(parts)}." if parts else ""


def _depth_in_short(study: Study) -> Iterator[Section]:
    sentences = [_over_seeds(study, method) for method in fine_tuned(study)]
    if not sentences:
        return
    method, seed = next(iter(study.depth))
    figure = study.out / f"depth-{stem(method)}.png"
    _draw_depth(study, method, seed, figure)
    yield Section(
        "What changed inside",
        sentences,
        figure=figure,
        caption=f"Depth profiles of {method} before and after fine-tuning, seed {seed}, with intervals over images.",
    )


def fine_tuned(study: Study) -> list[str]:
    return list(dict.fromkeys(method for method, _ in study.depth))


def _over_seeds(study: Study, method: str) -> str:
    found = [study.depth[method, seed] for seed in study.seeds if (method, seed) in study.depth]
    return which_blocks(found[0][0].label, method, [depth_changes(*one) for one in found])


def _draw_depth(study: Study, method: str, seed: int, figure: Path) -> None:
    if figure not in study.drawn:
        before, after = study.depth[method, seed]
        depth_profiles(
            figure,
            [before, after],
            [depth_changes(before, after)],
            f"{method}: attention and relevance by depth, seed {seed}",
        )
        study.drawn.add(figure)


def stem(label: str) -> str:
    """A method's label as part of a file's name."""
    return label.replace(":", "-").replace(",", "-").replace("=", "")


# ---- figures


def clouds(study: Study, found: Sequence[Difference], title: str, name: str) -> Path:
    """Draw differences, a panel a metric, a cloud a pair of methods; return the file."""
    panels: dict[str, list[Cloud]] = {}
    for one in found:
        panels.setdefault(one.metric.title, []).append(
            Cloud(f"{one.pair[0]} less {one.pair[1]}", one.each, one.measured)
        )
    figure = study.out / name
    rainclouds(
        figure,
        [Panel(metric, f"difference of {metric.split(' (')[0]}", found) for metric, found in panels.items()],
        title,
    )
    return figure


def curves(study: Study, relevance: str, removal: str) -> Path:
    """Draw probability against patches removed; return the file."""
    figure = study.out / f"perturbation-{relevance}-{removal}.png"
    what = {"mean": "set to the data mean", "blur": "blurred", "linear": "imputed from their neighbours, with noise"}[
        removal
    ]
    if figure not in study.drawn:
        removal_curves(
            figure,
            *curves_of(study, relevance, removal),
            f"Removing patches by relevance, {relevance}",
            note=f"Removed patches are {what}.",
        )
        study.drawn.add(figure)
    return figure


# ---- details.md: everything


def details(study: Study, groups: dict[tuple[str, str], list[Claim]]) -> Iterator[Section]:
    """Yield the long report's sections: every metric, relevance method, removal, split and seed."""
    yield Section("Claims in words", [claim_sentence(claim) for found in groups.values() for claim in found] + [RULE])
    yield Section(
        "Accuracy",
        rows=[accuracy_row(study, *run, split) for run in study.runs for split in study.runs[run].summary["accuracy"]],
    )
    for relevance in study.relevances:
        yield from _of_relevance(study, relevance)
    yield from _depth_at_length(study)
    yield from sanity(study)
    yield from confusions(study)


def accuracy_row(study: Study, method: str, seed: int, split: str) -> dict:
    run = study.runs[method, seed]
    found = run.summary["accuracy"][split]
    return {
        "run": method,
        "seed": seed,
        "split": split,
        "images": found["images"],
        "accuracy": percent(found["accuracy"]),
        "95 % (Wilson)": f"{percent(found['low'])} to {percent(found['high'])}",
        "chosen": " ".join(f"{key} {value:.2g}" for key, value in run.summary["chosen"].items()),
    }


def _of_relevance(study: Study, relevance: str) -> Iterator[Section]:
    for question, name, metrics in (
        ("Are maps of different classes alike?", "likeness", CLASS_DEPENDENCE),
        ("Are maps scattered?", "scatter", SCATTER),
    ):
        found = compared(study, metrics, relevance)
        if found:
            beside = [TARGETS] if name == "likeness" else [noise_sentence(study, relevance)]
            yield Section(
                f"{question} ({relevance})",
                [*beside, TABLE_RULE],
                rows_of(found),
                clouds(study, found, f"{question} {relevance}", f"{name}-{relevance}.png"),
                "Paired differences, image by image.",
            )
    for removal in study.removals:
        found = compared(study, faithfulness(removal), relevance)
        if found:
            yield Section(
                f"Do the maps say what the models use? ({relevance}, removed patches: {removal})",
                [
                    "Raw curves differ between models whatever the maps; so each model's own random baseline is taken "
                    "off where it says so.",
                    TABLE_RULE,
                ],
                rows_of(found),
                curves(study, relevance, removal),
                "Probability of the true class as patches are removed.",
            )
    yield from _localisation(study, relevance)


def _localisation(study: Study, relevance: str) -> Iterator[Section]:
    found, title = compared(study, MOSAICS, relevance), f"Does relevance find its class in a mosaic? ({relevance})"
    if found:
        yield Section(
            title,
            [
                f"Grid pointing game: {CELLS} x {CELLS} images of different classes in one; every class is "
                "explained, and the share of its positive relevance in its own cell is measured."
            ],
            rows_of(found),
        )
    elif "mosaics" in study.asked:
        yield Section(
            title,
            [
                f"Not measured: mosaics of {CELLS} x {CELLS} images take {CELLS**2} classes, and the images of "
                f"{study.name} that were chosen have fewer."
            ],
        )
    for split in study.splits:
        if rows := region_rows(study, relevance, split):
            yield Section(
                f"Where relevance lies on {split} ({relevance})",
                [
                    "Share of the true class's positive relevance on a region over the region's share of the area: "
                    "1 is no preference. Means over images, seed by seed; interval over images."
                ],
                rows,
            )
            yield Section(
                f"Where methods differ on {split} ({relevance})",
                [TABLE_RULE],
                rows_of(compared(study, leaning(split), relevance)),
            )


def _depth_at_length(study: Study) -> Iterator[Section]:
    """Attention and relevance by depth, before against after; the figures are of the first seed."""
    for method in fine_tuned(study):
        seed = next(seed for seed in study.seeds if (method, seed) in study.depth)
        before, after = study.depth[method, seed]
        by_block, by_head = depth_changes(before, after), depth_changes(before, after, by_head=True)
        figures = [study.out / f"{kind}-{stem(method)}.png" for kind in ("depth", "heads")]
        _draw_depth(study, method, seed, figures[0])
        depth_heads(figures[1], before, after, by_head, f"{method}: attention by block and head, seed {seed}")
        yield Section(
            f"What changed inside: {method}",
            [
                _over_seeds(study, method),
                f"Of seed {seed}:",
                *depth_words(before, after, by_block, by_head)[1:],
                f"Rule: {DEPTH_RULE}",
            ],
            figure=figures[0],
            caption="Depth profiles before and after fine-tuning, with intervals over images.",
        )
        yield Section(
            f"Head by head: {method}",
            figure=figures[1],
            caption="Attention by block and head, before, after and their difference.",
        )


def sanity(study: Study) -> Iterator[Section]:
    rows, stages = [], study.results.known("place", "cascade")
    for relevance in study.relevances:
        for method in study.methods:
            emprt = study.values(method, Metric("", "emprt"), relevance)
            if emprt is None:
                continue
            likeness = {stage: study.values(method, Metric("", "cascade", place=stage), relevance) for stage in stages}
            rows.append(
                {
                    "relevance": relevance,
                    "method": method,
                    "images": emprt.shape[1],
                    "eMPRT [95 %] (expected above 0)": mean_of(emprt),
                    **{
                        f"likeness after {stage}": number(float(np.nanmean(likeness[stage])), 2)
                        for stage in (stages[0], stages[len(stages) // 2], stages[-1])
                    },
                }
            )
    if rows:
        yield Section(
            "Do the maps depend on what was learned?",
            [
                "The model's parameters are shuffled from the head down, and maps compared with the original's "
                "(Spearman of magnitudes; expected to fall to 0). The random-logit check is the likeness to random "
                "classes' maps above."
            ],
            rows,
        )


def confusions(study: Study) -> Iterator[Section]:
    """Pairs of classes that some run takes for one another, where likeness of the two maps differs most."""
    chosen = most_different(confused_pairs(study))
    if not chosen:
        return
    figure = study.out / "confusions.png"
    confusion_pairs(
        figure,
        chosen,
        "likeness of the two classes' maps (Spearman)",
        "Confused classes whose maps differ most between methods",
    )
    yield Section(
        "Confused classes",
        [
            f"The pair whose maps' likeness differs most between methods: {chosen[0].true} taken for "
            f"{chosen[0].predicted}, on the {chosen[0].images} images where every run has this class as its runner-up; "
            "in brackets, how often any run, over methods and seeds, takes one for the other."
        ],
        figure=figure,
        caption="Likeness of the two classes' maps, method by method.",
    )


def facts_of(study: Study, model: str, data_seed: int, notes: Sequence[str]) -> list[str]:
    """Say what was compared, so that the file can be read alone."""
    sizes = ", ".join(f"{len(split)} in {name}" for name, split in study.data.splits.items() if name != "test")
    kinds = ", ".join(f"{name} ({RELEVANCES[name].description})" for name in study.relevances)
    return [
        f"data: {study.data.name}, {len(study.data.class_names)} classes; images: {sizes}; data seed {data_seed}",
        f"model: {model}; methods: {', '.join(study.methods)}; training seeds: {len(study.seeds)}",
        f"relevance: {kinds}",
        *(f"note: {note}" for note in notes),
    ]
