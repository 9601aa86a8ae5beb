"""What is refused, and that the refusal names the part; wrong inputs and what they are told."""

import copy
import re

import peft
import pytest
import timm
import torch
from model_state import same, state
from small_vits import make_vit
from timm.layers import DropPath, PatchDropout, RmsNorm, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from explain import METHODS, UnsupportedModel, check_explainable, relevance
from explain.trace import Network

FOREIGN = {
    "swin_tiny_patch4_window7_224": (
        dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
        "SwinTransformer",
    ),
    "resnet18": (dict(), "ResNet"),
    "beit_base_patch16_224": (dict(embed_dim=12, depth=1, num_heads=2), "Beit"),
    "eva02_tiny_patch14_224": (dict(embed_dim=16, depth=1, num_heads=2), "Eva"),
    "vit_giant_patch14_dinov2": (dict(embed_dim=12, depth=1, num_heads=2, img_size=28, num_classes=3), "blocks.0.mlp"),
    "vit_tiny_r_s16_p8_224": (dict(embed_dim=12, depth=1, num_heads=2), "patch_embed"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_models_are_refused_by_part(name):
    settings, part = FOREIGN[name]
    with pytest.raises(UnsupportedModel, match=part):
        check_explainable(timm.create_model(name, **settings))


@pytest.mark.parametrize(
    "changes, part",
    [
        (dict(mlp_layer=SwiGLU), "blocks.0.mlp is SwiGLU"),
        (dict(block_fn=ResPostBlock), "blocks.0 is ResPostBlock"),
        (dict(block_fn=ParallelScalingBlock), "blocks.0 is ParallelScalingBlock"),
        (dict(norm_layer=RmsNorm), "RmsNorm"),
        (dict(act_layer=torch.nn.ReLU), "blocks.0.mlp.act is ReLU"),
        (dict(scale_attn_norm=True), "blocks.0.attn.norm is LayerNorm"),
        (dict(scale_mlp_norm=True), "blocks.0.mlp.norm is LayerNorm"),
        (dict(global_pool="max"), "global_pool is 'max'"),
        (dict(global_pool="prr"), r"global_pool is 'prr' \(attn_pool is AttentionPoolPrr\)"),
        (dict(global_pool=""), "global_pool is ''"),
        (dict(num_classes=0), "head is Identity"),
    ],
)
def test_parts_without_a_rule_are_named(changes, part):
    with pytest.raises(UnsupportedModel, match=part):
        check_explainable(
            VisionTransformer(
                img_size=24, patch_size=8, embed_dim=12, depth=1, num_heads=2, **{"num_classes": 3, **changes}
            )
        )


def test_parts_of_an_attention_pool_are_checked():
    model = make_vit(global_pool="map")
    check_explainable(model)
    model.attn_pool.mlp.act = torch.nn.SiLU()
    with pytest.raises(UnsupportedModel, match=r"attn_pool\.mlp\.act is SiLU"):
        check_explainable(model)
    model = make_vit(global_pool="map")
    model.attn_pool.latent_len = 2
    with pytest.raises(UnsupportedModel, match="one query"):
        check_explainable(model)
    model.global_pool = "avg"
    with pytest.raises(UnsupportedModel, match="attn_pool is AttentionPoolLatent"):
        check_explainable(model)


def test_only_the_block_at_fault_is_named():
    model = make_vit()
    model.blocks[2].mlp.act = torch.nn.SiLU()
    with pytest.raises(UnsupportedModel, match=r"blocks\.2\.mlp\.act is SiLU"):
        relevance(model, torch.zeros(1, 3, 24, 24).double(), torch.tensor([[0]]))


def test_subclasses_and_replaced_forwards_are_refused():
    class Own(VisionTransformer):
        def forward_features(self, x, **more):
            return super().forward_features(x, **more)

    with pytest.raises(UnsupportedModel, match="own forward_features"):
        check_explainable(Own(img_size=24, patch_size=8, embed_dim=12, depth=1, num_heads=2))
    model = make_vit()
    model.blocks[1].attn.forward = lambda x, **more: x
    with pytest.raises(UnsupportedModel, match=r"blocks\.1\.attn\.forward was replaced"):
        check_explainable(model)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_explained_by_the_copy_that_the_message_asks_for(images, targets, dora):
    """merge_and_unload alone would take the adapter out of the model that its user goes on with."""
    config = peft.LoraConfig(r=2, target_modules=r"blocks\.\d+\.attn\.qkv", use_dora=dora, init_lora_weights=False)
    wrapped = peft.get_peft_model(make_vit(), config).eval()
    before, logits = state(wrapped), wrapped(images)
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(UnsupportedModel, match="explain a copy with the adapter merged") as refusal:
            relevance(model, images, targets)
    code = re.search(r"copy\S+\)", str(refusal.value)).group()
    merged = eval(code, {"copy": copy, "model": wrapped})
    assert relevance(merged, images, targets).isfinite().all()
    assert torch.allclose(merged(images), logits, rtol=1e-6, atol=1e-6)
    assert same(before, state(wrapped)) and torch.equal(wrapped(images), logits)


def test_an_adapter_merged_in_place_is_still_peft():
    wrapped = peft.get_peft_model(make_vit(), peft.LoraConfig(r=2, target_modules=["qkv"]))
    wrapped.merge_adapter()
    with pytest.raises(UnsupportedModel, match=r"the model is peft's PeftModel: .*merge_and_unload"):
        check_explainable(wrapped)
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.attn\.qkv is peft's Linear: .*merge_and_unload"):
        check_explainable(wrapped.base_model.model)


def replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model


@pytest.mark.parametrize(
    "wrap, held",
    [
        (torch.compile, "_orig_mod"),
        (nn.DataParallel, "module"),
        (torch.optim.swa_utils.AveragedModel, "module"),
        (lambda model: torch.compile(nn.DataParallel(model)), "_orig_mod"),
    ],
)
def test_wrapped_models_are_told_where_the_plain_one_is(vit, wrap, held):
    with pytest.raises(UnsupportedModel, match=rf"the model is \w+ .*wraps a module: .*plain one, model\.{held}"):
        check_explainable(wrap(vit))


def test_a_compiled_block_is_refused_and_a_model_compiled_in_place_is_not(vit, images, targets):
    maps = relevance(vit, images, targets)
    vit.compile()
    assert torch.equal(relevance(vit, images, targets), maps), "its modules are as they were"
    replace(vit, "blocks.1", torch.compile(vit.blocks[1]))
    with pytest.raises(UnsupportedModel, match=r"plain one, blocks\.1\._orig_mod"):
        check_explainable(vit)


# ---- what would change a module's result without the trace seeing it


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own name for its successor
@pytest.mark.parametrize(
    "add, remove, hook",
    [
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm, "SpectralNorm"),
        (nn.utils.weight_norm, nn.utils.remove_weight_norm, "WeightNorm"),
        (
            lambda module: prune.l1_unstructured(module, "weight", 0.3),
            lambda module: prune.remove(module, "weight"),
            "L1Unstructured",
        ),
    ],
)
def test_weights_that_a_hook_computes_are_refused_until_they_are_plain(vit, images, add, remove, hook):
    add(vit.blocks[2].mlp.fc1)
    words = rf"blocks\.2\.mlp\.fc1\.weight is not a parameter: a forward pre-hook, {hook}, computes it.*plain weight"
    with pytest.raises(UnsupportedModel, match=words):
        check_explainable(vit)
    vit(images)
    remove(vit.blocks[2].mlp.fc1)
    assert_followed(vit, images)


def assert_followed(model, images):
    with torch.no_grad():
        assert (Network(model).record(images).logits - model(images)).abs().max() < 1e-10


class Halved(nn.Module):
    def forward(self, tensor):
        return tensor / 2


@pytest.mark.parametrize("path, tensor", [("", "pos_embed"), ("head", "weight"), ("blocks.0.attn.qkv", "bias")])
def test_parametrized_tensors_are_refused_until_they_are_plain(vit, images, path, tensor):
    module = vit.get_submodule(path)
    parametrize.register_parametrization(module, tensor, Halved())
    with pytest.raises(UnsupportedModel, match=rf"{path or 'the model'}\.{tensor} is parametrized.*remove_param"):
        check_explainable(vit)
    parametrize.remove_parametrizations(module, tensor)
    assert_followed(vit, images)


def test_a_parametrized_weight_is_not_read_even_once(vit, images, targets):
    """Reading torch's newer spectral_norm in training runs a power iteration, which changes the model."""
    vit.train()
    parametrizations.spectral_norm(vit.blocks[0].mlp.fc1)
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    with pytest.raises(UnsupportedModel, match="parametrized"):
        relevance(vit, images, targets)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())


