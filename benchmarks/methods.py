"""Which relevance method to trust: faithfulness, repeatability, class-dependence and cost of each, on real photos.

    python benchmarks/methods.py RUN --out docs/results/methods.md          hours on two cores; continues where it stopped
    python benchmarks/methods.py RUN --images 8 --noise-images 2 --methods lrp_magnitude rollout
    python benchmarks/methods.py deit_tiny_patch16_224 --data PHOTOS

RUN is a folder that train.py wrote or a model trained elsewhere; the photos are validation images of the data that it
was trained on, or of --data, spread over classes, in an order fixed by --data-seed: whatever was *chosen* on photos
was chosen on the first half (benchmarks/candidates.py), so the table reports both halves. Every photo is explained for
the class that the model predicts, and for a random other one.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import cost, plain_forward  # beside this file; it finds the project's folders
from torch import Tensor, nn
from tqdm import tqdm

from cli.arguments import EXTERNAL, add_data, add_external, external_options
from cli.command import run
from cli.parser import make_parser, positive
from common.errors import UsageError
from common.tables import markdown_table, number, percent, write_json, write_text
from compare import data_of_runs
from data.sampling import stratified
from data.transforms import Prepared, evaluation_transform
from evaluation.metrics.faithfulness import perturbation_curves
from evaluation.metrics.robustness import input_noise_change
from evaluation.metrics.similarity import spearman
from evaluation.statistics.paired import paired, single
from evaluation.subjects import load_explainable
from explain import DEFAULT_METHOD, METHODS, relevance
from models.backbone import content_hash
from models.runs import Run

NOISE, STEPS, BATCH = 1e-3, 10, 8
REFERENCES = ("lrp_magnitude", DEFAULT_METHOD)
ROOT = Path(__file__).resolve().parents[1]


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        __doc__, "python benchmarks/methods.py results/sports/linear-seed0 --out docs/results/methods.md"
    )
    add_photos(parser)
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME", help="(default: all)"
    )
    group.add_argument(
        "--noise-images",
        type=positive,
        metavar="N",
        help="photos for repeatability (default: all of --images)",
    )
    group.add_argument(
        "--rounding-images",
        type=positive,
        metavar="N",
        help="photos for float32 against float64 (default: all of --images)",
    )
    group.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="timings whose median is the cost"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown table")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("results/methods"),
        metavar="DIR",
        help="figures photo by photo, from which an interrupted run continues (default: %(default)s)",
    )
    return parser


def add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=f"a folder that train.py wrote, or {EXTERNAL}")
    parser.add_argument("--images", type=positive, default=200, metavar="N", help="validation photos")
    add_data(parser, default=None)
    add_external(parser)


class Photos:
    """N validation photos as a run takes them, with the class it predicts and another one as targets (N, 2).

    fresh: of the photos that these leave, as many as are asked for, in their place: no choice was made by any of them.
    """

    def __init__(self, args: argparse.Namespace, fresh: int | None = None):
        self.run: Run = load_explainable([args.run], external_options(args, [args.run]))[0]
        self.data = data = data_of_runs(argparse.Namespace(**vars(args), runs=[args.run]), [self.run])
        split, draw = data.splits["val"], np.random.default_rng(args.data_seed)
        indices = draw.permutation(stratified(split.labels, min(args.images, len(split)), args.data_seed))
        if fresh is not None:
            indices = draw.permutation(np.setdiff1d(np.arange(len(split)), indices))[:fresh]
            if not len(indices):
                raise UsageError(
                    f"--images {args.images} leaves no photo of {len(split)} to confirm anything on; give fewer, or --fresh 0"
                )
        prepared = Prepared(split, evaluation_transform(self.run.config["data_config"]))
        self.images = torch.stack([prepared[int(i)][0] for i in indices])
        with torch.inference_mode():
            predicted = torch.cat([self.run.model(x).argmax(-1) for x in self.images.split(BATCH)]).numpy()
        other = (predicted + draw.integers(1, len(self.run.class_names), len(predicted))) % len(self.run.class_names)
        self.targets = torch.from_numpy(np.stack([predicted, other], axis=1))
        self.identity = {
            "steps": STEPS,
            "model": content_hash(self.run.model, head=True),
            "images": args.images,
            "fresh": fresh,
            "data": data.fingerprint,
            "data_seed": args.data_seed,
        }

    @property
    def half(self) -> int:
        return len(self.images) // 2

    def srg(self, maps: Tensor, which: slice = slice(None)) -> np.ndarray:
        """SRG of maps (n, 1, gh, gw) of the photos in `which` for the predicted class, (n,)."""
        steps = min(STEPS, maps[0, 0].numel())
        batches = zip(*(x.split(BATCH) for x in (self.images[which], self.targets[which, :1], maps)))
        return np.concatenate(
            [perturbation_curves(self.run.model, x, t, m, steps=steps).srg[:, 0] for x, t, m in batches]
        )


def passes(photos: Photos, explain: Callable[[nn.Module, Tensor, Tensor], object], rounds: int) -> float:
    """Cost of a map in forward passes: both targets of a batch of photos."""
    model, images, targets = photos.run.model, photos.images[:BATCH], photos.targets[:BATCH]
    return cost(lambda: explain(model, images, targets), plain_forward(model, images), rounds) / targets.shape[1]


def in_batches(model: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    batches = zip(images.split(BATCH), targets.split(BATCH))
    return torch.cat(
        [
            relevance(model, x, t, method)
            for x, t in tqdm(batches, total=-(-len(images) // BATCH), desc=method, delay=2, leave=False, disable=None)
        ]
    )


def measure(photos: Photos, method: str) -> dict[str, list[float]]:
    """How faithful a method is, photo by photo, and how alike two classes' maps."""
    maps = in_batches(photos.run.model, photos.images, photos.targets, method)
    return {"srg": photos.srg(maps[:, :1]).tolist(), "likeness": spearman(maps[:, 0], maps[:, 1]).tolist()}


