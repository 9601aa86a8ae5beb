"""Small ViTs whose first blocks are frozen, and the images that go through them."""

import timm
import torch
from tiny import SIZE
from torch import nn
from torch.utils.data import TensorDataset

from models.adapters import adapt, trainable_parameters
from models.backbone import create_backbone
from models.methods import parse_settings

SMALL = {"img_size": SIZE, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 3}
VITS = {
    "plain": ("deit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"init_values": 0.5}),
    "norm before the blocks": ("vit_base_patch16_clip_224", {}),
    "average pooling": ("vit_base_patch16_gap_224", {}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    "images of any size": ("deit_tiny_patch16_224", {"dynamic_img_size": True}),
}


def images(count: int = 5, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def image_set(count: int = 5) -> TensorDataset:
    return TensorDataset(images(count), torch.arange(count) % 3)


def adapted(spec, text: str = "dora:blocks=4-5") -> nn.Module:
    """An adapted model whose adapters have left their start, where they change nothing."""
    torch.manual_seed(0)  # the fresh head and the adapters' first matrices too
    model = adapt(create_backbone(spec, 3), parse_settings(text))
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def small_vit(kind: str) -> nn.Module:
    """A small ViT of a family, random in all its parameters; its last two blocks and what follows train."""
    torch.manual_seed(0)
    name, options = VITS[kind]
    size = {"img_size": 28} if "patch14" in name else {}
    vit = timm.create_model(name, **SMALL | options | size).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    vit.requires_grad_(False)
    for part in (vit.blocks[2:], vit.norm, vit.head):
        part.requires_grad_(True)
    return vit