@pytest.mark.parametrize("name", ["forward", "forward_features", "forward_head", "pool", "_pos_embed"])
def test_a_models_own_methods_may_not_be_replaced(vit, name):
    setattr(vit, name, lambda x, **more: x)
    with pytest.raises(UnsupportedModel, match=f"the model's {name} was replaced on this object"):
        check_explainable(vit)


@pytest.mark.parametrize(
    "path",
    [
        "pos_drop",
        "patch_drop",
        "head_drop",
        "blocks.1.attn.attn_drop",
        "blocks.1.attn.proj_drop",
        "blocks.1.drop_path1",
        "blocks.1.drop_path2",
        "blocks.1.mlp.drop1",
        "blocks.1.mlp.drop2",
        "attn_pool.proj_drop",
        "attn_pool.mlp.drop1",
    ],
)
def test_only_what_drops_may_stand_where_timm_drops(path, images):
    """Dropout does nothing in eval mode, and the trace leaves it out: anything else there would be left out too."""
    model = make_vit(global_pool="map")
    for drop in (nn.Dropout(0.5), DropPath(0.5), nn.Identity(), *[PatchDropout(0.5)] * (path == "patch_drop")):
        assert_followed(replace(model, path, drop).eval(), images)
    with pytest.raises(UnsupportedModel, match=rf"{path} is Tanh .*; supported is Dropout or DropPath"):
        check_explainable(replace(model, path, nn.Tanh()))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(stride=4), r"stride \(4, 4\); supported is \(8, 8\)"),
        (dict(padding=2), r"padding \(2, 2\)"),
        (dict(dilation=2), r"dilation \(2, 2\)"),
        (dict(groups=3), "groups 3; supported is 1"),
        (dict(kernel_size=6), r"kernel_size \(6, 6\)"),
        (dict(padding="same", stride=1), "stride"),
    ],
)
def test_patches_must_lie_side_by_side(vit, images, targets, changes, words):
    vit.patch_embed.proj = nn.Conv2d(3, 12, **{**dict(kernel_size=8, stride=8), **changes}).double()
    with pytest.raises(UnsupportedModel, match=f"patch_embed.proj has {words}"):
        relevance(vit, images, targets)


