"""Load and check a data set by name: drawn scenes, the 100-sports photos, or an image folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from common.errors import ExplainedError, UsageError
from common.names import some
from data.folder import FolderSplit, scan_folder
from data.folder_layout import check_classes_present, check_no_unknown_classes, chosen_classes, split_folders
from data.masks import with_masks
from data.options import DATA_SEED_LIMIT, DataOptions
from data.sampling import stratified
from data.scenes.scene import CHANCE_BIAS, SPORTS, Scene
from data.scenes.split import SceneOptions, SceneSplit

SPORTS_HANDLE = "gpiosenka/sports-classification"


class Split(Protocol):
    """The images of one split, in a fixed order."""

    @property
    def labels(self) -> np.ndarray:
        """Class indices, (N,) int64."""
        ...

    def __len__(self) -> int:
        """Return the number of images, N."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return an image in RGB."""
        ...

    def name(self, index: int) -> str:
        """Return an image's name, unique in its data set: its path for a file."""
        ...

    def scene(self, index: int) -> Scene | None:
        """Return the drawn scene, None for images from files."""
        ...

    def masks(self, index: int) -> dict[str, np.ndarray] | None:
        """Return masks by name, bool (h, w) of the image's own size, with `evidence` among them; None without masks."""
        ...

    def select(self, indices: Sequence[int]) -> "Split":
        """Return a split of the images at `indices`, in that order."""
        ...


