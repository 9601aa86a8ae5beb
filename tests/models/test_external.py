"""Models trained elsewhere give the logits that they gave there, with their classes' names, or one clear line."""

import json
import socket
from dataclasses import replace

import pytest
import timm
import torch
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from tiny import NAME, SIZE, finish, same_state

from common.errors import ExplainedError, UsageError
from models.adapters import target_pattern
from models.backbone import create_backbone, model_data_config
from models.external import NO_OPTIONS, load_model
from models.methods import parse_settings
from models.options import BackboneSpec, ExternalOptions
from models.runs import export, load_run
from models.sources import check_external_options, read_names

IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def names(tmp_path) -> str:
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
    return str(tmp_path / "names.txt")


@pytest.fixture
def merged(tmp_path, spec) -> str:
    """An export of a DoRA run."""
    finish(tmp_path / "run", spec, "dora")
    export(load_run(tmp_path / "run"), tmp_path / "merged.safetensors")
    return str(tmp_path / "merged.safetensors")


def unsigned(merged: str, suffix: str) -> str:
    """Write the same parameters as somebody else would, without our metadata."""
    path = merged.replace("merged.safetensors", f"theirs{suffix}")
    save_file(load_file(merged), path) if suffix == ".safetensors" else torch.save(load_file(merged), path)
    return path


def peft_folder(folder, spec, base: str | None = NAME, kind=LoraConfig, **options):
    """Save an adapter with plain peft, far from where it started; return the model, adapter in place."""
    torch.manual_seed(3)
    model = create_backbone(spec, 3)
    config = kind(
        target_modules=target_pattern(model, parse_settings("lora:blocks=2-5")), modules_to_save=["head"], **options
    )
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "hada_" in name or "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    config = folder / "adapter_config.json"  # told the base's name, peft would ask the hub about it
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    return adapted


def refusal(given, options=NO_OPTIONS, kind=UsageError) -> str:
    """Return the line with which a RUN is refused."""
    with pytest.raises(ExplainedError) as caught:
        load_model(str(given), options)
    assert type(caught.value) is kind and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


# A run folder is a run


def test_a_run_folder_is_loaded_as_before(tmp_path, spec):
    model = finish(tmp_path, spec, "full")
    run = load_model(str(tmp_path))
    assert run.label == "full" and torch.equal(run.model(IMAGES), model(IMAGES))
    assert run.identity == load_run(tmp_path).identity


def test_the_identity_of_a_run_follows_its_head_and_its_config(tmp_path, spec):
    finish(tmp_path / "a", spec)
    finish(tmp_path / "b", spec)
    assert load_run(tmp_path / "a").identity == load_run(tmp_path / "b").identity
    head = load_file(tmp_path / "b" / "head.safetensors")
    save_file({key: value + 1e-3 for key, value in head.items()}, tmp_path / "b" / "head.safetensors")
    assert load_run(tmp_path / "a").identity != load_run(tmp_path / "b").identity


# timm names


def test_a_timm_name_is_the_model_with_its_own_head_and_imagenets_names(weights):
    run = load_model(NAME, ExternalOptions(weights=str(weights)))
    assert same_state(run.model.state_dict(), load_file(weights))
    assert run.label == NAME and run.config.data_config == model_data_config(run.model)
    assert run.class_names[0] == "tench" and len(set(run.class_names)) == 1000
    crane = ImageNetInfo().label_names().index("n02012849")
    assert run.class_names[crane] == "crane (n02012849)"  # the bird; there is a machine too


def test_a_timm_name_at_another_image_size(weights):
    run = load_model(NAME, ExternalOptions(weights=str(weights), image_size=SIZE))
    file = {"file": str(weights)}
    whole = timm.create_model(NAME, pretrained=True, img_size=SIZE, pretrained_cfg_overlay=file).eval()
    assert torch.equal(run.model(IMAGES), whole(IMAGES)) and run.config.data_config["input_size"] == [3, SIZE, SIZE]


def test_classes_that_timm_does_not_name_have_the_names_given_or_numbers(tmp_path, names):
    torch.manual_seed(0)
    path = str(tmp_path / "three.safetensors")
    save_file(timm.create_model(NAME, num_classes=3).state_dict(), path)
    assert load_model(NAME, ExternalOptions(weights=path)).class_names == ["class 0", "class 1", "class 2"]
    assert load_model(NAME, ExternalOptions(weights=path, class_names=names)).class_names == ["ant", "bee", "cow"]
    (tmp_path / "two.txt").write_text("ant\nbee")
    assert "has 2 names, but the head" in refusal(
        NAME, ExternalOptions(weights=path, class_names=str(tmp_path / "two.txt"))
    )