@pytest.mark.parametrize("path", ["blocks.1.attn", "attn_pool"])
def test_a_scale_is_followed_where_timm_reads_it(images, path):
    model = make_vit(global_pool="map")
    attention, before = model.get_submodule(path), model(images)
    attention.scale, attention.fused_attn = 0.9, True
    assert torch.equal(model(images), before)
    with pytest.raises(UnsupportedModel, match=rf"{path}\.scale is 0\.9, .*fused_attn = False"):
        check_explainable(model)
    attention.fused_attn = False
    assert not torch.allclose(model(images), before)
    assert_followed(model, images)


def test_norms_over_several_axes_and_blocks_out_of_sequence_are_refused(vit):
    with pytest.raises(UnsupportedModel, match=r"norm normalises over \(10, 12\)"):
        check_explainable(replace(vit, "norm", nn.LayerNorm((10, 12))))
    model = make_vit()
    with pytest.raises(UnsupportedModel, match="blocks is ModuleList .*; supported is Sequential"):
        check_explainable(replace(model, "blocks", nn.ModuleList(model.blocks)))


def test_refusals_are_value_errors():
    assert issubclass(UnsupportedModel, ValueError)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, t: (x[0], t), r"expected \(B, 3, H, W\)"),
        (lambda x, t: (x[:, :1], t), r"expected \(B, 3, H, W\)"),
        (lambda x, t: (x[:0], t[:0]), "B > 0"),
        (lambda x, t: (x.half(), t), "expected torch.float32 or torch.float64"),
        (lambda x, t: (x.float(), t), "the model torch.float64"),
        (lambda x, t: (x[..., :16], t), "the model takes 24 x 24"),
        (lambda x, t: (x, t[:, 0]), r"expected \(B, K\)"),
        (lambda x, t: (x, t[:2]), r"B = 3 images"),
        (lambda x, t: (x, t[:, :0]), "at least one class"),
        (lambda x, t: (x, t.double()), "expected torch.int64"),
        (lambda x, t: (x, t + 5), "classes are 0 to 6"),
        (lambda x, t: (x, t - 1), "classes are 0 to 6"),
    ],
)
def test_wrong_inputs_are_told_what_is_expected(vit, images, targets, change, message):
    with pytest.raises(ValueError, match=message):
        relevance(vit, *change(images, targets))


def test_dynamic_sizes_must_fit_the_patches(targets):
    with pytest.raises(ValueError, match="do not divide"):
        relevance(make_vit(dynamic_img_size=True), torch.zeros(3, 3, 20, 24).double(), targets)


def test_wrong_method_names_get_near_ones(vit, images, targets):
    with pytest.raises(ValueError, match="did you mean lrp_magnitude"):
        relevance(vit, images, targets, "lrp_magnitud")
    with pytest.raises(ValueError, match="no option 'gamma'; it has start_block, contrast"):
        relevance(vit, images, targets, "lrp", gamma=1)
    with pytest.raises(ValueError, match="count from 0 to 2"):
        relevance(vit, images, targets, "lrp", start_block=3)


@pytest.mark.parametrize(
    "option, without",
    [
        ("layers", {"gradcam", "input_x_gradient", "integrated_gradients", "random"}),
        ("gap", {"gradient_attention", "gradcam", "rollout", "attention", "random"}),
        ("contrast", {"rollout", "attention", "random"}),
        ("centre_head", {"rollout", "attention", "random"}),
    ],
)
def test_options_are_refused_by_name_where_they_make_no_sense(vit, images, targets, option, without):
    value = {"contrast": "mean"}.get(option, True)
    for method in METHODS:
        if method in without:
            with pytest.raises(ValueError, match=f"{method} has no option '{option}'; it has"):
                relevance(vit, images, targets, method, **{option: value})
        else:
            relevance(vit, images, targets, method, **{option: value})
