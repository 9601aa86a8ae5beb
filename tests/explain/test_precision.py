"""float16 products where they are offered, true float32 whatever torch's flags allow, and denormals."""

import pytest
import torch
from small_vits import make_vit
from torch.utils._python_dispatch import _get_current_dispatch_mode

from explain import METHODS, gradients, precision, relevance, rules
from explain.contrasts import class_weights, head_rows
from explain.precision import half_product, true_float32
from explain.registry import NOT_IN_HALF
from explain.trace import Network

OFFERED = [name for name in METHODS if name not in NOT_IN_HALF]
ROUNDING = 2.0**-11


def distance(a, b):
    return (a - b).flatten(2).norm(dim=-1) / b.flatten(2).norm(dim=-1)


@pytest.fixture
def model():
    return make_vit().float()


@pytest.mark.parametrize("method", [name for name in OFFERED if name != "random"])
def test_methods_that_offer_float16_stay_within_two_percent(model, images, targets, method):
    images = images.float()
    exact = relevance(model, images, targets, method)
    half = relevance(model, images, targets, method, precision="float16")
    assert half.dtype == torch.float32 and 0 < distance(half, exact).max() < 0.02
    with torch.inference_mode():
        assert torch.equal(relevance(model, images, targets, method, precision="float16"), half)
    assert torch.equal(relevance(model, images, targets, method), exact), "the mode has ended"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["rules.matmul_right", "precision.half_product"])
def test_float16_ends_with_an_exception(model, images, targets, monkeypatch, place, error):
    """Between products, and within one, where the mode itself is at work: later products are float32 again."""
    images, calls = images.float(), []
    exact, module = relevance(model, images, targets, "lrp_magnitude"), place.split(".")[0]
    plainly = getattr({"rules": rules, "precision": precision}[module], place.split(".")[1])

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise error("in the middle")
        return plainly(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(f"explain.{place}", fail)
        with pytest.raises(error):
            relevance(model, images, targets, "lrp_magnitude", precision="float16")
    assert len(calls) == 3 and _get_current_dispatch_mode() is None
    left, right = images[:, 0], images[:, 1]
    assert not torch.equal(left @ right, half_product(left, right))
    assert torch.equal(relevance(model, images, targets, "lrp_magnitude"), exact)


def test_the_rest_of_the_batch_changes_nothing_in_float16(model, images, targets):
    """Each row and column has a scale of its own: neighbours a thousand times as bright take no digits away."""
    images = torch.cat([images[:1], 1000 * images[1:]]).float()
    alone, together = (relevance(model, images[:n], targets[:n], "cp_lrp", precision="float16") for n in (1, 3))
    assert distance(together[:1], alone).max() < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e18])
def test_products_keep_their_digits_at_any_scale(scale):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 5, 40, generator=generator) * scale, torch.rand(2, 40, 3, generator=generator)
    left[0, 0], right[0, :, 0] = 0, 0
    found, exact = half_product(left, right), left.double() @ right.double()
    assert found.dtype == torch.float32 and (found[0, 0] == 0).all()
    assert ((found - exact).abs() <= 4 * ROUNDING * exact).all()
    assert not torch.equal(found, left @ right)


@pytest.mark.parametrize(
    "method, precision, dtype, words",
    [
        ("lrp", "float16", torch.float32, "lrp differs by more than 2 % in float16: its residual rule"),
        ("gradcam", "float16", torch.float32, "Leave precision out"),
        ("lrp_magnitude", "bfloat16", torch.float32, "expected None .* or 'float16'"),
        ("lrp_magnitude", "float16", torch.float64, "images are torch.float64"),
    ],
)
def test_what_float16_does_not_serve_is_refused(images, targets, method, precision, dtype, words):
    with pytest.raises(ValueError, match=words):
        relevance(make_vit().to(dtype), images.to(dtype), targets, method, precision=precision)


# ---- flags that lower the precision of float32


def flags() -> list[str | bool]:
    """What torch's flags say of the products and convolutions of float32 tensors."""
    backends = torch.backends
    operations = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [operation.fp32_precision for operation in (backends, backends.cudnn, *operations)]