def measure_noise(photos: Photos, method: str, noise_images: int | None) -> dict[str, list[float]]:
    """What noise does to a method's maps, photo by photo, both classes."""
    batches = zip(*(x[:noise_images].split(BATCH) for x in (photos.images, photos.targets)))
    return {
        "noise": torch.cat([input_noise_change(photos.run.model, x, t, method, NOISE) for x, t in batches])
        .flatten()
        .tolist()
    }


def measure_rounding(photos: Photos, method: str, rounding_images: int | None) -> dict[str, list[float]]:
    """How far a method's maps in float32 are from those in float64, photo by photo, both classes."""
    model, images, targets = photos.run.model, photos.images[:rounding_images], photos.targets[:rounding_images]
    known = in_batches(model, images, targets, method)
    exact = in_batches(model.double(), images.double(), targets, method)
    model.float()
    rounding = (known - exact).flatten(2).norm(dim=-1) / exact.flatten(2).norm(dim=-1)
    return {"rounding": rounding.flatten().tolist()}


def row(name: str, found: dict, references: dict[str, dict], half: int, costs: float) -> dict:
    """A method's row of the table."""
    likeness, noise, rounding = (np.array(found[key]) for key in ("likeness", "noise", "rounding"))
    return {
        "method": f"`{name}`",
        "signed": "yes" if METHODS[name].signed else "no",
        "passes": number(costs, 1),
        "SRG, first half": with_interval(found["srg"][:half]),
        "SRG, second half": with_interval(found["srg"][half:]),
        **{
            f"less {other}'s, second half": ""
            if name == other
            else difference(found["srg"][half:], known["srg"][half:])
            for other, known in references.items()
        },
        "noise": f"{percent(np.nanmedian(noise), 2)}, {percent(np.nanmax(noise), 2)}",
        "float32": f"{scientific(np.nanmedian(rounding))}, {scientific(np.nanmax(rounding))}",
        "similarity of two classes": number(np.nanmean(likeness), 2) if np.isfinite(likeness).any() else "",
        "source": METHODS[name].source,
    }


def with_interval(values: list[float]) -> str:
    found = single(values)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def difference(a: list[float], b: list[float]) -> str:
    """The mean paired difference with its interval."""
    found = paired(a, b)
    return f"{number(found.difference, 3, True)} [{number(found.low, 3, True)}, {number(found.high, 3, True)}]"