@pytest.mark.parametrize("name", ["bundled", "vit_small_patch14_dinov2"])
def test_a_model_without_a_head_of_its_own_is_refused_before_the_hub_is_asked(monkeypatch, name):
    monkeypatch.setattr("models.backbone._from_hub", lambda spec: pytest.fail("asked the hub"))
    message = refusal(name)
    assert f"{name!r} has no head of its own" in message and f"train.py --model {name} --out RUN" in message


def test_a_file_without_a_head_is_no_classifier(tmp_path, weights):
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("head.")}, tmp_path / "w.safetensors")
    assert "holds no trained head" in refusal(NAME, ExternalOptions(weights=str(tmp_path / "w.safetensors")))


def test_half_a_head_does_not_fit(tmp_path, weights):
    save_file({k: v for k, v in load_file(weights).items() if k != "head.bias"}, tmp_path / "w.safetensors")
    message = refusal(NAME, ExternalOptions(weights=str(tmp_path / "w.safetensors")), ExplainedError)
    assert "does not fit" in message and "head.bias" in message


def test_a_misspelt_name_is_met_with_near_ones():
    message = refusal("test_vitt")
    assert "is not a folder, a file or a timm name" in message and "did you mean test_vit" in message


def test_a_folder_of_a_models_name_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert f"{NAME} holds no config.json" in refusal(NAME)


# Merged files


def test_our_export_needs_no_flag_and_gives_the_runs_logits(tmp_path, merged, spec):
    run, loaded = load_run(tmp_path / "run"), load_model(merged)
    assert torch.equal(loaded.model(IMAGES), run.model(IMAGES)) and not loaded.model.training
    assert loaded.class_names == run.class_names and loaded.config.data_config == run.config.data_config
    assert loaded.label == "merged" and loaded.config.data is None and loaded.summary == {}


def test_the_data_config_of_an_export_is_the_one_it_was_trained_with(tmp_path, spec):
    finish(tmp_path / "run", spec)
    run = load_run(tmp_path / "run")
    run.config.data_config.update({"mean": [0.1, 0.2, 0.3], "crop_pct": 1.0})
    export(run, tmp_path / "merged.safetensors")
    assert load_model(str(tmp_path / "merged.safetensors")).config.data_config == run.config.data_config


def test_an_export_of_the_bundled_backbone_comes_back(tmp_path):
    finish(tmp_path / "run", BackboneSpec())
    run = load_run(tmp_path / "run")
    export(run, tmp_path / "merged.safetensors")
    loaded = load_model(str(tmp_path / "merged.safetensors"))
    assert same_state(loaded.model.state_dict(), run.model.state_dict())
    assert loaded.config.data_config == run.config.data_config


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_from_elsewhere_takes_its_names_from_the_flags(tmp_path, merged, names, suffix):
    loaded = load_model(unsigned(merged, suffix), ExternalOptions(model=NAME, image_size=SIZE, class_names=names))
    assert torch.equal(loaded.model(IMAGES), load_run(tmp_path / "run").model(IMAGES))
    assert loaded.class_names == ["ant", "bee", "cow"] and loaded.label == "theirs"
    assert loaded.config.data_config == model_data_config(loaded.model)


def test_what_the_flags_say_overrides_what_an_export_says(merged, names):
    assert load_model(merged, ExternalOptions(class_names=names)).class_names == ["ant", "bee", "cow"]
    assert load_model(merged, ExternalOptions(image_size=64)).config.data_config["input_size"] == [3, 64, 64]
    options = ExternalOptions(model="test_vit2", image_size=SIZE, class_names=names)
    assert "does not fit" in refusal(merged, options, ExplainedError)


def test_what_a_file_does_not_say_is_asked_for(merged, names):
    file = unsigned(merged, ".safetensors")
    assert "give --model NAME" in refusal(file, ExternalOptions(class_names=names, image_size=SIZE))
    assert "does not name its 3 classes; give --class-names FILE" in refusal(
        file, ExternalOptions(model=NAME, image_size=SIZE)
    )
    message = refusal(file, ExternalOptions(model=NAME, class_names=names))
    assert "positions for 4 patches" in message and "not for the 160 pixels" in message
    assert f"give --image-size {SIZE}" in message


def test_as_many_names_as_the_head_has_classes(tmp_path, merged):
    (tmp_path / "four.json").write_text('["a", "b", "c", "d"]')
    message = refusal(merged, ExternalOptions(class_names=str(tmp_path / "four.json")))
    assert "four.json has 4 names, but the head" in message and "has 3 classes" in message


def test_a_head_of_one_class_has_nothing_to_tell_apart(tmp_path):
    save_file(timm.create_model(NAME, num_classes=1).state_dict(), tmp_path / "one.safetensors")
    (tmp_path / "one.txt").write_text("cat")
    message = refusal(tmp_path / "one.safetensors", ExternalOptions(model=NAME, class_names=str(tmp_path / "one.txt")))
    assert "has one class" in message


