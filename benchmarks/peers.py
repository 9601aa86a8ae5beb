"""Explanations by other packages, for benchmarks/explain.py. Nothing else needs these packages.

    pip install grad-cam captum lxt 'transformers<5'

lxt 2.1 does not work with transformers 5.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Explain = Callable[[Tensor], object]  # targets (B, K) -> whatever the package returns


@dataclass(frozen=True)
class Peer:
    """A method of another package that is comparable to one of this project.

    name: for tables.
    package: its name on PyPI.
    module: its name in Python.
    ours: the comparable relevance method of this project.
    prepare: takes the frozen model and images (B, 3, H, W); returns a function of targets (B, K). Raises ImportError.
    difference: how the two differ.
    needs: further arguments of pip install.
    """

    name: str
    package: str
    module: str
    ours: str
    prepare: Callable[[nn.Module, Tensor], Explain]
    difference: str
    needs: str = ""

    @property
    def install(self) -> str:
        return f"pip install {self.package}{self.needs}"


def one_by_one(explain: Callable[[Tensor], object]) -> Explain:
    """Explain K targets per image by K calls with one target per image, (B,), which is the package's interface."""
    return lambda targets: [explain(column) for column in targets.unbind(1)]


def _gradcam(model: nn.Module, images: Tensor) -> Explain:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, grid = deepcopy(model), model.patch_embed.grid_size  # a copy, because the package's hooks stay
    model.blocks[-1].norm1.requires_grad_(True)  # autograd then stops at this layer
    cam = GradCAM(
        model,
        [model.blocks[-1].norm1],
        reshape_transform=lambda x: x[:, model.num_prefix_tokens :].mT.unflatten(-1, grid),
    )
    return one_by_one(lambda column: cam(images, [ClassifierOutputTarget(c) for c in column.tolist()]))


def _input_x_gradient(model: nn.Module, images: Tensor) -> Explain:
    from captum.attr import InputXGradient

    method = InputXGradient(model)
    x = images.clone().requires_grad_(True)
    return one_by_one(lambda column: method.attribute(x, target=column))


def _integrated_gradients(model: nn.Module, images: Tensor) -> Explain:
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(model)
    # One batch per step, as here: all steps of all images at once are slower, and take 16 times the memory.
    return one_by_one(
        lambda column: method.attribute(
            images, target=column, n_steps=16, method="gausslegendre", internal_batch_size=len(images)
        )
    )


def _lxt(model: nn.Module, images: Tensor) -> Explain:
    with warnings.catch_warnings(action="ignore"):  # about zennit, which only its gamma rule needs
        from lxt.efficient import monkey_patch
    from torchvision.models import vision_transformer

    block = model.blocks[0]
    twin = (
        vision_transformer.VisionTransformer(
            image_size=images.shape[-1],
            patch_size=model.patch_embed.patch_size[0],
            num_layers=len(model.blocks),
            num_heads=block.attn.num_heads,
            hidden_dim=model.embed_dim,
            mlp_dim=block.mlp.fc1.out_features,
            num_classes=model.num_classes,
        )
        .eval()
        .requires_grad_(False)
        .to(images.device)
    )
    nn.init.trunc_normal_(twin.heads.head.weight, std=0.02)  # torchvision's are 0, whose gradients are 0
    patched = (nn.GELU, nn.LayerNorm, nn.MultiheadAttention)

    def explain(column: Tensor) -> Tensor:
        plain = [kind.forward for kind in patched]
        monkey_patch(vision_transformer)  # patches classes of torch.nn, which timm's model uses too: undone below
        try:
            x = images.clone().requires_grad_(True)
            chosen = twin(x).gather(1, column.unsqueeze(1)).sum()
            return x * torch.autograd.grad(chosen, x)[0]
        finally:
            for kind, forward in zip(patched, plain):
                kind.forward = forward

    return one_by_one(explain)


PEERS = (
    Peer(
        "pytorch-grad-cam GradCAM",
        "grad-cam",
        "pytorch_grad_cam",
        "gradcam",
        _gradcam,
        "weights the channels of the last block's first norm (`gradcam`: the heads of its attention) and resizes the map "
        "to the image",
    ),
    Peer(
        "captum InputXGradient",
        "captum",
        "captum",
        "input_x_gradient",
        _input_x_gradient,
        "returns pixels (`input_x_gradient`: sums of patches)",
    ),
    Peer(
        "captum IntegratedGradients",
        "captum",
        "captum",
        "integrated_gradients",
        _integrated_gradients,
        "the same 16 steps; returns pixels (`integrated_gradients`: sums of patches)",
    ),
    Peer(
        "LXT",
        "lxt",
        "lxt",
        "attnlrp_epsilon",
        _lxt,
        "supports torchvision's ViT, here one of the same size with random weights, for which it treats attention as "
        "constant (less work); returns pixels",
        needs=" 'transformers<5'",
    ),
)


def prepared(peer: Peer, model: nn.Module, images: Tensor) -> Explain | str:
    """Return the function that explains with another package or, where that cannot be imported, how to install it."""
    try:
        return peer.prepare(model, images)
    except ModuleNotFoundError as error:
        if error.name == peer.module:
            return f"not installed: {peer.install}"
        return f"installed, but {error.name} is not: {peer.install}"
    except ImportError as error:
        return f"installed, but does not import here ({error}): {peer.install}"
