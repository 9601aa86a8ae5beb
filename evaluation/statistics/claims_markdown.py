"""claims.md: the claims as tables, with accuracies, robustness and how to read it all."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from common.tables import markdown_table, number, percent
from evaluation.statistics.claims import Claim, Evidence, MapEvidence, agreement_of_relevance
from evaluation.statistics.verdicts import ONE_SEED, RULE

READING = (
    "A difference is the first method's value minus the second's. (a) and (d) are about all images of the split, (b) "
    "and (c) about the explained images, (e) also about training images that were not held out, without augmentation. "
    "(b) and (c) are judged by each relevance method. "
    "Intervals over images: BCa bootstrap for (a), (b), (c), and for (d) with several seeds; Tango's score interval "
    "for (d) with one seed; percentile bootstrap for (e). Tests: a sign-flip permutation test of the mean for (a), "
    "(b), (c), and for (d) with several seeds; McNemar's exact test for (d) with one seed; Welch's t-test for (e). "
    "With several seeds, (d) compares the share of seeds that predict an image correctly; McNemar's exact p-values, "
    "one per seed, stand beside it. An interval over images is about other images, not about other training seeds; "
    "the interval over seeds is Student's t, and seeds are never counted as images. One family of p-values is all "
    "judged claims (a) to (e) of a data set, by all relevance methods; similarity measured in other ways (b', b'', "
    "...) and pairs of methods "
    "that the claims are not about are another."
)


def claims_markdown(
    groups: Mapping[tuple[str, str], Sequence[Claim]],
    facts: Sequence[str],
    evidence: Sequence[Sequence[Evidence]],
    accuracies: Sequence[Mapping],
    sections: Sequence[str] = (),
) -> str:
    """Return claims.md.

    groups: both methods' names -> their claims, a table each.
    facts: about what was compared, a list item each.
    evidence: a list per method, one Evidence per seed.
    accuracies: rows of the table of accuracies.
    sections: further sections, each Markdown.
    """
    lines = [
        "# The earlier study's claims, measured",
        "",
        *([agreement, ""] if (agreement := agreement_of_relevance(groups)) else []),
        *(f"- {fact}" for fact in facts),
        "",
        "## Accuracy",
        "",
        markdown_table(list(accuracies)),
    ]
    for (first, second), rows in groups.items():
        lines += [f"## {first} against {second}", "", _claims_table(first, second, rows)]
    lines += [
        "## How to read this",
        "",
        f"**Rule.** {RULE}",
        "",
        READING,
        "",
        "**Robustness of the maps** (median relative change of a map under invisible input noise; differences between "
        f"maps that are far smaller mean nothing): {_by_method(evidence, lambda maps: percent(maps.noise, 2))}.",
        "",
        "**Cosine similarity**, beside the Spearman similarity of (b): "
        f"{_by_method(evidence, lambda maps: number(float(np.nanmean(maps.similarity_cosine))))}.",
        "",
        *sections,
    ]
    return "\n".join(lines).rstrip() + "\n"


def _claims_table(first: str, second: str, rows: Sequence[Claim]) -> str:
    several = len(rows[0].measured.seeds.differences) > 1
    columns = {
        "letter": "",
        "text": "claim",
        "first": first,
        "second": second,
        "difference": "difference [95 %, images]",
    }
    columns |= {"seeds": "seed by seed; mean [95 %, seeds]"} if several else {}
    columns |= {"test": "test", "verdict": "verdict"}
    table = [{key: getattr(row, key) for key in columns} for row in rows]
    return markdown_table(table, columns, "llrr" + "l" * (len(columns) - 4)) + (
        "" if several else f"\n{ONE_SEED.capitalize()}.\n"
    )


def _by_method(evidence: Sequence[Sequence[Evidence]], figure: Callable[[MapEvidence], str]) -> str:
    def of(kind: str, runs: Sequence[Evidence]) -> str:
        return f"{runs[0].label} {', '.join(figure(run.maps[kind]) for run in runs)}"

    return "; ".join(f"by {kind} {', '.join(of(kind, runs) for runs in evidence)}" for kind in evidence[0][0].maps)