@pytest.mark.parametrize("name", ["page.safetensors", "page.pth", "photo.jpg"])
def test_a_file_that_holds_no_weights_is_one_line(tmp_path, names, name):
    (tmp_path / name).write_text("<html>")
    assert "cannot be read as weights" in refusal(
        tmp_path / name, ExternalOptions(model=NAME, class_names=names), ExplainedError
    )


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path, names):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    torch.save({"head.weight": Trap()}, tmp_path / "trap.pth")
    message = refusal(tmp_path / "trap.pth", ExternalOptions(model=NAME, class_names=names), ExplainedError)
    assert "cannot be read as weights" in message and not (tmp_path / "sprung").exists()


def test_a_checkpoint_that_holds_more_than_weights_is_one_line(tmp_path, names):
    torch.save({"net": {"head.weight": torch.zeros(3, 64)}, "epoch": 7}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", ExternalOptions(model=NAME, class_names=names), ExplainedError)
    assert "cannot be read as weights" in message and "net, epoch: not a tensor" in message


def test_the_identity_of_a_model_follows_every_parameter_and_the_names(merged, names):
    file = unsigned(merged, ".safetensors")
    options = ExternalOptions(model=NAME, image_size=SIZE, class_names=names)
    first = load_model(file, options).identity
    assert load_model(file, options).identity == first
    with open(names, "w") as stream:
        stream.write("bee\nant\ncow")
    second = load_model(file, options).identity
    state = load_file(file)
    state["head.bias"][1] += 1e-6
    save_file(state, file)
    assert len({first, second, load_model(file, options).identity}) == 3


# Peft folders


@pytest.mark.parametrize(
    "kind, options",
    [(LoraConfig, {}), (LoraConfig, {"use_dora": True}), (LoHaConfig, {})],
    ids=["lora", "dora", "loha"],
)
def test_a_peft_folder_gives_its_models_logits(tmp_path, spec, weights, names, monkeypatch, kind, options):
    model = peft_folder(tmp_path / "mine", spec, kind=kind, **options)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    loaded = load_model(
        str(tmp_path / "mine"), ExternalOptions(weights=str(weights), image_size=SIZE, class_names=names)
    )
    assert torch.allclose(loaded.model(IMAGES), model(IMAGES), atol=1e-5)
    assert not torch.allclose(loaded.model(IMAGES), create_backbone(spec, 3)(IMAGES), atol=1e-2)
    assert type(loaded.model) is timm.models.VisionTransformer and not loaded.model.training
    assert loaded.label == "mine" and loaded.class_names == ["ant", "bee", "cow"]


def test_the_adapter_of_a_run_on_a_base_with_the_runs_head(tmp_path, spec, weights, names):
    """The head was saved apart, so the base's file must hold it."""
    finish(tmp_path / "run", spec, "dora")
    options = ExternalOptions(model=NAME, image_size=SIZE, class_names=names)
    message = refusal(tmp_path / "run" / "adapter", options)
    assert "holds no trained head" in message and "modules_to_save" in message and "--weights FILE" in message
    body = {key: value for key, value in create_backbone(spec, 3).state_dict().items() if not key.startswith("head.")}
    save_file(body | load_file(tmp_path / "run" / "head.safetensors"), tmp_path / "base.safetensors")
    loaded = load_model(
        str(tmp_path / "run" / "adapter"), ExternalOptions(NAME, str(tmp_path / "base.safetensors"), SIZE, names)
    )
    assert torch.allclose(loaded.model(IMAGES), load_run(tmp_path / "run").model(IMAGES), atol=1e-5)


def test_a_base_with_the_head_of_other_classes_is_refused(tmp_path, spec, weights, names):
    finish(tmp_path / "run", spec, "lora")
    message = refusal(tmp_path / "run" / "adapter", ExternalOptions(NAME, str(weights), 160, names))
    assert "has 3 names, but the head" in message and "has 1000 classes" in message


def test_the_flag_names_the_base_where_the_folder_does_not(tmp_path, spec, weights, names):
    peft_folder(tmp_path / "mine", spec, base=None)
    options = {"weights": str(weights), "image_size": SIZE, "class_names": names}
    message = refusal(tmp_path / "mine", ExternalOptions(**options))
    assert "names nothing as its base; expected a timm name: give it as --model NAME" in message
    assert load_model(str(tmp_path / "mine"), ExternalOptions(model=NAME, **options)).class_names == [
        "ant",
        "bee",
        "cow",
    ]


@pytest.mark.parametrize("base, fine", [(f"timm/{NAME}", True), ("meta-llama/Llama-2-7b", False)])
def test_the_base_is_a_timm_name_with_or_without_the_hubs_prefix(tmp_path, spec, weights, names, base, fine):
    peft_folder(tmp_path / "mine", spec, base=base)
    options = ExternalOptions(weights=str(weights), image_size=SIZE, class_names=names)
    if fine:
        assert load_model(str(tmp_path / "mine"), options).label == "mine"
    else:
        assert f"names {base!r} as its base" in refusal(tmp_path / "mine", options)


def test_the_names_of_an_adapters_classes_are_asked_for(tmp_path, spec, weights):
    peft_folder(tmp_path / "mine", spec)
    assert "does not name its 3 classes" in refusal(
        tmp_path / "mine", ExternalOptions(weights=str(weights), image_size=SIZE)
    )


def test_another_base_is_one_line(tmp_path, spec, names):
    peft_folder(tmp_path / "mine", spec)
    message = refusal(tmp_path / "mine", ExternalOptions(model="bundled", class_names=names), ExplainedError)
    assert "cannot be merged into bundled" in message and "--model" in message


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path, spec, weights, names):
    peft_folder(tmp_path / "mine", spec)
    path = tmp_path / "mine" / "adapter_model.safetensors"
    state = load_file(path)
    del state[next(key for key in state if "lora_A" in key)]
    save_file(state, path)
    options = ExternalOptions(weights=str(weights), image_size=SIZE, class_names=names)
    message = refusal(tmp_path / "mine", options, ExplainedError)
    assert "parameters missing" in message


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_peft_folder_is_one_line(tmp_path, spec, names, name):
    peft_folder(tmp_path / "mine", spec)
    path = tmp_path / "mine" / name
    path.write_bytes(path.read_bytes()[:40])
    assert f"the adapter in {tmp_path / 'mine'} cannot be read" in refusal(
        tmp_path / "mine", ExternalOptions(class_names=names), ExplainedError
    )


