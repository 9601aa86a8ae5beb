"""What --data can name: drawn scenes, the 100-sports photos, or a folder; checked before anything slow starts."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from common.errors import ExplainedError, UsageError
from common.names import nearest, some
from data.folder import FolderSplit, scan_folder
from data.masks import with_masks
from data.options import DATA_SEED_LIMIT, DataOptions
from data.sampling import stratified
from data.scenes.scene import CHANCE_BIAS, SPORTS, Scene, draw_scene

SPORTS_HANDLE = "gpiosenka/sports-classification"


class Split(Protocol):
    """The images of one split, in a fixed order; `labels` is an int64 array of shape (len,).

    `masks` are bool arrays (h, w) of the image's own size by name, `evidence` always among them; None where nobody
    made any. `scene` is None but for drawn scenes.
    """

    labels: np.ndarray

    def __len__(self) -> int: ...
    def image(self, index: int) -> Image.Image: ...
    def name(self, index: int) -> str: ...
    def scene(self, index: int) -> Scene | None: ...
    def masks(self, index: int) -> dict[str, np.ndarray] | None: ...
    def select(self, indices: Sequence[int]) -> "Split": ...


@dataclass(frozen=True)
class SceneSplit:
    """Drawn scenes of one split. Image and label are drawn on first use and kept; masks are drawn when asked for."""

    split: str
    size: int
    data_seed: int
    context_bias: float
    indices: tuple[int, ...]
    drawn: dict[int, tuple[Image.Image, int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def labels(self) -> np.ndarray:
        return np.array([self._drawn(i)[1] for i in range(len(self))], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self._drawn(index)[0]

    def name(self, index: int) -> str:
        return f"{self.split}/{self.indices[index]:05d}"

    def scene(self, index: int) -> Scene:
        return draw_scene(self.data_seed, self.split, self.indices[index], self.size, self.context_bias)

    def masks(self, index: int) -> dict[str, np.ndarray]:
        return self.scene(index).masks

    def select(self, indices: Sequence[int]) -> "SceneSplit":
        return replace(self, indices=tuple(self.indices[i] for i in indices))

    def _drawn(self, index: int) -> tuple[Image.Image, int]:
        number = self.indices[index]
        if number not in self.drawn:
            scene = self.scene(index)
            self.drawn[number] = (scene.image, scene.label)
        return self.drawn[number]


@dataclass(frozen=True)
class ImageData:
    """A data set: class names in index order, splits by name, a content fingerprint, and what was odd about it.

    `splits` always holds "train" and "val"; drawn scenes add "val_shuffled", folders perhaps "test". The fingerprint is
    of images and labels; masks have one of their own, as training knows nothing of them ("" where there are none).
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    fingerprint: str
    warnings: tuple[str, ...] = ()
    masks_fingerprint: str = ""


@dataclass(frozen=True)
class SceneOptions:
    """Number of scenes drawn, and the probability of the class's usual surface in train and val."""

    train_images: int = 1500
    val_images: int = 300
    context_bias: float = 0.9

    @classmethod
    def of(cls, options: DataOptions) -> "SceneOptions":
        """Return the scenes that data options ask for, with defaults for what they leave open."""
        bias = cls.context_bias if options.context_bias is None else options.context_bias
        return cls(options.train_images or cls.train_images, options.val_images or cls.val_images, bias)

    def counts(self) -> dict[str, int]:
        """Return the number of scenes of each split."""
        return {"train": self.train_images, "val": self.val_images, "val_shuffled": self.val_images}


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
        return _scenes(options, image_size)
    root = download_sports() if options.spec == "sports" else Path(options.spec)
    data = scan_folder_data(root, options.spec, options.classes, progress, cache)
    return _limited(data, options.train_images, options.val_images, options.data_seed)


def check_options(options: DataOptions) -> None:
    """Raise UsageError for data options that cannot be meant, as far as no image has to be read for it."""
    if not 0 <= options.data_seed < DATA_SEED_LIMIT:
        raise UsageError(f"--data-seed {options.data_seed} is out of range; give 0 to {DATA_SEED_LIMIT - 1}")
    if options.spec != "scenes":
        if options.context_bias is not None:
            raise UsageError("--context-bias belongs to --data scenes; drop it, or use --data scenes")
        if options.spec != "sports":
            _split_folders(Path(options.spec))
        return
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


def _scenes(options: DataOptions, size: int) -> ImageData:
    scenes = SceneOptions.of(options)
    splits = {
        split: SceneSplit(split, size, options.data_seed, scenes.context_bias, tuple(range(count)))
        for split, count in scenes.counts().items()
    }
    # a few drawn pixels stand for the drawing code itself: a changed scene must not look like the same data
    sample = b"".join(splits[s].image(i).tobytes() for s in splits for i in range(4))
    text = f"scenes {scenes} {size} {options.data_seed} {hashlib.sha256(sample).hexdigest()}"
    return ImageData("scenes", SPORTS, dict(splits), hashlib.sha256(text.encode()).hexdigest())


