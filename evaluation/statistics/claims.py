"""The claims that an earlier study made from a few pictures, measured: values, intervals, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.tables import estimate, number, p_text, percent
from evaluation.statistics.measured import (
    Measured,
    correct_family,
    measure,
    measure_accuracy,
    measure_overfitting,
)
from evaluation.statistics.verdicts import Judgement, judge, remarks

MAIN = ("a", "b", "c", "d", "e")


@dataclass(frozen=True)
class Evidence:
    """What one run, a method trained with one seed, contributes; paired by image with other runs.

    label: the method's name.
    val_probability: of the true class, of all validation images.
    val_correct: which validation images are predicted correctly.
    train_correct: which of the images that it was trained on are predicted correctly.
    similarity: Spearman similarity of the maps of the true class and of random classes, of the explained images.
    similarity_cosine: the same by cosine.
    entropy_random: normalised entropy of random classes' maps, of the explained images.
    map_noise: median relative change of its maps under input noise.
    seed: the training seed.
    similarity_variants: similarity measured in other ways, name -> values of the explained images.
    """

    label: str
    val_probability: np.ndarray
    val_correct: np.ndarray
    train_correct: np.ndarray
    similarity: np.ndarray
    similarity_cosine: np.ndarray
    entropy_random: np.ndarray
    map_noise: float
    seed: int = 0
    similarity_variants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Wording:
    """How a claim is said: "dora's maps are" + "more similar" (or "less similar") + "than linear's", by "Spearman".

    topic: what is compared, whoever the two methods are.
    subject: the beginning of the sentence.
    more: what the claim says of it.
    less: the reverse.
    than: the end of the sentence.
    measure: the metric.
    points: the values are fractions of images, shown in percent, and their differences in percentage points.
    """

    topic: str
    subject: str
    more: str
    less: str
    than: str
    measure: str = ""
    points: bool = False

    def side(self, claimed: bool = True) -> str:
        """Return the claim as a sentence without its end, or the reverse of the claim."""
        return f"{self.subject} {self.more if claimed else self.less} than {self.than}"


@dataclass(frozen=True)
class Claim:
    """One statement about two methods, with its measurement; the properties are the texts of claims.md.

    letter: "a" to "e", "b'" and so on.
    wording: how it is said.
    methods: both methods' names.
    measured: the difference, first minus second method.
    sign: 1 or -1, the sign that the claim gives the difference.
    corrected_p: its p-value, corrected for its family.
    judgement: None where the claim is not about such methods.
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
        """The factor of printed differences: 100 for percentage points."""
        return 100 if self.wording.points else 1

    @property
    def unit(self) -> str:
        return "points" if self.wording.points else self.wording.measure

    @property
    def difference(self) -> str:
        m = self.measured
        return estimate(*(self.scale * value for value in (m.difference, m.low, m.high))) + self._points

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
        """The verdict, with the interval over seeds and the reason where it is undecided."""
        word = self.judgement.word if self.judgement else "not judged"
        return word + (f" ({self.beside})" if self.beside else "")

    @property
    def beside(self) -> str:
        """What belongs beside the verdict, see `remarks`; "" where the claim is not judged."""
        if self.judgement is None:
            return ""
        return remarks(self.measured, self.judgement, self.scale, self._points.strip(), self._digits)

    @property
    def _points(self) -> str:
        return " points" if self.wording.points else ""

    @property
    def _digits(self) -> int:
        return 1 if self.wording.points else 3

    def _figure(self, value: float) -> str:
        return percent(value) if self.wording.points else number(value)


