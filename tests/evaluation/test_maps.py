"""Maps of a run: computed batch by batch, stored whole or not at all, and read back as they were."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from running import files
from subjects import METHOD, subject_of

from data.transforms import Prepared, evaluation_transform
from evaluation import maps as module
from evaluation.maps import StoredMaps, compute_maps, store_maps
from explain import relevance
from explain.registry import RelevanceOptions


@pytest.fixture(scope="module")
def subject(shop, colours):
    return subject_of(shop.dora, colours, images=6, batch_size=4)


def by_hand(subject, classes: np.ndarray, **options) -> np.ndarray:
    """Return the maps of all images, one by one."""
    prepared = Prepared(subject.split, evaluation_transform(subject.run.config.data_config))
    rows = zip(subject.images(subject.options.images).indices, classes)
    found = [
        relevance(subject.model, prepared[int(i)][0][None], torch.from_numpy(row)[None], "lrp_magnitude", **options)
        for i, row in rows
    ]
    return torch.cat(found).numpy()


def test_stored_maps_are_those_of_each_image_and_target(subject, tmp_path):
    stored = store_maps(subject, METHOD, tmp_path / "val-maps")
    assert set(files(tmp_path)) == {"val-maps.npy", "val-maps.npz"}
    assert stored.maps.shape == (6, 1 + 2 + 1, 2, 2) and stored.maps.dtype == np.float32
    assert np.allclose(stored.maps, by_hand(subject, stored.targets.classes), rtol=1e-3, atol=1e-7)
    assert (stored.targets.classes[:, 0] == subject.images(6).labels).all()
    assert stored.probability.shape == (6, 3) and np.allclose(stored.probability.sum(1), 1)
    assert (stored.predicted == stored.probability.argmax(1)).all()


def test_what_is_stored_is_read_as_it_was_written_and_only_where_it_is_needed(subject, tmp_path):
    written = store_maps(subject, METHOD, tmp_path / "maps")
    read = StoredMaps.load(tmp_path / "maps.npy")
    assert isinstance(read.maps, np.memmap) and np.array_equal(read.maps, written.maps)
    assert np.array_equal(read.probability, written.probability)
    assert np.array_equal(read.targets.classes, written.targets.classes)
    assert np.array_equal(read.targets.distracted, written.targets.distracted)
    assert (read.targets.random_classes, read.targets.first) == (2, "true")


def test_options_of_the_method_change_the_maps(subject):
    classes = subject.images(6).labels[:, None]
    plain, contrast = (
        np.concatenate(list(compute_maps(subject, subject.images(6), classes, method)))
        for method in (METHOD, RelevanceOptions("lrp_magnitude", contrast="mean"))
    )
    assert np.allclose(contrast, by_hand(subject, classes, contrast="mean"), rtol=1e-3, atol=1e-7)
    assert not np.allclose(plain, contrast, rtol=1e-2)
    centred = np.concatenate(list(compute_maps(subject, subject.images(6), classes, METHOD, centre_head=True)))
    assert np.allclose(centred, by_hand(subject, classes, centre_head=True), rtol=1e-3, atol=1e-7)


def test_maps_that_are_interrupted_leave_what_was_there(subject, tmp_path, monkeypatch):
    store_maps(subject, METHOD, tmp_path / "maps")
    before, seen, explain = files(tmp_path), [], module.relevance

    def interrupted(*arguments, **options):
        seen.append(None)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return explain(*arguments, **options)

    monkeypatch.setattr(module, "relevance", interrupted)
    again = replace(subject, options=replace(subject.options, data_seed=1))
    with pytest.raises(KeyboardInterrupt):
        store_maps(again, METHOD, tmp_path / "maps")
    assert files(tmp_path) == before
