"""details.md: every metric, relevance method, imputation, split and seed of one data set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from commands.claim_sentences import claim_sentence
from commands.study_figures import StudyFigures
from commands.study_findings import TABLE_RULE, TARGETS, Groups, changed_blocks, fine_tuned, robustness_sentence
from commands.study_interventions import long_interventions
from common.tables import number, percent
from evaluation.differences import compared, difference_rows
from evaluation.measurements import CELLS
from evaluation.quantities import CLASS_DEPENDENCE, COMPLEXITY, GRID_POINTING, Quantity, faithfulness, localisation
from evaluation.statistics.depth import RULE as DEPTH_RULE
from evaluation.statistics.depth import depth_changes
from evaluation.statistics.depth_words import depth_words
from evaluation.statistics.verdicts import RULE
from evaluation.study_results import StudyResults
from evaluation.study_tables import mean_of, region_rows
from explain.registry import METHODS
from report.markdown import Section


def details(study: StudyResults, groups: Groups, figures: StudyFigures) -> Iterator[Section]:
    """Yield the sections of the long report."""
    sentences = [claim_sentence(claim) for found in groups.values() for claim in found]
    yield Section("Claims in words", [*sentences, RULE])
    splits = {run: study.accuracies(*run) for run in study.runs}
    yield Section(
        "Accuracy", rows=[accuracy_row(study, *run, split) for run, found in splits.items() for split in found]
    )
    for relevance in study.relevances:
        yield from _of_relevance(study, relevance, figures)
    yield from long_interventions(study)
    yield from _depth(study, figures)
    yield from randomisation(study)
    yield from confusions(figures)


def accuracy_row(study: StudyResults, method: str, seed: int, split: str) -> dict[str, Any]:
    """Return one run's accuracy on one split as a row of a table."""
    run, found = study.runs[method, seed], study.accuracies(method, seed)[split]
    return {
        "run": method,
        "seed": seed,
        "split": split,
        "images": found["images"],
        "accuracy": percent(found["accuracy"]),
        "95 % (Wilson)": f"{percent(found['low'])} to {percent(found['high'])}",
        "chosen": " ".join(f"{key} {value:.2g}" for key, value in run.summary["chosen"].items()),
    }


def _of_relevance(study: StudyResults, relevance: str, figures: StudyFigures) -> Iterator[Section]:
    questions = (
        ("Are maps of different classes similar?", "similarity", CLASS_DEPENDENCE, TARGETS),
        ("How complex are the maps?", "complexity", COMPLEXITY, robustness_sentence(study, relevance)),
    )
    for question, name, quantities, beside in questions:
        if found := compared(study, quantities, relevance):
            yield Section(
                f"{question} ({relevance})",
                [beside, TABLE_RULE],
                difference_rows(found),
                figures.clouds(found, f"{question} {relevance}", f"{name}-{relevance}.png"),
                "Paired differences, image by image.",
            )
    for imputation in study.imputations:
        if found := compared(study, faithfulness(imputation), relevance):
            yield Section(
                f"Are the maps faithful to the models? ({relevance}, imputation: {imputation})",
                [
                    "The plain values differ between models whatever the maps; so each model's own baseline of random "
                    "maps is subtracted where the table says so.",
                    TABLE_RULE,
                ],
                difference_rows(found),
                figures.curves(relevance, imputation),
                "Probability of the true class as patches are removed.",
            )
    yield from _localisation(study, relevance)


def _localisation(study: StudyResults, relevance: str) -> Iterator[Section]:
    title = f"Does the relevance of a class lie in its own image of a mosaic? ({relevance})"
    if found := compared(study, GRID_POINTING, relevance):
        sentence = (
            f"Grid pointing game: {CELLS} x {CELLS} images of different classes form a mosaic; every class is "
            "explained, and the share of its positive relevance in its own cell is measured. Mosaics are disjoint, "
            "and made of images that every run predicts correctly."
        )
        yield Section(title, [sentence], difference_rows(found))
    elif "grid_pointing" in study.measured:
        sentence = (
            f"Not measured: mosaics of {CELLS} x {CELLS} images need {CELLS**2} classes among the images of "
            f"{study.name} that every run predicts correctly, and there are fewer."
        )
        yield Section(title, [sentence])
    for split in study.splits:
        if rows := region_rows(study, relevance, split):
            sentence = (
                "Share of the true class's positive relevance on a region, divided by the region's share of the area: "
                "1 is no preference. Means over images, one per seed; intervals over images."
            )
            yield Section(f"Where relevance lies on {split} ({relevance})", [sentence], rows)
            found = compared(study, localisation(split), relevance)
            yield Section(f"Where methods differ on {split} ({relevance})", [TABLE_RULE], difference_rows(found))


