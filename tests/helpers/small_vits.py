"""Small random ViTs for the tests of `explain`."""

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer


def make_vit(seed: int = 0, distilled: bool = False, **changes) -> VisionTransformer:
    """A small random ViT in float64 whose weights, biases and norms are far from their defaults."""
    settings = dict(img_size=24, patch_size=8, embed_dim=12, depth=3, num_heads=2, num_classes=7)
    torch.manual_seed(seed)
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    return randomise(kind(**{**settings, **changes}).double().eval())


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Draw every parameter anew, in place: about 1 for weights of norms, else about 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
    return model
