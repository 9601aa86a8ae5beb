"""Draw what speaks for one or more classes in your own images, by one or more relevance methods."""

import argparse
import glob
import sys
from pathlib import Path

import numpy as np
import torch

import commandline
from compare import colour_scale
from comparison import load_explainable, probabilities_of
from data.datasets import nearest
from data.images import BROKEN_IMAGE, EXTENSIONS, open_image
from data.transforms import evaluation_transform, to_pixels
from errors import ExplainedError, UsageError
from explain import METHODS, relevance
from explain.heatmap import normalise, overlay, to_heatmap
from models.runs import Run
from report.figures import Cell, grid
from report.tables import percent


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of visualize.py."""
    parser = commandline.parser(
        __doc__, "python visualize.py results/study/dora-seed0 photo.jpg --targets pred tennis --relevance lrp_magnitude lrp")
    parser.add_argument("run", metavar="RUN", help="a folder that train.py wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs")
    commandline.add_relevance(parser, several=True)
    group = parser.add_argument_group("pictures")
    group.add_argument("--targets", nargs="+", metavar="T",
                       help="'true' (the class named by the image's folder), 'pred' (the predicted class), or class names "
                            "(default: the three most probable)")
    group.add_argument("--normalise", choices=("heatmap", "shared"), default="heatmap",
                       help="scale every heatmap by its own maximum, or all of a method by one")
    group.add_argument("--colour-map", type=commandline.colour_map, metavar="NAME",
                       help="any of matplotlib's (default: one for signed maps, one for others)")
    group.add_argument("--weights", metavar="FILE", help="where the run's backbone lies now, if it was moved")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("results/visualize"), metavar="DIR", help="(default: %(default)s)")
    commandline.add_device(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Find the images, load the run, draw one picture an image."""
    commandline.relevance_options(args)  # refuses before anything is loaded
    device = commandline.device_of(args.device)
    paths = image_files(args.images)
    run = load_explainable(args.run, args.weights)
    check_targets(args.targets or [], run.class_names)
    commandline.check_writable(args.out)
    drawn, skipped = 0, []
    for path, out in zip(paths, output_names(paths, args.out)):
        try:
            image = open_image(path)
        except BROKEN_IMAGE as error:
            skipped.append(path)
            commandline.warn(f"{path} is no readable image ({type(error).__name__}): skipped")
            continue
        draw(run, path, image, out, args, device)
        print(out)
        drawn += 1
    if not drawn:
        raise ExplainedError(f"none of the {len(skipped)} file(s) is a readable image; give JPEG, PNG or the like")


def image_files(patterns: list[str]) -> list[Path]:
    """Return the files that paths, folders and globs name; raises UsageError for what names nothing."""
    paths: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            found = sorted(p for p in Path(pattern).rglob("*") if p.suffix.lower() in EXTENSIONS and p.name[0] != ".")
        elif Path(pattern).is_file():
            found = [Path(pattern)]
        else:
            found = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if not found:
            raise UsageError(f"{pattern} names no image; give image files, folders that hold some, or a quoted glob")
        paths += found
    return list(dict.fromkeys(paths))


def output_names(paths: list[Path], out: Path) -> list[Path]:
    """Return one PNG path an image; images of the same name are told apart by their folder, then by a number."""
    names: list[str] = []
    for path in paths:
        name = path.stem if sum(p.stem == path.stem for p in paths) == 1 else f"{path.parent.name}-{path.stem}"
        base, count = name, 2
        while name in names:
            name, count = f"{base}-{count}", count + 1
        names.append(name)
    return [out / f"{name}.png" for name in names]


def check_targets(targets: list[str], class_names: list[str]) -> None:
    """Raise UsageError, with the nearest names, for a target that is no class."""
    for target in targets:
        if target not in ("true", "pred") and target not in class_names:
            raise UsageError(f"no class {target!r} in this run; {nearest(target, class_names)}")


def targets_of(args: argparse.Namespace, path: Path, probability: np.ndarray, class_names: list[str]) -> list[int]:
    """Return class indices to explain, without repeats, in the order asked for."""
    order = np.argsort(-probability)
    if not args.targets:
        return [int(c) for c in order[:3]]
    chosen = []
    for target in args.targets:
        if target == "true":
            if path.resolve().parent.name not in class_names:
                raise UsageError(f"the true class of {path} is unknown: its folder {path.resolve().parent.name!r} is no class "
                                 f"of this run; name the class instead of 'true'")
            chosen.append(class_names.index(path.resolve().parent.name))
        else:
            chosen.append(int(order[0]) if target == "pred" else class_names.index(target))
    return list(dict.fromkeys(chosen))


def draw(run: Run, path: Path, image, out: Path, args: argparse.Namespace, device: torch.device) -> None:
    """Write one picture: a row a method, a column a class, beside the pixels that the model saw."""
    x = evaluation_transform(run.config["data_config"])(image)[None]
    probability = probabilities_of(run, x, 1, device)[0]
    targets = targets_of(args, path, probability, run.class_names)
    pixels = to_pixels(x, run.config["data_config"])[0]
    best = [f"{run.class_names[c]} {percent(probability[c])}" for c in np.argsort(-probability)[:5]]
    rows = []
    for method in args.relevance:
        maps = relevance(run.model.to(device), x.to(device), torch.tensor([targets], device=device), method,
                         **commandline.relevance_options(args))
        heats = normalise(to_heatmap(maps.cpu(), pixels.shape[:2])[0], shared=args.normalise == "shared",
                          signed=METHODS[method].signed)
        colours = colour_scale(method, args.colour_map, "")["colour_map"]
        photo = Cell(pixels, title=method, caption="top 5:\n" + "\n".join(best) if not rows else "")
        rows.append([photo] + [
            Cell(overlay(pixels, heat.numpy(), colours), caption=f"{run.class_names[c]} {percent(probability[c])}")
            for c, heat in zip(targets, heats)])
    scale = "its own maximum" if args.normalise == "heatmap" else "the maximum over a method's heatmaps"
    signed = [method for method in args.relevance if METHODS[method].signed]
    mixed = signed and len(signed) < len(args.relevance)
    first = next(method for method in args.relevance if not mixed or method not in signed)
    grid(out, rows, headers=[("", 1), (f"what speaks for a class, {run.label}", len(targets))],
         subheaders=["image"] + [run.class_names[c] for c in targets], title=path.name,
         **colour_scale(first, args.colour_map, scale),
         footnote=f"{', '.join(signed)}: signed, red speaks for the class, blue against it." if mixed else "")


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
