"""Robustness of relevance maps: how much a map changes when the input hardly does."""

import torch
from torch import Tensor, nn

from explain import refuse_more_than_maps, relevance
from explain.methods import generator_for


def input_noise_change(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    noise: float = 1e-3,
    seed: int = 0,
    maps: Tensor | None = None,
    **options,
) -> Tensor:
    """Compute the relative change of each map under invisible input noise: |map(x + e) - map(x)| / |map(x)| in L2.

    A sensitivity in the sense of Yeh et al., with one draw of Gaussian noise for the mean or maximum over a ball.

    model: a plain timm VisionTransformer, as for `relevance`.
    images: (B, 3, H, W) normalised.
    targets: (B, K) int64.
    method: name of a relevance method; options are its own, none that asks for more than maps.
    noise: standard deviation of e, in units of the normalised image.
    seed: fixes e, together with the image's own pixels.
    maps: the images' own maps (B, K, gh, gw) of this method and these options, if known; they are not computed again.
    Returns (B, K), 0 and up; lower is more robust. A difference between models that is not far above it means nothing.
        A map that is drawn anew each time has about 0.7 (uniform numbers) to 1.4 (mean 0). NaN where a map is 0.
    Raises ValueError as `relevance`, and for an option that asks for more than maps.
    Source: Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019.
    """
    refuse_more_than_maps(options)
    # Drawn on the CPU, whatever the device: the same noise everywhere, and not every device has float64.
    drawn = [torch.randn(image.shape, generator=generator_for(image, seed), dtype=torch.float64) for image in images]
    noisy = images + noise * torch.stack(drawn).to(images.dtype).to(images.device)
    before = (_maps(model, images, targets, method, options) if maps is None else maps).flatten(2)
    after = _maps(model, noisy, targets, method, options).flatten(2)
    size = before.norm(dim=-1)
    return ((after - before).norm(dim=-1) / size).where(size > 0, torch.nan)


def _maps(model: nn.Module, images: Tensor, targets: Tensor, method: str, options: dict) -> Tensor:
    maps = relevance(model, images, targets, method, **options)
    assert isinstance(maps, Tensor)  # options ask for maps alone
    return maps