def test_an_adapter_without_its_weights_is_one_line(tmp_path, spec, names):
    peft_folder(tmp_path / "mine", spec)
    (tmp_path / "mine" / "adapter_model.safetensors").unlink()
    message = refusal(tmp_path / "mine", ExternalOptions(class_names=names), ExplainedError)
    assert "expected adapter_config.json and adapter_model.safetensors" in message


# Names and options


@pytest.mark.parametrize("text", ["a dog\ncat\n", "a dog \r\ncat", '["a dog", "cat"]', ' [\n"a dog",\n"cat"]\n'])
def test_names_are_lines_or_a_json_list(tmp_path, text):
    (tmp_path / "names").write_bytes(text.encode())
    assert read_names(str(tmp_path / "names")) == ["a dog", "cat"]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'["a", ', "cannot be read"),
        (b'["a", 1]', "holds 1, which is not a name"),
        (b"a\n\nb", "holds '', which is not a name"),
        (b"a\nb\na", "names a more than once"),
    ],
)
def test_what_holds_no_names_is_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_names(str(tmp_path / "names"))
    assert words in str(caught.value) and "\n" not in str(caught.value) and "--class-names" in str(caught.value)


def test_flags_that_nothing_reads_are_refused(tmp_path, spec, merged):
    run = str(tmp_path / "run")
    for option, options in (
        ("--model", ExternalOptions(model=NAME)),
        ("--image-size", ExternalOptions(image_size=SIZE)),
        ("--class-names", ExternalOptions(class_names="names.txt")),
    ):
        with pytest.raises(UsageError, match=f"^{option} is used for none of {run}, {run}; leave it out"):
            check_external_options([run, run], options)
        check_external_options([run, str(merged)], options)
    check_external_options([run], ExternalOptions(weights="anywhere"))
    with pytest.raises(UsageError, match="--weights is used for none of"):
        check_external_options([str(merged)], ExternalOptions(weights="anywhere"))
    with pytest.raises(UsageError, match=f"--model is used for none of {NAME}"):
        check_external_options([NAME], ExternalOptions(model="vit_tiny_patch16_224", image_size=SIZE))


def test_names_that_are_given_stand_where_timm_has_as_many_of_its_own(tmp_path, weights):
    """A head of a thousand classes of somebody's own is not ImageNet's."""
    (tmp_path / "names.txt").write_text("\n".join(f"mine {number}" for number in range(1000)))
    options = ExternalOptions(weights=str(weights), image_size=SIZE)
    assert load_model(NAME, options).class_names[0] == "tench"
    assert load_model(NAME, replace(options, class_names=str(tmp_path / "names.txt"))).class_names[999] == "mine 999"


def test_the_config_of_a_model_from_elsewhere_is_plain_json(merged):
    config = load_model(merged).config.to_json()
    assert json.loads(json.dumps(config)) == config
