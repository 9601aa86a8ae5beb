"""Draw what speaks for one or more classes in your own images, by one or more relevance methods."""

import argparse
import glob
import re
import sys
from pathlib import Path

import numpy as np
import torch

import commandline
from compare import colour_scale
from comparison import layer_names, layer_shares, load_explainable, probabilities_of
from data.datasets import nearest
from data.images import BROKEN_IMAGE, EXTENSIONS, open_image
from data.transforms import evaluation_transform, to_pixels
from errors import ExplainedError, UsageError
from explain import METHODS, relevance
from explain.heatmap import normalise, overlay, to_heatmap
from models.runs import Run
from report.figures import Cell, grid, head_matrix
from report.tables import percent


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of visualize.py."""
    parser = commandline.parser(
        __doc__, "python visualize.py results/study/dora-seed0 photo.jpg --targets pred tennis --relevance lrp_magnitude lrp")
    parser.add_argument("run", metavar="RUN", help=f"a folder that train.py wrote, or {commandline.ELSEWHERE}")
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
    group.add_argument("--layers", action="store_true",
                       help="also draw what each head of each block added: IMAGE-layers-METHOD-COLUMN-CLASS.png")
    commandline.add_elsewhere(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("results/visualize"), metavar="DIR", help="(default: %(default)s)")
    commandline.add_device(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Find the images, load the run, draw one picture an image."""
    commandline.relevance_options(args)  # refuses before anything is loaded
    device = commandline.device_of(args.device)
    paths = image_files(args.images)
    run, = load_explainable([args.run], commandline.hints_of(args))
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
        for written in draw(run, path, image, out, args, device):
            print(written)
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


def draw(run: Run, path: Path, image, out: Path, args: argparse.Namespace, device: torch.device) -> list[Path]:
    """Write one picture: a row a method, a column a class, beside the pixels that the model saw.

    With --layers, also those of draw_layers. Return the paths of all.
    """
    x = evaluation_transform(run.config["data_config"])(image)[None]
    probability = probabilities_of(run, x, device)[0]
    targets = targets_of(args, path, probability, run.class_names)
    pixels = to_pixels(x, run.config["data_config"])[0]
    best = [f"{run.class_names[c]} {percent(probability[c])}" for c in np.argsort(-probability)[:5]]
    rows, written = [], [out]
    for method in args.relevance:
        maps = relevance(run.model.to(device), x.to(device), torch.tensor([targets], device=device), method,
                         **commandline.relevance_options(args), **commandline.layers_option(args))
        if args.layers:
            maps, layers = maps
            written += draw_layers(run, path, pixels, maps.cpu(), layers.cpu(), method, targets, probability, out, args)
        heats = normalise(to_heatmap(maps.cpu(), pixels.shape[:2])[0], shared=args.normalise == "shared",
                          signed=METHODS[method].signed)
        colours = colour_scale(method, args.colour_map, "")["colour_map"]
        photo = Cell(pixels, title=method, caption="top 5:\n" + "\n".join(best) if not rows else "")
        rows.append([photo] + [
            Cell(overlay(pixels, heat.numpy(), colours, grey=METHODS[method].signed),
                 caption=f"{run.class_names[c]} {percent(probability[c])}")
            for c, heat in zip(targets, heats)])
    scale = "its own maximum" if args.normalise == "heatmap" else "the maximum over a method's heatmaps"
    signed = [method for method in args.relevance if METHODS[method].signed]
    mixed = signed and len(signed) < len(args.relevance)
    first = next(method for method in args.relevance if not mixed or method not in signed)
    grid(out, rows, headers=[("", 1), (f"what speaks for a class, {run.label}", len(targets))],
         subheaders=["image"] + [run.class_names[c] for c in targets], title=path.name,
         **colour_scale(first, args.colour_map, scale),
         footnote=f"{', '.join(signed)}: signed, red speaks for the class, blue against it." if mixed else "")
    return written


def draw_layers(run: Run, path: Path, pixels: np.ndarray, maps: torch.Tensor, layers: torch.Tensor, method: str,
                targets: list[int], probability: np.ndarray, out: Path, args: argparse.Namespace) -> list[Path]:
    """Write what each head of each block added to one method's maps of an image, a picture a class; return their paths.

    maps: (1, K, grid_h, grid_w); layers: (1, K, L, h, grid_h, grid_w). A method that knows no class gets one picture.
    """
    signed, written = METHODS[method].signed, []
    shares, names = layer_shares(layers)[0].sum(-1).numpy(), layer_names(run.model, layers.shape[2])
    scale = colour_scale(method, args.colour_map, "")

    def colours(heats: torch.Tensor, shared: bool | int) -> np.ndarray:
        heats = normalise(to_heatmap(heats, pixels.shape[:2]), shared, signed)
        return np.stack([[overlay(pixels, heat.numpy(), scale["colour_map"], 0.75, grey=True) for heat in row] for row in heats])

    for column, target in enumerate(targets if METHODS[method].uses_target else targets[:1]):
        name = run.class_names[target] if METHODS[method].uses_target else "every class"
        by_head = layers[0, column]
        # A block's heads share a scale, and blocks do not: between blocks, sums differ by factors of hundreds.
        cells = np.concatenate([colours(by_head, 1), colours(by_head.sum(1, keepdim=True), False)], axis=1)
        whole = colours(maps[:, column:column + 1], False)[0, 0]
        caption = f"{name} {percent(probability[target])}" if METHODS[method].uses_target else name
        file = out.with_name(f"{out.stem}-layers-{method}-{column + 1}-{slug(name)}.png")
        head_matrix(file, [Cell(pixels, caption="image"), Cell(whole, caption=f"the whole map\n{caption}")],
                    cells, shares[column], names, f"What each head adds for {name}: {method}, {run.label}, {path.name}",
                    scale["colour_map"],
                    f"relevance{' against and for the class' if signed else ''}, each block's heads scaled by their "
                    f"{'largest magnitude' if signed else 'maximum'}; all heads, and the whole map, each by its own",
                    scale["colour_limits"],
                    footnote=("Colours show where within a block, the bars how much of all relevance (sums of "
                              "magnitudes over patches and heads) a block adds: compare blocks by the bars. Blocks and "
                              "heads count from 0, as in timm; block 0 is next to the image."))
        written.append(file)
    return written


def slug(name: str) -> str:
    """Return a class name as part of a file's name: letters, digits, underscores and hyphens, at most 60."""
    return re.sub(r"[^\w]+", "-", name).strip("-")[:60]


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