@dataclass(frozen=True)
class ImageData:
    """A data set.

    name: as the user gave it.
    class_names: in the order of class indices.
    splits: name -> split; always "train" and "val", for drawn scenes "val_shuffled", for folders perhaps "test".
    fingerprint: SHA-256 of images and labels.
    warnings: one line for each finding that the user should know of.
    masks_fingerprint: SHA-256 of the masks, on which training does not depend; "" without masks.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    fingerprint: str
    warnings: tuple[str, ...] = ()
    masks_fingerprint: str = ""


def load_data(options: DataOptions, *, image_size: int, progress: bool = False, cache: Path | None = None) -> ImageData:
    """Load a data set: `scenes`, `sports`, or a folder with train/ and val/ or valid/, and perhaps test/ and masks/.

    options: which data set, and which part of it; images are kept in proportion to the classes (see `stratified`).
    image_size: side in pixels at which scenes are drawn; photos keep their own size.
    progress: whether to show progress bars.
    cache: folder that keeps the checks of image files (see `scan_folder`); None checks every file.

    Raises UsageError for options that do not fit the data, ExplainedError for unavailable data, and OSError where
    `cache` cannot be written.
    """
    check_options(options)
    if options.spec == "scenes":
        return _load_scenes(options, image_size)
    root = download_sports() if options.spec == "sports" else Path(options.spec)
    data = scan_folder_data(root, options.spec, options.classes, progress, cache)
    return _limited(data, options.train_images, options.val_images, options.data_seed)


def check_data_seed(seed: int) -> None:
    """Raise UsageError for a seed out of range."""
    if not 0 <= seed < DATA_SEED_LIMIT:
        raise UsageError(f"--data-seed {seed} is out of range; give 0 to {DATA_SEED_LIMIT - 1}")


def check_options(options: DataOptions) -> None:
    """Check data options, as far as this needs no image to be read.

    Raises UsageError for a seed or probability out of range, options of another data set, too few scenes, and a folder
    without the expected splits.
    """
    check_data_seed(options.data_seed)
    if not options.spec.strip():
        raise UsageError(f"--data {options.spec!r} names nothing; give scenes, sports or a folder (. for this one)")
    if options.spec == "scenes":
        _check_scene_options(options)
        return
    if options.context_bias is not None:
        raise UsageError("--context-bias belongs to --data scenes; drop it, or use --data scenes")
    if options.spec != "sports":
        split_folders(Path(options.spec))


def _check_scene_options(options: DataOptions) -> None:
    scenes = SceneOptions.of(options)
    if not 0 <= scenes.context_bias <= 1:
        raise UsageError(
            f"--context-bias {scenes.context_bias} is not a probability; give 0 to 1 "
            f"({CHANCE_BIAS:.3f} makes the surface independent of the class)"
        )
    if options.classes is not None:
        raise UsageError(f"--classes chooses folders; drawn scenes always have all {len(SPORTS)} sports: drop it")
    for split, count in scenes.counts().items():
        if count < 2 * len(SPORTS):
            raise UsageError(
                f"{count} scenes in {split} are too few for {len(SPORTS)} sports; "
                f"give at least {2 * len(SPORTS)} (--train-images, --val-images)"
            )


def _load_scenes(options: DataOptions, size: int) -> ImageData:
    scenes = SceneOptions.of(options)
    splits: dict[str, Split] = {
        split: SceneSplit(split, size, options.data_seed, scenes.context_bias, tuple(range(count)))
        for split, count in scenes.counts().items()
    }
    # The pixels of a few scenes stand for the drawing code: scenes drawn by changed code get another fingerprint.
    sample = b"".join(splits[s].image(i).tobytes() for s in splits for i in range(4))
    text = f"scenes {scenes} {size} {options.data_seed} {hashlib.sha256(sample).hexdigest()}"
    return ImageData("scenes", SPORTS, splits, hashlib.sha256(text.encode()).hexdigest())


def download_sports() -> Path:
    """Return the folder of the 100-sports photos, downloaded once into kagglehub's cache.

    Raises ExplainedError, with how to download them by hand, where that fails.
    """
    import kagglehub  # only this data set needs it, and importing it costs a second

    try:
        return Path(kagglehub.dataset_download(SPORTS_HANDLE))
    except Exception as error:  # kagglehub passes on whatever its HTTP client raises
        raise ExplainedError(
            f"the 100-sports photos could not be downloaded ({type(error).__name__}); by hand: fetch "
            f"https://www.kaggle.com/datasets/{SPORTS_HANDLE}, unpack it so that FOLDER/train and FOLDER/valid "
            f"hold one subfolder per class, and give --data FOLDER"
        ) from error


def scan_folder_data(
    root: Path, spec: str, classes: Sequence[str] | None, progress: bool = False, cache: Path | None = None
) -> ImageData:
    """Read and check every image of the splits in a folder.

    root: the folder.
    spec: the name of the data set.
    classes: the classes to keep; None keeps all.
    progress, cache: as for `load_data`.

    Raises UsageError for a folder without the expected subfolders or images.
    """
    folders = split_folders(root)
    class_names = chosen_classes(folders["train"], classes)
    if classes is None:
        check_no_unknown_classes(folders)
    found: dict[str, FolderSplit] = {}
    warnings: list[str] = []
    for name, folder in folders.items():
        scan = scan_folder(folder, class_names, progress, cache)
        found[name] = scan.split
        warnings += [*scan.warnings, *check_classes_present(name, folder, scan.split.labels, class_names)]
    found, mask_warnings = with_masks(root, found, class_names, progress)
    warnings += _images_in_two_splits(found) + mask_warnings
    digest = hashlib.sha256()
    for name, split in found.items():
        digest.update(f"{name} {class_names}".encode())
        digest.update(split.fingerprint().encode())
    masks = "".join(split.masks_fingerprint() for split in found.values())
    return ImageData(spec, class_names, {**found}, digest.hexdigest(), tuple(warnings), masks)


def _images_in_two_splits(splits: dict[str, FolderSplit]) -> list[str]:
    warnings, names = [], list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = set(splits[first].digests) & set(splits[second].digests)
            if shared:
                which = [splits[second].name(k) for k, d in enumerate(splits[second].digests) if d in shared]
                warnings.append(
                    f"{len(which)} image(s) of {second} are also in {first} (identical files), which inflates results "
                    f"on {second}; remove them from one: {some(which)}"
                )
    return warnings


def _limited(data: ImageData, train_images: int | None, val_images: int | None, data_seed: int) -> ImageData:
    splits: dict[str, Split] = {}
    for name, split in data.splits.items():
        limit = train_images if name == "train" else val_images
        if limit is not None and limit < len(split):
            split = split.select(stratified(split.labels, limit, data_seed).tolist())
        splits[name] = split
    if len(np.unique(splits["train"].labels)) < len(data.class_names):
        raise UsageError(
            f"--train-images {train_images} leaves classes without an image; give at least {len(data.class_names)}"
        )
    if all(len(splits[name]) == len(data.splits[name]) for name in splits):
        return data
    sizes = ",".join(f"{name}={len(split)}" for name, split in splits.items())
    fingerprint = hashlib.sha256(f"{data.fingerprint} {sizes} {data_seed}".encode()).hexdigest()
    return replace(data, splits=splits, fingerprint=fingerprint)
