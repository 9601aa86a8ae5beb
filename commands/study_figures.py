"""The figures of a study's reports, each drawn once."""

from collections.abc import Sequence
from pathlib import Path

from commands.figure_inputs import cloud, draw_depth_heads, draw_depth_profiles, overview_note, verdict_panels
from evaluation.differences import Difference
from evaluation.statistics.claims import MAIN, Claim
from evaluation.statistics.depth import depth_changes
from evaluation.study_results import StudyResults
from evaluation.study_tables import confused_pairs, curves_of
from report.figures.confused_classes import Confusion, confusion_pairs, most_different
from report.figures.perturbation_curves import RunCurves, removal_curves
from report.figures.rainclouds import Cloud, Metric, rainclouds
from report.figures.verdict_overview import verdict_overview

IMPUTED = {
    "mean": "set to the data mean",
    "blur": "blurred",
    "linear": "imputed from their neighbours, with noise",
}


def file_stem(label: str) -> str:
    """Return a method's label as part of a file's name."""
    return label.replace(":", "-").replace(",", "-").replace("=", "")


class StudyFigures:
    """Draws the figures of one study into its folder; both reports show some of them.

    study: the results.
    """

    def __init__(self, study: StudyResults) -> None:
        self.study = study
        self.drawn: set[Path] = set()

    def verdicts(self, groups: dict[tuple[str, str], list[Claim]]) -> Path:
        """Draw the claims with their intervals and verdicts."""
        figure = self.study.out / "verdicts.png"
        rows = {f"{a} less {b}": [c for c in found if c.letter in MAIN] for (a, b), found in groups.items()}
        title = f"What an earlier study claimed, on {self.study.name}"
        verdict_overview(figure, verdict_panels(rows), title, overview_note(rows))
        return figure

    def clouds(self, found: Sequence[Difference], title: str, name: str) -> Path:
        """Draw paired differences, a panel per quantity and a cloud per pair of methods."""
        panels: dict[str, list[Cloud]] = {}
        units: dict[str, str] = {}
        for one in found:
            label = f"{one.pair[0]} less {one.pair[1]}"
            panels.setdefault(one.quantity.title, []).append(cloud(label, one.each, one.measured))
            units[one.quantity.title] = f"difference of {one.quantity.short_title}"
        figure = self.study.out / name
        rainclouds(figure, [Metric(title, units[title], clouds) for title, clouds in panels.items()], title)
        return figure

    def curves(self, relevance: str, imputation: str) -> Path:
        """Draw the probability of the true class against the fraction of patches removed."""
        figure = self.study.out / f"perturbation-{relevance}-{imputation}.png"
        if figure not in self.drawn:
            fractions, found = curves_of(self.study, relevance, imputation)
            runs = [RunCurves(one.method, one.morf, one.lerf, one.random) for one in found]
            title = f"Perturbation curves: patches removed in the order of relevance, {relevance}"
            removal_curves(figure, fractions, runs, title, note=f"Removed patches are {IMPUTED[imputation]}.")
            self.drawn.add(figure)
        return figure

    def depth(self, method: str, seed: int) -> Path:
        """Draw attention and relevance by depth before and after fine-tuning."""
        figure = self.study.out / f"depth-{file_stem(method)}.png"
        if figure not in self.drawn:
            before, after = self.study.depth[method, seed]
            title = f"{method}: attention and relevance by depth, seed {seed}"
            draw_depth_profiles(figure, [before, after], [depth_changes(before, after)], title)
            self.drawn.add(figure)
        return figure

    def heads(self, method: str, seed: int) -> Path:
        """Draw attention by block and head before and after fine-tuning."""
        figure, (before, after) = self.study.out / f"heads-{file_stem(method)}.png", self.study.depth[method, seed]
        changes = depth_changes(before, after, by_head=True)
        draw_depth_heads(figure, before, after, changes, f"{method}: attention by block and head, seed {seed}")
        return figure

    def confused(self) -> tuple[Path, Confusion] | None:
        """Draw the pairs of confused classes whose maps differ most between methods; return the first pair, too."""
        pairs = [
            Confusion(
                one.true,
                one.predicted,
                one.images,
                one.confused,
                {method: (m.mean, m.low, m.high) for method, m in one.similarity.items()},
            )
            for one in confused_pairs(self.study)
        ]
        chosen = most_different(pairs)
        if not chosen:
            return None
        figure = self.study.out / "confusions.png"
        title = "Confused classes whose maps differ most between methods"
        confusion_pairs(figure, chosen, "similarity of the two classes' maps (Spearman)", title)
        return figure, chosen[0]
