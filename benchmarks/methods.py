"""Which relevance method to trust: faithfulness, repeatability and class-dependence of each, on real photos.

    python benchmarks/methods.py RUN --out docs/methods.md          hours on two cores; continues where it stopped
    python benchmarks/methods.py RUN --images 8 --noise-images 2 --methods lrp_magnitude rollout

RUN is a folder that train.py wrote; the photos come from its validation images, spread over classes, in an order
fixed by --data-seed: whatever was *chosen* on photos was chosen on the first half (benchmarks/candidates.py), so the
table reports both halves. Every photo is explained for the class that the run predicts, and for a random other one.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script in a subfolder; the packages lie one floor up

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import commandline
from data.datasets import load_data, stratified
from data.transforms import Prepared, drawing_size, evaluation_transform
from explain import METHODS, relevance
from explain.metrics import repeatability, spearman
from explain.perturbation import perturbation_curves
from models.backbone import content_hash
from models.runs import Run, load_run
from report.statistics import paired, single
from report.tables import markdown_table, number, percent, write_json, write_text

NOISE, STEPS, BATCH = 1e-3, 10, 8
REFERENCE = "lrp_magnitude"


def build_parser() -> argparse.ArgumentParser:
    parser = commandline.parser(__doc__, "python benchmarks/methods.py results/sports/linear-seed0 --out docs/methods.md")
    add_photos(parser)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--noise-images", type=commandline.positive, default=50, metavar="N",
                        help="photos for repeatability and float32 against float64, which cost most")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown table")
    parser.add_argument("--keep", type=Path, default=Path("results/methods"), metavar="DIR",
                        help="figures photo by photo, from which an interrupted run continues (default: %(default)s)")
    return parser


def add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a folder that train.py wrote")
    parser.add_argument("--images", type=commandline.positive, default=200, metavar="N")
    parser.add_argument("--data-seed", type=int, default=0, metavar="N")
    parser.add_argument("--weights", metavar="FILE", help="where the run's backbone lies now, if it was moved")


class Photos:
    """N validation photos of a run, with the class it predicts and another one as targets (N, 2)."""

    def __init__(self, args: argparse.Namespace):
        self.run: Run = load_run(args.run, args.weights)
        config, source = self.run.config["data_config"], self.run.config["data"]
        data = load_data(source["spec"], image_size=drawing_size(config),
                         **{key: source[key] for key in commandline.DATA_OPTIONS})
        split, draw = data.splits["val"], np.random.default_rng(args.data_seed)
        indices = draw.permutation(stratified(split.labels, min(args.images, len(split)), args.data_seed))
        prepared = Prepared(split, evaluation_transform(config))
        self.images = torch.stack([prepared[int(i)][0] for i in indices])
        with torch.inference_mode():
            predicted = torch.cat([self.run.model(x).argmax(-1) for x in self.images.split(BATCH)]).numpy()
        other = (predicted + draw.integers(1, len(self.run.class_names), len(predicted))) % len(self.run.class_names)
        self.targets = torch.from_numpy(np.stack([predicted, other], axis=1))
        self.identity = {"model": content_hash(self.run.model, head=True), "images": args.images, "data": data.fingerprint,
                         "data_seed": args.data_seed}

    @property
    def half(self) -> int:
        return len(self.images) // 2

    def srg(self, maps: Tensor, which: slice = slice(None)) -> np.ndarray:
        """SRG of maps (n, 1, gh, gw) of the photos in `which` for the predicted class, (n,)."""
        batches = zip(*(x.split(BATCH) for x in (self.images[which], self.targets[which, :1], maps)))
        parts = [perturbation_curves(self.run.model, x, t, m, steps=STEPS).srg[:, 0] for x, t, m in batches]
        return np.concatenate(parts)


def in_batches(model: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    batches = zip(images.split(BATCH), targets.split(BATCH))
    return torch.cat([relevance(model, x, t, method) for x, t in tqdm(
        batches, total=-(-len(images) // BATCH), desc=method, delay=2, leave=False, disable=None)])


def measure(photos: Photos, method: str, noise_images: int) -> dict[str, list[float]]:
    """One method's figures, photo by photo."""
    model = photos.run.model
    maps = in_batches(model, photos.images, photos.targets, method)
    images, targets, known = (x[:noise_images] for x in (photos.images, photos.targets, maps))
    noise = [repeatability(model, x, t, method, NOISE, maps=m)
             for x, t, m in zip(images.split(BATCH), targets.split(BATCH), known.split(BATCH))]
    exact = in_batches(model.double(), images.double(), targets, method)
    model.float()
    rounding = (known - exact).flatten(2).norm(dim=-1) / exact.flatten(2).norm(dim=-1)
    return {"srg": photos.srg(maps[:, :1]).tolist(), "likeness": spearman(maps[:, 0], maps[:, 1]).tolist(),
            "noise": torch.cat(noise).flatten().tolist(), "rounding": rounding.flatten().tolist()}


