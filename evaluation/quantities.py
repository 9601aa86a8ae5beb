"""What methods are compared by: a metric of one target on one split, and the groups that reports ask about."""

from dataclasses import dataclass

from evaluation.metrics.registry import ABOVE_RANDOM, info_of
from evaluation.options import RANDOM, RUNNER_UP, TRUE

PERTURBATION = ("srg", "morf", "lerf", "insertion", "deletion")
ON_REGIONS = {"evidence": ("ratio", "rank_accuracy", "pointing", "outside"), "surface": ("ratio",)}


@dataclass(frozen=True)
class Quantity:
    """A metric under conditions, as it is found in results.csv.

    metric: a name in METRICS.
    target: whose maps are measured.
    split: the split; "" is the one that claims are judged on.
    imputation: what replaces removed patches, for faithfulness.
    place: a region, a block, or a fraction removed.
    """

    metric: str
    target: str = TRUE
    split: str = ""
    imputation: str = ""
    place: str = ""

    @property
    def percent(self) -> bool:
        """Whether values are fractions of images, printed in percent and their differences in points."""
        return self.metric == "correct"

    @property
    def title(self) -> str:
        """A noun phrase for tables, with the direction and the chance level in brackets."""
        note = info_of(self.metric).note
        return self.short_title + (f" ({note})" if note else "")

    @property
    def short_title(self) -> str:
        """The noun phrase without brackets."""
        if self.percent:
            return f"accuracy on {self.split}"
        where = {RANDOM: ", random classes", RUNNER_UP: ", runner-up class"}.get(self.target, "")
        region = f", {self.place} of {self.split}" if self.place in ON_REGIONS else ""
        return f"{info_of(self.metric).title}{where}{region}"


CLASS_DEPENDENCE = (
    Quantity("spearman", RANDOM),
    Quantity("spearman_centred", RANDOM),
    Quantity("spearman", RUNNER_UP),
    Quantity("spearman_centred", RUNNER_UP),
    Quantity("ssim", RANDOM),
    Quantity("cosine", RANDOM),
    Quantity("ssim", RUNNER_UP),
    Quantity("cosine", RUNNER_UP),
)
ROUGHNESS = Quantity("total_variation", RANDOM)
COMPLEXITY = (
    Quantity("entropy", RANDOM),
    Quantity("entropy"),
    Quantity("gini", RANDOM),
    ROUGHNESS,
    Quantity("mass_outside_top", RANDOM),
)
GRID_POINTING = (Quantity("mosaic_share"),)


def faithfulness(imputation: str) -> tuple[Quantity, ...]:
    """Return the faithfulness metrics, each also minus the value of the same model's random maps."""
    return tuple(Quantity(name + end, imputation=imputation) for name in PERTURBATION for end in (ABOVE_RANDOM, ""))


def localisation(split: str) -> tuple[Quantity, ...]:
    """Return the localisation metrics on a split whose images have masks."""
    return tuple(
        Quantity(metric, split=split, place=region) for region, metrics in ON_REGIONS.items() for metric in metrics
    )
