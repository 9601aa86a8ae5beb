"""Which models can be explained, decided by their structure and never by their name.

The trace computes with a model's weights and calls none of its modules. So modules that compute something else than
their class are refused: wrapped ones, parametrized or hook-computed weights, a forward replaced on the object. What
structure does not show (whether a hook changes results, a forward replaced on the class) `relevance` finds by
comparing logits: see explain/logit_check.py.
"""

from timm.layers import (
    GELU,
    AttentionPoolLatent,
    DropPath,
    GELUTanh,
    LayerNorm,
    LayerScale,
    Mlp,
    PatchDropout,
    PatchEmbed,
    QuickGELU,
)
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from explain.types import TimmModule

NORMS = (nn.LayerNorm, LayerNorm)
ACTIVATIONS = (nn.GELU, GELU, GELUTanh, QuickGELU)
DROPS = (nn.Dropout, DropPath, PatchDropout, nn.Identity)  # all of which do nothing in eval mode
POOLING = ("token", "avg", "map")
FOLLOWED_METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")
# Tensors that the trace reads from modules. A plain attribute of such a name is computed by a hook.
TRACED = ("weight", "bias", "gamma", "pos_embed", "cls_token", "dist_token", "reg_token", "latent")
HELD_AS = ("_orig_mod", "module")  # where torch.compile, and DataParallel and the like, keep the wrapped module


class UnsupportedModel(ValueError):
    """The model has a part that explanations cannot follow; the message names it."""


def is_distilled(model: TimmModule) -> bool:
    """Tell whether a model is timm's DeiT with two heads, whose logits are the mean of both."""
    return isinstance(model, VisionTransformerDistilled)


def check_explainable(model: TimmModule) -> None:
    """Check that relevance can be computed for a model, by its structure; the model is not run.

    model: a plain timm VisionTransformer, pooled by class token, mean or attention, or a distilled DeiT with two heads.
        Hooks are allowed here: `relevance` refuses those that change the logits.

    Raises UnsupportedModel that names the first module that is not supported.
    """
    _check_wrapper("the model", model)
    _check_class(model)
    for name, module in model.named_modules():
        _check_wrapper(name or "the model", module)
        _check_unchanged(name or "the model", module)
    _check_ends(model)
    for index, block in enumerate(model.blocks):
        _check_block(f"blocks.{index}", block)


def _check_wrapper(name: str, module: TimmModule) -> None:
    if type(module).__module__.split(".")[0] == "peft":
        raise UnsupportedModel(
            f"{name} is peft's {type(module).__name__}: explain a copy with the adapter merged, "
            "copy.deepcopy(model).merge_and_unload() for the PeftModel (without a copy, it would lose its adapter)."
        )
    for held in HELD_AS:
        if held in getattr(module, "_modules", ()):
            plain = f"{name.replace('the model', 'model')}.{held}"
            raise UnsupportedModel(
                f"{name} is {_describe(module)}, which wraps a module: explain the plain one, {plain}, in its place."
            )


def _check_unchanged(name: str, module: TimmModule) -> None:
    """That a module computes what its class does, with weights that are its own."""
    if "forward" in vars(module):
        raise UnsupportedModel(
            f"{name}.forward was replaced on this object; explanations follow the class's own forward."
        )
    for tensor in TRACED:
        if isinstance(vars(module).get(tensor), Tensor):
            hooks = " and ".join(type(hook).__name__ for hook in module._forward_pre_hooks.values())
            raise UnsupportedModel(
                f"{name}.{tensor} is not a parameter"
                + (f": a forward pre-hook, {hooks}, computes it" if hooks else "")
                + f". Give {name} a plain {tensor} first (torch.nn.utils.remove_spectral_norm, remove_weight_norm, "
                "prune.remove), then explain."
            )
    # Each reading of such a weight computes it again and, in training, may change what it is computed from.
    for tensor in module._modules.get("parametrizations") or ():
        raise UnsupportedModel(
            f"{name}.{tensor} is parametrized: give {name} a plain {tensor} first "
            f"(torch.nn.utils.parametrize.remove_parametrizations), then explain."
        )


