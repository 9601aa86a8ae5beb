"""The relevance methods and their options as data, for command lines and reports. Imports no torch.

The functions that compute the maps are in explain/methods.py; a test compares this table with their signatures.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTRASTS = ("none", "mean", "softmax", "log_p")  # see explain.contrasts.class_weights
PRECISIONS = ("float16",)  # of the factors of matrix products, besides the images' own


@dataclass(frozen=True)
class RelevanceMethod:
    """A relevance method: what its maps mean, what they cost and which options it takes.

    name: as the command line and `relevance` take it.
    signed: maps have negative values, which are evidence against the target. Such maps are linear in the explained
        quantity: the map of a difference of two logits is the difference of their maps.
    uses_target: the maps of two targets of one image differ because of what the model computes (not by a random seed).
    passes: cost of a map in forward passes of its image, approximate, at K = 2 targets (DeiT-Tiny at 224 pixels, one
        CPU thread, float32, default options; measured in docs/results/benchmark.md).
    source: paper of the method.
    description: one line for tables and help.
    options: names of the keyword options that its function takes.
    contrast: the default of its option `contrast`, one of CONTRASTS; None for a method that uses no target.
    """

    name: str
    signed: bool
    uses_target: bool
    passes: float
    source: str
    description: str
    options: tuple[str, ...]
    contrast: str | None


_TARGET = ("contrast", "centre_head")
_OUTPUTS = ("layers", "gap")

METHODS: dict[str, RelevanceMethod] = {
    method.name: method
    for method in (
        RelevanceMethod(
            name="lrp",
            signed=False,
            uses_target=True,
            passes=4.7,
            source="Chefer, Gur, Wolf, CVPR 2021",
            description="transformer attribution as published: gradient times LRP relevance of attention",
            options=("start_block", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="lrp_magnitude",
            signed=False,
            uses_target=True,
            passes=4.5,
            source="after Chefer, Gur, Wolf, CVPR 2021",
            description="transformer attribution with sums split by magnitudes: repeatable under noise",
            options=("start_block", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="attnlrp",
            signed=True,
            uses_target=True,
            passes=2.9,
            source="Achtibat et al., ICML 2024",
            description="AttnLRP with the paper's composite: input times gradient, changed to keep relevance",
            options=("gamma", "gamma_patch", "at", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="attnlrp_epsilon",
            signed=True,
            uses_target=True,
            passes=1.8,
            source="Achtibat et al., ICML 2024",
            description="AttnLRP with the epsilon rule alone, at the tokens",
            options=("at", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="cp_lrp",
            signed=True,
            uses_target=True,
            passes=2.4,
            source="Ali et al., ICML 2022; gamma of Achtibat et al., ICML 2024",
            description="LRP with attention held constant",
            options=("gamma", "gamma_patch", "at", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="lrp_depth",
            signed=True,
            uses_target=True,
            passes=2.4,
            source="ours; after Ali et al., ICML 2022 and Mehri et al., 2024",
            description="CP-LRP's relevance of each token, averaged over depth",
            options=("gamma", *_TARGET, *_OUTPUTS),
            contrast="none",
        ),
        RelevanceMethod(
            name="lrp_contrast",
            signed=True,
            uses_target=True,
            passes=2.4,
            source="ours; start after Iwana et al., ICCV workshops 2019",
            description="lrp_depth against competing classes: what moves the probability",
            options=("gamma", *_TARGET, *_OUTPUTS),
            contrast="softmax",
        ),
        RelevanceMethod(
            name="lrp_blend",
            signed=True,
            uses_target=True,
            passes=3.7,
            source="ours; after Achtibat et al., ICML 2024 and Ali et al., ICML 2022",
            description="the mean of lrp_contrast and of AttnLRP over depth",
            options=("gamma", *_TARGET, *_OUTPUTS),
            contrast="softmax",
        ),
        RelevanceMethod(
            name="gradient_attention",
            signed=False,
            uses_target=True,
            passes=1.8,
            source="Chefer, Gur, Wolf, ICCV 2021",
            description="gradient times attention, aggregated over blocks",
            options=("start_block", *_TARGET, "layers"),
            contrast="none",
        ),
        RelevanceMethod(
            name="gradcam",
            signed=False,
            uses_target=True,
            passes=0.6,
            source="Selvaraju et al., ICCV 2017; on attention: Chefer et al., CVPR 2021",
            description="the last attention, its heads weighted by their mean gradient",
            options=_TARGET,
            contrast="none",
        ),
        RelevanceMethod(
            name="input_x_gradient",
            signed=True,
            uses_target=True,
            passes=1.8,
            source="Shrikumar et al., 2016 (arXiv:1605.01713)",
            description="pixels times gradient",
            options=("at", *_TARGET, "gap"),
            contrast="none",
        ),
        RelevanceMethod(
            name="integrated_gradients",
            signed=True,
            uses_target=True,
            passes=30.5,
            source="Sundararajan, Taly, Yan, ICML 2017",
            description="pixels times the mean gradient on the path from the data's mean; cost by its steps, 16",
            options=("steps", *_TARGET, "gap"),
            contrast="none",
        ),
        RelevanceMethod(
            name="rollout",
            signed=False,
            uses_target=False,
            passes=0.6,
            source="Abnar and Zuidema, ACL 2020",
            description="attention multiplied over blocks; the same for every target",
            options=("start_block", "layers"),
            contrast=None,
        ),
        RelevanceMethod(
            name="attention",
            signed=False,
            uses_target=False,
            passes=0.6,
            source="Dosovitskiy et al., ICLR 2021 (attention maps)",
            description="the last attention, the class token's or the pool's; the same for every target",
            options=("layers",),
            contrast=None,
        ),
        RelevanceMethod(
            name="random",
            signed=False,
            uses_target=False,
            passes=0.0,
            source="baseline of every metric",
            description="uniform noise, fixed by seed, image and target",
            options=("seed",),
            contrast=None,
        ),
    )
}

DEFAULT_METHOD = "lrp_blend"  # the most faithful to the probability, on DeiT-Tiny: docs/results/candidates.md
# For comparing the maps of several classes. Under a contrast, the map of another class is nearly the negative of the
# predicted class's map.
COMPARISON_METHOD = "lrp_depth"

# Claims about maps are judged by this one, too: the published method of Chefer et al., in its repeatable form.
PUBLISHED_METHOD = "lrp_magnitude"

# Methods whose maps float16 products change by more than 2 %, and why (see explain/precision.py).
NOT_IN_HALF = {
    "lrp": "its residual rule has poles, which any rounding moves",
    "gradcam": "it weighs heads by means of gradients that nearly cancel",
    "input_x_gradient": "the plain gradient's parts nearly cancel",
    "integrated_gradients": "the plain gradients that it sums nearly cancel",
}


@dataclass(frozen=True)
class RelevanceOptions:
    """A relevance method and the options that change its maps, as a command line gives them.

    method: a name in METHODS.
    contrast: one of CONTRASTS; None for the method's own.
    centre_head: explain with the head's rows less their mean over classes.
    precision: "float16" for float16 factors in matrix products; None for the images' own precision.
    """

    method: str = DEFAULT_METHOD
    contrast: str | None = None
    centre_head: bool = False
    precision: str | None = None

    def keywords(self) -> dict[str, Any]:
        """Return the keyword options for `relevance`, only those that differ from the method's defaults."""
        found: dict[str, Any] = {}
        # A method that uses no target explains no contrast, so "none" changes nothing for it.
        if self.contrast is not None and self.contrast != (METHODS[self.method].contrast or "none"):
            found["contrast"] = self.contrast
        if self.centre_head:
            found["centre_head"] = True
        if self.precision is not None:
            found["precision"] = self.precision
        return found

    def changes(self) -> list[str]:
        """Return the same in words, for titles and file names: ["contrast mean", "centre head"]."""
        return [
            name.replace("_", " ") + ("" if value is True else f" {value}") for name, value in self.keywords().items()
        ]


