"""What `explain` can follow, decided by a model's structure and never by its name."""

from torch import nn
from timm.layers import AttentionPoolLatent, GELU, GELUTanh, LayerNorm, LayerScale, Mlp, PatchEmbed, QuickGELU
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer

NORMS = (nn.LayerNorm, LayerNorm)
ACTIVATIONS = (nn.GELU, GELU, GELUTanh, QuickGELU)
POOLING = ("token", "avg", "map")
FOLLOWED_METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")


class UnsupportedModel(ValueError):
    """The model has a part that explanations cannot follow; the message names it."""


def is_distilled(model: nn.Module) -> bool:
    """Whether the model is timm's DeiT with two heads, whose logits are the mean of both."""
    return isinstance(model, VisionTransformerDistilled)


def check_explainable(model: nn.Module) -> None:
    """Return if relevance can be computed for `model`, a plain timm VisionTransformer.

    Decided by structure, never by name; pooled by class token, mean or attention; or the DeiT that
    is distilled and has two heads.

    Raises UnsupportedModel that names the first part standing in the way.
    """
    _check_unmerged(model)
    _check_class(model)
    _check_ends(model)
    for index, block in enumerate(model.blocks):
        _check_block(f"blocks.{index}", block)
    for name, module in model.named_modules():
        if name and "forward" in vars(module):
            raise UnsupportedModel(f"{name}.forward was replaced on this object; "
                                   "explanations follow the class's own forward.")


def _check_unmerged(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "peft":
            raise UnsupportedModel(f"{name or 'the model'} is peft's {type(module).__name__}: merge the "
                                   "adapter first (model = model.merge_and_unload()), then explain.")


def _check_class(model: nn.Module) -> None:
    kind = type(model)
    if not isinstance(model, VisionTransformer):
        raise UnsupportedModel(f"the model is {_describe(model)}, not a timm VisionTransformer; "
                               "explanations follow plain ViTs such as vit_* and deit_*.")
    followed = VisionTransformerDistilled if is_distilled(model) else VisionTransformer
    for method in FOLLOWED_METHODS:
        if getattr(kind, method) is not getattr(followed, method):
            raise UnsupportedModel(f"{kind.__name__} has its own {method}; "
                                   f"explanations follow timm's {followed.__name__} only.")


def _check_ends(model: VisionTransformer) -> None:
    _expect("patch_embed", model.patch_embed, (PatchEmbed,))
    _expect("patch_embed.proj", model.patch_embed.proj, (nn.Conv2d,))
    _expect("patch_embed.norm", model.patch_embed.norm, (*NORMS, nn.Identity))
    _check_pool(model)
    if not len(model.blocks):
        raise UnsupportedModel("blocks is empty: there is no attention to explain.")
    for name in ("norm_pre", "norm", "fc_norm"):
        _expect(name, getattr(model, name), (*NORMS, nn.Identity))
    for name in ("head", "head_dist") if is_distilled(model) else ("head",):
        _expect(name, getattr(model, name), (nn.Linear,))


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
        _expect(f"attn_pool.{path}", norm, (*NORMS, nn.Identity))
    if pool.pos_embed is not None or pool.latent_len != 1:
        raise UnsupportedModel("attn_pool has its own pos_embed or several latent queries; supported is one "
                               "query without positions.")


def _check_block(name: str, block: nn.Module) -> None:
    _expect(name, block, (Block,))
    attention, mlp = block.attn, block.mlp
    _expect(f"{name}.attn", attention, (Attention,))
    _expect(f"{name}.mlp", mlp, (Mlp,))
    _check_mlp(f"{name}.mlp", mlp)
    for path, linear in (("attn.qkv", attention.qkv), ("attn.proj", attention.proj)):
        _expect(f"{name}.{path}", linear, (nn.Linear,))
    for path, norm in (("norm1", block.norm1), ("norm2", block.norm2),
                       ("attn.q_norm", attention.q_norm), ("attn.k_norm", attention.k_norm)):
        _expect(f"{name}.{path}", norm, (*NORMS, nn.Identity))
    _expect(f"{name}.attn.norm", attention.norm, (nn.Identity,))
    for path, scale in (("ls1", block.ls1), ("ls2", block.ls2)):
        _expect(f"{name}.{path}", scale, (LayerScale, nn.Identity))
    if getattr(attention, "gate", None) is not None:
        raise UnsupportedModel(f"{name}.attn.gate gates the attention's output; there is no rule for it.")


def _check_mlp(name: str, mlp: Mlp) -> None:
    for path, linear in (("fc1", mlp.fc1), ("fc2", mlp.fc2)):
        _expect(f"{name}.{path}", linear, (nn.Linear,))
    _expect(f"{name}.act", mlp.act, ACTIVATIONS)
    _expect(f"{name}.norm", mlp.norm, (nn.Identity,))


def _expect(name: str, module: nn.Module, kinds: tuple[type, ...]) -> None:
    if type(module) not in kinds:
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
        raise UnsupportedModel(f"{name} is {_describe(module)}; supported is {names}.")


def _describe(module: object) -> str:
    kind = type(module)
    return f"{kind.__name__} ({kind.__module__})"
