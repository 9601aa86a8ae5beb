"""METRICS: what each metric of results.csv is called, which direction is better, its unit, chance level and source.

Imports no torch, so that `--help` and reports can read it.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]
ABOVE_RANDOM = "_above_random"  # a metric minus the value of the same model's random maps


@dataclass(frozen=True)
class MetricInfo:
    """What a reader needs to know of a metric.

    name: the value of `metric` in results.csv.
    title: a noun phrase for tables and figures, without direction, unit and chance.
    family: one of FAMILIES: those of Quantus, "classification" and "depth" for what is not about a map, and
        "interventions".
    direction: which values are better; None where neither is, as the metric describes.
    unit: of the values; "" for plain numbers.
    chance: the value by chance, as a number or in words; None where it is not defined.
    source: the paper; "" for a plain count or share.
    higher_is: what a higher value means, such as "more concentrated"; "" where the title says it.
    """

    name: str
    title: str
    family: str
    direction: Direction | None
    unit: str
    chance: float | str | None
    source: str
    higher_is: str = ""

    @property
    def note(self) -> str:
        """Say how to read the values, for brackets after a title: "higher is better; chance 0.25"."""
        parts = [f"higher is {self.higher_is}"] if self.higher_is else []
        parts += [f"{self.direction} is better"] if self.direction else []
        if self.chance is not None:
            parts.append(f"chance: {self.chance}" if isinstance(self.chance, str) else f"chance {self.chance:g}")
        return "; ".join(parts)


SIMILARITY, COMPLEXITY, LOCALISATION = "similarity", "complexity", "localisation"
FAITHFULNESS, RANDOMISATION, ROBUSTNESS = "faithfulness", "randomisation", "robustness"
CLASSIFICATION, DEPTH, INTERVENTIONS = "classification", "depth", "interventions"
FAMILIES = (
    SIMILARITY,
    COMPLEXITY,
    LOCALISATION,
    FAITHFULNESS,
    RANDOMISATION,
    ROBUSTNESS,
    CLASSIFICATION,
    DEPTH,
    INTERVENTIONS,
)

_ADEBAYO = "Adebayo et al., NeurIPS 2018"
_ARRAS = "Arras et al., Information Fusion 2022"
_HESSE = "after Hesse, Schaub-Meyer, Roth, ICCV 2023"
_RISE = "Petsiuk et al., BMVC 2018"
_SRG = "Bluecher, Vielhaben, Strodthoff, TMLR 2024"
_SAMEK = "Samek et al., TNNLS 2017"
_AREA = "the region's share of the area"
_RANDOM_MAP = "a random map's value"

_SIMILARITY = (
    ("spearman", "Spearman similarity between classes", 0.0, f"Spearman 1904; {_ADEBAYO}"),
    ("cosine", "cosine similarity between classes", "about 0.75 for uniform random maps", ""),
    ("ssim", "SSIM similarity between classes", 0.0, f"Wang et al., IEEE TIP 2004; {_ADEBAYO}"),
)
_PERTURBATION: tuple[tuple[str, str, Direction, float | str, str], ...] = (
    ("srg", "SRG", "higher", 0.0, _SRG),
    ("morf", "MoRF", "lower", _RANDOM_MAP, _SAMEK),
    ("lerf", "LeRF", "higher", _RANDOM_MAP, _SAMEK),
    ("insertion", "insertion", "higher", _RANDOM_MAP, _RISE),
    ("deletion", "deletion", "lower", _RANDOM_MAP, _RISE),
)
_SHARE, _PROBABILITY, _CORRELATION = "share of relevance", "probability", "correlation"

_ROWS = (
    *(MetricInfo(name, title, SIMILARITY, "lower", "", chance, source) for name, title, chance, source in _SIMILARITY),
    *(
        MetricInfo(f"{name}_centred", f"{title}, head centred", SIMILARITY, "lower", "", chance, source)
        for name, title, chance, source in _SIMILARITY
    ),
    MetricInfo(
        "entropy",
        "normalised entropy",
        COMPLEXITY,
        None,
        "of log N",
        "about 0.96 for uniform random maps",
        "",
        "less concentrated",
    ),
    MetricInfo(
        "gini",
        "Gini index",
        COMPLEXITY,
        None,
        "",
        "1/3 for uniform random maps",
        "Hurley and Rickard, IEEE TIT 2009",
        "more concentrated",
    ),
    MetricInfo(
        "total_variation",
        "total variation",
        COMPLEXITY,
        None,
        "",
        1.0,
        "Rudin, Osher, Fatemi, Physica D 1992",
        "rougher",
    ),
    MetricInfo(
        "mass_outside_top",
        "relevance outside the top 20 % of patches",
        COMPLEXITY,
        None,
        _SHARE,
        "0.64 for uniform random maps",
        "",
        "less concentrated",
    ),
    MetricInfo("share", "relevance mass on the region", LOCALISATION, None, _SHARE, _AREA, _ARRAS),
    MetricInfo("area", "area of the region", LOCALISATION, None, "share of patches' area", None, ""),
    MetricInfo("ratio", "relevance mass on the region over its area", LOCALISATION, None, "", 1.0, _ARRAS),
    MetricInfo("rank_accuracy", "rank accuracy", LOCALISATION, "higher", "share of pixels", _AREA, _ARRAS),
    MetricInfo("pointing", "pointing game", LOCALISATION, "higher", "hits", _AREA, "Zhang et al., IJCV 2018"),
    MetricInfo("outside", "relevance outside the evidence", LOCALISATION, "lower", _SHARE, f"1 - {_AREA}", _ARRAS),
    MetricInfo(
        "mosaic_share",
        "grid pointing game",
        LOCALISATION,
        "higher",
        _SHARE,
        0.25,
        "Boehle, Fritz, Schiele, CVPR 2021",
    ),
    MetricInfo(
        "noise",
        "change under input noise",
        ROBUSTNESS,
        "lower",
        "of the map's norm",
        "0.7 to 1.4 for random maps",
        "Yeh et al., NeurIPS 2019",
    ),
    *(
        MetricInfo(name, title, FAITHFULNESS, direction, _PROBABILITY, chance, source)
        for name, title, direction, chance, source in _PERTURBATION
    ),
    *(
        MetricInfo(
            name + ABOVE_RANDOM,
            f"{title} minus that of random maps",
            FAITHFULNESS,
            direction,
            _PROBABILITY,
            0.0,
            source,
        )
        for name, title, direction, _, source in _PERTURBATION
    ),
    MetricInfo("morf_curve", "probability along MoRF", FAITHFULNESS, None, _PROBABILITY, _RANDOM_MAP, _SAMEK),
    MetricInfo("lerf_curve", "probability along LeRF", FAITHFULNESS, None, _PROBABILITY, _RANDOM_MAP, _SAMEK),
    MetricInfo(
        "cascade",
        "similarity to maps of the randomised model",
        RANDOMISATION,
        "lower",
        "Spearman correlation of magnitudes",
        0.0,
        _ADEBAYO,
    ),
    MetricInfo(
        "emprt", "eMPRT", RANDOMISATION, "higher", "relative change", 0.0, "Hedstroem et al., XAI in Action 2023"
    ),
    MetricInfo("effect", "effect of an intervention on the logit", INTERVENTIONS, None, "centred logit", 0.0, _HESSE),
    MetricInfo(
        "effect_log_p",
        "effect of an intervention on the log-probability",
        INTERVENTIONS,
        None,
        "nats",
        0.0,
        _HESSE,
    ),
    MetricInfo("relevance_on", "relevance on what was changed", INTERVENTIONS, None, "the map's own", None, _HESSE),
    MetricInfo(
        "relevance_share",
        "relevance on what was changed, over the map's magnitude",
        INTERVENTIONS,
        None,
        _SHARE,
        None,
        _HESSE,
    ),
    MetricInfo(
        "probability",
        "probability of the true class",
        CLASSIFICATION,
        "higher",
        _PROBABILITY,
        "1 / number of classes",
        "",
    ),
    MetricInfo("correct", "accuracy", CLASSIFICATION, "higher", "images", "1 / number of classes", ""),
    MetricInfo("depth_entropy", "entropy of attention", DEPTH, None, "of log N", 1.0, ""),
    MetricInfo(
        "depth_distance",
        "mean attention distance",
        DEPTH,
        None,
        "patches",
        "even attention's",
        "Dosovitskiy et al., ICLR 2021",
    ),
    MetricInfo(
        "depth_on_patches",
        "reading row: attention on patches",
        DEPTH,
        None,
        "share of attention",
        "even attention's",
        "",
    ),
    MetricInfo(
        "depth_on_prefix",
        "reading row: attention on prefix tokens",
        DEPTH,
        None,
        "share of attention",
        "even attention's",
        "",
    ),
    MetricInfo(
        "depth_on_itself", "reading row: attention on itself", DEPTH, None, "share of attention", "even attention's", ""
    ),
    MetricInfo("depth_relevance", "share of the true class's relevance", DEPTH, None, _SHARE, None, ""),
    MetricInfo(
        "depth_divergence",
        "Jensen-Shannon divergence of the reading row",
        DEPTH,
        None,
        "bits",
        "0.279 for two random rows",
        "Lin, IEEE TIT 1991",
    ),
    MetricInfo("depth_cka", "linear CKA of tokens", DEPTH, None, "", 0.0, "Kornblith et al., ICML 2019"),
)

METRICS: dict[str, MetricInfo] = {row.name: row for row in _ROWS}


def info_of(name: str) -> MetricInfo:
    """Return a metric's row. Raises ValueError, naming the known ones, for a metric that is not in METRICS."""
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is not known; expected one of {', '.join(METRICS)}. Add it to METRICS.")
    return METRICS[name]
