"""Sentences about claims, made from what was measured.

Every sentence names the size of the difference, its interval, how many images and training seeds stand behind it, and
the verdict; what one seed or too few images cannot show is said with it.
"""

from __future__ import annotations

from dataclasses import replace

from common.tables import estimate
from evaluation.statistics.claims import Claim
from evaluation.statistics.verdicts import ONE_SEED, agreement, judge, seeds_text


def claim_sentence(claim: Claim) -> str:
    """Say what was measured about a claim and what follows.

    "dora's maps are more alike than linear's by 0.031 [0.012, 0.050] Spearman (500 images, 3 seeds, all of one sign;
    seeds: +0.031 [0.025, 0.037]): supported across seeds." The side is named only where the interval, the seeds and the
    corrected p-value leave one; otherwise the sentence says that it is undecided, with the difference as tables have
    it, first less second method, and why. A claim that is not judged gets no verdict; the same rule names its side.

    claim: one statement about two methods, measured.
    """
    m, wording = claim.measured, claim.wording
    judgement = claim.judgement or judge(m, claim.sign, claim.corrected_p)
    behind = f"{m.n} images, {agreement(m.seeds) if len(m.seeds.differences) > 1 else ONE_SEED}"
    if judgement.side == "undecided":
        beside = replace(claim, judgement=judgement).beside
        return (
            f"Whether {wording.side()} is undecided: {claim.methods[0]} less {claim.methods[1]} {_amount(claim, 1)} "
            f"({'; '.join(filter(None, (behind, beside)))})."
        )
    claimed = judgement.side == "claimed"
    sign = claim.sign if claimed else -claim.sign
    size = _amount(claim, sign).removeprefix("+")
    seeds = seeds_text(m.seeds, sign * claim.scale, "points" if wording.points else "")
    text = f"{wording.side(claimed)} by {size} ({'; '.join(filter(None, (behind, seeds)))})"
    if claim.judgement is None:
        return f"{text}."
    return f"{text}{'' if claimed else ', the reverse of the claim'}: {judgement.word}."


def _amount(claim: Claim, sign: int) -> str:
    """Return the difference as seen from one side: `sign` times first minus second, with its interval and unit."""
    m, factor = claim.measured, sign * claim.scale
    low, high = sorted((factor * m.low, factor * m.high))
    text = estimate(*(value + 0.0 for value in (factor * m.difference, low, high)))  # + 0.0: zero has no sign
    return f"{text} {claim.unit}".rstrip() + (f" by {claim.relevance}" if claim.relevance else "")
