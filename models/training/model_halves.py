"""Split a ViT before the first block that trains: the frozen part that is computed once, and the rest."""

import torch
from timm.layers import DropPath, PatchDropout
from timm.models import VisionTransformer
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from models.adapters import timm_model
from models.types import TimmModel

BEFORE_BLOCKS = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")


def first_trained_block(model: TimmModel) -> int | None:
    """Return the first block with a parameter that trains, or the number of blocks where only layers after them do.

    None where nothing can be computed once: block 0 or a layer before it trains, the model is not timm's own
    VisionTransformer, or its frozen part behaves differently in training (dropout, patch dropout, drop path, batch
    norm).
    """
    vit = timm_model(model)
    if type(vit) not in (VisionTransformer, VisionTransformerDistilled):
        return None  # a subclass may run its blocks in another way
    trained = [i for i, block in enumerate(vit.blocks) if any(p.requires_grad for p in block.parameters())]
    first = min(trained, default=len(vit.blocks))
    frozen = FrozenPart(model, first)
    changes = any(p.requires_grad for p in frozen.parameters()) or any(map(_differs_in_training, frozen.modules()))
    return None if changes or first == 0 else first


class FrozenPart(nn.Module):
    """Images (B, 3, H, W) -> the tokens (B, N, D) that enter block `first`, in evaluation mode and without gradient.

    Its modules and parameters are the model's own.
    """

    patch_embed: nn.Module
    patch_drop: nn.Module
    norm_pre: nn.Module

    def __init__(self, model: TimmModel, first: int) -> None:
        super().__init__()
        vit = timm_model(model)
        for name in BEFORE_BLOCKS:
            self.add_module(name, getattr(vit, name))
        for name, parameter in vit.named_parameters(recurse=False):  # class and register tokens, positions
            self.register_parameter(name, parameter)
        self.blocks = vit.blocks[:first]
        self._vit: tuple[TimmModel] = (vit,)  # not a submodule: this module's mode and device are not the other half's

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.eval()
        tokens = self._vit[0]._pos_embed(self.patch_embed(images))
        return self.blocks(self.norm_pre(self.patch_drop(tokens)))


class TrainedPart(nn.Module):
    """The tokens (B, N, D) that enter block `first` -> logits (B, C).

    Its modules are the model's own, under the same names: training it trains the model. Tokens that the head does not
    read are dropped before the last block's MLP, which treats each token separately; hooks on that block are not
    called then.
    """

    norm: nn.Module

    def __init__(self, model: TimmModel, first: int) -> None:
        super().__init__()
        vit = timm_model(model)
        self.blocks = nn.Sequential()
        for number in range(first, len(vit.blocks)):
            self.blocks.add_module(str(number), vit.blocks[number])
        for name, module in vit.named_children():
            if name not in (*BEFORE_BLOCKS, "blocks"):
                self.add_module(name, module)
        self._vit = (vit,)  # as in FrozenPart

    def group_matcher(self, coarse: bool = False) -> dict:
        """Return timm's patterns of which parameter is of which layer; names here are the model's."""
        return self._vit[0].group_matcher(coarse)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        vit, blocks = self._vit[0], list[TimmModel](self.blocks)
        read = _tokens_read(vit)
        last = blocks.pop() if read and blocks and type(blocks[-1]) is Block else None
        for block in blocks:
            tokens = block(tokens)
        if last is not None:
            tokens = tokens + last.drop_path1(last.ls1(last.attn(last.norm1(tokens))))
            tokens = tokens[:, :read]
            tokens = tokens + last.drop_path2(last.ls2(last.mlp(last.norm2(tokens))))
        return vit.forward_head(self.norm(tokens))


def _tokens_read(vit: TimmModel) -> int | None:
    """Return how many of the first tokens the head reads, or None where it reads all."""
    if type(vit) is VisionTransformerDistilled:
        return 2  # the class token and the distillation token
    return 1 if vit.global_pool == "token" and vit.attn_pool is None else None


def _differs_in_training(module: nn.Module) -> bool:
    rates = {_DropoutNd: "p", DropPath: "drop_prob", PatchDropout: "prob"}
    return isinstance(module, _BatchNorm) or any(
        isinstance(module, kind) and getattr(module, rate) > 0 for kind, rate in rates.items()
    )
