"""A run folder gives back the very model, in formats that plain peft and plain timm read."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import NAME, SIZE, config_of, finish, write_weights

from common.errors import ExplainedError, UsageError
from models.adapters import plain, timm_model
from models.backbone import create_backbone
from models.methods import MethodSettings, parse_settings
from models.run_config import RunConfig, differing
from models.runs import ADAPTER, CONFIG, HEAD, SUMMARY, export, load_adapted, load_run, read_finished, state_of

METHODS = ["linear", "dora", "lora", "full", "dora:blocks=5,targets=fc1,rank=4,alpha=8"]


@pytest.fixture
def images():
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


# There and back


@pytest.mark.parametrize("text", METHODS)
def test_a_reloaded_run_gives_the_same_logits_bit_for_bit(tmp_path, spec, images, text):
    model = finish(tmp_path, spec, text)
    run = load_run(tmp_path)
    assert torch.equal(load_adapted(tmp_path, run.config).eval()(images), model(images))
    assert torch.equal(run.model(images), plain(model)(images))
    assert type(run.model) is timm.models.VisionTransformer and not run.model.training
    assert parse_settings(run.label) == parse_settings(text) and run.class_names == ["a", "b", "c"]


@pytest.mark.parametrize("text", METHODS)
def test_a_run_folder_is_small_and_holds_no_pickles(tmp_path, spec, text):
    finish(tmp_path, spec, text)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    trained = (
        {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/README.md"}
        if "o" in text[:2]
        else {"backbone.safetensors"}
        if text == "full"
        else set()
    )
    assert files == {CONFIG, SUMMARY, HEAD} | trained
    if text != "full":
        assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 400_000  # the backbone alone has 1.2 MB


@pytest.mark.parametrize("text", ["dora", "lora"])
def test_plain_peft_loads_the_adapter(tmp_path, spec, images, text):
    model = finish(tmp_path, spec, text)
    base = create_backbone(spec, 3)
    base.load_state_dict(load_file(tmp_path / HEAD), strict=False)
    loaded = PeftModel.from_pretrained(base, tmp_path / ADAPTER).eval()
    assert torch.allclose(loaded(images), model(images), atol=1e-5), "but for rounding: DoRA's passes are ours"


@pytest.mark.parametrize("text", METHODS)
def test_plain_timm_loads_an_export(tmp_path, spec, images, text):
    model = finish(tmp_path / "run", spec, text)
    export(load_run(tmp_path / "run"), tmp_path / "merged.safetensors")
    options = {"img_size": SIZE, "num_classes": 3}
    whole = timm.create_model(NAME, **options, checkpoint_path=tmp_path / "merged.safetensors").eval()
    assert torch.equal(whole(images), plain(model)(images))
    assert torch.allclose(whole(images), model(images), atol=1e-5)


def test_an_export_says_what_it_is(tmp_path, spec):
    finish(tmp_path / "run", spec, "dora")
    run = load_run(tmp_path / "run")
    export(run, tmp_path / "merged.safetensors")
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        (text,) = file.metadata().values()  # one: several would be written in no fixed order
        assert set(file.keys()) == set(create_backbone(spec, 3).state_dict())
    assert json.loads(text) == {
        "model": NAME,
        "image_size": SIZE,
        "class_names": ["a", "b", "c"],
        "data_config": run.config.data_config,
    }


@pytest.mark.parametrize("text", METHODS)
def test_a_config_survives_its_file(tmp_path, spec, text):
    config = config_of(spec, parse_settings(text))
    written = json.loads(json.dumps(config.to_json()))
    assert RunConfig.from_json(written, tmp_path / CONFIG) == config
    assert list(written) == [
        "format",
        "method",
        "settings",
        "backbone",
        "data",
        "class_names",
        "data_config",
        "recipe",
        "seed",
        "versions",
    ]
    assert written["settings"] == parse_settings(text).record() and written["method"] == parse_settings(text).method
    assert list(written["backbone"]) == ["name", "weights", "image_size", "sha256"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop("seed"), "it lacks seed; train the run again"),
        (lambda c: c.update(extra=1, more=2), "it has the unknown extra, more; train the run again"),
        (lambda c: c["backbone"].pop("sha256"), "it lacks backbone.sha256"),
        (lambda c: c.update(backbone="bundled"), "it lacks backbone.image_size, backbone.name"),
        (lambda c: c["settings"].update(dropout=0.1), "it holds unknown settings"),
        (lambda c: c["settings"].update(method="vera"), "it holds unknown settings"),
        (lambda c: c.update(format=2), "has format 2, and this version reads format 1; train the run again"),
    ],
)
def test_a_config_with_other_entries_or_of_another_format_is_one_line(tmp_path, spec, change, words):
    finish(tmp_path, spec)
    config = json.loads((tmp_path / CONFIG).read_text())
    change(config)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    message = refusal(tmp_path)
    assert words in message and "config.json" in message
    with pytest.raises(ExplainedError, match="config.json"):
        state_of(tmp_path, config_of(spec))


# The backbone must be the one


def test_another_backbone_is_refused(tmp_path, spec):
    finish(tmp_path / "run", spec)
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ExplainedError) as caught:
        load_run(tmp_path / "run", str(other))
    recorded = config_of(spec).backbone.sha256[:12]
    assert (
        recorded in str(caught.value) and "another backbone" in str(caught.value) and "--weights" in str(caught.value)
    )


def test_a_backbone_that_was_moved_is_found_by_its_new_place(tmp_path, weights, spec, images):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    model = finish(tmp_path / "run", spec, "dora")
    config = json.loads((tmp_path / "run" / CONFIG).read_text())
    config["backbone"]["weights"] = str(tmp_path / "gone.safetensors")
    (tmp_path / "run" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UsageError, match="gone.safetensors is not a file"):
        load_run(tmp_path / "run")
    assert torch.equal(load_run(tmp_path / "run", str(moved)).model(images), plain(model)(images))


# Damage


def refusal(folder, kind=ExplainedError) -> str:
    with pytest.raises(ExplainedError) as caught:
        load_run(folder)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [HEAD, "adapter/adapter_model.safetensors", "adapter/adapter_config.json"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_file_is_one_line(tmp_path, spec, name, damage):
    finish(tmp_path, spec, "dora")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage == "cut":
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    message = refusal(tmp_path)
    assert f"the run in {tmp_path} is damaged" in message and "--overwrite" in message


def test_a_head_with_other_names_or_shapes_is_refused(tmp_path, spec):
    finish(tmp_path, spec)
    save_file({"head.weight": torch.zeros(3, 64)}, tmp_path / HEAD)
    assert "missing: ['head.bias']" in refusal(tmp_path)
    save_file({"head.weight": torch.zeros(4, 64), "head.bias": torch.zeros(4)}, tmp_path / HEAD)
    assert "damaged" in refusal(tmp_path)


def test_a_run_that_memory_has_no_room_for_is_not_called_damaged(tmp_path, spec, monkeypatch):
    """Else it would be trained again."""

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    finish(tmp_path, spec)
    monkeypatch.setattr("models.runs.load_file", full)
    with pytest.raises(RuntimeError, match="can't allocate"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", [HEAD, "adapter/adapter_model.safetensors"])
def test_a_run_that_may_not_be_read_is_not_called_damaged(tmp_path, spec, monkeypatch, name):
    """safetensors says that there is no such file. (A stand-in: a superuser may read everything.)"""

    def locked(path, *args, **options):
        if path == tmp_path / name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    finish(tmp_path, spec, "dora")
    opened = Path.open
    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(PermissionError, match=name):
        load_run(tmp_path)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path, spec):
    finish(tmp_path, spec, "dora")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    state.pop(sorted(state)[0])
    save_file(state, path)
    assert "damaged" in refusal(tmp_path)


def test_a_config_that_is_no_json_is_one_line(tmp_path, spec):
    finish(tmp_path, spec)
    (tmp_path / CONFIG).write_text('{"method": "lin')
    assert "config.json cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_a_config_of_something_else_is_one_line(tmp_path, spec, content):
    finish(tmp_path, spec)
    (tmp_path / CONFIG).write_text(content)
    assert "config.json" in refusal(tmp_path)


def test_what_is_no_run_is_a_wrong_request(tmp_path):
    assert "is not a folder" in refusal(tmp_path / "none", UsageError)
    assert "holds no config.json" in refusal(tmp_path, UsageError)


# New, interrupted, finished, another


def test_an_interrupted_run_cannot_be_loaded(tmp_path, spec):
    finish(tmp_path, spec)
    (tmp_path / SUMMARY).unlink()
    assert "was interrupted; finish it by giving its train.py command again" in refusal(tmp_path, UsageError)


def test_the_state_of_an_output_folder(tmp_path, spec):
    config = config_of(spec)
    assert state_of(tmp_path / "none", config) == state_of(tmp_path, config) == "new"
    (tmp_path / CONFIG).write_text(json.dumps(config.to_json()))
    assert state_of(tmp_path, config) == "interrupted"
    (tmp_path / SUMMARY).write_text("{}")
    assert state_of(tmp_path, config) == "finished" and read_finished(tmp_path) == (config, {})


def test_a_file_as_output_folder_is_refused(tmp_path, spec):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        state_of(tmp_path / "file", config_of(spec))


def test_a_run_of_another_configuration_is_refused_with_what_differs(tmp_path, spec):
    (tmp_path / CONFIG).write_text(json.dumps(config_of(spec).to_json()))
    with pytest.raises(UsageError) as caught:
        state_of(tmp_path, config_of(spec, MethodSettings("dora"), seed=1, recipe={"epochs": 5}))
    message = str(caught.value)
    assert 'method: "linear" -> "dora"' in message and "recipe.epochs: 3 -> 5" in message and "seed: 0 -> 1" in message
    assert "--overwrite" in message


def test_where_things_lie_and_which_versions_wrote_them_is_no_difference(spec):
    old = config_of(spec).to_json()
    new = copy.deepcopy(old)
    new["versions"]["torch"], new["backbone"]["weights"], new["data"]["spec"] = "9.9", "elsewhere", "../photos"
    assert differing(old, new) == []
    new["backbone"]["sha256"], new["data"]["fingerprint"] = "0", "g"
    assert [row.split(":")[0] for row in differing(old, new)] == ["backbone.sha256", "data.fingerprint"]


def test_saving_again_replaces_the_adapter(tmp_path, spec, images):
    finish(tmp_path, spec, "dora")
    (tmp_path / ADAPTER / "left").touch()
    model = finish(tmp_path, spec, "dora:rank=2")
    assert not (tmp_path / ADAPTER / "left").exists()
    assert torch.equal(load_run(tmp_path).model(images), plain(model)(images))
    assert timm_model(model).head.weight.shape == (3, 64)
