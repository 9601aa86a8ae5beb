"""What is refused, and that the refusal names the part; wrong inputs and what they are told."""

import peft
import pytest
import timm
import torch
from timm.layers import RmsNorm, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer

from explain import DEFAULT_METHOD, METHODS, UnsupportedModel, check_explainable, relevance
from small_vits import make_vit

FOREIGN = {
    "swin_tiny_patch4_window7_224": (dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
                                     "SwinTransformer"),
    "resnet18": (dict(), "ResNet"),
    "beit_base_patch16_224": (dict(embed_dim=12, depth=1, num_heads=2), "Beit"),
    "eva02_tiny_patch14_224": (dict(embed_dim=16, depth=1, num_heads=2), "Eva"),
    "vit_giant_patch14_dinov2": (dict(embed_dim=12, depth=1, num_heads=2, img_size=28, num_classes=3),
                                 "blocks.0.mlp"),
    "vit_tiny_r_s16_p8_224": (dict(embed_dim=12, depth=1, num_heads=2), "patch_embed"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_models_are_refused_by_part(name):
    settings, part = FOREIGN[name]
    with pytest.raises(UnsupportedModel, match=part):
        check_explainable(timm.create_model(name, **settings))


@pytest.mark.parametrize("changes, part", [
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
    (dict(num_classes=0), "head is Identity")])
def test_parts_without_a_rule_are_named(changes, part):
    with pytest.raises(UnsupportedModel, match=part):
        check_explainable(VisionTransformer(img_size=24, patch_size=8, embed_dim=12, depth=1, num_heads=2,
                                            **{"num_classes": 3, **changes}))


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


def test_unmerged_adapters_are_refused_and_merged_ones_are_not(images, targets):
    config = peft.LoraConfig(r=2, target_modules=r"blocks\.\d+\.attn\.qkv", use_dora=True)
    wrapped = peft.get_peft_model(make_vit(), config)
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(UnsupportedModel, match="merge the adapter first"):
            check_explainable(model)
    assert relevance(wrapped.merge_and_unload(), images, targets).isfinite().all()


def test_refusals_are_value_errors():
    assert issubclass(UnsupportedModel, ValueError)


@pytest.mark.parametrize("change, message", [
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
    (lambda x, t: (x, t - 1), "classes are 0 to 6")])
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


def test_methods_say_what_they_are():
    assert DEFAULT_METHOD in METHODS
    for name, method in METHODS.items():
        assert method.name == name and method.source and method.description and callable(method.compute)
        assert method.passes >= 0 and method.compute.__doc__


@pytest.mark.parametrize("option, without", [
    ("layers", {"gradcam", "input_x_gradient", "integrated_gradients", "random"}),
    ("gap", {"gradient_attention", "gradcam", "rollout", "attention", "random"}),
    ("contrast", {"lrp_contrast", "rollout", "attention", "random"}),
    ("centre_head", {"lrp_contrast", "rollout", "attention", "random"})])
def test_options_are_refused_by_name_where_they_make_no_sense(vit, images, targets, option, without):
    value = {"contrast": "mean"}.get(option, True)
    for method in METHODS:
        if method in without:
            with pytest.raises(ValueError, match=f"{method} has no option '{option}'; it has"):
                relevance(vit, images, targets, method, **{option: value})
        else:
            relevance(vit, images, targets, method, **{option: value})
