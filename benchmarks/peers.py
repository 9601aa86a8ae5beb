"""Other packages' explanations of the same model, for benchmarks/explain.py; none of them is needed for anything else.

    pip install grad-cam captum lxt 'transformers<5'

lxt 2.1 imports what transformers 5 no longer has.
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
    """Another package's way to do what a method of ours does.

    package: its name on PyPI; module: in Python; needs: what else pip must be told.
    prepare: (frozen model, images (B, 3, H, W)) -> a function of targets (B, K); raises ImportError.
    difference: what the two do not share.
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
    """Explain K targets of an image by K calls, each of one target an image (B,), as the package asks for."""
    return lambda targets: [explain(column) for column in targets.unbind(1)]


def _gradcam(model: nn.Module, images: Tensor) -> Explain:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, grid = deepcopy(model), model.patch_embed.grid_size  # it keeps its hooks
    model.blocks[-1].norm1.requires_grad_(True)  # autograd need go no further down
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
    # A batch at a time, as ours: all the steps of all images at once would be slower, and take 16 times the memory.
    return one_by_one(
        lambda column: method.attribute(
            images, target=column, n_steps=16, method="gausslegendre", internal_batch_size=len(images)
        )
    )


def _lxt(model: nn.Module, images: Tensor) -> Explain:
    with warnings.catch_warnings(action="ignore"):  # of zennit, which its gamma rule alone needs
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
    nn.init.trunc_normal_(twin.heads.head.weight, std=0.02)  # torchvision's is 0, of which nothing comes back
    patched = (nn.GELU, nn.LayerNorm, nn.MultiheadAttention)

    def explain(column: Tensor) -> Tensor:
        plain = [kind.forward for kind in patched]
        monkey_patch(vision_transformer)  # torch.nn's own classes: undone below, as the model of timm has them too
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
        "weighs the channels of the last block's first norm, where ours weighs the heads of its attention, and "
        "enlarges the map to the image",
    ),
    Peer(
        "captum InputXGradient",
        "captum",
        "captum",
        "input_x_gradient",
        _input_x_gradient,
        "returns pixels, where ours sums patches",
    ),
    Peer(
        "captum IntegratedGradients",
        "captum",
        "captum",
        "integrated_gradients",
        _integrated_gradients,
        "the same 16 places on the way; returns pixels, where ours sums patches",
    ),
    Peer(
        "LXT",
        "lxt",
        "lxt",
        "attnlrp_epsilon",
        _lxt,
        "knows torchvision's ViT, here one of the same size with random weights, and for that one holds attention "
        "constant, which is less work; returns pixels",
        needs=" 'transformers<5'",
    ),
)


def prepared(peer: Peer, model: nn.Module, images: Tensor) -> Explain | str:
    """Return what explains with another package, or, where it cannot be had, one line that says what to do."""
    try:
        return peer.prepare(model, images)
    except ModuleNotFoundError as error:
        if error.name == peer.module:
            return f"not installed: {peer.install}"
        return f"installed, but {error.name} is not: {peer.install}"
    except ImportError as error:
        return f"installed, but does not import here ({error}): {peer.install}"
