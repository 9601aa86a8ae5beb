"""What an earlier study saw in a few pictures, measured: claims with figures, intervals and verdicts, as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.tables import ABSENT, estimate, markdown_table, number, p_text, percent
from evaluation.statistics.paired import holm
from evaluation.statistics.verdicts import (
    ONE_SEED,
    RULE,
    Judgement,
    Measured,
    judge,
    measure,
    measure_accuracy,
    measure_overfitting,
)

MAIN = ("a", "b", "c", "d", "e")
READING = (
    "A difference is the first run's figure minus the second's. (a), (d): all validation images; (b), (c): the "
    "explained images; (e): training images that were not held out, without augmentation. Intervals over images: BCa "
    "bootstrap (a, b, c, and d with several seeds), Tango's score interval (d with one seed), percentile bootstrap "
    "(e). With several seeds, (d) compares, image by image, the share of seeds that predict it rightly, "
    "by the sign-flip test; beside it stand McNemar's exact p-values, one a seed. Intervals speak about other images, not about other training seeds; the interval over seeds, where there are "
    "several, is Student's t, and seeds are never counted as images. One family of p-values is all claims (a) to (e) of "
    "a data set that are judged; likeness measured otherwise (b', b'', ...) and pairs of methods that the claims are not "
    "about are another."
)


@dataclass(frozen=True)
class Evidence:
    """What one run, a method trained with one seed, contributes; paired by image with other runs.

    val_probability, val_correct: all validation images; train_correct: the images it was trained on; likeness
    (Spearman), likeness_cosine, entropy_other: the explained images; map_noise: median relative change of its maps.
    likeness_otherwise: likeness measured in further ways, name -> the explained images.
    """

    label: str
    val_probability: np.ndarray
    val_correct: np.ndarray
    train_correct: np.ndarray
    likeness: np.ndarray
    likeness_cosine: np.ndarray
    entropy_other: np.ndarray
    map_noise: float
    seed: int = 0
    likeness_otherwise: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Wording:
    """How a claim is said: 'dora's maps are' + 'more alike' (or 'less alike') + 'than linear's', measured by
    'Spearman'.

    topic: what is compared, whoever the two methods are. points: the figures are fractions of images and are shown in
    percent, their differences in points.
    """

    topic: str
    subject: str
    more: str
    less: str
    than: str
    measure: str = ""
    points: bool = False

    def side(self, claimed: bool = True) -> str:
        return f"{self.subject} {self.more if claimed else self.less} than {self.than}"


@dataclass(frozen=True)
class Claim:
    """One statement about two methods: that `measured`, first minus second, has the sign `sign`.

    corrected_p: its p-value, corrected for its family. judgement: None where the claim is not about such methods. The
    texts are those of claims.md.
    """

    letter: str
    wording: Wording
    methods: tuple[str, str]
    measured: Measured
    sign: int
    corrected_p: float
    judgement: Judgement | None

    @property
    def text(self) -> str:
        w = self.wording
        return w.side() + (f" ({w.measure})" if w.measure else "")

    @property
    def first(self) -> str:
        return self._figure(self.measured.mean_a)

    @property
    def second(self) -> str:
        return self._figure(self.measured.mean_b)

    @property
    def scale(self) -> int:
        """What differences are shown times: 100 for points."""
        return 100 if self.wording.points else 1

    @property
    def unit(self) -> str:
        return "points" if self.wording.points else self.wording.measure

    @property
    def difference(self) -> str:
        m = self.measured
        return estimate(*(self.scale * value for value in (m.difference, m.low, m.high))) + self._points

    @property
    def detectable(self) -> str:
        least = self.measured.smallest_detectable
        return ABSENT if np.isnan(least) else number(self.scale * least, self._digits) + self._points

    @property
    def seeds(self) -> str:
        """Each seed's difference, then their mean with its interval over seeds."""
        s = self.measured.seeds
        each = ", ".join(number(self.scale * difference, self._digits, signed=True) for difference in s.differences)
        over = estimate(*(self.scale * value for value in (s.mean, s.low, s.high)))
        return f"{each}; {over}{self._points}"

    @property
    def test(self) -> str:
        m = self.measured
        return f"{m.test} {p_text(m.p_value)}, corrected {p_text(self.corrected_p)}; {m.detail}"

    @property
    def verdict(self) -> str:
        """The verdict's word, and what is said beside it."""
        word = self.judgement.word if self.judgement else "not judged"
        return word + (f" ({self.beside})" if self.beside else "")

    @property
    def beside(self) -> str:
        """Why a claim is undecided, and what would have been found; '' for other verdicts."""
        if self.judgement is None or self.judgement.word != "undecided":
            return ""
        return "; ".join(filter(None, (self.judgement.reason, f"smallest detectable: {self.detectable}")))

    @property
    def _points(self) -> str:
        return " points" if self.wording.points else ""

    @property
    def _digits(self) -> int:
        return 1 if self.wording.points else 3

    def _figure(self, value: float) -> str:
        return percent(value) if self.wording.points else number(value)