def _depth(study: StudyResults, figures: StudyFigures) -> Iterator[Section]:
    """Yield attention and relevance by depth, before and after; the figures are of the first seed."""
    for method in fine_tuned(study):
        seed = next(seed for seed in study.seeds if (method, seed) in study.depth)
        before, after = study.depth[method, seed]
        by_block, by_head = depth_changes(before, after), depth_changes(before, after, by_head=True)
        words = depth_words(before, after, by_block, by_head)[1:]
        yield Section(
            f"What changed inside: {method}",
            [changed_blocks(study, method), f"Of seed {seed}:", *words, f"Rule: {DEPTH_RULE}"],
            figure=figures.depth(method, seed),
            caption="Depth profiles before and after fine-tuning, with intervals over images.",
        )
        yield Section(
            f"Head by head: {method}",
            figure=figures.heads(method, seed),
            caption="Attention by block and head, before, after and their difference.",
        )


def randomisation(study: StudyResults) -> Iterator[Section]:
    """Yield the randomisation tests, where they were measured."""
    rows, stages = [], study.results.known("place", "cascade")
    for relevance in study.relevances:
        for method in study.methods:
            emprt = study.values(method, Quantity("emprt"), relevance)
            if emprt is None:
                continue
            shown = (stages[0], stages[len(stages) // 2], stages[-1])
            similar = {stage: study.values(method, Quantity("cascade", place=stage), relevance) for stage in shown}
            rows.append(
                {
                    "relevance": relevance,
                    "method": method,
                    "images": emprt.shape[1],
                    "eMPRT [95 %] (expected above 0)": mean_of(emprt),
                    **{f"similarity after {stage}": _mean(values) for stage, values in similar.items()},
                }
            )
    if rows:
        sentence = (
            "Randomisation tests: the model's parameters are shuffled from the head down, and maps are compared with "
            "the original's (Spearman correlation of magnitudes; expected to fall to 0). The random-logit test is the "
            "similarity to random classes' maps above."
        )
        yield Section("Do the maps depend on learned parameters?", [sentence], rows)


def _mean(values: np.ndarray | None) -> str:
    return number(None if values is None else float(np.nanmean(values)), 2)


def confusions(figures: StudyFigures) -> Iterator[Section]:
    """Yield the pairs of classes that some run confuses, where the similarity of the two maps differs most."""
    if (found := figures.confused()) is None:
        return
    figure, first = found
    sentence = (
        f"The pair whose maps' similarity differs most between methods: {first.predicted} predicted for {first.true}, "
        f"on the {first.images} images where every run has this class as its runner-up. In brackets: how often any "
        "run, over methods and seeds, predicts one for the other."
    )
    caption = "Similarity of the two classes' maps, method by method."
    yield Section("Confused classes", [sentence], figure=figure, caption=caption)


def training_images(study: StudyResults) -> str:
    """Say what each method was trained on, by the recorded recipes of its runs."""
    seen = {
        label: _seen(study.runs[label, study.seeds[0]].config.recipe, settings.method == "linear")
        for label, settings in zip(study.methods, study.settings)
    }
    grouped = {what: [label for label in seen if seen[label] == what] for what in dict.fromkeys(seen.values())}
    each = "; ".join(f"{', '.join(labels)}: {what}" for what, labels in grouped.items())
    views = {study.runs[label, study.seeds[0]].config.recipe.get("augment_views", 0) for label in study.methods}
    if len(views) == 1 and views != {0}:
        return f"training images: the same {views.pop()} augmented view(s) of each image for all methods; {each}"
    return f"training images: each method has its own (--training-views own); {each}"


def _seen(recipe: Mapping[str, Any], linear: bool) -> str:
    views, kind = recipe.get("augment_views", 0), recipe.get("augment", "none")
    if linear:
        return f"all {views} at once ({kind})" if views else "images as they are"
    epochs = f"{recipe['epochs']} epoch(s)"
    return f"one per epoch in turn, {epochs} ({kind})" if views else f"a new view in each of {epochs} ({kind})"


def facts_of(study: StudyResults, model: str, data_seed: int, notes: Sequence[str]) -> list[str]:
    """Return what was compared, so that a report can be read alone."""
    used = [name for name in study.data.splits if name in ("train", *study.splits)]
    sizes = ", ".join(f"{len(study.data.splits[name])} in {name}" for name in used)
    kinds = ", ".join(f"{name} ({METHODS[name].description})" for name in study.relevances)
    return [
        f"data: {study.data.name}, {len(study.data.class_names)} classes; images: {sizes}; data seed {data_seed}",
        f"claims are judged on {study.split}",
        f"model: {model}; methods: {', '.join(study.methods)}; training seeds: {len(study.seeds)}",
        training_images(study),
        f"relevance: {kinds}",
        *(f"note: {note}" for note in notes),
    ]
