"""What `explain` can follow, decided by a model's structure and never by its name."""

from torch import nn
from timm.layers import GELU, GELUTanh, LayerNorm, LayerScale, Mlp, PatchEmbed, QuickGELU
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer

NORMS = (nn.LayerNorm, LayerNorm)
ACTIVATIONS = (nn.GELU, GELU, GELUTanh, QuickGELU)
FOLLOWED_METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")


class UnsupportedModel(ValueError):
    """The model has a part that explanations cannot follow; the message names it."""


def check_explainable(model: nn.Module) -> None:
    """Return if relevance can be computed for `model`, a plain timm VisionTransformer.

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
    if hasattr(model, "head_dist"):
        raise UnsupportedModel(f"head_dist is a second head ({kind.__name__}); "
                               "use the undistilled model, which has one.")
    for method in FOLLOWED_METHODS:
        if getattr(kind, method) is not getattr(VisionTransformer, method):
            raise UnsupportedModel(f"{kind.__name__} has its own {method}; "
                                   "explanations follow timm's VisionTransformer only.")


def _check_ends(model: VisionTransformer) -> None:
    _expect("patch_embed", model.patch_embed, (PatchEmbed,))
    _expect("patch_embed.proj", model.patch_embed.proj, (nn.Conv2d,))
    _expect("patch_embed.norm", model.patch_embed.norm, (*NORMS, nn.Identity))
    if model.attn_pool is not None or model.global_pool not in ("token", "avg"):
        pool = "" if model.attn_pool is None else f" (attn_pool is {type(model.attn_pool).__name__})"
        raise UnsupportedModel(f"global_pool is '{model.global_pool}'{pool}; "
                               "supported are 'token' and 'avg'.")
    if model.global_pool == "token" and not model.has_class_token:
        raise UnsupportedModel("global_pool is 'token' but cls_token is None.")
    if not len(model.blocks):
        raise UnsupportedModel("blocks is empty: there is no attention to explain.")
    for name in ("norm_pre", "norm", "fc_norm"):
        _expect(name, getattr(model, name), (*NORMS, nn.Identity))
    _expect("head", model.head, (nn.Linear,))


def _check_block(name: str, block: nn.Module) -> None:
    _expect(name, block, (Block,))
    attention, mlp = block.attn, block.mlp
    _expect(f"{name}.attn", attention, (Attention,))
    _expect(f"{name}.mlp", mlp, (Mlp,))
    for path, linear in (("attn.qkv", attention.qkv), ("attn.proj", attention.proj),
                         ("mlp.fc1", mlp.fc1), ("mlp.fc2", mlp.fc2)):
        _expect(f"{name}.{path}", linear, (nn.Linear,))
    for path, norm in (("norm1", block.norm1), ("norm2", block.norm2),
                       ("attn.q_norm", attention.q_norm), ("attn.k_norm", attention.k_norm)):
        _expect(f"{name}.{path}", norm, (*NORMS, nn.Identity))
    _expect(f"{name}.mlp.act", mlp.act, ACTIVATIONS)
    for path, module in (("attn.norm", attention.norm), ("mlp.norm", mlp.norm)):
        _expect(f"{name}.{path}", module, (nn.Identity,))
    for path, scale in (("ls1", block.ls1), ("ls2", block.ls2)):
        _expect(f"{name}.{path}", scale, (LayerScale, nn.Identity))
    if getattr(attention, "gate", None) is not None:
        raise UnsupportedModel(f"{name}.attn.gate gates the attention's output; there is no rule for it.")


def _expect(name: str, module: nn.Module, kinds: tuple[type, ...]) -> None:
    if type(module) not in kinds:
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
        raise UnsupportedModel(f"{name} is {_describe(module)}; supported is {names}.")


def _describe(module: object) -> str:
    kind = type(module)
    return f"{kind.__name__} ({kind.__module__})"
