"""Models whose logits differ from the traced ones: refused, with the cause named; hooks that only read are allowed."""

import functools

import pytest
import timm
import torch
from model_state import same, state
from small_vits import make_vit
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from explain import METHODS, UnsupportedModel, check_explainable, relevance
from explain.logit_check import check_logits
from explain.registry import NOT_IN_HALF
from explain.trace import Network

TRACED = [name for name in METHODS if name != "random"]
PATHS = [
    "",
    "blocks",
    "blocks.1.attn",
    "blocks.0.norm2",
    "blocks.2.mlp.act",
    "attn_pool.mlp.act",
    "attn_pool.q",
    "head",
]


def doubled(forward):
    @functools.wraps(forward)
    def wrapper(self, *arguments, **options):
        return 2 * forward(self, *arguments, **options)

    return wrapper


def twice(module, inputs, output):
    return 2 * output


def twice_its_input(module, inputs):
    return tuple(2 * one + torch.arange(one.shape[-1]) for one in inputs)  # a norm ignores a factor


class Reader:
    """A hook that keeps the shape of what modules of one kind return, and changes nothing."""

    def __init__(self, kind: type = nn.Module):
        self.kind, self.seen = kind, []

    def __call__(self, module, inputs, output=None):
        if isinstance(module, self.kind):
            self.seen.append(tuple((inputs[0] if output is None else output).shape))


# ---- refused


@pytest.mark.parametrize("method", TRACED)
def test_a_forward_replaced_on_a_class_is_refused(vit, images, targets, method, monkeypatch):
    monkeypatch.setattr(Attention, "forward", doubled(Attention.forward))
    check_explainable(vit)  # structure does not show it
    words = r"logits differ by 0\.\d+ of the largest .*Found: Attention\.forward, replaced on the class"
    with pytest.raises(UnsupportedModel, match=words):
        relevance(vit, images, targets, method)
    monkeypatch.undo()
    assert relevance(vit, images, targets, method).isfinite().all()


def test_a_replaced_activation_is_refused_although_it_stands_in_each_block(images, targets, monkeypatch):
    """Its derivative is written out by hand, so that tracing its values alone would explain no function at all."""
    model = make_vit(act_layer="gelu")
    kind = type(model.blocks[0].mlp.act)
    monkeypatch.setattr(kind, "forward", lambda self, x: torch.relu(x))
    with pytest.raises(UnsupportedModel, match=f"{kind.__name__}.forward, replaced on the class"):
        relevance(model, images, targets)


def test_positions_replaced_on_the_class_are_refused_by_structure(vit, monkeypatch):
    monkeypatch.setattr(VisionTransformer, "_pos_embed", doubled(VisionTransformer._pos_embed))
    with pytest.raises(UnsupportedModel, match=r"VisionTransformer\._pos_embed was replaced on the class"):
        check_explainable(vit)


@pytest.mark.parametrize(
    "register, hook, words",
    [
        (register_module_forward_hook, twice, "a global forward hook, twice"),
        (register_module_forward_pre_hook, twice_its_input, "a global forward pre-hook, twice_its_input"),
    ],
)
def test_a_global_hook_that_changes_logits_is_refused(vit, images, targets, register, hook, words):
    maps = relevance(vit, images, targets)
    handle = register(hook)
    try:
        with pytest.raises(UnsupportedModel, match=rf"Found: {words}\. Remove .* by its handle's remove"):
            relevance(vit, images, targets)
    finally:
        handle.remove()
    assert torch.equal(relevance(vit, images, targets), maps)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind, hook", [("forward hook", twice), ("forward pre-hook", twice_its_input)])
def test_a_hook_that_changes_logits_is_refused_by_module_until_it_is_removed(images, targets, path, kind, hook):
    model = make_vit(global_pool="map", final_norm=False, reg_tokens=1)
    handle = getattr(model.get_submodule(path), f"register_{kind.replace('-', '_').replace(' ', '_')}")(hook)
    with pytest.raises(UnsupportedModel, match=rf"Found: a {kind} of {path or 'the model'}, {hook.__name__}\. "):
        relevance(model, images, targets)
    handle.remove()
    assert relevance(model, images, targets).isfinite().all()


def test_other_outputs_than_logits_are_refused(vit, images, targets):
    handle = vit.register_forward_hook(lambda module, inputs, output: (output, output))
    with pytest.raises(UnsupportedModel, match="it returns tuple in place of .* a forward hook of the model, <lambda>"):
        relevance(vit, images, targets)
    handle.remove()
    vit.register_forward_hook(lambda module, inputs, output: output[:, :3])
    with pytest.raises(UnsupportedModel, match=r"it returns \(1, 3\) in place of those"):
        relevance(vit, images, targets)


def test_without_a_hook_the_message_suggests_float64(vit, images):
    with torch.no_grad(), pytest.raises(UnsupportedModel, match="No hook .* magnifies rounding, float64 works"):
        check_logits(vit, images, vit(images) * 1.01)


