"""A report in Markdown: sections of a title, sentences, a table and a figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from common.tables import markdown_table


@dataclass(frozen=True)
class Section:
    """What was found about one question.

    title: the heading.
    sentences: a paragraph each; '' is left out.
    rows: a table, one mapping of column -> value per row.
    figure: a PNG.
    caption: what the figure shows, also for readers who cannot see it.
    """

    title: str
    sentences: Sequence[str] = ()
    rows: Sequence[Mapping] = ()
    figure: Path | None = None
    caption: str = ""


def report_markdown(
    title: str, summary: Sequence[str], sections: Sequence[Section], folder: str | Path, facts: Sequence[str] = ()
) -> str:
    """Return a report as Markdown: title, summary, facts, then section by section.

    title: the heading of the report.
    summary: a list item each.
    sections: in the order of the report.
    folder: where the report will lie; figures are linked relative to it, so that both can be moved together.
    facts: about what was compared, joined to one paragraph.

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
            raise ValueError(f"report_markdown: expected a caption for the figure {section.figure}, got none")
        link = quote(Path(os.path.relpath(section.figure, folder)).as_posix())
        lines += [f"![{section.caption}]({link})", "", section.caption, ""]
    return lines