def download_sports() -> Path:
    """Return the folder of the 100-sports photos, downloaded once into kagglehub's own cache.

    Raises ExplainedError with the way by hand when the hub cannot be reached.
    """
    import kagglehub  # only this data set needs it, and importing it costs a second

    try:
        return Path(kagglehub.dataset_download(SPORTS_HANDLE))
    except Exception as error:  # kagglehub passes on whatever its HTTP client raises
        raise ExplainedError(
            f"the 100-sports photos could not be downloaded ({type(error).__name__}); by hand: fetch "
            f"https://www.kaggle.com/datasets/{SPORTS_HANDLE}, unpack it so that FOLDER/train and FOLDER/valid "
            f"hold one subfolder a class, and give --data FOLDER"
        ) from error


def scan_folder_data(
    root: Path, spec: str, classes: Sequence[str] | None, progress: bool = False, cache: Path | None = None
) -> ImageData:
    """Read and check every image below `root`'s splits; see `load_data`."""
    folders = _split_folders(root)
    class_names = _chosen_classes(_class_folders(folders["train"]), classes, root)
    if classes is None:
        _check_no_unknown_classes(folders)
    splits, warnings = {}, []
    for name, folder in folders.items():
        scan = scan_folder(folder, class_names, progress, cache)
        splits[name], notes = scan.split, scan.notes
        warnings += notes
        _check_classes_present(name, folder, scan.split, class_names, warnings)
    splits, notes = with_masks(root, splits, class_names, progress)
    warnings += _shared_images(splits) + notes
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {class_names}".encode())
        digest.update(split.fingerprint().encode())
    masks = "".join(split.masks_fingerprint() for split in splits.values())
    return ImageData(spec, class_names, splits, digest.hexdigest(), tuple(warnings), masks)


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UsageError(
            f"--data {root} {what}; expected 'scenes', 'sports', or a folder with train/ and val/ "
            f"(or valid/), one subfolder a class"
        )
    validation = next((root / name for name in ("val", "valid") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or validation is None:
        found = some(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folders"
        raise UsageError(f"{root} holds {found}; expected train/ and val/ (or valid/), one subfolder a class in each")
    folders = {"train": root / "train", "val": validation}
    if (root / "test").is_dir():
        folders["test"] = root / "test"
    return folders


def _class_folders(folder: Path) -> list[str]:
    # hidden folders are left by notebooks and file managers (.ipynb_checkpoints, __MACOSX)
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _check_no_unknown_classes(folders: dict[str, Path]) -> None:
    known = set(_class_folders(folders["train"]))
    for folder in folders.values():
        if unknown := sorted(set(_class_folders(folder)) - known):
            raise UsageError(
                f"{folder} has {len(unknown)} class(es) that {folders['train']} lacks: {some(unknown)}; "
                f"give all splits the same subfolders, or name the classes to keep with --classes"
            )


def _chosen_classes(found: list[str], wanted: Sequence[str] | None, root: Path) -> tuple[str, ...]:
    if not found:
        raise UsageError(f"{root / 'train'} has no class folders; expected one subfolder a class with its images")
    if wanted is None:
        chosen = found
    else:
        for name in wanted:
            if name not in found:
                raise UsageError(f"no class {name!r} in {root / 'train'}; {nearest(name, found)}")
        chosen = sorted(set(wanted))
    if len(chosen) < 2:
        raise UsageError(f"{root / 'train'} offers only one class ({chosen[0]}); classification needs at least two")
    return tuple(chosen)


def _check_classes_present(name: str, folder: Path, split: FolderSplit, class_names, warnings: list[str]) -> None:
    counts = Counter(split.labels.tolist())
    empty = [c for i, c in enumerate(class_names) if not counts[i]]
    if empty and name == "train":
        raise UsageError(
            f"{folder} has no readable image for {some(empty)}; add images or keep other classes with --classes"
        )
    if not len(split):
        raise UsageError(f"{folder} has no readable image of the {len(class_names)} training classes")
    if empty:
        warnings.append(
            f"{folder} has no readable image for {len(empty)} class(es): {some(empty)}; "
            f"class indices stay those of the training split"
        )


def _shared_images(splits: dict[str, FolderSplit]) -> list[str]:
    notes, names = [], list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = set(splits[first].digests) & set(splits[second].digests)
            if shared:
                which = [splits[second].name(k) for k, d in enumerate(splits[second].digests) if d in shared]
                notes.append(
                    f"{len(which)} image(s) of {second} are byte for byte in {first} too, which flatters "
                    f"{second}: {some(which)}"
                )
    return notes


def _limited(data: ImageData, train_images: int | None, val_images: int | None, data_seed: int) -> ImageData:
    limits = {"train": train_images} | {name: val_images for name in data.splits if name != "train"}
    splits = {
        name: split
        if limits[name] is None or limits[name] >= len(split)
        else split.select(stratified(split.labels, limits[name], data_seed))
        for name, split in data.splits.items()
    }
    if len(np.unique(splits["train"].labels)) < len(data.class_names):
        raise UsageError(
            f"--train-images {train_images} leaves classes without an image; give at least {len(data.class_names)}"
        )
    sizes = ",".join(f"{name}={len(split)}" for name, split in splits.items())
    if all(len(splits[n]) == len(data.splits[n]) for n in splits):
        return data
    mark = hashlib.sha256(f"{data.fingerprint} {sizes} {data_seed}".encode()).hexdigest()
    return replace(data, splits=splits, fingerprint=mark)
