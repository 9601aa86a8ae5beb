"""Draw what speaks for one or more classes in your own images, by one or more relevance methods."""

import argparse
import glob
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cli import commandline
from common import processes
from common.errors import ExplainedError, UsageError
from common.tables import percent
from compare import NOTHING, colour_scale, relevance_name
from data.datasets import nearest
from data.images import BROKEN_IMAGE, EXTENSIONS, open_image
from data.transforms import evaluation_transform, to_pixels
from evaluation.comparison import heads_add_up, heads_note, layer_names
from evaluation.explained import layer_shares, load_explainable, probabilities_of
from explain import METHODS, relevance
from explain.heatmap import to_heatmap
from models.runs import Run
from report.figures.charts import Cell, grid, head_matrix
from report.figures.grid import Scale
from report.figures.overlay import normalise, overlay

INTERRUPTED = "the pictures drawn so far are whole; the same command draws all of them again"
MOST_PROBABLE = 5  # classes named beside an image
READING = (
    "Colours show where within a block, the bars how much of all heads' relevance (sums of magnitudes over patches "
    "and heads) a block has: compare blocks by the bars. Blocks and heads count from 0, as in timm; block 0 is next to "
    "the image."
)
LAYERS_FILE = re.compile(rf"(.+)-layers-(?:{'|'.join(METHODS)})-\d+-.*\.png")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of visualize.py."""
    parser = commandline.parser(
        __doc__,
        "python visualize.py results/study/dora-seed0 photo.jpg --targets pred tennis --relevance lrp_magnitude lrp",
    )
    parser.add_argument("run", metavar="RUN", help=f"a folder that train.py wrote, or {commandline.ELSEWHERE}")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs")
    commandline.add_relevance(parser, several=True)
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--targets",
        nargs="+",
        metavar="T",
        help="'true' (the class named by the image's folder), 'pred' (the predicted class), or class names "
        "(default: the three most probable)",
    )
    group.add_argument(
        "--normalise",
        choices=("heatmap", "shared"),
        default="heatmap",
        help="scale every heatmap by its own maximum, or all of a method by one",
    )
    group.add_argument(
        "--colour-map",
        type=commandline.colour_map,
        metavar="NAME",
        help="any of matplotlib's (default: one for signed maps, one for others)",
    )
    group.add_argument(
        "--layers",
        action="store_true",
        help="also draw each head of each block, IMAGE-layers-METHOD-COLUMN-CLASS.png: what it adds to the "
        "map or, by signed methods, what relevance it carries away from each patch, which does not add "
        "up to the map",
    )
    commandline.add_elsewhere(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=Path,
        default=Path("results/visualize"),
        metavar="DIR",
        help="for IMAGE.png, or IMAGE-contrast-mean-centre-head.png where these change what is explained "
        "(default: %(default)s)",
    )
    commandline.add_device(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Find the images, load the run, draw one picture an image."""
    args.relevance = list(dict.fromkeys(args.relevance))
    changes = commandline.relevance_changes(args)  # refuses before anything is loaded
    device = commandline.device_of(args.device)
    paths = image_files(args.images)
    with processes.first_goes_ahead():  # the others find what it has downloaded
        (run,) = load_explainable([args.run], commandline.hints_of(args))
    check_targets(args.targets or [], run.class_names, paths)
    processes.first_says(lambda: commandline.check_writable(args.out))
    names = output_names(paths, args.out, changes)
    before = processes.first_says(lambda: drawn_layers(args.out, names))

    def work(tasks: Sequence[tuple[Path, Path]]) -> Iterator[list[Path] | str]:
        """Draw each image; yield the files written, or why it was skipped."""
        for path, out in tasks:
            try:
                image = open_image(path)
            except BROKEN_IMAGE as error:
                yield f"{path} is no readable image ({type(error).__name__}): skipped"
                continue
            for file in before[out]:
                file.unlink(missing_ok=True)
            yield draw(run, path, image, out, args, device)

    skipped = 0
    for written in processes.spread(list(zip(paths, names)), work):
        if isinstance(written, str):
            skipped += 1
            commandline.warn(written)
        else:
            print(*written, sep="\n")
    if skipped == len(paths):
        raise ExplainedError(f"none of the {skipped} file(s) is a readable image; give JPEG, PNG or the like")


# ---- which images, which classes, which files


def image_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and globs name, each once; raises UsageError for what names nothing."""
    paths: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            found = sorted(p for p in Path(pattern).rglob("*") if p.suffix.lower() in EXTENSIONS and p.name[0] != ".")
        elif Path(pattern).is_file():
            found = [Path(pattern)]
        else:
            found = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if not found:
            missing = glob.escape(pattern) == pattern and not Path(pattern).exists()
            raise UsageError(
                f"{pattern} {'does not exist' if missing else 'names no image'}; give image files, folders "
                f"that hold some, or a quoted glob"
            )
        paths += found
    return list({os.path.abspath(path): path for path in paths}.values())


def folder_of(path: Path) -> str:
    """Return the name of an image's folder, however the image was named: among photos by class, its class."""
    return Path(os.path.abspath(path)).parent.name


