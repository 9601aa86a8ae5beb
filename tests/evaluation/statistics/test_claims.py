"""Claims about runs whose answers are known, and claims.md as a reader meets it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evaluation.statistics.claims import Claim, Evidence, MapEvidence, agreement_of_relevance, claims
from evaluation.statistics.claims_markdown import claims_markdown
from evaluation.statistics.paired import holm
from evaluation.statistics.verdicts import FEWEST_IMAGES, SIDES

N = 60


def evidence(label="linear", noise=0, shift=0.0, count=N, train_right=50, val_right=40) -> Evidence:
    """A run whose every figure is `shift` higher than the base's; runs of one `noise` share it, image by image."""
    base = np.random.default_rng(noise).uniform(0.3, 0.6, count)
    return Evidence(
        label,
        base + shift,
        np.arange(count) < val_right,
        np.arange(count) < train_right,
        {"lrp": MapEvidence(base + shift, base + shift, base + shift, 0.004)},
    )


def with_maps(run: Evidence, relevance: str = "lrp", **changes) -> Evidence:
    """The run with other maps, or with those of one more relevance method."""
    return replace(run, maps={**run.maps, relevance: replace(run.maps["lrp"], **changes)})


def claims_of(first: list[Evidence], second: list[Evidence], judged: bool = True) -> list[Claim]:
    """The claims about one pair of methods alone."""
    (found,) = claims([(first, second, judged)])
    return found


def verdicts(first: Evidence, second: Evidence) -> dict[str, str]:
    return {claim.letter: claim.verdict for claim in claims_of([first], [second])}


# Verdicts


def test_the_earlier_studys_claims_hold_where_they_hold():
    """(a) linear's probability higher, (b) DoRA's maps more similar, (c) linear's maps more spread out, ..."""
    first = evidence("linear", val_right=58, train_right=58)
    second = evidence("dora", val_right=40, train_right=60)
    maps = first.maps["lrp"]
    first = replace(first, probability=first.probability + 0.2)
    first = with_maps(first, similarity=maps.similarity - 0.2, entropy_random=maps.entropy_random + 0.2)
    assert verdicts(first, second) == dict.fromkeys("abcde", "supported for these images")


def test_the_reverse_contradicts_a_claim():
    first = evidence("linear", val_right=40, train_right=60)
    second = evidence("dora", val_right=58, train_right=58)
    maps = second.maps["lrp"]
    second = replace(second, probability=second.probability + 0.2)
    second = with_maps(second, similarity=maps.similarity - 0.2, entropy_random=maps.entropy_random + 0.2)
    assert verdicts(first, second) == dict.fromkeys("abcde", "contradicted for these images")


def test_noise_decides_nothing_and_says_what_it_could_have_found():
    first, second = evidence(noise=0, val_right=40), evidence("dora", noise=1, val_right=38)
    found = verdicts(first, second)
    reason = "undecided (the interval over images includes zero; smallest detectable: "
    assert all(found[letter].startswith(f"{reason}0.0") for letter in "abc")
    assert all(found[letter] == f"{reason}8.2 points)" for letter in "de")


def test_few_images_decide_nothing_however_large_the_difference():
    few = FEWEST_IMAGES - 1
    found = verdicts(evidence(shift=0.3, count=few), evidence("dora", noise=1, count=few))
    assert set(found.values()) == {"undecided (too few images)"}


def test_runs_of_other_kinds_get_figures_without_verdicts():
    found = claims_of([evidence("lora", shift=0.3)], [evidence("full")], judged=False)
    assert {claim.verdict for claim in found} == {"not judged"} and found[0].difference == "0.3 [0.3, 0.3]"


def test_a_difference_is_the_first_run_minus_the_second():
    (a, *_, d, e) = claims_of(
        [evidence(val_right=50, train_right=60)], [evidence("dora", shift=-0.1, val_right=44, train_right=60)]
    )
    assert a.difference == "0.1 [0.1, 0.1]" and d.difference.startswith("+10.0 [") and d.difference.endswith("] points")
    assert e.difference.startswith("-10.0 [") and e.measured.difference == pytest.approx(-0.1) and e.unit == "points"
    assert (d.first, d.second) == ("83.3 %", "73.3 %") and (e.first, e.second) == ("16.7 %", "26.7 %")
    assert "only one correct, of 60, and McNemar's exact test: 6 and 0, p = 0.031" in d.test and "p < 0.001" in a.test


