"""Stored measurements: computed once, and again only where something that they depend on has changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from running import files
from subjects import METHOD, subject_of

from evaluation import measurement_cache
from evaluation.measurement_cache import MeasurementCache, Task, tasks
from evaluation.measurements import MEASURES
from evaluation.options import MeasurementOptions
from explain.registry import RelevanceOptions

MAPS, NOISE = Task("maps", METHOD), Task("robustness", METHOD)


@pytest.fixture
def subject(shop, colours):
    return subject_of(shop.dora, colours, images=4, metric_images=4)


@pytest.fixture
def cache(tmp_path) -> MeasurementCache:
    return MeasurementCache(tmp_path / "measurements")


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The measurements that are computed and not read, by name; "explained" where maps are."""
    found, store = [], measurement_cache.store_maps

    def counted(name: str, compute):
        def measure(request):
            found.append(name)
            return compute(request)

        return measure

    for name, one in MEASURES.items():
        monkeypatch.setitem(MEASURES, name, replace(one, compute=counted(name, one.compute)))

    def stored(*arguments):
        found.append("explained")
        return store(*arguments)

    monkeypatch.setattr(measurement_cache, "store_maps", stored)
    return found


def changed(subject, **options):
    return replace(subject, options=replace(subject.options, **options))


# ---- tasks


def test_faithfulness_has_its_baseline_and_every_imputation_once():
    options = MeasurementOptions(
        relevance=(RelevanceOptions("lrp"), RelevanceOptions("random")),
        measurements=("maps", "faithfulness"),
        imputations=("mean", "blur"),
    )
    assert [str(task) for task in tasks(options)] == [
        "maps of lrp",
        "maps of random",
        "faithfulness of lrp, imputation mean",
        "faithfulness of random, imputation mean",
        "faithfulness of lrp, imputation blur",
        "faithfulness of random, imputation blur",
    ]


# ---- what is stored


def test_a_second_call_reads_what_the_first_measured(cache, subject, computed):
    first = [cache.measured(subject, task) for task in (MAPS, NOISE)]
    assert computed == ["maps", "explained", "robustness"], "maps are computed once for both"
    maps = cache.maps(subject, METHOD)
    assert [cache.measured(subject, task) for task in (MAPS, NOISE)] == first and len(computed) == 3
    assert isinstance(maps.maps, np.memmap) and cache.holds(subject, MAPS) and cache.holds(subject, NOISE)
    (folder,) = (cache.folder).iterdir()
    assert folder.name == subject.content_hash[:16]
    names = {"val-maps-lrp_magnitude" + end for end in (".csv", ".json", ".maps.json", ".npy", ".npz")}
    assert set(files(folder)) == names | {f"val-robustness-lrp_magnitude{end}" for end in (".csv", ".json")}


def test_runs_with_equal_weights_share_values_under_their_own_names(cache, subject, computed):
    first = cache.measured(subject, MAPS)
    other = replace(subject, label="again", run=replace(subject.run, config=replace(subject.run.config, seed=7)))
    second = cache.measured(other, MAPS)
    assert computed == ["maps", "explained"]
    assert {(row.method, row.seed) for row in second} == {("again", 7)}
    assert [replace(row, method="run", seed=0) for row in second] == first