def _check_class(model: TimmModule) -> None:
    kind = type(model)
    if not isinstance(model, VisionTransformer):
        raise UnsupportedModel(
            f"the model is {_describe(model)}, not a timm VisionTransformer; "
            "explanations follow plain ViTs such as vit_* and deit_*."
        )
    followed = VisionTransformerDistilled if is_distilled(model) else VisionTransformer
    for method in FOLLOWED_METHODS:
        if getattr(kind, method) is not getattr(followed, method):
            raise UnsupportedModel(
                f"{kind.__name__} has its own {method}; explanations follow timm's {followed.__name__} only."
            )
        if method in vars(model):
            raise UnsupportedModel(
                f"the model's {method} was replaced on this object; "
                f"explanations follow timm's {followed.__name__} only."
            )
    if is_replaced(kind, "_pos_embed"):  # the one method that the trace calls, so that logits would agree
        raise UnsupportedModel(
            f"{defining_class(kind, '_pos_embed').__name__}._pos_embed was replaced on the class; explanations follow "
            f"timm's {followed.__name__} only."
        )


def defining_class(kind: type, method: str) -> type:
    """Return the class, `kind` or one that it inherits from, that defines a method."""
    return next(base for base in kind.__mro__ if method in vars(base))


def is_replaced(kind: type, method: str) -> bool:
    """Tell whether a class's method was written elsewhere than the class: a function keeps its module's globals."""
    home = defining_class(kind, method)
    return getattr(vars(home)[method], "__globals__", {}).get("__name__") != home.__module__


def _check_ends(model: VisionTransformer) -> None:
    _expect("patch_embed", model.patch_embed, (PatchEmbed,))
    _check_patches(model.patch_embed)
    _check_pool(model)
    _expect("blocks", model.blocks, (nn.Sequential,))
    if not len(model.blocks):
        raise UnsupportedModel("blocks is empty: there is no attention to explain.")
    for name in ("norm_pre", "norm", "fc_norm"):
        _expect_norm(name, getattr(model, name))
    for name in ("pos_drop", "patch_drop", "head_drop"):
        _expect(name, getattr(model, name), DROPS)
    for name in ("head", "head_dist") if is_distilled(model) else ("head",):
        _expect(name, getattr(model, name), (nn.Linear,))


def _check_patches(embed: PatchEmbed) -> None:
    """Kernels side by side, so that each patch is one token and none shares a pixel with another."""
    _expect("patch_embed.proj", embed.proj, (nn.Conv2d,))
    _expect_norm("patch_embed.norm", embed.norm)
    for name, value in dict(
        kernel_size=embed.patch_size, stride=embed.patch_size, padding=(0, 0), dilation=(1, 1), groups=1
    ).items():
        if getattr(embed.proj, name) != value:
            raise UnsupportedModel(
                f"patch_embed.proj has {name} {getattr(embed.proj, name)}; supported is {value}: "
                "patches side by side, as patch_embed.patch_size says."
            )


def _check_pool(model: VisionTransformer) -> None:
    pool = model.attn_pool
    kinds = POOLING[:1] if is_distilled(model) else POOLING
    if model.global_pool not in kinds or (pool is not None) != (model.global_pool == "map"):
        part = "" if pool is None else f" (attn_pool is {type(pool).__name__})"
        raise UnsupportedModel(f"global_pool is '{model.global_pool}'{part}; supported is {' or '.join(kinds)}.")
    if model.global_pool == "token" and not model.has_class_token:
        raise UnsupportedModel("global_pool is 'token' but cls_token is None.")
    if pool is None:
        return
    _expect("attn_pool", pool, (AttentionPoolLatent,))
    _expect("attn_pool.mlp", pool.mlp, (Mlp,))
    _expect("attn_pool.q", pool.q, (nn.Linear, nn.Identity))
    _check_mlp("attn_pool.mlp", pool.mlp)
    for path, linear in (("kv", pool.kv), ("proj", pool.proj)):
        _expect(f"attn_pool.{path}", linear, (nn.Linear,))
    for path, norm in (("q_norm", pool.q_norm), ("k_norm", pool.k_norm), ("norm", pool.norm)):
        _expect_norm(f"attn_pool.{path}", norm)
    _expect("attn_pool.proj_drop", pool.proj_drop, DROPS)
    _check_scale("attn_pool", pool)
    if pool.pos_embed is not None or pool.latent_len != 1:
        raise UnsupportedModel(
            "attn_pool has its own pos_embed or several latent queries; supported is one query without positions."
        )