def test_p_values_are_corrected_for_all_claims_together():
    """Each claim alone: McNemar of 6 to 0 images, p = 2 / 2^6 = 0.031; after five claims that is no finding."""
    first, second = evidence(noise=0, val_right=40), evidence("dora", noise=1, val_right=34)
    d = next(claim for claim in claims_of([first], [second]) if claim.letter == "d")
    assert d.measured.p_value == pytest.approx(2 / 2**6) and d.measured.low > 0
    assert d.corrected_p > 0.05 and d.verdict.startswith(f"undecided (corrected p = {d.corrected_p:.3f}; smallest det")
    assert f"p = 0.031, corrected p = {d.corrected_p:.3f}" in d.test


def test_the_family_is_all_judged_claims_of_the_data_set():
    """Two pairs that are judged, one that is not: a pair's own claims alone would be corrected less."""
    linear, dora, late = (
        evidence(noise=0, val_right=40),
        evidence("dora", noise=1, val_right=34),
        evidence("late", noise=2),
    )
    linear, dora, late = (with_maps(one, variants={"SSIM": one.maps["lrp"].similarity}) for one in (linear, dora, late))
    pairs = claims([([linear], [dora], True), ([linear], [late], True), ([dora], [late], False)])
    judged = [claim for found in pairs[:2] for claim in found if claim.letter in "abcde"]
    others = [claim for found in pairs for claim in found if claim not in judged]
    assert len(judged) == 10 and len(others) == 2 + 6
    for family in (judged, others):
        corrected = holm([claim.measured.p_value for claim in family])
        assert [claim.corrected_p for claim in family] == pytest.approx(corrected, nan_ok=True)
    alone = {claim.letter: claim.corrected_p for claim in claims_of([linear], [dora])}
    assert alone["d"] < next(claim for claim in judged if claim.letter == "d").corrected_p


def test_every_seed_has_to_agree():
    """Two seeds against the claim and one for it: the images agree on the mean, and nothing is decided."""
    first, second = (
        [evidence(label, shift=shift) for shift in shifts]
        for label, shifts in (("linear", (0.3, 0.3, 0.0)), ("dora", (0.0, 0.0, 0.1)))
    )
    first, second = ([replace(run, seed=seed) for seed, run in enumerate(runs)] for runs in (first, second))
    a, b, c, *_ = claims_of(first, second)
    assert a.verdict.startswith("undecided (seeds disagree")
    assert a.seeds.startswith("+0.300, +0.300, -0.100; +0.17 [-0.")
    assert a.verdict.endswith("; seeds: +0.17 [-0.41, 0.74])")
    two = {claim.letter: claim.verdict for claim in claims_of(first[:2], second[:2])}
    assert two["a"] == "supported across seeds (seeds: 0.3 [0.3, 0.3])"
    assert two["b"] == "contradicted across seeds (seeds: 0.3 [0.3, 0.3])" and two["c"] == two["a"]


def test_seeds_of_one_sign_that_differ_much_support_a_claim_for_these_images_only():
    first, second = (
        [replace(evidence(label, shift=shift), seed=seed) for seed, shift in enumerate(shifts)]
        for label, shifts in (("linear", (0.02, 0.2, 0.1)), ("dora", (0.0, 0.0, 0.0)))
    )
    a, *_ = claims_of(first, second)
    assert a.judgement.side == "claimed" and a.verdict == "supported for these images (seeds: +0.11 [-0.12, 0.33])"


def test_similarity_measured_in_another_way_is_a_claim_of_its_own():
    first, second = evidence(), evidence("dora")
    similarity = first.maps["lrp"].similarity
    first = with_maps(first, variants={"centred head": similarity - 0.2, "contrast": similarity})
    second = with_maps(second, variants={"centred head": similarity, "contrast": similarity})
    found = {claim.letter: claim for claim in claims_of([first], [second])}
    assert list(found) == ["a", "b", "b'", "b''", "c", "d", "e"]
    maps = "dora's maps of the true class and of {} are more similar than linear's"
    assert found["b"].text == f"{maps.format('random classes')} (Spearman, lrp)"
    assert found["b'"].text == f"{maps.format('other classes')} (centred head, lrp)"
    assert found["b'"].verdict == "supported for these images" and found["b"].verdict.startswith("undecided")
    with pytest.raises(ValueError, match="same ways"):
        claims_of([first], [evidence("dora")])


