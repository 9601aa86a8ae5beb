"""Whether a model computes what explanations trace: its own logits beside the traced ones.

The trace (explain/trace.py) computes with a model's weights and calls none of its modules. A hook, a forward that was
replaced on a class, or a version of timm that computes something else would make the maps explain another function than
the model's. Structure (explain/support.py) does not show all of that; the logits do.

`relevance` compares the first image of a call. On DeiT-Tiny (one CPU thread, 1 target per image) this adds 1.7 % to the
time of lrp_depth and 1.3 % to that of lrp_blend for 16 images (2 targets: 1.3 and 0.9 %), and 21 and 15 % for a single
image (2 targets), which comparing every image would add to all calls:

    OMP_NUM_THREADS=1 python benchmarks/logit_check.py
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from explain.support import UnsupportedModel, defining_class, is_replaced


def check_logits(model: nn.Module, images: Tensor, traced: Tensor) -> None:
    """Compare a model's logits with the traced ones.

    The model runs once, in eval mode, without a compiled forward; its modes are restored. Hooks see this forward pass.
    Call it under torch.no_grad, with the precision that the trace was computed in.

    model: as `check_explainable` takes it.
    images: (B, 3, H, W).
    traced: logits (B, C) of the recorded forward pass of these images, in their dtype.

    The tolerance is the square root of the dtype's machine epsilon, relative to the largest logit: 3e-4 in float32.
    Sums in another order, and fused attention, change the logits of the trained DeiT-Tiny by 3e-6, of random ViTs up
    to ViT-L by 1e-6, and by 2e-5 where attention is so sharp that it magnifies rounding. A change of the computation
    below the tolerance would change maps by about as little.

    Raises UnsupportedModel that names the hooks and replaced forwards found, where the logits differ by more.
    """
    with _eval_mode(model), _eager(model):
        logits = model(images.clone())  # a hook may write into what it is given
    if not isinstance(logits, Tensor):
        words = f"it returns {type(logits).__name__} in place of"
    elif logits.shape == traced.shape:
        if not traced.isfinite().all() and not logits.isfinite().all():
            return  # beyond the range of the dtype, which no hook needs to explain
        difference = float((logits - traced).abs().max() / logits.abs().max().clamp(min=torch.finfo(traced.dtype).tiny))
        if difference <= torch.finfo(traced.dtype).eps ** 0.5:
            return
        words = f"its logits differ by {difference:.2g} of the largest from"
    else:
        words = f"it returns {tuple(logits.shape)} in place of"
    raise UnsupportedModel(
        f"the model does not compute what explanations follow: {words} those of timm's forward pass with its "
        f"weights. {_advice(_suspects(model))}"
    )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and after that as it was."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _eager(model: nn.Module) -> AbstractContextManager:
    """A context in which modules compiled in place (`model.compile()`) run uncompiled: to compile takes minutes."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


# ---- what may have changed the logits


def _advice(found: list[str]) -> str:
    if found:
        return f"Found: {'; '.join(found)}. Remove what changes the result (a hook by its handle's remove())."
    return (
        "No hook and no replaced forward was found. If the model magnifies rounding, float64 works: model.double(), on "
        "a CPU or a GPU that has it."
    )


def _suspects(model: nn.Module) -> list[str]:
    """Describe every hook and replaced forward that the model's forward pass goes through."""
    found = [
        f"a global {kind}, {_hook_name(hook)}"
        for kind, hooks in (
            ("forward pre-hook", torch_modules._global_forward_pre_hooks),
            ("forward hook", torch_modules._global_forward_hooks),
        )
        for hook in hooks.values()
    ]
    for name, module in model.named_modules():
        for kind, hooks in (("forward pre-hook", module._forward_pre_hooks), ("forward hook", module._forward_hooks)):
            found += [f"a {kind} of {name or 'the model'}, {_hook_name(hook)}" for hook in hooks.values()]
    classes = dict.fromkeys(type(module) for module in model.modules())
    return found + [
        f"{defining_class(kind, 'forward').__name__}.forward, replaced on the class"
        for kind in classes
        if is_replaced(kind, "forward")
    ]


def _hook_name(hook: object) -> str:
    return getattr(hook, "__name__", type(hook).__name__)