# ---- allowed


@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_only_read_see_the_models_own_forward_pass_of_the_first_image(vit, images, targets, method):
    """Once a call, in eval mode, whatever the trace computes: no module is called for a map."""
    maps, readers = (
        relevance(vit, images, targets, method),
        [Reader(Attention), Reader(), Reader(nn.GELU), Reader(nn.Linear)],
    )
    handles = [
        register_module_forward_hook(readers[0]),
        vit.register_forward_pre_hook(readers[1]),
        vit.blocks[0].mlp.act.register_forward_hook(readers[2]),
        vit.head.register_forward_hook(readers[3]),
    ]
    vit.train()
    before = state(vit)
    try:
        assert torch.equal(relevance(vit, images, targets, method), maps)
    finally:
        handles[0].remove()
    assert same(before, state(vit)), "hooks, modes and all"
    seen = [[(1, 10, 12)] * 3, [(1, 3, 24, 24)], [(1, 10, 48)], [(1, 7)]]
    assert [reader.seen for reader in readers] == (seen if method != "random" else [[]] * 4)


def test_a_replaced_forward_that_only_reads_is_allowed(vit, images, targets, monkeypatch):
    """As notebooks do that keep attention."""
    maps, forward, kept = relevance(vit, images, targets), Attention.forward, []

    def keeping(self, x, **options):
        kept.append(x)
        return forward(self, x, **options)

    monkeypatch.setattr(Attention, "forward", keeping)
    assert torch.equal(relevance(vit, images, targets), maps) and len(kept) == 3


def test_images_and_modes_survive_a_hook_that_writes_or_fails(vit, images, targets):
    def writing(module, inputs):
        inputs[0].zero_()

    vit.train()
    before, pixels = state(vit), images.clone()
    handle = vit.register_forward_pre_hook(writing)
    with pytest.raises(UnsupportedModel, match="a forward pre-hook of the model, writing"):
        relevance(vit, images, targets)
    handle.remove()
    assert torch.equal(images, pixels) and same(before, state(vit))

    def failing(module, inputs, output):
        raise KeyboardInterrupt

    handle = vit.blocks[1].register_forward_hook(failing)
    with pytest.raises(KeyboardInterrupt):
        relevance(vit, images, targets)
    handle.remove()
    assert same(before, state(vit)) and torch.is_grad_enabled()


def test_some_modules_in_eval_mode_stay_in_it(vit, images, targets):
    vit.train()
    vit.blocks[1].eval()
    relevance(vit, images, targets)
    assert vit.training and vit.blocks[0].attn.training and not any(one.training for one in vit.blocks[1].modules())


@pytest.mark.parametrize("training", [False, True])
def test_two_heads_are_compared_as_they_are_averaged(images, targets, training):
    """In training, and where `distilled_training` is set, timm returns both heads' logits; explained is their mean."""
    model = make_vit(distilled=True, attn_drop_rate=0.5).train(training)
    model.set_distilled_training(True)
    assert relevance(model, images, targets).isfinite().all() and model.training == training


@pytest.mark.parametrize("method", [name for name in TRACED if name not in NOT_IN_HALF])
def test_float16_is_compared_in_float32(images, targets, method):
    """Products of half precision move logits by more than the tolerance, which the comparison does not see."""
    model, images = make_vit().float(), images.float()
    dtypes = []
    model.blocks[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    assert relevance(model, images, targets, method, precision="float16").isfinite().all()
    assert dtypes == [torch.float32]
    model.head.register_forward_hook(lambda module, inputs, output: output * 1.001)
    with pytest.raises(UnsupportedModel, match="logits differ by 0.001 of the largest"):
        relevance(model, images, targets, method, precision="float16")


def test_what_rounding_does_is_far_below_the_tolerance():
    """In float32, on a model whose attention is so sharp that it magnifies rounding, and where all logits are huge."""
    model, images = make_vit().float(), torch.randn(16, 3, 24, 24)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(20)
        for scale in (1.0, 1e30):
            model.head.weight.mul_(scale)
            traced = Network(model).record(images).logits
            for part in (images, images[:1]):
                check_logits(model, part, traced[: len(part)])


def test_infinite_logits_are_not_refused(images, targets):
    model = make_vit().float()
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))
        model.head.weight.zero_()
    assert relevance(model, images.float(), targets, "lrp_depth").shape == (3, 2, 3, 3)


def test_a_zero_head_is_not_refused(vit, images, targets):
    """As a linear probe starts."""
    with torch.no_grad():
        vit.head.weight.zero_()
        vit.head.bias.zero_()
    assert relevance(vit, images, targets, "lrp_depth").abs().max() == 0


def test_resized_position_embeddings_are_not_refused(targets):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, dynamic_img_size=True).eval()
    assert relevance(model, torch.randn(1, 3, 160, 96), torch.tensor([[2]]), "rollout").shape == (1, 1, 10, 6)
