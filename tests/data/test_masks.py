"""Masks beside an image folder: the same as the drawn scene's, aligned whatever is chosen, and misfits are named."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scene_folder import scene_folder
from tiny import colour_folder

from data.datasets import load_data
from data.images import MaskFormatError, open_image, open_mask
from data.options import DataOptions
from data.scenes.scene import MASKS, SPORTS
from data.scenes.split import SceneSplit
from data.transforms import mask_transform, prepared_masks

CONFIG = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "crop_pct": 0.8,
    "crop_mode": "center",
}
MARK = np.zeros((32, 32), dtype=bool)
MARK[4:9, 3:20] = True


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path / "photos", train=4, val=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four of the sports, with masks of `val`; read only, please."""
    return scene_folder(tmp_path_factory.mktemp("scenes") / "sports", classes=4)


def load(folder, **options):
    return load_data(DataOptions(str(folder), **options), image_size=32)


def mark(path, mask: np.ndarray = MARK, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, **options)


def marked(split) -> list[str]:
    return [split.name(i) for i in range(len(split)) if split.masks(i) is not None]


def is_the_scenes_own(split, index: int) -> bool:
    """Tell whether a saved scene's evidence is that of the scene drawn anew, found by the number in its name."""
    name, _, number = split.name(index).removesuffix(".png").split("/")
    drawn = SceneSplit(name, 32, 0, 0.9, (int(number),))
    return drawn.image(0).tobytes() == split.image(index).tobytes() and np.array_equal(
        drawn.masks(0)["evidence"], split.masks(index)["evidence"]
    )


# What a split knows


def test_drawn_scenes_give_all_their_masks():
    split = SceneSplit("val", 32, 0, 0.9, (5, 3))
    assert tuple(split.masks(1)) == MASKS and split.masks(1)["evidence"].any()
    assert all(np.array_equal(split.masks(1)[name], split.scene(1).masks[name]) for name in MASKS)


def test_saved_scenes_give_the_same_evidence_to_the_pixel(scenes):
    data = load(scenes)
    assert data.warnings == () and data.class_names == SPORTS[:4]
    val = data.splits["val"]
    assert len(val) == 8 and all(is_the_scenes_own(val, i) for i in range(len(val)))
    ((name, mask),) = val.masks(0).items()
    assert name == "evidence" and mask.dtype == bool and mask.shape == (32, 32)
    assert not marked(data.splits["train"]), "the plain form is for validation alone"


def test_masks_of_several_splits_lie_in_folders_named_after_them(tmp_path):
    data = load(scene_folder(tmp_path, train=2, val=2, classes=2, masks=("train", "val")))
    assert data.warnings == ()
    for split in data.splits.values():
        assert len(split) == 4 and all(is_the_scenes_own(split, i) for i in range(4))


@pytest.mark.parametrize("place", ["masks", "masks/valid", "masks/val"])
def test_valid_is_another_name_for_val(folder, place):
    (folder / "val").rename(folder / "valid")
    mark(folder / place / "red" / "00.png")
    data = load(folder)
    assert marked(data.splits["val"]) == ["valid/red/00.png"] and data.warnings == ()


def test_no_masks_are_none(folder):
    assert not any(marked(split) for split in load(folder).splits.values())


def test_images_without_a_mask_stand_beside_others(folder):
    mark(folder / "masks" / "red" / "01.png")
    val = load(folder).splits["val"]
    assert marked(val) == ["val/red/01.png"] and np.array_equal(val.masks(5)["evidence"], MARK)


def test_a_mask_finds_its_image_whatever_the_formats_suffix_and_however_deep(folder):
    (folder / "val" / "red" / "far").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "val" / "red" / "far" / "a.b.JPG")
    mark(folder / "masks" / "red" / "far" / "a.b.png")
    assert marked(load(folder).splits["val"]) == ["val/red/far/a.b.JPG"]


