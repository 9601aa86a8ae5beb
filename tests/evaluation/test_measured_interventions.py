"""Interventions on drawn scenes and on photos: what they change, what they cost the model, and what reports say."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from running import command
from subjects import METHOD, subject_of

import study
import train
from data.datasets import load_data
from data.options import DataOptions
from evaluation.interventions import GRID, effects_on_images, interventions_on, load_effects, save_effects
from evaluation.measurement_cache import MeasurementCache, Task
from evaluation.observations import Results, read_results
from evaluation.study_interventions import agreement_of_change, aligned, factor_changes, factor_values
from explain.registry import RelevanceOptions

TASK = Task("interventions", METHOD)


@pytest.fixture(scope="module")
def scenes(shop, tmp_path_factory):
    """A linear probe on drawn scenes."""
    out = tmp_path_factory.mktemp("scenes") / "run"
    assert command(train, "--train-images", 24, "--val-images", 24, *shop.model, "--out", out) == 0
    return subject_of(out, load_data(DataOptions(train_images=24, val_images=24), image_size=32), metric_images=6)


@pytest.fixture(scope="module")
def photos(shop, colours):
    return subject_of(shop.dora, colours, metric_images=4)


def first_image(subject):
    images = subject.images(1)
    return int(images.indices[0]), next(images.read([[0]]))[0]


def test_interventions_on_a_scene_change_what_they_name(scenes):
    index, image = first_image(scenes)
    found = {one.factor: one for one in interventions_on(scenes.split, index, image, scenes.run.config.data_config)}
    assert {"evidence", "exchanged evidence", "player", "surface", "light"} <= found.keys()
    assert len(found["surface"].images) == 8 and len(found["evidence"].images) == 1
    assert found["light"].pixels is None and (found["light"].images != image).any()
    for factor in found.keys() - {"light", "exchanged evidence"}:
        one = found[factor]
        assert np.array_equal((one.images != image).any(0).any(0).numpy(), one.pixels) and one.pixels.any()
    assert np.array_equal(found["exchanged evidence"].pixels, found["evidence"].pixels), "where the evidence was"


def test_interventions_on_a_photo_impute_its_regions(photos):
    index, image = first_image(photos)
    found = list(interventions_on(photos.split, index, image, photos.run.config.data_config))
    assert [one.imputation for one in found] == ["mean"] * GRID**2 + ["blur"] * GRID**2
    assert np.sum([one.pixels for one in found[: GRID**2]], axis=0).tolist() == np.ones((32, 32)).tolist()
    for one in found:
        inside = torch.from_numpy(one.pixels)
        assert torch.equal(one.images[0][:, ~inside], image[:, ~inside])
        assert (one.images[0][:, inside] == 0).all() == (one.imputation == "mean")


def test_effects_are_those_of_the_model_and_come_back_from_their_file(scenes, tmp_path):
    found = effects_on_images(scenes)
    assert len(found) == 6
    index, image = first_image(scenes)
    (one,) = (
        one
        for one in interventions_on(scenes.split, index, image, scenes.run.config.data_config)
        if one.factor == "surface"
    )
    with torch.no_grad():
        logits = scenes.model(torch.cat([image[None], one.images])).double()
    centred = logits[:, scenes.split.labels[index]] - logits.mean(1)
    row = scenes.images(6).indices.tolist().index(index)
    surface = next(effect for effect in found[row] if effect.factor == "surface")
    assert surface.logit == pytest.approx(float(centred[0] - centred[1:].mean()), abs=1e-4)
    save_effects(tmp_path / "effects.npz", found)
    again = load_effects(tmp_path / "effects.npz")
    for effect, stored in zip([e for row in found for e in row], [e for row in again for e in row], strict=True):
        assert replace(effect, pixels=None) == replace(stored, pixels=None)
        assert (effect.pixels is None) == (stored.pixels is None)
        assert effect.pixels is None or np.array_equal(effect.pixels, stored.pixels)


def test_what_is_measured_is_kept_and_paired_by_image_and_factor(scenes, tmp_path, monkeypatch):
    cache = MeasurementCache(tmp_path)
    rows = cache.measured(scenes, TASK)
    monkeypatch.setattr("evaluation.measurement_cache.effects_on_images", lambda _: pytest.fail("computed again"))
    assert cache.measured(scenes, TASK) == rows
    table = Results(rows)
    values = factor_values(table, scenes.label, "val", METHOD.method)
    assert len(values.images) == 6 and values.relevance.shape == (1, 6, len(values.factors))
    assert "light" not in values.factors, "relevance cannot lie on it"
    relevance, effect = values.at("evidence")
    stored = {row.image: row.value for row in rows if (row.metric, row.place) == ("effect", "evidence")}
    assert effect[0].tolist() == [stored[image] for image in values.images] and np.isfinite(relevance).all()
    lacking = [i for i, name in enumerate(values.factors) if name == "distractor" or name.startswith("bystander")]
    assert np.array_equal(np.isnan(values.relevance[..., lacking]), np.isnan(values.effect[..., lacking]))
    assert factor_values(table, scenes.label, "val", "rollout") is None


def test_a_change_between_two_runs_is_paired(scenes, tmp_path):
    """A run whose head is twice as large has twice the effects; the shares of relevance stay."""
    cache, model = MeasurementCache(tmp_path), copy.deepcopy(scenes.run.model)
    linear = RelevanceOptions("lrp_depth")  # its maps grow with the logit, evenly
    with torch.no_grad():
        model.head.weight *= 2
        model.head.bias *= 2
    twice = replace(scenes, label="twice", run=replace(scenes.run, model=model))
    table = Results([row for one in (scenes, twice) for row in cache.measured(one, Task("interventions", linear))])
    first, second = (factor_values(table, label, "val", "lrp_depth") for label in (scenes.label, "twice"))
    first, second = aligned(first, second)
    known = np.isfinite(first.effect)
    assert np.allclose(2 * first.effect[known], second.effect[known], atol=1e-4)
    assert np.allclose(first.relevance[known], second.relevance[known], atol=1e-5)
    by_factor = {one.factor: one for one in factor_changes(first, second)}
    assert by_factor["surface"].effect.difference == pytest.approx(np.nanmean(first.at("surface")[1]), abs=1e-4)
    exchanged = first.factors.index("exchanged evidence")
    assert agreement_of_change(first, second).pairs == known.sum() - known[..., exchanged].sum(), "evidence counts once"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("data", ["scenes", "photos"])
def test_a_study_says_whether_maps_and_models_changed_alike(shop, tmp_path, data):
    argv = ["--train-images", 24, "--val-images", 24, "--methods", "linear", "dora"] if data == "scenes" else []
    argv += ["--data", "scenes" if data == "scenes" else shop.colours, *shop.model, "--epochs", 1, "--rows", 2]
    argv += ["--relevance", METHOD.method, "--metrics", "interventions", "--metric-images", 6, "--out", tmp_path]
    assert command(study, *argv) == 0
    findings, details = ((tmp_path / name).read_text() for name in ("findings.md", "details.md"))
    assert "## Is a change of the maps one of the models?" in findings and "the change of relevance" in findings
    assert ("| exchanged evidence | dora less linear" in findings) == (data == "scenes")
    assert ("imputation blur" in findings) == (data == "photos")
    for relevance in (METHOD.method, "random", "oracle"):
        assert f"| {relevance} |" in details.split("## Do the maps agree with interventions?")[1]
    metrics = {row.metric for row in read_results(tmp_path / "results.csv")}
    assert {"effect", "effect_log_p", "relevance_on", "relevance_share"} <= metrics
