"""Write a study: results.csv, claims.md, findings.md, details.md, the pictures and figures; print the claims."""

from collections.abc import Callable, Mapping

import numpy as np

from commands.compare import rows_to_show
from commands.comparison_output import write_comparison
from commands.options import CompareOptions, StudyOptions
from commands.study_details import accuracy_row, details, facts_of
from commands.study_figures import StudyFigures, file_stem
from commands.study_findings import findings
from common.tables import number, write_text
from evaluation.comparison import Comparison, compare_runs
from evaluation.maps import StoredMaps
from evaluation.measurement_cache import MeasurementCache
from evaluation.metrics.similarity import spearman
from evaluation.observations import Observation, write_results
from evaluation.statistics.claims import MAIN
from evaluation.statistics.claims_markdown import claims_markdown
from evaluation.study_claims import claims_of, evidence_of
from evaluation.study_results import StudyResults
from evaluation.subjects import Subject
from report.markdown import Section, report_markdown

__all__ = ["file_stem", "write_study"]
WORTH = 2  # images per rule, among those worth a look
Subjects = Mapping[tuple[str, int, str], Subject]


def write_study(
    options: StudyOptions,
    study: StudyResults,
    rows: list[Observation],
    subjects: Subjects,
    cache: MeasurementCache,
    say: Callable[[str], None],
) -> None:
    """Write everything about one data set to `study.out`; print the claims.

    rows: every observation.
    subjects: (label, seed, split) -> a run and its images.
    cache: where its maps are stored.
    say: is told of each step.
    """
    splits = dict.fromkeys(split for _, _, split in subjects)
    for split in splits:
        say(f"the picture, {split}")
        draw_picture(options, study.split, [subjects[label, study.seeds[0], split] for label in study.methods], cache)
    say("the reports")
    groups, figures = claims_of(study), StudyFigures(study)
    data_seed = options.measurement.data_seed
    facts = facts_of(study, options.backbone.name, data_seed, study.data.warnings)
    accuracies = [accuracy_row(study, *run, split) for run in study.runs for split in study.accuracies(*run)]
    evidence = [evidence_of(study, method) for method in study.methods]
    write_text(study.out / "claims.md", claims_markdown(groups, facts, evidence, accuracies))
    title = f"What fine-tuning did: {study.name}"
    beside = [*facts, "Everything else, seed by seed and metric by metric: details.md, claims.md, results.csv"]
    short = report_markdown(title, [], list(findings(study, groups, figures)), study.out, beside)
    write_text(study.out / "findings.md", short)
    sections = list(details(study, groups, figures))
    say("the picture, images worth a look")
    sections.append(worth_a_look(options, study, subjects, cache))
    write_text(study.out / "details.md", report_markdown(f"{title}, in full", [], sections, study.out, facts))
    count = write_results(study.out / "results.csv", rows)
    print(
        f"{study.out}: findings.md, details.md, claims.md, results.csv ({count} rows), and the picture in "
        f"{study.out}/compare/grid.png"
    )
    for found in groups.values():
        for claim in (one for one in found if one.letter in MAIN):
            a, b = claim.methods
            print(f'({claim.letter}) "{claim.text}": {a} {claim.first}, {b} {claim.second}; {claim.verdict}')


def draw_picture(options: StudyOptions, main: str, subjects: list[Subject], cache: MeasurementCache) -> Comparison:
    """Write the comparison of runs on one split from their stored maps, with a picture of some images.

    main: the split that claims are judged on.
    """
    comparison, split = compare_runs(subjects, cache), subjects[0].split_name
    folder = options.out / ("compare" if split == main else f"compare-{split}")
    _write(options, comparison, rows_to_show(comparison, options.rows), folder.name)
    return comparison


def _write(options: StudyOptions, comparison: Comparison, shown: np.ndarray, folder: str, pick: bool = False) -> None:
    """Write a comparison with a picture of the rows `shown`; pick: name every image in the picture."""
    subject = comparison.runs[0].subject
    names = comparison.images.names
    asked = CompareOptions(
        runs=tuple(str(one.subject.run.folder) for one in comparison.runs),
        out=options.out / folder,
        split=subject.split_name,
        measurement=options.measurement,
        rows=options.rows,
        pick=tuple(names[row] for row in shown) if pick else (),
    )
    configuration = {"study": str(options.out), "split": subject.split_name, "images": len(names)}
    write_comparison(comparison, shown, None, asked, configuration)


# ---- images worth a look


def worth_a_look(options: StudyOptions, study: StudyResults, subjects: Subjects, cache: MeasurementCache) -> Section:
    """Choose images by rule from the first two methods, first seed; list and draw them."""
    (first, second), seed = study.pairs[0], study.seeds[0]
    chosen = [subjects[label, seed, study.split] for label in (first, second)]
    comparison = compare_runs(chosen, cache)
    before, after = (one.stored for one in comparison.runs)
    same, names = spearman(before.maps[:, 0], after.maps[:, 0]), comparison.images.names
    rows: list[dict[str, str]] = []
    shown: list[int] = []
    for rule, candidates in rules_of(first, second, before, after, same, options.measurement.data_seed).items():
        for i in [i for i in candidates.tolist() if i not in shown][:WORTH]:
            shown.append(i)
            rows.append(
                {
                    "image": names[i],
                    "chosen because": rule,
                    "similarity of the two maps (Spearman)": number(same[i]),
                    f"probability, {first}": number(_probability(before, i)),
                    f"probability, {second}": number(_probability(after, i)),
                }
            )
    _write(options, comparison.select(np.sort(shown)), np.arange(len(shown)), "worth-a-look", pick=True)
    sentence = (
        f"Chosen by rule from {len(names)} images, {first} against {second}, {study.relevances[0]}. Images that are "
        "chosen for being extreme are no evidence for what is usual."
    )
    caption = "The images of the table, in the order of their names."
    return Section("Images worth a look", [sentence], rows, study.out / "worth-a-look" / "grid.png", caption)


def _probability(stored: StoredMaps, row: int) -> float:
    return float(stored.probability[row, stored.targets.classes[row, 0]])


def rules_of(
    first: str, second: str, before: StoredMaps, after: StoredMaps, same: np.ndarray, data_seed: int
) -> dict[str, np.ndarray]:
    """Return rule -> images in the order in which they fit it.

    first, second: names of two methods. before, after: their maps. same: (N,), similarity of the true class's maps.
    """
    right = [found.predicted == found.targets.classes[:, 0] for found in (before, after)]
    order = np.argsort(same, kind="stable")
    return {
        "maps differ most": order,
        "maps differ least": order[::-1],
        f"right in {first}, wrong in {second}": order[(right[0] & ~right[1])[order]],
        f"wrong in {first}, right in {second}": order[(~right[0] & right[1])[order]],
        "drawn at random": np.random.default_rng(data_seed).permutation(len(same)),
    }