def set_generic(precision: str) -> None:
    torch.backends.fp32_precision = precision


def set_convolution(precision: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = precision


@pytest.fixture(
    params=[
        (lambda: None, lambda: None),
        (lambda: torch.set_float32_matmul_precision("high"), lambda: torch.set_float32_matmul_precision("highest")),
        (lambda: torch.set_float32_matmul_precision("medium"), lambda: torch.set_float32_matmul_precision("highest")),
        (lambda: set_generic("tf32"), lambda: set_generic("none")),
        (lambda: set_convolution("ieee"), lambda: set_convolution("tf32")),
    ],
    ids=["default", "high", "medium", "generic tf32", "convolution ieee"],
)
def allowed(request):
    """Flags as a user may have set them."""
    request.param[0]()
    yield flags()
    request.param[1]()


def test_products_and_convolutions_are_float32_whatever_torchs_flags_allow(
    model, images, targets, allowed, monkeypatch
):
    """In the trace, in the backward pass, and where the model's own logits are computed; then flags are as before."""
    seen, product, backward_pass = [], Network.patch_product, rules.drop_negligible
    monkeypatch.setattr(Network, "patch_product", lambda *given: seen.append(flags()) or product(*given))
    monkeypatch.setattr(rules, "drop_negligible", lambda given: seen.append(flags()) or backward_pass(given))
    model.patch_embed.proj.register_forward_hook(lambda *given: seen.append(flags()))
    relevance(model, images.float(), targets, "lrp_depth")
    assert len(seen) == 5 and all(set(one) == {"ieee"} for one in seen) and flags() == allowed


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_flags_are_restored_after_an_exception(model, images, targets, allowed, error, monkeypatch):
    def fail(*given):
        raise error("in the middle")

    monkeypatch.setattr(rules, "drop_negligible", fail)
    with pytest.raises(error):
        relevance(model, images.float(), targets, "lrp_depth")
    assert flags() == allowed


def test_the_flag_of_matrix_products_can_be_read_and_is_restored():
    """torch refuses to read it where flags of two kinds contradict each other."""
    for level in ("high", "medium", "highest"):
        torch.set_float32_matmul_precision(level)
        with true_float32():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == level


# ---- denormals


def test_gradients_far_below_the_largest_are_dropped_in_the_backward_pass(model, images, targets, monkeypatch):
    """A token that the last block does not attend to gets a gradient of 1e-35: dropped, before it slows a product."""
    with torch.no_grad():
        model.blocks[-1].attn.qkv.weight[:24] *= 8  # query and key: a sharp attention
    network, smallest = Network(model), {}
    record = network.record(images.float())
    assert ((record.blocks[-1].attention > 0) & (record.blocks[-1].attention < 1e-30)).any()
    rows = head_rows(network, class_weights(record.logits, targets))

    def spy(name):
        below = gradients._below_mlp

        def look(network, block, gradient, backward):
            if block is not record.blocks[-1]:
                magnitude = gradient.abs()
                share = magnitude / magnitude.amax((-2, -1), keepdim=True)
                smallest[name] = min(smallest.get(name, 1.0), float(share[share > 0].min()))
            return below(network, block, gradient, backward)

        return look

    for name in ("kept", "dropped"):
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(gradients, "_below_mlp", spy(name))
            if name == "kept":
                patch.setattr(rules, "drop_negligible", lambda relevance: relevance)
            gradients.patch_gradient(network, record, rows, gradients.GRADIENT)
    assert smallest["kept"] < rules.NEGLIGIBLE <= smallest["dropped"]


@pytest.mark.parametrize("flush", [False, True])
def test_explaining_leaves_the_processors_mode_alone(model, images, targets, flush):
    denormal = torch.tensor([1e-20])
    torch.set_flush_denormal(flush)
    for method in METHODS:
        relevance(model, images.float(), targets, method)
        assert float(denormal * denormal) == 0 if flush else float(denormal * denormal) > 0