def _check_block(name: str, block: TimmModule) -> None:
    _expect(name, block, (Block,))
    attention, mlp = block.attn, block.mlp
    _expect(f"{name}.attn", attention, (Attention,))
    _expect(f"{name}.mlp", mlp, (Mlp,))
    _check_mlp(f"{name}.mlp", mlp)
    for path, linear in (("attn.qkv", attention.qkv), ("attn.proj", attention.proj)):
        _expect(f"{name}.{path}", linear, (nn.Linear,))
    for path, norm in (
        ("norm1", block.norm1),
        ("norm2", block.norm2),
        ("attn.q_norm", attention.q_norm),
        ("attn.k_norm", attention.k_norm),
    ):
        _expect_norm(f"{name}.{path}", norm)
    _expect(f"{name}.attn.norm", attention.norm, (nn.Identity,))
    for path, scale in (("ls1", block.ls1), ("ls2", block.ls2)):
        _expect(f"{name}.{path}", scale, (LayerScale, nn.Identity))
    for path, drop in (
        ("attn.attn_drop", attention.attn_drop),
        ("attn.proj_drop", attention.proj_drop),
        ("drop_path1", block.drop_path1),
        ("drop_path2", block.drop_path2),
    ):
        _expect(f"{name}.{path}", drop, DROPS)
    _check_scale(f"{name}.attn", attention)
    if getattr(attention, "gate", None) is not None:
        raise UnsupportedModel(f"{name}.attn.gate gates the attention's output; there is no rule for it.")


def _check_scale(name: str, attention: Attention | AttentionPoolLatent) -> None:
    """torch's fused attention has a scale of its own and does not read the attribute that the trace follows."""
    if attention.fused_attn and attention.scale != attention.head_dim**-0.5:
        raise UnsupportedModel(
            f"{name}.scale is {attention.scale:.4g}, which timm's fused attention does not read: "
            f"set {name}.fused_attn = False, or the scale to head_dim ** -0.5."
        )


def _check_mlp(name: str, mlp: Mlp) -> None:
    for path, linear in (("fc1", mlp.fc1), ("fc2", mlp.fc2)):
        _expect(f"{name}.{path}", linear, (nn.Linear,))
    _expect(f"{name}.act", mlp.act, ACTIVATIONS)
    _expect(f"{name}.norm", mlp.norm, (nn.Identity,))
    for path, drop in (("drop1", mlp.drop1), ("drop2", mlp.drop2)):
        _expect(f"{name}.{path}", drop, DROPS)


def _expect_norm(name: str, norm: TimmModule) -> None:
    _expect(name, norm, (*NORMS, nn.Identity))
    if isinstance(norm, NORMS) and len(norm.normalized_shape) > 1:
        raise UnsupportedModel(
            f"{name} normalises over {tuple(norm.normalized_shape)}; supported is the last axis alone."
        )


def _expect(name: str, module: TimmModule, kinds: tuple[type, ...]) -> None:
    if type(module) not in kinds:
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
        raise UnsupportedModel(f"{name} is {_describe(module)}; supported is {names}.")


def _describe(module: object) -> str:
    kind = type(module)
    return f"{kind.__name__} ({kind.__module__})"