def output_names(paths: Sequence[Path], out: Path, changes: Sequence[str] = ()) -> list[Path]:
    """Return one PNG path an image; images of the same name are told apart by their folder, then by a number.

    changes: what changes all of them (`commandline.relevance_changes`), which the names say.
    """
    alike, numbers = Counter(path.stem for path in paths), Counter()
    names: dict[str, None] = {}  # a set that keeps its order
    for path in paths:
        name = base = path.stem if alike[path.stem] == 1 else f"{folder_of(path)}-{path.stem}"
        while name in names:
            numbers[base] += 1
            name = f"{base}-{numbers[base] + 1}"
        names[name] = None
    end = "".join(f"-{slug(change)}" for change in changes)
    return [out / f"{name}{end}.png" for name in names]


def drawn_layers(folder: Path, names: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the pictures of heads that an earlier call with --layers drew for each of these pictures.

    They would pass for this call's. A file that this call draws for another image is none of them.
    """
    found, own = defaultdict(list), set(names)
    for file in folder.glob("*-layers-*.png"):
        if (match := LAYERS_FILE.fullmatch(file.name)) and file not in own:
            found[folder / f"{match[1]}.png"].append(file)
    return found


def check_targets(targets: Sequence[str], class_names: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise UsageError for a target that is no class, with the nearest names, and for images whose true class is
    unknown."""
    for target in targets:
        if target not in ("true", "pred") and target not in class_names:
            raise UsageError(f"no class {target!r} in this run; {nearest(target, class_names)}")
    known = set(class_names)
    unknown = [path for path in paths if folder_of(path) not in known] if "true" in targets else []
    if unknown:
        more = f" (and of {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UsageError(
            f"the true class of {unknown[0]}{more} is unknown: its folder {folder_of(unknown[0])!r} is no class "
            f"of this run; name the class instead of 'true'"
        )


def targets_of(
    targets: Sequence[str] | None, path: Path, probability: np.ndarray, class_names: Sequence[str]
) -> list[int]:
    """Return class indices to explain, without repeats, in the order asked for."""
    order = [int(c) for c in np.argsort(-probability)]
    if not targets:
        return order[:3]
    chosen = [
        order[0] if target == "pred" else class_names.index(folder_of(path) if target == "true" else target)
        for target in targets
    ]
    return list(dict.fromkeys(chosen))


# ---- pictures


@dataclass(frozen=True)
class Photo:
    """One image: its folder and name, the pixels that the model saw (H, W, 3) uint8, what the run says, what is
    explained.

    probability: (C,), of the classes `class_names`; targets: indices into both, in the order of columns.
    """

    name: str
    pixels: np.ndarray
    class_names: Sequence[str]
    probability: np.ndarray
    targets: list[int]

    def says(self, target: int) -> str:
        """Return a class and its probability."""
        return f"{self.class_names[target]} {percent(self.probability[target])}"

    def most_probable(self) -> str:
        """Return the most probable classes, a line each."""
        best = np.argsort(-self.probability)[:MOST_PROBABLE]
        return "\n".join([f"top {len(best)}:", *map(self.says, best)])

    def explained(self, *methods: str) -> list[int]:
        """Return the targets that these methods tell apart: the first, for all, where none of them knows classes."""
        return self.targets if any(METHODS[method].uses_target for method in methods) else self.targets[:1]


def draw(run: Run, path: Path, image, out: Path, args: argparse.Namespace, device: torch.device) -> list[Path]:
    """Write one picture: a row a method, a column a class, beside the pixels that the model saw.

    With --layers, also those of draw_layers. Return the paths of all.
    """
    config, model = run.config["data_config"], run.model.to(device)
    x = evaluation_transform(config)(image)[None]
    probability = probabilities_of(run, x, device)[0]
    photo = Photo(
        f"{folder_of(path)}/{path.name}",
        to_pixels(x, config)[0],
        run.class_names,
        probability,
        targets_of(args.targets, path, probability, run.class_names),
    )
    rows, written = [], [out]
    for method in args.relevance:
        targets = torch.tensor([photo.explained(method)], device=device)
        found = relevance(
            model,
            x.to(device),
            targets,
            method,
            **commandline.relevance_options(args),
            **commandline.layers_option(args),
        )
        maps, *layers = [found] if torch.is_tensor(found) else found
        rows.append(
            [
                Cell(photo.pixels, relevance_name(method, args), "" if rows else photo.most_probable()),
                *heat_cells(photo, maps.cpu(), method, args),
            ]
        )
        for one in layers:
            written += draw_layers(run, photo, maps.cpu(), one.cpu(), method, out, args)
    draw_rows(out, photo, rows, run.label, args)
    return written


