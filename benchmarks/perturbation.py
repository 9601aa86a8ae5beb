"""Where the time of a faithfulness study goes: reading, maps, perturbed images, forward passes, statistics.

    python benchmarks/perturbation.py --weights FILE --photos PHOTOS --out docs/results/perturbation.md
    python benchmarks/perturbation.py --weights FILE --photos PHOTOS --images 500      nothing is extrapolated
    python benchmarks/perturbation.py --photos PHOTOS --model vit_tiny_patch16_224 --images 2

The study: SRG and kin (explain.perturbation) of 500 images, 2 runs and 2 relevance methods. One run is measured, on as
many images as --images says, in CPU time of one thread; all but the statistics grow with the number of images alone.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from subjects import load, photos  # beside this file; it finds the project's folders
from timing import Clock, clock_of
from torch import Tensor, nn

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from evaluation.metrics.faithfulness import IMPUTATIONS, perturbation_curves
from evaluation.statistics.paired import paired, single
from explain import COMPARISON_METHOD, METHODS, relevance

IMAGES, RUNS, CORES = 500, 2, 2  # of the whole study
BATCH = 8  # images at a time
READING, DRAWING, FORWARD, STATISTICS = (
    "reading images",
    "drawing perturbed images",
    "their forward passes",
    "statistics",
)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, "python benchmarks/perturbation.py --photos PHOTOS --images 2")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name")
    parser.add_argument("--weights", metavar="FILE", help="safetensors file; random weights without")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="images, in any subfolder")
    parser.add_argument(
        "--images", type=positive, default=16, metavar="N", help=f"how many of them; {IMAGES} is the whole"
    )
    parser.add_argument(
        "--relevance",
        nargs="+",
        default=[COMPARISON_METHOD, "lrp_magnitude"],
        choices=list(METHODS),
        metavar="NAME",
        help=f"(default: {COMPARISON_METHOD} lrp_magnitude)",
    )
    parser.add_argument(
        "--targets",
        type=positive,
        default=2,
        metavar="K",
        help="maps an image, of the K most probable classes",
    )
    parser.add_argument("--steps", type=positive, default=10, metavar="S", help="of removal")
    parser.add_argument("--removal", choices=IMPUTATIONS, default="mean", help="what takes the place of removed patches")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown table")
    return parser


class Timed(nn.Module):
    """A model that counts the images that pass through it, and the seconds that takes."""

    def __init__(self, model: nn.Module, clock: Clock):
        super().__init__()
        self.model, self.clock, self.images, self.seconds = model, clock, 0, 0.0

    def forward(self, images: Tensor) -> Tensor:
        start = self.clock()
        logits = self.model(images)
        self.seconds += self.clock() - start
        self.images += len(images)
        return logits


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = load(args.model, args.weights)
    spent, passes, unit = measure(model, args, clock_of(torch.device("cpu")))
    text = document(args, spent, passes, unit)
    print(text)
    if args.out:
        write_text(args.out, text)


def measure(model: nn.Module, args: argparse.Namespace, clock: Clock) -> tuple[dict[str, float], float, float]:
    """Return the seconds an image of one run by stage, the images an image's removal sends through the model, and the
    seconds of a plain forward pass."""
    stages = [READING, *(f"maps, {method}" for method in args.relevance), DRAWING, FORWARD, STATISTICS]
    spent, timed, plain = Counter(dict.fromkeys(stages, 0.0)), Timed(model, clock), Timed(model, clock)
    with counted(spent, READING, clock):
        images = photos(args.photos, model, args.images, "--photos")
    with torch.inference_mode():
        model(images[:1])  # what is allocated once is not counted
        targets = torch.cat([plain(x).topk(args.targets).indices for x in images.split(BATCH)])
    srg = {method: [] for method in args.relevance}
    for x, t in zip(images.split(BATCH), targets.split(BATCH)):
        for method in args.relevance:
            with counted(spent, f"maps, {method}", clock):
                maps = relevance(model, x, t, method)
            with counted(spent, DRAWING, clock):
                curves = perturbation_curves(timed, x, t, maps, steps=args.steps, imputation=args.removal)
            srg[method].append(curves.srg[:, 0])
    spent[DRAWING], spent[FORWARD] = spent[DRAWING] - timed.seconds, timed.seconds
    by_image = {stage: seconds / len(images) for stage, seconds in spent.items()}
    with counted(spent, STATISTICS, clock):
        for values in srg.values():
            statistics(np.resize(np.concatenate(values), IMAGES))
    by_image[STATISTICS] = spent[STATISTICS] / (IMAGES * RUNS)
    return by_image, timed.images / len(images), plain.seconds / plain.images


@contextmanager
def counted(spent: Counter, stage: str, clock: Clock) -> Iterator[None]:
    """Add the seconds that something takes to a stage."""
    start = clock()
    yield
    spent[stage] += clock() - start


def statistics(values: np.ndarray) -> None:
    """What one method's SRG is put through for two runs, with intervals by bootstrap: both means and their
    difference."""
    other = values + np.random.default_rng(0).normal(0, 0.1, len(values))
    single(values), single(other), paired(values, other)


def document(args: argparse.Namespace, spent: dict[str, float], passes: float, unit: float) -> str:
    total = sum(spent.values())
    rows = [
        {
            "stage": stage,
            "seconds an image": f"{seconds:.4f}",
            "forward passes an image": number(seconds / unit, 2),
            "share": percent(seconds / total),
            "whole study, minutes": number(seconds * IMAGES * RUNS / 60, 1),
        }
        for stage, seconds in [*spent.items(), ("all", total)]
    ]
    whole, weights = total * IMAGES * RUNS / 60, "random" if args.weights is None else "trained"
    how = "one run was measured" if args.images >= IMAGES else f"extrapolated from {args.images} images, linearly"
    return f"""# Where the time of a faithfulness study goes

    python benchmarks/perturbation.py {command_of(args)}

torch {torch.__version__}, timm {timm.__version__}. {args.model} ({weights} weights), SRG in {args.steps} steps, removal
"{args.removal}", K = {args.targets} maps an image by each of {", ".join(args.relevance)}. Seconds an image of one run,
with both orders, all targets and all methods, in CPU time of one thread; a plain forward pass took {1000 * unit:.1f} ms an
image. Removal sends {passes:g} images through the model for each image, {passes / len(args.relevance):g} a method.

{markdown_table(rows, align="lrrrr")}
{IMAGES} images x {RUNS} runs x {len(args.relevance)} methods: {whole:.0f} minutes on one core, and {whole / CORES:.0f} on {CORES} that
share the images and are each as fast as one alone ({how}; statistics were measured for {IMAGES}).
"""


def command_of(args: argparse.Namespace) -> str:
    """Return the arguments that write the document, with places that differ from one machine to the next as words."""
    default = vars(build_parser().parse_args(["--photos", "PHOTOS"]))
    values = vars(args) | {"weights": args.weights and "FILE", "out": args.out and "FILE", "photos": Path("PHOTOS")}
    given = [
        (name, value if isinstance(value, list) else [value])
        for name, value in values.items()
        if name == "photos" or value != default[name]
    ]
    return " ".join(" ".join([f"--{name}", *map(str, value)]) for name, value in given)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was kept; the same command starts again"))
