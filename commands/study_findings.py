"""findings.md: two pages on one data set."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from commands.study_figures import StudyFigures
from commands.study_interventions import short_interventions
from common.tables import percent
from evaluation.differences import Difference, compared
from evaluation.options import TRUE
from evaluation.quantities import (
    CLASS_DEPENDENCE,
    COMPLEXITY,
    GRID_POINTING,
    ROUGHNESS,
    Quantity,
    faithfulness,
    localisation,
)
from evaluation.statistics.claims import MAIN, Claim, agreement_of_relevance
from evaluation.statistics.depth import depth_changes
from evaluation.statistics.depth_words import which_blocks
from evaluation.statistics.verdicts import ONE_SEED
from evaluation.study_results import StudyResults
from report.markdown import Section

JUDGED_ON = "Claims are judged on the images of `{split}`, by which nothing was chosen in training."
Groups = dict[tuple[str, str], list[Claim]]  # two methods -> their claims
TARGETS = (
    "*Random classes* are drawn uniformly from all classes but the true one, the same for every run. The *runner-up* "
    "is, for each run by itself, its most probable class but the true one."
)
TABLE_RULE = (
    "A method is named only where the 95 % interval over images, the sign of every training seed, and the p-value "
    "(corrected by Holm's method for its table) agree. An undecided difference does not prove equality."
)


def findings(study: StudyResults, groups: Groups, figures: StudyFigures) -> Iterator[Section]:
    """Yield the sections of the short report."""
    main, imputation = study.relevances[0], study.imputations[0]
    yield _claimed(study, groups, figures)
    claimed = any(claim.judgement for found in groups.values() for claim in found)
    yield _changed(study, claimed)
    yield from short_interventions(study, [pair for pair in study.pairs if study.pairs[0][0] in pair])
    yield Section(
        "The picture",
        ["Heatmaps of the true class and of another one, for some images, first seed."],
        figure=study.out / "compare" / "grid.png",
        caption="Heatmaps of the runs, side by side.",
    )
    yield Section(
        "Accuracy",
        [
            "One value per seed. `train` holds the images trained on, `held_out` the tenth that chose the epoch or the "
            "penalty. Intervals and losses are in details.md."
        ],
        accuracies(study),
    )
    if similar := compared(study, [*CLASS_DEPENDENCE[:2], COMPLEXITY[0]], main):
        yield Section(
            "Class-dependence, complexity and robustness",
            [robustness_sentence(study, main), TARGETS],
            figure=figures.clouds(
                similar, f"Similarity of two classes' maps, and their complexity, {main}", "class-dependence.png"
            ),
            caption="Paired differences, image by image; lower similarity is more class-specific.",
        )
    if compared(study, faithfulness(imputation)[:1], main):
        yield Section(
            "Faithfulness",
            [],
            figure=figures.curves(main, imputation),
            caption="Probability of the true class as patches are removed.",
        )
    if places := compared(
        study, [one for one in key_quantities(study, claimed) if one in GRID_POINTING or one.place], main
    ):
        yield Section(
            "Localisation",
            [
                "In a mosaic of images of different classes, the relevance of a class should lie in its own image. In "
                "images with masks, it should lie on the evidence, and not on the surroundings."
            ],
            figure=figures.clouds(places, f"Where relevance lies, {main}", "localisation.png"),
            caption="Paired differences, mosaic by mosaic or image by image; higher is more relevance there.",
        )
    yield from _depth(study, figures)


def _claimed(study: StudyResults, groups: Groups, figures: StudyFigures) -> Section:
    """Return the earlier study's claims or, where no two methods are a linear probe and DoRA, all pairs' figures."""
    judged = {pair: found for pair, found in groups.items() if any(claim.judgement for claim in found)}
    shown = judged or groups
    rows = [
        {
            "": claim.letter,
            "claim": claim.text,
            "first": f"{claim.methods[0]}: {claim.first}",
            "second": f"{claim.methods[1]}: {claim.second}",
            "first less second [95 %, images]": claim.difference,
            "verdict": claim.verdict,
        }
        for found in shown.values()
        for claim in found
        if claim.letter in MAIN
    ]
    about = (
        [agreement_of_relevance(judged), JUDGED_ON.format(split=study.split)]
        if judged
        else ["No two of the methods are a linear probe and DoRA, so nothing is judged."]
    )
    seeds = [ONE_SEED.capitalize() + "."] if len(study.seeds) == 1 else []
    return Section(
        "What an earlier study claimed",
        [*about, *seeds],
        rows,
        figures.verdicts(shown),
        "Each claim's difference with its interval over images, and the difference of each seed.",
    )


def _changed(study: StudyResults, claimed: bool) -> Section:
    pairs = [pair for pair in study.pairs if study.pairs[0][0] in pair]
    splits = [split for split in study.splits if not (claimed and split == study.split)]
    found = compared(study, key_quantities(study, claimed), study.relevances[0], splits, pairs)
    rest = ["Other pairs of methods: details.md."] if len(pairs) < len(study.pairs) else []
    sentences = [*changes(found), " ".join([TABLE_RULE, *rest])]
    return Section("What changed between methods, and what did not", sentences, _short(found))


def key_quantities(study: StudyResults, claimed: bool) -> list[Quantity]:
    """Return one or two quantities per question, for the short report's one table.

    claimed: leave out what the claims judge, as two families of p-values could give one figure two verdicts.
    """
    regions = [one for split in study.splits for one in localisation(split) if one.metric == "ratio"]
    judged = [CLASS_DEPENDENCE[0], COMPLEXITY[0]]
    faithful = faithfulness(study.imputations[0])[0]
    found = [*CLASS_DEPENDENCE[:3], *COMPLEXITY[:2], ROUGHNESS, faithful, *GRID_POINTING, *regions]
    return [one for one in found if not (claimed and one in judged)]


def accuracies(study: StudyResults) -> list[dict[str, Any]]:
    """Return one row per method: its accuracy on each split, seed by seed."""
    splits = dict.fromkeys(split for run in study.runs for split in study.accuracies(*run))

    def of(method: str, split: str) -> str:
        found = [study.accuracies(method, seed)[split]["accuracy"] for seed in study.seeds]
        return ", ".join(map(percent, found))

    return [{"method": method, **{split: of(method, split) for split in splits}} for method in study.methods]


def _short(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return [
        {
            "": one.quantity.title,
            "first": one.pair[0],
            "second": one.pair[1],
            "means": ", ".join(one.means),
            "difference [95 %]": one.estimate,
            "images": one.measured.n,
            "verdict": one.says,
        }
        for one in found
    ]


def changes(found: Sequence[Difference]) -> list[str]:
    """Return one sentence per pair of methods: what is higher, what is lower, and how much is undecided."""
    sentences = []
    for pair in dict.fromkeys(one.pair for one in found):
        mine = [one for one in found if one.pair == pair]
        sides = {
            word: [one.quantity.short_title for one in mine if one.decided and one.measured.difference * sign > 0]
            for word, sign in (("Higher", 1), ("Lower", -1))
        }
        parts = [
            f"{word} for {pair[0]} than for {pair[1]}: {'; '.join(titles)}." for word, titles in sides.items() if titles
        ]
        open_ones = sum(not one.decided for one in mine)
        parts = parts or [f"No difference between {pair[0]} and {pair[1]} is decided."]
        rest = f"Undecided: {open_ones} of {len(mine)} quantities." if open_ones else "All quantities differ."
        sentences.append(" ".join([*parts, rest]))
    return sentences


def robustness_sentence(study: StudyResults, relevance: str) -> str:
    """Return how much invisible input noise changes the maps of each method, or "" where that was not measured."""
    found = [(method, study.values(method, Quantity("noise", TRUE), relevance)) for method in study.methods]
    parts = [f"{method} {percent(float(np.nanmedian(values)), 2)}" for method, values in found if values is not None]
    return f"Invisible input noise changes a map of {relevance} by (median): {', '.join(parts)}." if parts else ""


def fine_tuned(study: StudyResults) -> list[str]:
    """Return the methods whose backbones were compared by depth."""
    return list(dict.fromkeys(method for method, _ in study.depth))


def changed_blocks(study: StudyResults, method: str) -> str:
    """Return in which blocks attention or relevance changed, in all training seeds alike."""
    found = [study.depth[method, seed] for seed in study.seeds if (method, seed) in study.depth]
    return which_blocks(found[0][0].label, method, [depth_changes(*one) for one in found])


def _depth(study: StudyResults, figures: StudyFigures) -> Iterator[Section]:
    sentences = [changed_blocks(study, method) for method in fine_tuned(study)]
    if sentences:
        method, seed = next(iter(study.depth))
        yield Section(
            "What changed inside",
            sentences,
            figure=figures.depth(method, seed),
            caption=f"Depth profiles of {method} before and after fine-tuning, seed {seed}, and intervals over images.",
        )