def claims(pairs: Sequence[tuple[Sequence[Evidence], Sequence[Evidence], bool]]) -> list[list[Claim]]:
    """Measure claims (a) to (e) about one data set for each pair of methods.

    Similarity measured in other ways gives claims (b'), (b'') and so on. p-values are corrected together over all
    pairs: judged claims (a) to (e) in one family, all others in another.

    pairs: (first, second, judged). A method is a list of one Evidence per training seed, in the same order for both.
        Where `judged` is False the methods are not those of the earlier study (linear probe first, DoRA second), and
        figures stand without verdicts.
    Returns a list of claims per pair.
    Raises ValueError when seeds, ways to measure similarity or numbers of images do not match.
    """
    stated = [
        (place, *one, judged) for place, (first, second, judged) in enumerate(pairs) for one in _stated(first, second)
    ]
    main = [letter in MAIN and judged for _, letter, *_, judged in stated]
    corrected: dict[int, tuple[Measured, float]] = {}
    for family in (True, False):
        members = [i for i, one in enumerate(main) if one == family]
        corrected |= zip(members, correct_family([stated[i][4] for i in members]))
    found: list[list[Claim]] = [[] for _ in pairs]
    for i, (place, letter, wording, sign, _, judged) in enumerate(stated):
        measured, p = corrected[i]
        names = pairs[place][0][0].label, pairs[place][1][0].label
        judgement = judge(measured, sign, p) if judged else None
        found[place].append(Claim(letter, wording, names, measured, sign, p, judgement))
    return found


def _stated(first: Sequence[Evidence], second: Sequence[Evidence]) -> list[tuple[str, Wording, int, Measured]]:
    """Return letter, wording, claimed sign and measurement of every claim about two methods."""
    _check(first, second)

    def values(name: str) -> list[list[np.ndarray]]:
        return [[getattr(evidence, name) for evidence in runs] for runs in (first, second)]

    def variant(name: str) -> list[list[np.ndarray]]:
        return [[evidence.similarity_variants[name] for evidence in runs] for runs in (first, second)]

    words, variants = _wordings(first[0].label, second[0].label), list(first[0].similarity_variants)
    return [
        ("a", words["a"], 1, measure(*values("val_probability"))),
        ("b", words["b"], -1, measure(*values("similarity"))),
        *(
            ("b" + "'" * (i + 1), replace(words["b'"], measure=name), -1, measure(*variant(name)))
            for i, name in enumerate(variants)
        ),
        ("c", words["c"], 1, measure(*values("entropy_random"))),
        ("d", words["d"], 1, measure_accuracy(*values("val_correct"))),
        ("e", words["e"], -1, measure_overfitting(*values("train_correct"), *values("val_correct"))),
    ]


def _wordings(a: str, b: str) -> dict[str, Wording]:
    """Return how each claim about a linear probe `a` and DoRA `b` is said; "b'" for other similarities."""

    def similarity(classes: str, measure: str = "") -> Wording:
        maps = f"maps of the true class and of {classes}"
        return Wording(
            f"similarity of the {maps}", f"{b}'s {maps} are", "more similar", "less similar", f"{a}'s", measure
        )

    return {
        "a": Wording(
            "probability of the true class",
            f"{a} gives the true class a",
            "higher probability",
            "lower probability",
            b,
        ),
        "b": similarity("random classes", "Spearman"),
        "b'": similarity("other classes"),
        "c": Wording(
            "complexity of random classes' maps",
            f"{a}'s maps of random classes are",
            "more spread out",
            "less spread out",
            f"{b}'s",
            "normalised entropy",
        ),
        "d": Wording(
            "accuracy on validation images",
            f"{a} is",
            "more accurate on validation images",
            "less accurate on validation images",
            b,
            points=True,
        ),
        "e": Wording(
            "overfitting", f"{b} overfits", "more", "less", a, "training minus validation accuracy", points=True
        ),
    }


def _check(first: Sequence[Evidence], second: Sequence[Evidence]) -> None:
    seeds = [[evidence.seed for evidence in runs] for runs in (first, second)]
    if not seeds[0] or seeds[0] != seeds[1]:
        raise ValueError(f"claims: expected the same training seeds of both methods, got {seeds[0]} and {seeds[1]}")
    ways = {tuple(evidence.similarity_variants) for evidence in (*first, *second)}
    if len(ways) > 1:
        raise ValueError(f"claims: expected similarity measured in the same ways for every run, got {sorted(ways)}")