def test_every_relevance_method_judges_claims_about_maps():
    """One whose maps agree with the claim, and one whose maps say the reverse: the report says so."""
    first, second = evidence(), evidence("dora")
    similarity = first.maps["lrp"].similarity
    second = with_maps(second, similarity=similarity + 0.2)
    apart = [with_maps(one, "rollout", similarity=similarity - 0.1 * i) for i, one in enumerate((first, second))]
    alike = [with_maps(one, "rollout", similarity=one.maps["lrp"].similarity) for one in (first, second)]
    found = claims_of([apart[0]], [apart[1]])
    assert [(claim.letter, claim.relevance) for claim in found] == [
        ("a", ""), ("b", "lrp"), ("b", "rollout"), ("c", "lrp"), ("c", "rollout"), ("d", ""), ("e", "")
    ]  # fmt: skip
    by = {claim.relevance: claim.judgement.word for claim in found if claim.letter == "b"}
    assert by == {"lrp": "supported for these images", "rollout": "contradicted for these images"}
    pair = ("linear", "dora")
    said = f"(b) of linear and dora is {by['lrp']} by lrp, {by['rollout']} by rollout."
    assert agreement_of_relevance({pair: found}) == f"The relevance methods disagree: {said}"
    text = claims_markdown({pair: found}, ["a fact"], [[apart[0]], [apart[1]]], [])
    assert text.index(said) < text.index("- a fact"), "the first paragraph"
    same = agreement_of_relevance({pair: claims_of([alike[0]], [alike[1]])})
    assert same == "lrp and rollout judge the claims about maps alike."
    assert agreement_of_relevance({pair: claims_of([first], [second])}) == "Claims about maps are judged by lrp alone."
    assert agreement_of_relevance({pair: claims_of([first], [second], judged=False)}) == ""
    with pytest.raises(ValueError, match="same relevance methods"):
        claims_of([first], [apart[1]])


def test_claims_say_on_which_images_they_are_judged():
    (found,) = claims([([evidence()], [evidence("dora")], True)], "test")
    assert [claim.text for claim in found[-2:]] == [
        "linear is more accurate on test images than dora",
        "dora overfits more than linear (training minus test accuracy)",
    ]


def test_seeds_are_paired_by_their_number():
    with pytest.raises(ValueError, match=r"\[0\] and \[1\]"):
        claims_of([evidence()], [replace(evidence("dora"), seed=1)])
    with pytest.raises(ValueError, match="same training seeds"):
        claims_of([], [])


# Markdown


def markdown(first: list[Evidence], second: list[Evidence], sections: Sequence[str] = ()) -> str:
    return claims_markdown(
        {("linear", "dora"): claims_of(first, second)},
        ["data: photos, 3 classes"],
        [first, second],
        [{"run": "linear", "split": "val", "accuracy": "90.0 %"}],
        sections,
    )


def test_several_seeds_stand_side_by_side():
    runs = [
        [with_maps(replace(evidence(label), seed=seed), noise=0.001 * (seed + 1)) for seed in range(3)]
        for label in ("linear", "dora")
    ]
    text = markdown(*runs)
    assert "linear 0.10 %, 0.20 %, 0.30 %, dora 0.10 %" in text and "One training seed" not in text
    table = [line for line in text.splitlines() if line.startswith(("| a |", "|  | claim"))]
    assert "seed by seed; mean [95 %, seeds]" in table[0] and "| 0.000, 0.000, 0.000; " in table[1]
    assert len({line.count("|") for line in table}) == 1


def test_the_file_can_be_read_alone():
    runs = [evidence("linear"), evidence("dora", shift=0.1)]
    text = markdown([runs[0]], [runs[1]], sections=["## More\n"])
    assert "- data: photos, 3 classes" in text and "| linear | val | 90.0 % |" in text and text.endswith("## More\n")
    assert all(f"*{word}*" in text for word in SIDES)
    assert (
        f"fewer than {FEWEST_IMAGES} images nothing is decided" in text and "by lrp linear 0.40 %, dora 0.40 %" in text
    )
    assert "## linear against dora\n" in text and "One training seed: says nothing about other seeds." in text
    assert "seed by seed" not in text
    table = [line for line in text.splitlines() if line.startswith(("| a |", "| b |", "| c |", "| d |", "| e |"))]
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1