def test_linked_class_folders_are_followed(folder, tmp_path):
    mark(tmp_path / "elsewhere" / "00.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "red").symlink_to(tmp_path / "elsewhere")
    assert marked(load(folder).splits["val"]) == ["val/red/00.png"]


def test_masks_are_no_split_and_no_class(folder):
    before = load(folder)
    for place in ("red/00.png", "train/blue/00.png"):
        mark(folder / "masks" / place)
    data = load(folder)
    assert data.class_names == before.class_names
    assert {name: s.paths for name, s in data.splits.items()} == {name: s.paths for name, s in before.splits.items()}


def test_a_class_named_as_a_split_is_a_class_below_the_splits_folder(folder):
    for split in ("train", "val"):
        shutil.copytree(folder / split / "red", folder / split / "val")
    mark(folder / "masks" / "val" / "val" / "00.png")
    assert marked(load(folder).splits["val"]) == ["val/val/00.png"]


# Choosing images keeps masks with them


def test_select_keeps_masks_aligned(scenes):
    val = load(scenes).splits["val"]
    part = val.select(np.array([6, 1, 4]))
    assert [part.name(i) for i in range(3)] == [val.name(i) for i in (6, 1, 4)]
    assert all(is_the_scenes_own(part, i) for i in range(3))


def test_fewer_classes_and_images_keep_masks_aligned(scenes):
    data = load(scenes, classes=SPORTS[1:3], train_images=4, val_images=3)
    val = data.splits["val"]
    assert data.warnings == (), "masks of classes that are left out are no misfits"
    assert len(val) == 3 and all(is_the_scenes_own(val, i) for i in range(3))


# Pixels


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 1, 255]], dtype=np.uint8),
        np.array([[0, 1, 65535]], dtype=np.uint16),
        np.array([[False, True, True]]),
    ],
)
def test_what_is_not_zero_is_evidence(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert open_mask(tmp_path / "a.png").tolist() == [[False, True, True]]


@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("P", "png"), ("LA", "png"), ("L", "jpg")])
def test_where_what_is_marked_is_not_certain_the_mask_is_refused(tmp_path, mode, suffix):
    Image.new(mode, (4, 4), 1 if mode == "P" else None).save(tmp_path / f"a.{suffix}")
    with pytest.raises(MaskFormatError, match="not a grayscale or 1-bit PNG"):
        open_mask(tmp_path / f"a.{suffix}")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_mask_with_its_image(folder, orientation, suffix):
    """The image is white where the mask is; both lie as the file stores them."""
    mask = np.zeros((24, 40), dtype=bool)
    mask[:8, :16] = True
    white = Image.fromarray(mask).convert("RGB")
    white.save(folder / "val" / "red" / f"turned.{suffix}", exif=exif(orientation))
    mark(folder / "masks" / "red" / "turned.png", mask)
    data = load(folder)
    val, index = data.splits["val"], data.splits["val"].paths.index(f"red/turned.{suffix}")
    assert data.warnings == ()
    assert np.array_equal(val.masks(index)["evidence"], np.asarray(val.image(index))[..., 0] > 127)


def test_a_mask_that_knows_its_own_orientation_is_turned_by_it(tmp_path):
    mark(tmp_path / "upright.png", exif=exif(1))
    mark(tmp_path / "turned.png", exif=exif(3))
    assert np.array_equal(open_mask(tmp_path / "upright.png", orientation=6), MARK)
    assert np.array_equal(open_mask(tmp_path / "turned.png"), MARK[::-1, ::-1])


def test_prepared_masks_go_through_the_crop_of_their_image(scenes):
    split = SceneSplit("val", 40, 0, 0.9, (5,))
    masks = prepared_masks(split.masks(0), CONFIG)
    assert tuple(masks) == MASKS
    assert all(np.array_equal(masks[name], split.masks(0)[name][4:36, 4:36]) for name in MASKS)
    evidence = load(scenes).splits["val"].masks(0)
    assert np.array_equal(prepared_masks(evidence, CONFIG)["evidence"], mask_transform(CONFIG)(evidence["evidence"]))


# Misfits: one line for each kind, and not used


def misfit(folder) -> str:
    """Return the one warning; beside the misfit a good mask is still used."""
    mark(folder / "masks" / "blue" / "01.png")
    data = load(folder)
    (warning,) = data.warnings
    assert marked(data.splits["val"]) == ["val/blue/01.png"] and not marked(data.splits["train"])
    assert "\n" not in warning and f"mask(s) in {folder / 'masks'} " in warning and "are not used: " in warning
    return warning


def test_a_mask_of_another_size(folder):
    mark(folder / "masks" / "red" / "00.png", MARK[:20])
    warning = misfit(folder)
    assert warning.startswith("1 mask(s)") and "do not have the size of their image" in warning
    assert warning.endswith("red/00.png (32 x 20 for 32 x 32)")


def test_a_mask_drawn_over_the_turned_image_has_another_size(folder):
    Image.new("RGB", (40, 24)).save(folder / "val" / "red" / "turned.jpg", exif=exif(6))
    mark(folder / "masks" / "red" / "turned.png", np.ones((40, 24), dtype=bool))
    assert open_image(folder / "val" / "red" / "turned.jpg").size == (24, 40)
    assert misfit(folder).endswith("red/turned.png (40 x 24 for 24 x 40 after EXIF rotation)")