def find_method(name: str, options: Mapping[str, object] | None = None) -> RelevanceMethod:
    """Return a relevance method by name, after a check of the options that it is to be called with.

    name: expected in METHODS.
    options: keyword options of `relevance`, `precision` among them. Only the names of options are checked, and the
        value of `precision`.

    Raises ValueError for an unknown name, an option that the method lacks, or a precision that it is not offered in.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"all: {', '.join(METHODS)}."
        raise ValueError(f"unknown relevance method {name!r}; {hint}")
    known = METHODS[name].options
    for option, value in (options or {}).items():
        if option == "precision":
            check_precision(value, name)
        elif option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}.")
    return METHODS[name]


def check_precision(precision: object, method: str) -> None:
    """Raise ValueError for an unknown precision, or for one that a method is not offered in."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected None (the images' own) or 'float16'.")
    if precision and method in NOT_IN_HALF:
        raise ValueError(f"{method} differs by more than 2 % in float16: {NOT_IN_HALF[method]}. Leave precision out.")


def refuse_more_than_maps(options: Mapping[str, object]) -> None:
    """Raise ValueError where options of `relevance` ask for more than maps, for callers that take maps alone."""
    if beside := [name for name in ("layers", "gap") if options.get(name)]:
        raise ValueError(
            f"{', '.join(beside)} would return more than maps, which alone are taken here: leave it out, or call "
            f"relevance."
        )
