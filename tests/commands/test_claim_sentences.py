"""commands.claim_sentences: sentences that say no more than the numbers."""

from dataclasses import replace

import numpy as np
import pytest

from commands.claim_sentences import claim_sentence
from evaluation.statistics.claims import Claim, Wording
from evaluation.statistics.measured import measure
from evaluation.statistics.paired import over_seeds
from evaluation.statistics.verdicts import Judgement

ALIKE = Wording("similarity", "DoRA's maps of the two classes are", "more alike", "less alike", "linear's", "Spearman")


def claim(
    word="supported across seeds",
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
        "(500 images, 3 seeds, all of one sign; seeds: +0.0310 [0.0285, 0.0335]): supported across seeds."
    )


def test_a_claim_whose_reverse_holds():
    found = claim_sentence(claim("contradicted across seeds", (0.03, 0.032), 0.012, 0.05))
    assert found == (
        "DoRA's maps of the two classes are less alike than linear's by 0.031 [0.012, 0.050] Spearman (500 images, "
        "2 seeds, all of one sign; seeds: +0.031 [0.018, 0.044]), the reverse of the claim: contradicted across seeds."
    )


def test_an_undecided_claim_names_no_side_and_says_what_would_have_been_found():
    found = claim_sentence(claim("undecided", (-0.01, 0.004), -0.016, 0.01))
    assert found == (
        "Whether DoRA's maps of the two classes are more alike than linear's is undecided: linear less DoRA "
        "-0.003 [-0.016, 0.010] Spearman (500 images, 2 seeds, not all of one sign; smallest detectable: 0.028; "
        "seeds: -0.003 [-0.092, 0.086])."
    )


@pytest.mark.parametrize("reason", ["seeds disagree", "corrected p = 0.080"])
def test_why_a_claim_is_undecided_is_said(reason):
    assert f"all of one sign; {reason}; seeds: " in claim_sentence(claim("undecided", reason=reason))


def test_one_seed_says_nothing_about_others_and_few_images_nothing_at_all():
    found = claim_sentence(claim("supported for these images", (-0.031,)))
    assert found.endswith(
        "(500 images, one training seed: says nothing about other seeds): supported for these images."
    )
    few = claim_sentence(claim("undecided", (-0.031,), reason="too few images", n=12))
    assert few.startswith("Whether ")
    assert few.endswith("(12 images, one training seed: says nothing about other seeds; too few images).")


def test_fractions_of_images_are_told_in_points():
    wording = Wording("accuracy", "linear is", "more accurate", "less accurate", "DoRA", points=True)
    found = claim_sentence(claim("contradicted across seeds", (-0.03, -0.034), -0.056, -0.01, sign=1, wording=wording))
    assert (
        "linear is less accurate than DoRA by 3.2 [1.0, 5.6] points (" in found
        and "seeds: +3.2 [0.7, 5.7] points" in found
    )
    undecided = claim_sentence(claim("undecided", (-0.03, 0.0), -0.056, 0.01, sign=1, wording=wording))
    assert "-1.5 [-5.6, 1.0] points (" in undecided and "smallest detectable: 2.8 points; seeds" in undecided


def test_a_difference_that_is_not_judged_gets_a_side_only_where_it_has_one():
    assert claim_sentence(claim("")).endswith(
        "more alike than linear's by 0.031 [0.012, 0.050] Spearman (500 images, 3 seeds, all of one sign; "
        "seeds: +0.0310 [0.0285, 0.0335])."
    )
    assert "less alike than linear's by 0.031 [0.012, 0.050]" in claim_sentence(claim("", (0.031, 0.031), 0.012, 0.05))
    for odd in (claim("", (-0.1, 0.04)), claim("", (-0.01, -0.01), -0.02, 0.001), claim("", n=12)):
        assert claim_sentence(odd).startswith(
            "Whether DoRA's maps of the two classes are more alike than linear's is undecided: "
        )


def test_no_difference_at_all_has_no_sign():
    nothing = replace(claim("undecided"), measured=measure(np.zeros((2, 30)), np.zeros((2, 30))))
    assert claim_sentence(nothing).endswith(
        "undecided: linear less DoRA 0 [0, 0] Spearman (30 images, 2 seeds, not all of one sign; "
        "smallest detectable: –; seeds: 0 [0, 0])."
    )
