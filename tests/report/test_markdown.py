"""report.markdown: sentences that say no more than the numbers, and the report put together from them."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.statistics.claims import Claim, Wording
from evaluation.statistics.paired import over_seeds
from evaluation.statistics.verdicts import Judgement, measure
from report.markdown import Section, claim_sentence, findings_markdown

ALIKE = Wording("likeness", "DoRA's maps of the two classes are", "more alike", "less alike", "linear's", "Spearman")


def claim(
    word="supported",
    differences=(-0.03, -0.031, -0.032),
    low=-0.05,
    high=-0.012,
    sign=-1,
    reason="",
    n=500,
    wording=ALIKE,
) -> Claim:
    """A claim about linear minus DoRA; negative differences are in its favour unless `sign` says otherwise."""
    one = measure(np.zeros((1, 30)), np.zeros((1, 30)))
    measured = replace(
        one,
        n=n,
        difference=float(np.mean(differences)),
        low=low,
        high=high,
        standard_error=0.01,
        seeds=over_seeds(differences),
    )
    return Claim("b", wording, ("linear", "DoRA"), measured, sign, 0.001, Judgement(word, reason) if word else None)


def test_a_claim_that_holds():
    assert claim_sentence(claim()) == (
        "DoRA's maps of the two classes are more alike than linear's by 0.031 [0.012, 0.050] Spearman "
        "(500 images, 3 seeds, all of one sign): supported."
    )


def test_a_claim_whose_reverse_holds():
    found = claim_sentence(claim("not supported", (0.03, 0.032), 0.012, 0.05))
    assert found == (
        "DoRA's maps of the two classes are less alike than linear's by 0.031 [0.012, 0.050] Spearman (500 images, "
        "2 seeds, all of one sign), the reverse of the claim: not supported."
    )


def test_an_undecided_claim_names_no_side_and_says_what_would_have_been_found():
    found = claim_sentence(claim("undecided", (-0.01, 0.004), -0.016, 0.01))
    assert found == (
        "Whether DoRA's maps of the two classes are more alike than linear's is undecided: linear less DoRA "
        "-0.003 [-0.016, 0.010] Spearman (500 images, 2 seeds, not all of one sign; smallest detectable: 0.028)."
    )


@pytest.mark.parametrize("reason", ["seeds disagree", "corrected p = 0.080"])
def test_why_a_claim_is_undecided_is_said(reason):
    assert f"; {reason}; smallest detectable: 0.028)" in claim_sentence(claim("undecided", reason=reason))


def test_one_seed_says_nothing_about_others_and_few_images_nothing_at_all():
    assert "(500 images, one training seed: says nothing about other seeds): supported." in claim_sentence(
        claim(differences=(-0.031,))
    )
    few = claim_sentence(claim("undecided", (-0.031,), reason="too few images", n=12))
    assert few.startswith("Whether ")
    assert few.endswith(
        "(12 images, one training seed: says nothing about other seeds; too few images; smallest detectable: 0.028)."
    )


def test_fractions_of_images_are_told_in_points():
    wording = Wording("accuracy", "linear is", "more accurate", "less accurate", "DoRA", points=True)
    found = claim_sentence(claim("not supported", (-0.03, -0.034), -0.056, -0.01, sign=1, wording=wording))
    assert "linear is less accurate than DoRA by 3.2 [1.0, 5.6] points (" in found
    undecided = claim_sentence(claim("undecided", (-0.03, 0.0), -0.056, 0.01, sign=1, wording=wording))
    assert "-1.5 [-5.6, 1.0] points (" in undecided and "smallest detectable: 2.8 points)" in undecided


def test_a_difference_that_is_not_judged_gets_a_side_only_where_it_has_one():
    assert claim_sentence(claim("")).endswith(
        "more alike than linear's by 0.031 [0.012, 0.050] Spearman (500 images, 3 seeds, all of one sign)."
    )
    assert "less alike than linear's by 0.031 [0.012, 0.050]" in claim_sentence(claim("", (0.031, 0.031), 0.012, 0.05))
    for odd in (claim("", (-0.1, 0.04)), claim("", (-0.01, -0.01), -0.02, 0.001), claim("", n=12)):
        assert claim_sentence(odd).startswith(
            "Whether DoRA's maps of the two classes are more alike than linear's is undecided: "
        )


def test_no_difference_at_all_has_no_sign():
    nothing = replace(claim("undecided"), measured=measure(np.zeros((2, 30)), np.zeros((2, 30))))
    assert claim_sentence(nothing).endswith(
        "undecided: linear less DoRA 0 [0, 0] Spearman (30 images, 2 seeds, not all of one sign; smallest detectable: –)."
    )


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
    text = findings_markdown("Findings", ["First of all."], sections, tmp_path, ["500 images", "3 seeds."])
    assert text == (
        "# Findings\n\n- First of all.\n\n500 images. 3 seeds.\n\n## What they look at\n\nOne.\n\nTwo.\n\n"
        "| run | SRG |\n| :-- | --: |\n| linear | 0.25 |\n\n"
        "![Probability falls.](figures/a%20%281%29.png)\n\nProbability falls.\n\n"
        "## Limits\n\nNone of this is proof.\n"
    )


def test_figures_are_linked_from_where_the_report_lies(tmp_path):
    section = Section("s", figure=tmp_path / "runs" / "a.png", caption="A.")
    assert "(../runs/a.png)" in findings_markdown("t", [], [section], tmp_path / "docs")
    with pytest.raises(ValueError, match="a caption for the figure .*a.png"):
        findings_markdown("t", [], [replace(section, caption="")], tmp_path)
