"""Compare the relevance methods on photos: faithfulness, robustness, similarity between classes and cost.

    python benchmarks/methods.py RUN --out docs/results/methods.md    # hours on two cores; continues where it stopped
    python benchmarks/methods.py RUN --images 8 --noise-images 2 --methods lrp_magnitude rollout
    python benchmarks/methods.py deit_tiny_patch16_224 --data PHOTOS

RUN is a folder that train.py wrote or a model trained elsewhere. The photos are validation images of its data, or of
--data, in proportion to the classes and in an order fixed by --data-seed. Whatever was chosen by looking at photos was
chosen on the first half (benchmarks/candidates.py), so the table reports both halves. Every photo is explained for the
predicted class and for a random other one.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

import numpy as np
import torch
from per_photo import Values, cached, code_hash, difference, with_interval
from photos import BATCH, STEPS, Photos, add_photos, described, load_photos, passes, provenance
from torch import Tensor, nn
from tqdm import tqdm

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from evaluation.metrics.robustness import input_noise_change
from evaluation.metrics.similarity import spearman
from explain import DEFAULT_METHOD, METHODS, relevance

NOISE = 1e-3
REFERENCES = ("lrp_magnitude", DEFAULT_METHOD)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(
        __doc__, "python benchmarks/methods.py results/sports/linear-seed0 --out docs/results/methods.md"
    )
    add_photos(parser)
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=list(METHODS),
        metavar="NAME",
        help="relevance methods (default: all)",
    )
    group.add_argument(
        "--noise-images",
        type=positive,
        metavar="N",
        help="photos for the change under input noise (default: all of --images)",
    )
    group.add_argument(
        "--rounding-images",
        type=positive,
        metavar="N",
        help="photos for the comparison of float32 with float64 (default: all of --images)",
    )
    group.add_argument("--rounds", type=positive, default=5, metavar="N", help="measurements behind the median cost")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("results/methods"),
        metavar="DIR",
        help="folder of values per photo, from which an interrupted run continues (default: %(default)s)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure every method; print and write the table."""
    torch.set_num_threads(1)
    photos = load_photos(args)
    names = list(dict.fromkeys([*REFERENCES, *args.methods]))
    found = {name: measure(photos, name, args) for name in names}
    costs = {name: passes(photos, partial(relevance, method=name), args.rounds) for name in names}
    references = {name: found[name]["srg"] for name in REFERENCES}
    rows = [row(name, found[name], references, photos.half, costs[name]) for name in names]
    text = document(args, photos, markdown_table(rows))
    print(text)
    if args.out:
        write_text(args.out, text)


# ---- measurements


def measure(photos: Photos, method: str, args: argparse.Namespace) -> Values:
    """Return a method's values per photo: srg, similarity, noise and rounding."""
    about = photos.identity | {"code": code_hash("explain/*.py", "evaluation/metrics/*.py")}
    found = cached(args.cache / f"{method}.json", about, partial(measure_maps, photos, method))
    print(method, with_interval(found["srg"]), flush=True)
    found |= cached(
        args.cache / f"{method}-noise.json",
        about | {"noise": NOISE, "noise_images": args.noise_images},
        partial(measure_noise, photos, method, args.noise_images),
    )
    return found | cached(
        args.cache / f"{method}-rounding.json",
        about | {"rounding_images": args.rounding_images},
        partial(measure_rounding, photos, method, args.rounding_images),
    )