@pytest.mark.parametrize(
    "change",
    [{"images": 5}, {"data_seed": 1}, {"random_classes": 1}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_measured_again(cache, subject, computed, change):
    cache.measured(subject, MAPS)
    other = changed(subject, **change)
    assert not cache.holds(other, MAPS)
    cache.measured(other, MAPS)
    assert computed == ["maps", "explained"] * 2 and not cache.holds(subject, MAPS)


def test_settings_that_a_measurement_does_not_depend_on_change_nothing(cache, subject, computed):
    cache.measured(subject, MAPS)
    for change in ({"metric_images": 9}, {"imputations": ("blur",)}, {"batch_size": 2}, {"measurements": ("maps",)}):
        assert cache.holds(changed(subject, **change), MAPS), change
    assert not cache.holds(changed(subject, metric_images=9), NOISE)
    assert computed == ["maps", "explained"]


@pytest.mark.parametrize("field", ["fingerprint", "masks_fingerprint"])
def test_other_images_or_masks_are_measured_again(cache, subject, field):
    cache.measured(subject, MAPS)
    assert not cache.holds(replace(subject, data=replace(subject.data, **{field: "other"})), MAPS)


def test_code_that_measures_something_else_is_run_again(cache, subject, computed, monkeypatch):
    cache.measured(subject, MAPS)
    monkeypatch.setitem(MEASURES, "maps", replace(MEASURES["maps"], version=MEASURES["maps"].version + 1))
    assert not cache.holds(subject, MAPS)


def test_options_of_a_relevance_method_have_files_of_their_own(cache, subject):
    contrast = RelevanceOptions("lrp_magnitude", contrast="mean")
    first, second = cache.maps(subject, METHOD), cache.maps(subject, contrast)
    assert not np.allclose(first.maps, second.maps)
    assert np.array_equal(cache.maps(subject, METHOD).maps, first.maps)
    assert len(list(cache.folder.rglob("*.npy"))) == 2


def test_picked_images_have_files_of_their_own(cache, shop, colours, computed):
    picked = [subject_of(shop.dora, colours, pick=pick) for pick in ((1, 3), (3, 5), ())]
    names = [[row.image for row in cache.measured(one, MAPS) if row.metric == "probability"] for one in picked]
    assert [len(one) for one in names] == [2, 2, 18] and names[0][1] == names[1][0]
    assert all(cache.holds(one, MAPS) for one in picked)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".maps.json"])
def test_deleted_maps_come_back(cache, subject, computed, suffix):
    cache.measured(subject, MAPS)
    file = next(cache.folder.rglob(f"*maps-lrp_magnitude{suffix}"))
    before = files(file.parent)
    file.unlink()
    assert not cache.holds(subject, MAPS)
    cache.measured(subject, MAPS)
    assert computed == ["maps", "explained"] * 2
    assert files(file.parent) == before


def test_a_measurement_that_is_interrupted_is_not_taken_for_a_finished_one(cache, subject, monkeypatch):
    cache.measured(subject, NOISE)
    other = changed(subject, metric_images=3)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measurement_cache, "write_results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.measured(other, NOISE)
    assert not cache.holds(other, NOISE) and not cache.holds(subject, NOISE), "neither: the old card is gone"
    assert len({row.image for row in cache.measured(other, NOISE)}) == 3


def test_depth_is_stored_with_the_run_after_and_follows_both(cache, shop, colours, monkeypatch):
    before, after = (subject_of(run, colours, metric_images=4, label=run.name) for run in (shop.linear, shop.dora))
    first = cache.depth(before, after, METHOD)
    assert [run.label for run in first] == ["linear", "dora"] and "relevance" in first[1].measures
    (card,) = (cache.folder / after.content_hash[:16]).glob("*depth*.json")
    assert json.loads(card.read_text())["before"] == before.content_hash
    monkeypatch.setattr(measurement_cache, "compare_depth", lambda *_: pytest.fail("measured again"))
    again = cache.depth(before, after, METHOD)
    for one, other in zip(first, again):
        assert all(np.array_equal(one.measures[name], other.measures[name]) for name in one.measures)
    for changed_pair in (
        (after, before, METHOD),
        (before, replace(after, options=replace(after.options, metric_images=5)), METHOD),
        (before, after, None),
    ):
        with pytest.raises(pytest.fail.Exception):
            cache.depth(*changed_pair)


# ---- what is damaged


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-60]),
    "empty": lambda path: path.write_bytes(b""),
    "of another run": lambda path: path.write_bytes(path.read_bytes().replace(b"0", b"1")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("end", [".csv", ".json", ".npy", ".npz", ".maps.json"])
def test_what_is_damaged_is_measured_again_and_said(cache, subject, computed, capsys, end, damage):
    rows, folder = cache.measured(subject, MAPS), cache.folder / subject.content_hash[:16]
    whole = files(folder)
    (path,) = [path for path in folder.iterdir() if path.name.endswith(f"magnitude{end}")]
    DAMAGE[damage](path)
    computed.clear()
    assert cache.measured(subject, MAPS) == rows and files(folder) == whole
    assert "maps" in computed and ("explained" in computed) == (end in (".npy", ".npz", ".maps.json"))
    error = capsys.readouterr().err
    assert damage == "of another run" or (path.name in error and "measured again" in error)