def row(name: str, found: dict, reference: dict, half: int) -> dict:
    """A method's row of the table."""
    difference = paired(found["srg"][half:], reference["srg"][half:])
    likeness, noise, rounding = (np.array(found[key]) for key in ("likeness", "noise", "rounding"))
    return {
        "method": f"`{name}`", "passes": number(METHODS[name].passes, 1),
        "SRG, first half": with_interval(found["srg"][:half]), "SRG, second half": with_interval(found["srg"][half:]),
        f"less {REFERENCE}'s, second half": "" if found is reference else
        f"{number(difference.difference, 3, True)} [{number(difference.low, 3, True)}, {number(difference.high, 3, True)}]",
        "noise": f"{percent(np.nanmedian(noise), 2)}, {percent(np.nanmax(noise), 1)}",
        "float32": f"{percent(np.nanmedian(rounding), 4)}, {percent(np.nanmax(rounding), 2)}",
        "likeness of two classes": number(np.nanmean(likeness), 2) if np.isfinite(likeness).any() else "",
    }


def with_interval(values: list[float]) -> str:
    found = single(values)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    photos = Photos(args)
    found = {}
    for name in dict.fromkeys([REFERENCE, *args.methods]):
        path = args.keep / f"{name}.json"
        settings = {**photos.identity, "noise_images": args.noise_images}
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("settings") != settings:
            kept = {"settings": settings, "figures": measure(photos, name, args.noise_images)}
            write_json(path, kept)
        # JSON has no NaN: null stands for it
        found[name] = {key: [np.nan if v is None else v for v in values] for key, values in kept["figures"].items()}
        print(name, with_interval(found[name]["srg"]), flush=True)
    rows = [row(name, found[name], found[REFERENCE], photos.half) for name in found]
    text = document(args, photos, markdown_table(rows))
    print(text)
    if args.out:
        write_text(args.out, text)


def document(args: argparse.Namespace, photos: Photos, table: str) -> str:
    config = photos.run.config
    accuracy = photos.run.summary["accuracy"]["val"]["accuracy"]
    return f"""# Relevance methods, measured

{len(photos.images)} validation photos, {config['backbone']['name']} with {photos.run.label} ({percent(accuracy)} on
validation), {len(config['class_names'])} classes. Written by

    python benchmarks/methods.py RUN --images {args.images} --noise-images {args.noise_images} --out FILE

{table}
- **passes**: cost of a map in forward passes at K = 2 (benchmarks/explain.py).
- **SRG**: symmetric relevance gain of the predicted class, {STEPS} steps, patches set to the data mean; higher is more
  faithful, chance is 0 (the row of `random`). Mean with a 95 % BCa interval over photos, for the first
  {photos.half} photos and the others. Whatever was chosen by looking at photos was chosen on the first half, so
  read the second.
- **less {REFERENCE}'s**: mean paired difference of SRG to `{REFERENCE}`'s, with its interval.
- **noise**: relative change (L2) of a map when noise of {NOISE:g} is added to the normalised image: median and worst of
  {min(args.noise_images, len(photos.images))} photos x 2 classes.
- **float32**: relative difference between the map in float32 and in float64, median and worst of the same.
- **likeness of two classes**: mean Spearman correlation between the maps of the predicted and of a random other class;
  lower is more class-specific, 1 is the same map.
"""


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