def claims(pairs: Sequence[tuple[Sequence[Evidence], Sequence[Evidence], bool]]) -> list[list[Claim]]:
    """Measure claims (a) to (e) about one data set, for each pair of methods: a list a pair.

    pairs: (first, second, judged); a method is a list of one Evidence a training seed, in the same order for both.
    Likeness measured otherwise gives claims (b'), (b'') and so on. Where `judged` is False the methods are not the
    kinds of the earlier study (linear probe first, DoRA second), and figures stand without verdicts. p-values are
    corrected together over all pairs: claims (a) to (e) that are judged in one family, all else in another. Raises
    ValueError when seeds, ways to measure likeness or numbers of images do not match.
    """
    stated = [
        (place, *one, judged) for place, (first, second, judged) in enumerate(pairs) for one in _stated(first, second)
    ]
    main = [letter in MAIN and judged for _, letter, *_, judged in stated]
    corrected = np.empty(len(stated))
    for family in (True, False):
        members = [i for i, one in enumerate(main) if one == family]
        corrected[members] = holm([stated[i][4].p_value for i in members])
    found: list[list[Claim]] = [[] for _ in pairs]
    for (place, letter, wording, sign, measured, judged), p in zip(stated, corrected.tolist()):
        names = tuple(runs[0].label for runs in pairs[place][:2])
        found[place].append(
            Claim(letter, wording, names, measured, sign, p, judge(measured, sign, p) if judged else None)
        )
    return found


def _stated(first: Sequence[Evidence], second: Sequence[Evidence]) -> list[tuple[str, Wording, int, Measured]]:
    """Letter, wording, claimed sign and measurement of every claim about two methods."""
    _check(first, second)
    a, b = first[0].label, second[0].label

    def values(name: str) -> list[list[np.ndarray]]:
        return [[getattr(evidence, name) for evidence in runs] for runs in (first, second)]

    def otherwise(name: str) -> list[list[np.ndarray]]:
        return [[evidence.likeness_otherwise[name] for evidence in runs] for runs in (first, second)]

    alike = (
        "likeness of the maps of the true and of other classes",
        f"{b}'s maps of the true and other classes are",
        "more alike",
        "less alike",
        f"{a}'s",
    )
    return [
        (
            "a",
            Wording(
                "probability of the true class",
                f"{a} gives the true class a",
                "higher probability",
                "lower probability",
                b,
            ),
            1,
            measure(*values("val_probability")),
        ),
        ("b", Wording(*alike, "Spearman"), -1, measure(*values("likeness"))),
        *(
            ("b" + "'" * (i + 1), Wording(*alike, name), -1, measure(*otherwise(name)))
            for i, name in enumerate(first[0].likeness_otherwise)
        ),
        (
            "c",
            Wording(
                "scatter of other classes' maps",
                f"{a}'s maps of other classes are",
                "more scattered",
                "less scattered",
                f"{b}'s",
                "normalised entropy",
            ),
            1,
            measure(*values("entropy_other")),
        ),
        (
            "d",
            Wording(
                "accuracy on validation",
                f"{a} is",
                "more accurate on validation",
                "less accurate on validation",
                b,
                points=True,
            ),
            1,
            measure_accuracy(*values("val_correct")),
        ),
        (
            "e",
            Wording(
                "overfitting", f"{b} overfits", "more", "less", a, "training minus validation accuracy", points=True
            ),
            -1,
            measure_overfitting(*values("train_correct"), *values("val_correct")),
        ),
    ]


def _check(first: Sequence[Evidence], second: Sequence[Evidence]) -> None:
    seeds = [[evidence.seed for evidence in runs] for runs in (first, second)]
    if not seeds[0] or seeds[0] != seeds[1]:
        raise ValueError(f"claims: expected the same training seeds of both methods, got {seeds[0]} and {seeds[1]}")
    ways = {tuple(evidence.likeness_otherwise) for evidence in (*first, *second)}
    if len(ways) > 1:
        raise ValueError(f"claims: expected likeness measured in the same ways for every run, got {sorted(ways)}")


def claims_markdown(
    groups: Mapping[tuple[str, str], Sequence[Claim]],
    facts: Sequence[str],
    evidence: Sequence[Sequence[Evidence]],
    accuracies: Sequence[Mapping],
    sections: Sequence[str] = (),
) -> str:
    """Return claims.md: what was compared, accuracies, one table of claims for each two methods, noise, the rule, more.

    groups: both methods' names -> their claims. evidence: a list a method, one Evidence a seed.
    """
    lines = [
        "# What the earlier study saw, measured",
        "",
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
        "**Noise of the maps themselves** (median change of a map under invisible input noise; differences far "
        "below it would mean nothing): " + _by_method(evidence, lambda e: percent(e.map_noise, 2)) + ".",
        "",
        "**Likeness by cosine**, beside the Spearman figures of (b): "
        + _by_method(evidence, lambda e: number(float(np.nanmean(e.likeness_cosine))))
        + ".",
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


def _by_method(evidence: Sequence[Sequence[Evidence]], figure: Callable[[Evidence], str]) -> str:
    return "; ".join(f"{runs[0].label} {', '.join(map(figure, runs))}" for runs in evidence)
