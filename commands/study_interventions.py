"""What interventions say of a study's maps, and of the change of maps from one method to another."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.tables import estimate, number, percent
from evaluation.interventions import IMPUTED
from evaluation.options import ORACLE
from evaluation.statistics.agreement import Agreement, FactorChange, Interval, decided
from evaluation.statistics.verdicts import FEWEST_IMAGES
from evaluation.study_interventions import (
    NAMED,
    FactorValues,
    agreement_of,
    agreement_of_change,
    factor_changes,
    factor_values,
)
from evaluation.study_results import StudyResults
from report.markdown import Section

HOW = (
    "The effect of a factor is the true class's centred logit, less its mean over images in which this factor alone "
    "was changed. Relevance on a factor is the sum of the map over its pixels, as a share of the map's magnitude."
)
RULE = (
    "The maps' change *agrees* or *contradicts* where both differences are certain: intervals over images that exclude "
    "zero, one sign in every training seed, p-values below 0.05 after Holm's correction for all of the table, and at "
    f"least {FEWEST_IMAGES} images. *Follows* and *opposes* rest on the interval over images."
)
HOW_AGREEMENT = (
    "Rank: Spearman correlation of relevance and effect over images and factors. Sign: share of the pairs, weighed by "
    "effect, in which relevance has the effect's sign. Exponent b: effects grow as relevance to the power of b; at 1, "
    "twice the relevance means twice the effect. `random` maps show what chance gives, as larger factors have more of "
    "both; `oracle` is a map of patches made of the effects themselves, for reference. Exchanged evidence is left out "
    "here, as it lies where the evidence does."
)


def short_interventions(study: StudyResults, pairs: Sequence[tuple[str, str]]) -> Iterator[Section]:
    """Yield the section of the short report: what changed at each factor, in the maps and in what is relied on."""
    changes: list[tuple[str, tuple[str, str], FactorChange]] = []
    sentences = []
    for first, second in pairs:
        for relevance in study.relevances:
            for imputation in imputations(study, relevance):
                both = [values_of(study, method, relevance, imputation) for method in (first, second)]
                how = relevance + (f", imputation {imputation}" if imputation else "")
                sentences.append(_of_change(f"{second} less {first}, {how}", agreement_of_change(*both)))
                changes += [(how, (first, second), one) for one in factor_changes(*both) if one.factor in NAMED]
    if not sentences:
        return
    known = list(zip(changes, decided([one for *_, one in changes])))
    sentences += [sentence(one, *pair, how) for (how, pair, one), sure in known if sure]
    rows = [_row(one, f"{pair[1]} less {pair[0]}, {how}", sure) for (how, pair, one), sure in known]
    yield Section("Is a change of the maps one of the models?", [HOW, *sentences, RULE], rows)


def long_interventions(study: StudyResults) -> Iterator[Section]:
    """Yield the section of the long report: how well every relevance method agrees with interventions."""
    rows, changes = [], []
    for relevance in [*study.relevances, "random", ORACLE]:
        for imputation in imputations(study, relevance):
            name = {"relevance": relevance} | ({"imputation": imputation} if imputation else {})
            for method in study.methods:
                rows.append(
                    name | {"method": method} | _figures(agreement_of(values_of(study, method, relevance, imputation)))
                )
            for first, second in study.pairs if relevance != "random" else []:  # which is the same for both
                both = (values_of(study, method, relevance, imputation) for method in (first, second))
                changes.append(name | {"change": f"{second} less {first}"} | _figures(agreement_of_change(*both)))
    if rows:
        yield Section("Do the maps agree with interventions?", [HOW, HOW_AGREEMENT], rows)
        sentence = "The same, of the differences between two methods: does relevance change where the effect does?"
        yield Section("Does the change of the maps agree with the change of the models?", [sentence], changes)


def imputations(study: StudyResults, relevance: str) -> list[str]:
    """Return the imputations by which interventions were measured: [""] on drawn scenes, [] where there are none."""
    return [
        one for one in ("", *IMPUTED) if factor_values(study.results, study.methods[0], study.split, relevance, one)
    ]


def values_of(study: StudyResults, method: str, relevance: str, imputation: str) -> FactorValues:
    """Return the interventions on one method, which were measured."""
    found = factor_values(study.results, method, study.split, relevance, imputation)
    assert found is not None
    return found


def sentence(one: FactorChange, first: str, second: str, how: str) -> str:
    """Say what changed at a factor, in the maps and in what the models rely on."""
    map_word, effect_word = ("higher" if m.difference > 0 else "lower" for m in (one.relevance, one.effect))
    verdict = "agrees with" if one.agrees else "contradicts"
    return (
        f"Relevance on {one.factor} ({how}) is {map_word} for {second} than for {first}, by "
        f"{percent(abs(one.relevance.difference))} of the map's magnitude; its effect is {effect_word}, by "
        f"{number(abs(one.effect.difference))} of the logit: the change of the maps {verdict} the intervention."
    )


def _of_change(about: str, change: Agreement) -> str:
    rank = change.rank
    if not np.isfinite(rank.value):
        return f"{about}: the maps do not change, so nothing can be said of their change."
    word = {1: "follows", -1: "opposes", 0: "does not verifiably follow"}[change.side]
    return (
        f"{about}: image by image, the change of relevance {word} the change of effects (rank correlation "
        f"{_interval(rank)}; {change.pairs} pairs of image and factor, {change.images} images)."
    )


def _row(one: FactorChange, about: str, sure: bool) -> dict[str, Any]:
    return {
        "factor": one.factor,
        "change": about,
        "images": one.effect.n,
        "relevance": f"{number(one.relevance.mean_b)} to {number(one.relevance.mean_a)}",
        "difference [95 %]": estimate(one.relevance.difference, one.relevance.low, one.relevance.high),
        "effect": f"{number(one.effect.mean_b, 2)} to {number(one.effect.mean_a, 2)}",
        "difference of effects [95 %]": estimate(one.effect.difference, one.effect.low, one.effect.high),
        "the maps' change": ("agrees" if one.agrees else "contradicts") if sure else "undecided",
    }


def _figures(found: Agreement) -> dict[str, str]:
    return {
        "rank [95 %]": _interval(found.rank),
        "sign [95 %]": _interval(found.sign),
        "exponent [95 %]": _interval(found.exponent),
        "pairs": str(found.pairs),
    }


def _interval(one: Interval) -> str:
    return estimate(one.value, one.low, one.high)