def in_batches(model: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    """Compute maps (N, K, gh, gw) batch by batch, with a progress bar."""
    batches = zip(images.split(BATCH), targets.split(BATCH))
    bar = tqdm(batches, total=-(-len(images) // BATCH), desc=method, delay=2, leave=False, disable=None)
    return torch.cat([relevance(model, x, t, method) for x, t in bar])


def measure_maps(photos: Photos, method: str) -> Values:
    """Measure the SRG of the predicted class, and the similarity between the maps of the two classes."""
    maps = in_batches(photos.run.model, photos.images, photos.targets, method)
    return {"srg": photos.srg(maps[:, :1]).tolist(), "similarity": spearman(maps[:, 0], maps[:, 1]).tolist()}


def measure_noise(photos: Photos, method: str, count: int | None) -> Values:
    """Measure the change of maps under input noise, for both classes of the first `count` photos."""
    batches = zip(*(x[:count].split(BATCH) for x in (photos.images, photos.targets)))
    changes = [input_noise_change(photos.run.model, x, t, method, NOISE) for x, t in batches]
    return {"noise": torch.cat(changes).flatten().tolist()}


def measure_rounding(photos: Photos, method: str, count: int | None) -> Values:
    """Measure the relative L2 distance of maps in float32 from float64, for both classes of the first `count` photos."""
    model, images, targets = photos.run.model, photos.images[:count], photos.targets[:count]
    rounded = in_batches(model, images, targets, method)
    exact = in_batches(model.double(), images.double(), targets, method)
    model.float()
    distance = (rounded - exact).flatten(2).norm(dim=-1) / exact.flatten(2).norm(dim=-1)
    return {"rounding": distance.flatten().tolist()}


# ---- the document


def row(name: str, found: Values, references: dict[str, list[float]], half: int, passes: float) -> dict[str, str]:
    """Return a method's row of the table.

    name: the method.
    found: its values per photo.
    references: SRG per photo of the methods that it is compared with.
    half: number of photos in the first half.
    passes: cost of a map in forward passes.
    """
    similarity, noise, rounding = (np.array(found[key]) for key in ("similarity", "noise", "rounding"))
    differences = {
        f"SRG minus {other}'s, second half": "" if name == other else difference(found["srg"][half:], values[half:])
        for other, values in references.items()
    }
    return {
        "method": f"`{name}`",
        "signed": "yes" if METHODS[name].signed else "no",
        "passes": number(passes, 1),
        "SRG, first half": with_interval(found["srg"][:half]),
        "SRG, second half": with_interval(found["srg"][half:]),
        **differences,
        "change under input noise": f"{percent(np.nanmedian(noise), 2)}, {percent(np.nanmax(noise), 2)}",
        "float32 error": f"{scientific(np.nanmedian(rounding))}, {scientific(np.nanmax(rounding))}",
        "similarity between classes": number(np.nanmean(similarity), 2) if np.isfinite(similarity).any() else "",
        "source": METHODS[name].source,
    }


def scientific(value: float) -> str:
    """Format a number that may differ by powers of ten: '2.1e-06'."""
    return f"{value:.1e}" if value else "0"


def document(args: argparse.Namespace, photos: Photos, table: str) -> str:
    """Return the table with what it says and how it was made."""
    images = len(photos.images)
    fewer = "".join(
        f" --{name.replace('_', '-')} {value}"
        for name in ("noise_images", "rounding_images")
        if (value := getattr(args, name)) is not None
    )
    return f"""# Relevance methods, measured

{images} validation photos, {described(photos.run)}. Written by

    python benchmarks/methods.py RUN --images {args.images}{fewer} --out FILE

{provenance(photos)}

{table}
- **signed**: maps have negative values, which are evidence against the class.
- **passes**: cost of a map in forward passes at K = 2 (one thread, B = {min(BATCH, images)}, the median of
  {args.rounds} rounds), measured in the same run; docs/results/benchmark.md has other K and other packages.
- **SRG** (faithfulness): symmetric relevance gain of the predicted class, {STEPS} steps, mean imputation; higher is better,
  chance is 0 (the row of `random`). Mean with a 95 % BCa interval over photos, for the first {photos.half} photos and
  for the others. Rules and starts were chosen on the first half, but for lrp_blend, which was thought of after
  both had been seen: docs/results/candidates.md confirms it on other photos.
- **SRG minus ...**: mean paired difference to `{REFERENCES[0]}` and to `{REFERENCES[1]}`, with its interval.
- **change under input noise** (robustness): relative L2 change of a map when Gaussian noise of standard deviation {NOISE:g}
  is added to the normalised image: median and maximum of
  {min(args.noise_images or images, images)} photos x 2 classes.
- **float32 error**: relative L2 distance of the map in float32 from the one in float64: median and maximum of
  {min(args.rounding_images or images, images)} photos x 2 classes.
- **similarity between classes**: mean Spearman correlation between the maps of the predicted and of a random other class;
  lower is more class-specific, 1 is the same map.
"""


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="the same command continues after the last measured method"))
