"""A short report in Markdown: sections of a title, sentences, a table and a figure, and sentences made of numbers.

Every sentence about a difference names its size, its interval, how many images and seeds stand behind it, and the
verdict; what one seed or too few images cannot say is said with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from common.tables import estimate, markdown_table
from evaluation.statistics.claims import Claim
from evaluation.statistics.verdicts import ONE_SEED, agreement, judge


@dataclass(frozen=True)
class Section:
    """What is found about one question. rows: a table, one mapping a row, column -> value; figure: a PNG, shown with
    `caption`, which has to say what is seen for readers who cannot see it."""

    title: str
    sentences: Sequence[str] = ()
    rows: Sequence[Mapping] = ()
    figure: Path | None = None
    caption: str = ""


def findings_markdown(
    title: str, summary: Sequence[str], sections: Sequence[Section], folder: str | Path, facts: Sequence[str] = ()
) -> str:
    """Return the report: title, the summary as a list, facts about what was compared, then section by section.

    folder: where the report will lie; figures are linked relative to it, so that both can be moved together.
    Raises ValueError for a figure without a caption.
    """
    lines = [f"# {title}", "", *(f"- {sentence}" for sentence in summary), *([""] if summary else [])]
    if facts:
        lines += [" ".join(f"{fact.rstrip('.')}." for fact in facts), ""]
    for section in sections:
        lines += _section(section, Path(folder))
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section, folder: Path) -> list[str]:
    lines = [f"## {section.title}", ""]
    if section.sentences:
        lines += [*(line for sentence in section.sentences if sentence for line in (sentence, ""))]
    if section.rows:
        lines += [markdown_table(section.rows)]
    if section.figure is not None:
        if not section.caption:
            raise ValueError(f"findings: expected a caption for the figure {section.figure}, got none")
        link = quote(Path(os.path.relpath(section.figure, folder)).as_posix())
        lines += [f"![{section.caption}]({link})", "", section.caption, ""]
    return lines


def claim_sentence(claim: Claim) -> str:
    """Say what was measured about a claim and what follows: "dora's maps are more alike than linear's by 0.031 [0.012,
    0.050] Spearman (500 images, 3 seeds, all of one sign): supported."

    The side is named only where the interval, the seeds and the corrected p-value leave one; otherwise the sentence
    says that it is undecided, with the difference as tables have it, first less second method, and what would have been
    found. A claim that is not judged gets no verdict; its side is told by the same rule.
    """
    m, w = claim.measured, claim.wording
    judgement = claim.judgement or judge(m, claim.sign, claim.corrected_p)
    behind = f"{m.n} images, {agreement(m.seeds) if len(m.seeds.differences) > 1 else ONE_SEED}"
    if judgement.word == "undecided":
        beside = replace(claim, judgement=judgement).beside
        return (
            f"Whether {w.side()} is undecided: {claim.methods[0]} less {claim.methods[1]} {_amount(claim, 1)} "
            f"({behind}; {beside})."
        )
    more = judgement.word == "supported"
    size = _amount(claim, claim.sign if more else -claim.sign).removeprefix("+")
    side = f"{w.side(more)} by {size} ({behind})"
    if claim.judgement is None:
        return f"{side}."
    return f"{side}: supported." if more else f"{side}, the reverse of the claim: not supported."


def _amount(claim: Claim, sign: int) -> str:
    """The difference as seen from one side: `sign` times first minus second, with its interval and unit."""
    m, factor = claim.measured, sign * claim.scale
    low, high = sorted((factor * m.low, factor * m.high))
    text = estimate(*(value + 0.0 for value in (factor * m.difference, low, high)))  # + 0.0: zero has no sign
    return f"{text} {claim.unit}".rstrip()
