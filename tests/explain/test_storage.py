"""Maps of many images: written batch by batch, the same as at once, and nothing is kept that is not needed."""

import weakref

import numpy as np
import pytest
import torch
from small_vits import make_vit

from explain import UnsupportedModel, relevance
from explain.storage import save_chunks, save_relevance


def many(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, 24, 24, generator=generator), torch.randint(0, 7, (count, 2), generator=generator)


@pytest.mark.parametrize("method", ["lrp_magnitude", "attnlrp_epsilon"])
def test_the_file_holds_the_maps_of_all_batches_in_order(tmp_path, method):
    model, (images, targets) = make_vit().float(), many(7)
    batches = zip(images.split(3), targets.split(3))
    found = save_relevance(tmp_path / "maps.npy", model, batches, 7, method, contrast="mean")
    expected = torch.cat(
        [
            relevance(model, images[rows], targets[rows], method, contrast="mean")
            for rows in (slice(0, 3), slice(3, 6), slice(6, 7))
        ]
    )
    assert isinstance(found, np.memmap) and found.dtype == np.float32 and not found.flags.writeable
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(np.load(tmp_path / "maps.npy"), found)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npy"]


def test_batches_are_dropped_and_their_maps_written_one_by_one(tmp_path):
    """Memory does not grow with the number of batches: all but the last are dropped, and their maps are in the file."""
    model, alive, rows = make_vit().float(), [], []

    def batches():
        for number in range(6):
            assert sum(reference() is not None for reference in alive) <= 1
            if number > 1:
                (temporary,) = tmp_path.iterdir()
                rows.append(int((np.load(temporary, mmap_mode="r") != 0).any((1, 2, 3)).sum()))
            images, targets = many(2)
            alive.append(weakref.ref(images))
            yield images, targets
            del images

    save_relevance(tmp_path / "maps.npy", model, batches(), 12)
    assert rows == [4, 6, 8, 10] and len(alive) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("before", [None, "what was there"])
def test_an_interruption_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "maps.npy"
    if before:
        path.write_text(before)

    def batches():
        yield many(2)
        raise error

    with pytest.raises(error):
        save_relevance(path, make_vit().float(), batches(), 4)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("count, words", [(3, "more than the 3 rows announced"), (5, "4 rows of 5 announced")])
def test_another_number_of_images_is_refused(tmp_path, count, words):
    with pytest.raises(ValueError, match=words):
        save_relevance(tmp_path / "maps.npy", make_vit().float(), [many(2), many(2)], count)
    assert not list(tmp_path.iterdir())


def test_chunks_of_other_axes_and_no_chunks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows of shape \(3,\); expected \(2,\)"):
        save_chunks(tmp_path / "a.npy", [np.zeros((1, 2)), np.zeros((1, 3))], 2)
    with pytest.raises(ValueError, match="0 rows of 1 announced"):
        save_chunks(tmp_path / "a.npy", [], 1)
    with pytest.raises(ValueError, match="gap would return more than maps"):
        save_relevance(tmp_path / "a.npy", make_vit().float(), [many(1)], 1, gap=True)
    with pytest.raises(UnsupportedModel, match="the model is Linear"):
        save_relevance(tmp_path / "a.npy", torch.nn.Linear(2, 2), [many(1)], 1)
    assert not list(tmp_path.iterdir())
