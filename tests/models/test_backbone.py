"""timm name and weights -> a model: what fits loads, what does not is one clear line before anything slow."""

import socket

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import NAME, SIZE, same_state, write_weights

from common.errors import ExplainedError, UsageError
from models import backbone
from models.backbone import (
    BUNDLED_FOLDER,
    architecture,
    content_hash,
    create_backbone,
    data_config,
    is_head,
)
from models.options import BackboneSpec


def refusal(kind, spec: BackboneSpec) -> str:
    """Return the line with which a backbone is refused."""
    with pytest.raises(ExplainedError) as caught:
        create_backbone(spec, 3)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


def without_head(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


# Names


def test_an_unknown_name_is_met_with_near_ones():
    message = refusal(UsageError, BackboneSpec("deit_tiny_patch16_242"))
    assert "unknown model 'deit_tiny_patch16_242'" in message and "deit_tiny_patch16_224" in message


def test_an_unknown_tag_is_refused():
    assert "Invalid pretrained tag" in refusal(UsageError, BackboneSpec(f"{NAME}.nonsense"))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", NAME])
def test_any_timm_model_can_be_described_at_no_cost(name):
    model = architecture(BackboneSpec(name))
    assert all(p.is_meta for p in model.parameters())
    assert data_config(BackboneSpec(name))["input_size"][1:] == [160 if name == NAME else 224] * 2


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_models_that_are_no_vit_get_a_new_head_too(tmp_path, name):
    model = create_backbone(BackboneSpec(name, str(write_weights(tmp_path / "w.safetensors", name))), 5)
    assert model.get_classifier().out_features == 5
    assert {key.rsplit(".", 1)[0] for key in model.state_dict() if is_head(model, key)} == {
        "fc" if "resnet" in name else "head.fc"
    }


# Weights from a file


def test_a_local_file_is_loaded_and_the_head_is_new(weights):
    model = create_backbone(BackboneSpec(NAME, str(weights)), 3)
    assert same_state(without_head(model.state_dict()), without_head(load_file(weights)))
    assert model.head.weight.shape == (3, 64) and not model.training


def test_without_a_number_of_classes_the_files_own_head_stays(weights):
    model = create_backbone(BackboneSpec(NAME, str(weights)), 0)
    assert same_state(model.state_dict(), load_file(weights))


def test_another_image_size_resamples_the_positions_and_keeps_the_rest(weights, spec):
    model, stored = create_backbone(spec, 3), load_file(weights)
    assert model.pos_embed.shape == (1, 1 + (SIZE // 16) ** 2, 64)
    theirs = timm.layers.resample_abs_pos_embed(
        stored["pos_embed"], [SIZE // 16] * 2, num_prefix_tokens=1, antialias=True
    )
    assert torch.allclose(model.pos_embed, theirs, atol=1e-6)
    rest = [{k: v for k, v in without_head(s).items() if k != "pos_embed"} for s in (model.state_dict(), stored)]
    assert same_state(*rest)
    assert model(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 3)


def test_the_same_weights_give_what_timm_itself_loads(weights):
    ours = create_backbone(BackboneSpec(NAME, str(weights), 64), 0)
    theirs = timm.create_model(
        NAME, pretrained=True, img_size=64, pretrained_cfg_overlay=dict(file=str(weights))
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


def test_half_precision_weights_are_computed_with_in_single(tmp_path, weights):
    save_file({key: value.half() for key, value in load_file(weights).items()}, tmp_path / "half.safetensors")
    model = create_backbone(BackboneSpec(NAME, str(tmp_path / "half.safetensors")), 3)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_missing_weights_are_a_wrong_request(tmp_path):
    message = refusal(UsageError, BackboneSpec(NAME, str(tmp_path / "none.safetensors")))
    assert "none.safetensors is not a file" in message and "expected a .safetensors" in message


def test_weights_of_another_model_are_listed_both_ways(tmp_path, weights):
    state = load_file(weights)
    state["blocks.9.extra"] = state.pop("blocks.0.attn.qkv.weight")
    state["norm.weight"] = torch.ones(7)
    save_file(state, tmp_path / "other.safetensors")
    message = refusal(ExplainedError, BackboneSpec(NAME, str(tmp_path / "other.safetensors")))
    assert "2 parameter(s) missing or of another shape (blocks.0.attn.qkv.weight, norm.weight)" in message
    assert "1 unknown (blocks.9.extra)" in message and "give the --model" in message


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as weights" in refusal(ExplainedError, BackboneSpec(NAME, str(tmp_path / name)))


# Image sizes


def test_an_image_size_that_patches_do_not_divide_is_refused(weights):
    assert "give a multiple of 16" in refusal(UsageError, BackboneSpec(NAME, str(weights), 40))


def test_an_image_size_for_a_model_that_takes_none_is_refused():
    assert "cannot build 'resnet18'" in refusal(UsageError, BackboneSpec("resnet18", None, 64))


def test_the_data_config_has_the_image_size_asked_for(spec):
    config = data_config(spec)
    assert config["input_size"] == [3, SIZE, SIZE] and config["mean"] == [0.5, 0.5, 0.5]


# The hash of a backbone


def test_the_hash_ignores_the_head_and_sees_every_other_weight(spec):
    first, second = create_backbone(spec, 3), create_backbone(spec, 8)
    assert content_hash(first) == content_hash(second)
    with torch.no_grad():
        second.blocks[5].mlp.fc2.bias[3] += 1e-6
    assert content_hash(first) != content_hash(second)


def test_the_hash_does_not_depend_on_the_kind_of_file(tmp_path, weights):
    torch.save(load_file(weights), tmp_path / "w.pth")
    specs = [BackboneSpec(NAME, str(path)) for path in (weights, tmp_path / "w.pth")]
    assert content_hash(create_backbone(specs[0], 3)) == content_hash(create_backbone(specs[1], 3))


def test_both_heads_of_a_distilled_model_are_heads():
    model = architecture(BackboneSpec("deit_tiny_distilled_patch16_224"))
    assert is_head(model, "head.weight") and is_head(model, "head_dist.bias") and not is_head(model, "norm.weight")


# The hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Nothing can be reached and nothing is cached."""
    from huggingface_hub import constants

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return constants


def test_an_unreachable_hub_is_one_line_with_three_ways_on(no_network):
    before = no_network.HF_HUB_OFFLINE
    message = refusal(ExplainedError, BackboneSpec(NAME))
    assert f"the weights of {NAME!r} could not be downloaded" in message and "timm/test_vit" in message
    assert "connect to the network" in message and "--weights FILE" in message and "--model bundled" in message
    assert no_network.HF_HUB_OFFLINE == before


def test_a_model_without_weights_anywhere_says_so(no_network):
    assert "source: unknown" in refusal(ExplainedError, BackboneSpec("test_vit4"))


def test_unknown_names_are_refused_before_the_network_is_asked(monkeypatch):
    monkeypatch.setattr(backbone, "_reachable", lambda url: pytest.fail("asked the network"))
    refusal(UsageError, BackboneSpec("test_vitamin"))


# The bundled backbone


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").is_file(), reason="no bundled backbone yet")
def test_the_bundled_backbone_is_small_and_plain():
    model = create_backbone(BackboneSpec(), 12)
    assert type(model) is timm.models.VisionTransformer and model.patch_embed.patch_size == (8, 8)
    assert sum(p.numel() for p in model.parameters()) <= 1_000_000
    assert (BUNDLED_FOLDER / "backbone.safetensors").stat().st_size <= 4 * 2**20
    assert data_config(BackboneSpec())["input_size"] == [3, 96, 96]
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 12)
