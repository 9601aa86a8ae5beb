"""What visualize.py does: explain each image by every method, and draw one picture per image."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from commands.comparison_output import heads_note, method_name
from commands.options import VisualizeOptions
from commands.visualize_files import drawn_layers, folder_of, output_names, slug
from common import processes
from common.console import warn
from common.devices import device_of
from common.errors import ExplainedError, UsageError
from common.files import check_writable
from common.names import nearest
from data.images import BROKEN_IMAGE, open_image
from data.transforms import evaluation_transform, to_pixels
from evaluation.depth import heads_add_up, layer_names, layer_shares
from evaluation.images import probabilities_of
from evaluation.subjects import load_explainable
from explain import relevance
from explain.heatmap import to_heatmap
from explain.registry import METHODS, RelevanceOptions
from models.runs import Run
from report.figures.class_heatmaps import (
    HeadHeats,
    MethodFacts,
    MethodRow,
    Photo,
    class_heatmaps,
    head_heatmaps,
    most_probable_caption,
    probability_caption,
)

MOST_PROBABLE = 3  # classes explained where no target is given


def visualize(options: VisualizeOptions) -> None:
    """Load the run and draw one picture per image."""
    device = device_of(options.running.device)
    paths = options.images
    with processes.main_process_first():  # the others find what it has downloaded
        (run,) = load_explainable([options.run], options.external)
    check_targets(options.targets, run.class_names, paths)
    processes.on_main_process(lambda: check_writable(options.out))
    names = output_names(paths, options.out, options.relevance[0].changes())
    places = {path.resolve(): path for path in paths}
    if own := [places[name.resolve()] for name in names if name.resolve() in places]:
        raise UsageError(f"the picture of {own[0]} would replace it or another of the images; give another --out")
    before = processes.on_main_process(lambda: drawn_layers(options.out, names))

    def work(tasks: Sequence[tuple[Path, Path]]) -> Iterator[list[Path] | str]:
        for path, out in tasks:
            yield _draw(run, path, out, before[out], options, device)

    skipped = 0
    for written in processes.distribute(list(zip(paths, names)), work):
        if isinstance(written, str):
            skipped += 1
            warn(written)
        else:
            print(*written, sep="\n")
    if skipped == len(paths):
        raise ExplainedError(f"none of the {skipped} file(s) is a readable image; give JPEG, PNG or the like")


def _draw(
    run: Run, path: Path, out: Path, before: Sequence[Path], options: VisualizeOptions, device: torch.device
) -> list[Path] | str:
    """Draw one image; return the files written, or why it was skipped."""
    try:
        image = open_image(path)
    except BROKEN_IMAGE as error:
        return f"{path} is not a readable image ({type(error).__name__}): skipped"
    for file in before:
        file.unlink(missing_ok=True)
    return draw(run, path, image, out, options, device)


# ---- which classes


def check_targets(targets: Sequence[str], class_names: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise UsageError for a target that is not a class, and for images whose true class is unknown."""
    for target in targets:
        if target not in ("true", "pred") and target not in class_names:
            raise UsageError(f"no class {target!r} in this run; {nearest(target, class_names)}")
    known = set(class_names)
    unknown = [path for path in paths if folder_of(path) not in known] if "true" in targets else []
    if unknown:
        more = f" (and of {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UsageError(
            f"the true class of {unknown[0]}{more} is unknown: its folder {folder_of(unknown[0])!r} is not a class "
            f"of this run; name the class instead of 'true'"
        )


def targets_of(targets: Sequence[str], path: Path, probability: np.ndarray, class_names: Sequence[str]) -> list[int]:
    """Return the class indices to explain, without repeats, in the order asked for."""
    order = [int(c) for c in np.argsort(-probability)]
    if not targets:
        return order[:MOST_PROBABLE]
    chosen = [
        order[0] if target == "pred" else class_names.index(folder_of(path) if target == "true" else target)
        for target in targets
    ]
    return list(dict.fromkeys(chosen))


# ---- pictures


def draw(
    run: Run, path: Path, image: Image.Image, out: Path, options: VisualizeOptions, device: torch.device
) -> list[Path]:
    """Write one picture, a row per method and a column per class, and with `layers` those of blocks and heads.

    Returns the paths of all.
    """
    config, model = run.config.data_config, run.model.to(device)
    x = evaluation_transform(config)(image)[None]
    probability = probabilities_of(run, x, device)[0]
    classes = targets_of(options.targets, path, probability, run.class_names)
    photo = photo_of(run, path, to_pixels(x, config)[0], probability, classes)
    rows, written = [], [out]
    for method in options.relevance:
        facts = facts_of(method)
        targets = torch.tensor([classes if facts.uses_target else classes[:1]], device=device)
        asked = method.keywords() | ({"layers": True} if options.layers else {})
        found = relevance(model, x.to(device), targets, method.method, **asked)
        maps, *beside = [found] if torch.is_tensor(found) else found
        heats = to_heatmap(maps.cpu(), photo.pixels.shape[:2])[0].numpy()
        rows.append(MethodRow(facts, heats, [not one.any() for one in maps[0]]))
        for one in beside:
            written += draw_layers(run, photo, facts, heats, one.cpu(), out, options)
    class_heatmaps(out, photo, rows, run.label, options.picture.normalise, options.picture.colour_map)
    return written


def photo_of(run: Run, path: Path, pixels: np.ndarray, probability: np.ndarray, classes: Sequence[int]) -> Photo:
    """Return an image as the pictures show it: what the model saw, what it predicts, which classes are explained."""
    names = [run.class_names[c] for c in classes]
    captions = [probability_caption(name, probability[c]) for name, c in zip(names, classes)]
    caption = most_probable_caption(run.class_names, probability)
    return Photo(f"{folder_of(path)}/{path.name}", pixels, caption, names, captions)


def facts_of(method: RelevanceOptions) -> MethodFacts:
    """Return what a picture says of a relevance method."""
    info = METHODS[method.method]
    return MethodFacts(method.method, method_name(method), info.signed, info.uses_target)


def draw_layers(
    run: Run,
    photo: Photo,
    method: MethodFacts,
    heats: np.ndarray,
    layers: torch.Tensor,
    out: Path,
    options: VisualizeOptions,
) -> list[Path]:
    """Write the relevance of each head of each block by one method, one picture per class; return their paths.

    heats: (K, H, W), the whole maps. layers: (1, K, L, h, grid_h, grid_w).
    """
    shares, blocks = layer_shares(layers)[0].sum(-1).numpy(), layer_names(run.model, layers.shape[2])
    size, files = photo.pixels.shape[:2], []
    for column in range(len(heats)):
        by_head = layers[0, column]
        found = HeadHeats(
            heats[column],
            to_heatmap(by_head, size).numpy(),
            to_heatmap(by_head.sum(1, keepdim=True), size)[:, 0].numpy(),
            shares[column],
            blocks,
        )
        name = photo.targets[column] if method.uses_target else "every class"
        files.append(out.with_name(f"{out.stem}-layers-{method.name}-{column + 1}-{slug(name)}.png"))
        adds_up = heads_add_up(method.name)
        note = heads_note(method.name)
        head_heatmaps(files[-1], photo, column, method, found, run.label, adds_up, note, options.picture.colour_map)
    return files
