"""Measure the stages of a faithfulness study: reading, maps, perturbed images, forward passes, statistics.

    python benchmarks/perturbation.py --weights FILE --photos PHOTOS --out docs/results/perturbation.md
    python benchmarks/perturbation.py --weights FILE --photos PHOTOS --images 500      # the whole study's images
    python benchmarks/perturbation.py --photos PHOTOS --model vit_tiny_patch16_224 --images 2

The study: perturbation curves (evaluation.metrics.faithfulness) of 500 images, 2 runs and 2 relevance methods. One run
is measured on --images images, in CPU time of one thread. All stages but the statistics are linear in the number of
images.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

import numpy as np
import timm
import torch
from inputs import load_model, load_photos
from timing import Clock, clock_of
from torch import Tensor, nn

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from evaluation.metrics.faithfulness import IMPUTATIONS, perturbation_curves
from evaluation.statistics.paired import paired, single
from explain import COMPARISON_METHOD, METHODS, relevance

IMAGES, RUNS, CORES = 500, 2, 2  # of the whole study
BATCH = 8  # images at once
READING, PERTURBING, FORWARD, STATISTICS = (
    "reading images",
    "creating perturbed images",
    "their forward passes",
    "statistics",
)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/perturbation.py --photos PHOTOS --images 2")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name")
    parser.add_argument("--weights", metavar="FILE", help="safetensors file; random weights without")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="images, in any subfolder")
    parser.add_argument(
        "--images", type=positive, default=16, metavar="N", help=f"number of images; the whole study has {IMAGES}"
    )
    parser.add_argument(
        "--relevance",
        nargs="+",
        default=[COMPARISON_METHOD, "lrp_magnitude"],
        choices=list(METHODS),
        metavar="NAME",
        help=f"relevance methods (default: {COMPARISON_METHOD} lrp_magnitude)",
    )
    parser.add_argument(
        "--targets",
        type=positive,
        default=2,
        metavar="K",
        help="maps per image, of the K most probable classes",
    )
    parser.add_argument("--steps", type=positive, default=10, metavar="S", help="perturbation steps")
    parser.add_argument("--imputation", choices=IMPUTATIONS, default="mean", help="what replaces removed patches")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random weights")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table as Markdown")
    return parser


class Timed(nn.Module):
    """A model that counts the images that pass through it and the seconds of its forward passes."""

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
    """Measure; print and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = load_model(args.model, args.weights)
    spent, passes, unit = measure(model, args, clock_of(torch.device("cpu")))
    text = document(args, spent, passes, unit)
    print(text)
    if args.out:
        write_text(args.out, text)


def measure(model: nn.Module, args: argparse.Namespace, clock: Clock) -> tuple[dict[str, float], float, float]:
    """Measure one run.

    model: the model.
    args: the command line.
    clock: reads seconds.

    Returns seconds per image by stage, forward passes per image for perturbed images, and seconds of a plain forward
    pass per image.
    """
    stages = [READING, *(f"maps, {method}" for method in args.relevance), PERTURBING, FORWARD, STATISTICS]
    spent, timed, plain = Counter(dict.fromkeys(stages, 0.0)), Timed(model, clock), Timed(model, clock)
    with counted(spent, READING, clock):
        images = load_photos(args.photos, model, args.images, "--photos")
    with torch.inference_mode():
        model(images[:1])  # allocates what later passes reuse
        targets = torch.cat([plain(x).topk(args.targets).indices for x in images.split(BATCH)])
    srg: dict[str, list[np.ndarray]] = {method: [] for method in args.relevance}
    for x, t in zip(images.split(BATCH), targets.split(BATCH)):
        for method in args.relevance:
            with counted(spent, f"maps, {method}", clock):
                maps = relevance(model, x, t, method)
            with counted(spent, PERTURBING, clock):
                curves = perturbation_curves(timed, x, t, maps, steps=args.steps, imputation=args.imputation)
            srg[method].append(curves.srg[:, 0])
    spent[PERTURBING], spent[FORWARD] = spent[PERTURBING] - timed.seconds, timed.seconds
    by_image = {stage: seconds / len(images) for stage, seconds in spent.items()}
    with counted(spent, STATISTICS, clock):
        for values in srg.values():
            statistics(np.resize(np.concatenate(values), IMAGES))
    by_image[STATISTICS] = spent[STATISTICS] / (IMAGES * RUNS)
    return by_image, timed.images / len(images), plain.seconds / plain.images


@contextmanager
def counted(spent: Counter, stage: str, clock: Clock) -> Iterator[None]:
    """Add the seconds that the block takes to a stage."""
    start = clock()
    yield
    spent[stage] += clock() - start


def statistics(values: np.ndarray) -> None:
    """Compute the statistics of one method for two runs: both means and their difference, with intervals."""
    other = values + np.random.default_rng(0).normal(0, 0.1, len(values))
    single(values), single(other), paired(values, other)


def document(args: argparse.Namespace, spent: dict[str, float], passes: float, unit: float) -> str:
    """Return the table of stages; see `measure` for the values."""
    total = sum(spent.values())
    rows = [
        {
            "stage": stage,
            "seconds per image": f"{seconds:.4f}",
            "forward passes per image": number(seconds / unit, 2),
            "share": percent(seconds / total),
            "whole study, minutes": number(seconds * IMAGES * RUNS / 60, 1),
        }
        for stage, seconds in [*spent.items(), ("total", total)]
    ]
    whole, weights = total * IMAGES * RUNS / 60, "random" if args.weights is None else "trained"
    how = "one run was measured" if args.images >= IMAGES else f"extrapolated from {args.images} images, linearly"
    return f"""# The time of a faithfulness study by stage

    python benchmarks/perturbation.py {command_of(args)}

torch {torch.__version__}, timm {timm.__version__}. {args.model} ({weights} weights), SRG in {args.steps} steps, imputation
"{args.imputation}", K = {args.targets} maps per image and method, methods {", ".join(args.relevance)}. Seconds per image of one
run, for both orders, all targets and all methods, in CPU time of one thread; a plain forward pass takes {1000 * unit:.1f} ms per
image. Perturbation needs {passes:g} forward passes per image, {passes / len(args.relevance):g} per method.

{markdown_table(rows, align="lrrrr")}
{IMAGES} images x {RUNS} runs x {len(args.relevance)} methods: {whole:.0f} minutes on one core, and {whole / CORES:.0f} on {CORES} cores
if each is as fast as one alone ({how}; statistics were measured for {IMAGES} images).
"""


def command_of(args: argparse.Namespace) -> str:
    """Return the arguments that write the document, with placeholders for paths."""
    default = vars(build_parser().parse_args(["--photos", "PHOTOS"]))
    values = vars(args) | {"weights": args.weights and "FILE", "out": args.out and "FILE", "photos": Path("PHOTOS")}
    given = [
        (name, value if isinstance(value, list) else [value])
        for name, value in values.items()
        if name == "photos" or value != default[name]
    ]
    return " ".join(" ".join([f"--{name}", *map(str, value)]) for name, value in given)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