def scientific(value: float) -> str:
    """Rounding spans many powers of ten: '2.1e-06'."""
    return f"{value:.1e}" if value else "0"


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    photos = Photos(args)
    names = list(dict.fromkeys([*REFERENCES, *args.methods]))
    found = {name: figures(photos, name, args) for name in names}
    costs = {name: passes(photos, lambda *inputs: relevance(*inputs, name), args.rounds) for name in names}
    references = {name: found[name] for name in REFERENCES}
    rows = [row(name, found[name], references, photos.half, costs[name]) for name in names]
    text = document(args, photos, markdown_table(rows))
    print(text)
    if args.out:
        write_text(args.out, text)


def figures(photos: Photos, name: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Return a method's figures, photo by photo."""
    about = photos.identity | {"code": code("explain/*.py")}
    found = kept(args.keep / f"{name}.json", about, lambda: measure(photos, name))
    print(name, with_interval(found["srg"]), flush=True)
    found |= kept(
        args.keep / f"{name}-noise.json",
        about | {"noise": NOISE, "noise_images": args.noise_images},
        lambda: measure_noise(photos, name, args.noise_images),
    )
    return found | kept(
        args.keep / f"{name}-rounding.json",
        about | {"rounding_images": args.rounding_images},
        lambda: measure_rounding(photos, name, args.rounding_images),
    )


def kept(path: Path, settings: dict, compute: Callable[[], dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return figures from a file, if they were computed there with these settings; else compute and keep them."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("settings") != settings:
        known = {"settings": settings, "figures": compute()}
        write_json(path, known)
    # JSON has no NaN: null stands for it
    return {key: [np.nan if v is None else v for v in values] for key, values in known["figures"].items()}


def code(*patterns: str) -> str:
    """A SHA-256 of the project's files that figures depend on."""
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def described(run: Run) -> str:
    """Return what a document calls a run: its backbone, method, accuracy and number of classes."""
    accuracy = run.summary.get("accuracy")
    backbone = f"{run.config['backbone']['name']} with " if "backbone" in run.config else ""
    right = f" ({percent(accuracy['val']['accuracy'])} on validation)" if accuracy else ""
    return f"{backbone}{run.label}{right}, {len(run.class_names)} classes"


def provenance(photos: Photos) -> str:
    """Return how the run was trained, and what is to be known of the photos."""
    config = photos.run.config
    lines = (
        []
        if not photos.run.summary
        else [
            f"RUN was trained by `python train.py --data PHOTOS --model {config['backbone']['name']}"
            f"{' --weights FILE' if config['backbone']['weights'] else ''} --method {photos.run.label} --seed {config['seed']} --out RUN`; "
            f"every other setting stands in its config.json."
        ]
    )
    return " ".join([*lines, *(f"Of PHOTOS: {warning}." for warning in photos.data.warnings)])


def document(args: argparse.Namespace, photos: Photos, table: str) -> str:
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
- **signed**: maps have negative parts, which speak against the class.
- **passes**: cost of a map in forward passes at K = 2 (one thread, B = {min(BATCH, images)}, the median of
  {args.rounds} rounds), measured in the same run; docs/results/benchmark.md has other K and other packages.
- **SRG**: symmetric relevance gain of the predicted class, {STEPS} steps, patches set to the data mean; higher is more
  faithful, chance is 0 (the row of `random`). Mean with a 95 % BCa interval over photos, for the first
  {photos.half} photos and the others. Whatever was chosen by looking at photos was chosen on the first half, so
  read the second.
- **less ...'s**: mean paired difference of SRG to that of `{REFERENCES[0]}`, and of `{REFERENCES[1]}`, with its interval.
- **noise**: relative change (L2) of a map when noise of {NOISE:g} is added to the normalised image: median and worst of
  {min(args.noise_images or images, images)} photos x 2 classes.
- **float32**: relative difference between the map in float32 and in float64: median and worst of
  {min(args.rounding_images or images, images)} photos x 2 classes.
- **similarity of two classes**: mean Spearman correlation between the maps of the predicted and of a random other class;
  lower is more class-specific, 1 is the same map.
"""


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