def test_an_empty_mask(folder):
    mark(folder / "masks" / "red" / "00.png", np.zeros((32, 32), dtype=bool))
    assert "zero everywhere" in misfit(folder)


@pytest.mark.parametrize("content", [b"", b"<html>", "cut off"])
def test_an_unreadable_mask(folder, content):
    path = folder / "masks" / "red" / "00.png"
    mark(path)
    path.write_bytes(path.read_bytes()[:60] if content == "cut off" else content)
    assert "cannot be read" in misfit(folder)


@pytest.mark.parametrize("name", ["00.png", "00.jpg"])
def test_a_mask_in_another_format(folder, name):
    mark(folder / "masks" / "red" / name)
    Image.open(folder / "masks" / "red" / name).convert("RGB").save(folder / "masks" / "red" / name)
    warning = misfit(folder)
    assert "not grayscale or 1-bit PNG" in warning and warning.endswith(f"red/{name}")


@pytest.mark.parametrize("place", ["red/99.png", "rde/00.png", "00.png", "test/red/00.png", "train/red/99.png"])
def test_a_mask_that_belongs_to_no_image(folder, place):
    mark(folder / "masks" / place)
    warning = misfit(folder)
    assert "belong to no readable image" in warning and "masks/SPLIT/CLASS/STEM.png" in warning
    assert warning.endswith(place)


def test_two_masks_for_one_image(folder):
    for place in ("red/00.png", "val/red/00.png"):
        mark(folder / "masks" / place)
    warning = misfit(folder)
    assert warning.startswith("2 mask(s)") and "share an image" in warning


def test_a_mask_for_two_images(folder):
    Image.new("RGB", (32, 32)).save(folder / "val" / "red" / "00.jpg")
    mark(folder / "masks" / "red" / "00.png")
    assert "their name with several images" in misfit(folder)


def test_ten_misfits_of_a_kind_are_named(folder):
    for i in range(13):
        mark(folder / "masks" / "red" / f"far{i:02d}.png")
    warning = misfit(folder)
    assert warning.startswith("13 mask(s)") and warning.count("far") == 10 and warning.endswith("and 3 more")


def test_each_kind_has_a_line_of_its_own(folder):
    mark(folder / "masks" / "red" / "99.png")
    mark(folder / "masks" / "red" / "00.png", ~MARK[:5])
    mark(folder / "masks" / "red" / "01.png", MARK & ~MARK)
    assert len(load(folder).warnings) == 3


def test_what_notebooks_and_file_managers_leave_behind_is_no_mask(folder):
    mark(folder / "masks" / "red" / "00.png")
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(folder / "masks" / "red", folder / "masks" / hidden / "red")
    (folder / "masks" / "red" / "._00.png").write_bytes(b"\x00\x05\x16\x07")
    (folder / "masks" / "README.txt").touch()
    data = load(folder)
    assert data.warnings == () and marked(data.splits["val"]) == ["val/red/00.png"]


# The fingerprint


def test_the_fingerprint_without_masks_is_what_it_was_before_there_were_any(tmp_path):
    for split in ("train", "val"):
        for c, name in enumerate(("a", "b")):
            path = tmp_path / split / name / "0.pgm"  # bytes that no library's version changes
            path.parent.mkdir(parents=True)
            path.write_bytes(b"P5 1 1 255\n" + bytes([c + 2 * (split == "val")]))
    assert load(tmp_path).fingerprint == "1ed306e2cd8fe93444661914ac4ec3528481ea0f9f56f66c8c9914a00402cbe3"


def test_masks_have_a_fingerprint_of_their_own(folder):
    prints, images = [load(folder).masks_fingerprint], load(folder).fingerprint
    assert prints == [""]
    for mask in (MARK, MARK.T):
        mark(folder / "masks" / "red" / "00.png", mask)
        prints.append(load(folder).masks_fingerprint)
    (folder / "masks" / "red" / "00.png").rename(folder / "masks" / "red" / "01.png")
    prints.append(load(folder).masks_fingerprint)
    assert len(set(prints)) == 4 and load(folder).fingerprint == images
    mark(folder / "masks" / "red" / "99.png")
    assert load(folder).masks_fingerprint == prints[-1]
    shutil.rmtree(folder / "masks")
    assert load(folder).masks_fingerprint == prints[0]


def test_the_fingerprint_does_not_know_which_form_the_place_has(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    mark(folder / "masks" / "red" / "00.png")
    mark(other / "masks" / "val" / "red" / "00.png")
    assert load(folder).masks_fingerprint == load(other).masks_fingerprint
