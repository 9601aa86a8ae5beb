"""The claims that an earlier study made from a few pictures, measured: values, intervals, verdicts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

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
class MapEvidence:
    """What the maps of one run show by one relevance method, of the explained images.

    similarity: Spearman similarity of the maps of the true class and of random classes.
    similarity_cosine: the same by cosine.
    entropy_random: normalised entropy of random classes' maps.
    noise: median relative change of a map under input noise; NaN where it was not measured.
    variants: similarity measured in other ways, name -> values.
    """

    similarity: np.ndarray
    similarity_cosine: np.ndarray
    entropy_random: np.ndarray
    noise: float = float("nan")
    variants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What one run, a method trained with one seed, contributes; paired by image with other runs.

    label: the method's name.
    probability: of the true class, of all images of the split that claims are judged on.
    correct: which of these images are predicted correctly.
    train_correct: which of the images that it was trained on are predicted correctly.
    maps: relevance method -> what its maps show; the first method's claims stand first.
    seed: the training seed.
    """

    label: str
    probability: np.ndarray
    correct: np.ndarray
    train_correct: np.ndarray
    maps: Mapping[str, MapEvidence]
    seed: int = 0


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

    letter: "a" to "e", "b'" and so on. A claim about maps is stated once per relevance method, with one letter.
    wording: how it is said.
    methods: both methods' names.
    measured: the difference, first minus second method.
    sign: 1 or -1, the sign that the claim gives the difference.
    corrected_p: its p-value, corrected for its family.
    judgement: None where the claim is not about such methods.
    relevance: the relevance method whose maps were measured; "" where the claim is not about maps.
    """

    letter: str
    wording: Wording
    methods: tuple[str, str]
    measured: Measured
    sign: int
    corrected_p: float
    judgement: Judgement | None
    relevance: str = ""

    @property
    def text(self) -> str:
        return self.wording.side() + (f" ({self.how})" if self.how else "")

    @property
    def how(self) -> str:
        """The metric and the relevance method, as far as there are any."""
        return ", ".join(filter(None, (self.wording.measure, self.relevance)))

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


def claims(
    pairs: Sequence[tuple[Sequence[Evidence], Sequence[Evidence], bool]], images: str = "validation"
) -> list[list[Claim]]:
    """Measure claims (a) to (e) about one data set for each pair of methods.

    Similarity measured in other ways gives claims (b'), (b'') and so on. Claims about maps are measured by every
    relevance method. p-values are corrected together over all pairs and relevance methods: judged claims (a) to (e) in
    one family, all others in another.

    pairs: (first, second, judged). A method is a list of one Evidence per training seed, in the same order for both.
        Where `judged` is False the methods are not those of the earlier study (linear probe first, DoRA second), and
        figures stand without verdicts.
    images: what the images are called that are judged on.
    Returns a list of claims per pair.
    Raises ValueError when seeds, relevance methods, ways to measure similarity or numbers of images do not match.
    """
    stated = [
        (place, judged, one)
        for place, (first, second, judged) in enumerate(pairs)
        for one in _stated(first, second, images)
    ]
    main = [one.letter in MAIN and judged for _, judged, one in stated]
    corrected: dict[int, tuple[Measured, float]] = {}
    for family in (True, False):
        members = [i for i, of_main in enumerate(main) if of_main == family]
        corrected |= zip(members, correct_family([stated[i][2].measured for i in members]))
    found: list[list[Claim]] = [[] for _ in pairs]
    for i, (place, judged, one) in enumerate(stated):
        measured, p = corrected[i]
        judgement = judge(measured, one.sign, p) if judged else None
        found[place].append(replace(one, measured=measured, corrected_p=p, judgement=judgement))
    return found


def agreement_of_relevance(groups: Mapping[tuple[str, str], Sequence[Claim]]) -> str:
    """Say whether the relevance methods judge claims (a) to (e) about maps alike, and where they do not.

    groups: both methods' names -> their claims.
    Returns a paragraph; "" where no claim about maps is judged.
    """
    about: dict[tuple[str, str, str], dict[str, Judgement]] = {}
    for pair, found in groups.items():
        for claim in found:
            if claim.judgement and claim.relevance and claim.letter in MAIN:
                about.setdefault((claim.letter, *pair), {})[claim.relevance] = claim.judgement
    kinds = list(dict.fromkeys(kind for by in about.values() for kind in by))
    sides = {which: {judgement.side for judgement in by.values()} for which, by in about.items()}
    if len(kinds) < 2:
        return f"Claims about maps are judged by {kinds[0]} alone." if kinds else ""
    if apart := [which for which in about if len(sides[which]) > 1]:
        said = [
            f"({letter}) of {first} and {second} is "
            f"{', '.join(f'{one.word} by {kind}' for kind, one in about[letter, first, second].items())}."
            for letter, first, second in apart
        ]
        return " ".join(["The relevance methods disagree:", *said])
    if all(found == {"undecided"} for found in sides.values()):
        return f"No claim about maps is decided, neither by {' nor by '.join(kinds)}."
    return f"{' and '.join(kinds)} judge the claims about maps alike."


def _stated(first: Sequence[Evidence], second: Sequence[Evidence], images: str) -> list[Claim]:
    """Return every claim about two methods, measured, and neither corrected nor judged."""
    _check(first, second)
    names, words = (first[0].label, second[0].label), _wordings(first[0].label, second[0].label, images)

    def values(of: Callable[[Evidence], np.ndarray]) -> list[list[np.ndarray]]:
        return [[of(evidence) for evidence in runs] for runs in (first, second)]

    def stated(letter: str, wording: Wording, sign: int, measured: Measured, relevance: str = "") -> Claim:
        return Claim(letter, wording, names, measured, sign, measured.p_value, None, relevance)

    def similarity(kind: str) -> Iterator[Claim]:
        yield stated("b", words["b"], -1, measure(*values(lambda one: one.maps[kind].similarity)), kind)
        for i, name in enumerate(first[0].maps[kind].variants):
            measured = measure(*values(partial(_variant, kind, name)))
            yield stated("b" + "'" * (i + 1), replace(words["b'"], measure=name), -1, measured, kind)

    def complexity(kind: str) -> Claim:
        return stated("c", words["c"], 1, measure(*values(lambda one: one.maps[kind].entropy_random)), kind)

    correct, kinds = values(lambda one: one.correct), list(first[0].maps)
    overfitting = measure_overfitting(*values(lambda one: one.train_correct), *correct)
    return [
        stated("a", words["a"], 1, measure(*values(lambda one: one.probability))),
        *chain.from_iterable(map(similarity, kinds)),
        *map(complexity, kinds),
        stated("d", words["d"], 1, measure_accuracy(*correct)),
        stated("e", words["e"], -1, overfitting),
    ]


def _variant(kind: str, name: str, evidence: Evidence) -> np.ndarray:
    return evidence.maps[kind].variants[name]


def _wordings(a: str, b: str, images: str) -> dict[str, Wording]:
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
            f"accuracy on {images} images",
            f"{a} is",
            f"more accurate on {images} images",
            f"less accurate on {images} images",
            b,
            points=True,
        ),
        "e": Wording(
            "overfitting", f"{b} overfits", "more", "less", a, f"training minus {images} accuracy", points=True
        ),
    }


def _check(first: Sequence[Evidence], second: Sequence[Evidence]) -> None:
    seeds = [[evidence.seed for evidence in runs] for runs in (first, second)]
    if not seeds[0] or seeds[0] != seeds[1]:
        raise ValueError(f"claims: expected the same training seeds of both methods, got {seeds[0]} and {seeds[1]}")
    ways = {
        tuple((kind, tuple(found.variants)) for kind, found in evidence.maps.items()) for evidence in (*first, *second)
    }
    if len(ways) > 1:
        raise ValueError(
            f"claims: expected the same relevance methods, and similarity measured in the same ways, "
            f"for every run, got {sorted(ways)}"
        )