def draw_rows(out: Path, photo: Photo, rows: Sequence[list[Cell]], label: str, args: argparse.Namespace) -> None:
    """Write the picture of all methods; beside the one map of a method that knows no class, places stay empty."""
    targets = photo.explained(*args.relevance)
    known = any(METHODS[method].uses_target for method in args.relevance)
    grid(
        out,
        [row + [None] * (1 + len(targets) - len(row)) for row in rows],
        headers=[("", 1), (f"what speaks for a class, {label}" if known else label, len(targets))],
        subheaders=["image", *(photo.class_names[c] if known else "every class" for c in targets)],
        title=photo.name,
        scales=scales_of(args),
    )


def heat_cells(photo: Photo, maps: torch.Tensor, method: str, args: argparse.Namespace) -> list[Cell]:
    """Return one method's heatmaps over the photo; maps: (1, K, grid_h, grid_w)."""
    signed = METHODS[method].signed
    heats = to_heatmap(maps, photo.pixels.shape[:2])[0].numpy()
    heats = normalise(heats, shared=args.normalise == "shared", signed=signed)
    colours = colour_scale(method, args.colour_map, "").colour_map
    captions = map(photo.says, photo.targets) if METHODS[method].uses_target else ["knows no class:\none map for all"]
    return [
        Cell(overlay(photo.pixels, heat, colours, grey=signed), caption=caption + NOTHING * (not one.any()))
        for one, heat, caption in zip(maps[0], heats, captions)
    ]


def scales_of(args: argparse.Namespace) -> list[Scale]:
    """Return a colour bar for unsigned maps and one for signed ones, if drawn; where both are, each names its
    methods."""
    maximum = "its own maximum" if args.normalise == "heatmap" else "the maximum over a method's heatmaps"
    kinds = [[method for method in args.relevance if METHODS[method].signed is signed] for signed in (False, True)]
    scales = {", ".join(kind): colour_scale(kind[0], args.colour_map, maximum) for kind in kinds if kind}
    if len(scales) == 1:
        return list(scales.values())
    return [replace(scale, label=f"{names}: {scale.label}") for names, scale in scales.items()]


def draw_layers(
    run: Run, photo: Photo, maps: torch.Tensor, layers: torch.Tensor, method: str, out: Path, args: argparse.Namespace
) -> list[Path]:
    """Write the relevance of each head of each block by one method, a picture a class; return their paths.

    maps: (1, K, grid_h, grid_w); layers: (1, K, L, h, grid_h, grid_w). A method that knows no class gets one picture.
    """
    shares, blocks = layer_shares(layers)[0].sum(-1).numpy(), layer_names(run.model, layers.shape[2])
    scale, files = colour_scale(method, args.colour_map, ""), []
    for column, target in enumerate(photo.explained(method)):
        name, caption = photo.class_names[target], photo.says(target)
        if not METHODS[method].uses_target:
            name = caption = "every class"
        by_head = layers[0, column]
        # A block's heads share a scale, and blocks do not: between blocks, sums differ by factors of hundreds.
        cells = [
            colours(photo, by_head, scale, method, 1),
            colours(photo, by_head.sum(1, keepdim=True), scale, method, False),
        ]
        whole = colours(photo, maps[:, column : column + 1], scale, method, False)[0, 0]
        files.append(out.with_name(f"{out.stem}-layers-{method}-{column + 1}-{slug(name)}.png"))
        head_matrix(
            files[-1],
            [Cell(photo.pixels, caption="image"), Cell(whole, caption=f"the whole map\n{caption}")],
            np.concatenate(cells, axis=1),
            shares[column],
            blocks,
            f"{heads_title(method)} for {name}: {relevance_name(method, args)}, {run.label}, {photo.name}",
            replace(scale, label=heads_label(method)),
            footnote=f"{heads_note(method)} {READING}",
        )
    return files


def colours(photo: Photo, maps: torch.Tensor, scale: Scale, method: str, shared: bool | int) -> np.ndarray:
    """Return maps (L, h, grid_h, grid_w) as colours over the grey photo, (L, h, H, W, 3) uint8."""
    heats = normalise(to_heatmap(maps, photo.pixels.shape[:2]).numpy(), shared, METHODS[method].signed)
    return np.stack(
        [[overlay(photo.pixels, heat, scale.colour_map, 0.75, grey=True) for heat in row] for row in heats]
    )


def heads_title(method: str) -> str:
    return "What each head adds to the map" if heads_add_up(method) else "What relevance each head carries away"


def heads_label(method: str) -> str:
    """Return what the colours of heads mean."""
    kind, largest = (
        ("relevance against and for the class", "largest magnitude")
        if METHODS[method].signed
        else ("relevance", "maximum")
    )
    return f"{kind}, each block's heads scaled by their {largest}; all heads, and the whole map, each by its own"


def slug(name: str) -> str:
    """Return a name as part of a file's name: letters, digits, underscores and hyphens, at most 60."""
    return re.sub(r"[^\w]+", "-", name).strip("-")[:60]


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser(), several=True, interrupted=INTERRUPTED))
