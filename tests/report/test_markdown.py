"""report.markdown: a report put together from sections, with figures linked from where it lies."""

from dataclasses import replace

import pytest

from report.markdown import Section, report_markdown


def test_the_report_is_read_from_top_to_bottom(tmp_path):
    sections = [
        Section(
            "What they look at",
            ["One.", "Two."],
            [{"run": "linear", "SRG": 0.25}],
            tmp_path / "figures" / "a (1).png",
            "Probability falls.",
        ),
        Section("Limits", ["None of this is proof."]),
    ]
    text = report_markdown("Findings", ["First of all."], sections, tmp_path, ["500 images", "3 seeds."])
    assert text == (
        "# Findings\n\n- First of all.\n\n500 images. 3 seeds.\n\n## What they look at\n\nOne.\n\nTwo.\n\n"
        "| run | SRG |\n| :-- | --: |\n| linear | 0.25 |\n\n"
        "![Probability falls.](figures/a%20%281%29.png)\n\nProbability falls.\n\n"
        "## Limits\n\nNone of this is proof.\n"
    )


def test_figures_are_linked_from_where_the_report_lies(tmp_path):
    section = Section("s", figure=tmp_path / "runs" / "a.png", caption="A.")
    assert "(../runs/a.png)" in report_markdown("t", [], [section], tmp_path / "docs")
    with pytest.raises(ValueError, match="a caption for the figure .*a.png"):
        report_markdown("t", [], [replace(section, caption="")], tmp_path)
