"""Create pretrained timm models from a name and weights, with a new head or their own."""

import difflib
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_input_data_config
from timm.models import is_model_in_modules, load_state_dict

from common.errors import ExplainedError, UsageError
from models.options import BUNDLED, BackboneSpec
from models.sources import check_weights_file
from models.types import TimmModel

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
HUB_TIMEOUT = 5.0  # seconds; the hub's own client would retry for most of a minute


def create_backbone(spec: BackboneSpec, num_classes: int, drop_path: float = 0.0) -> TimmModel:
    """Return the pretrained model in float32 with a freshly initialised head, in evaluation mode.

    spec: the timm name (or `bundled`), weights and image size.
    num_classes: outputs of the head; 0 keeps the model's own classes.
    drop_path: rate of stochastic depth in the last block while training, growing linearly with depth.
    Raises UsageError for unknown names and missing files, ExplainedError for weights that do not fit and where the
    model hub is unreachable.
    """
    dropping: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if spec.name == BUNDLED and spec.weights is None:
        return _with_head(_load_file(_build(spec, **dropping), BUNDLED_FOLDER / "backbone.safetensors"), num_classes)
    if spec.weights is not None:
        return _with_head(_load_file(_build(spec, **dropping), Path(spec.weights)), num_classes)
    return _with_head(_from_hub(spec, **dropping), num_classes)


def create_with_head(spec: BackboneSpec) -> TimmModel:
    """Return the pretrained model in float32 with the head that its weights hold, of any number of classes.

    Raises UsageError where the weights hold no head, or position embeddings of another image size; otherwise as
    `create_backbone`.
    """
    if spec.weights is None:
        if spec.name == BUNDLED or not architecture(spec).num_classes:
            raise UsageError(
                f"{spec.name!r} has no head of its own, so it cannot classify; give a timm name with a "
                f"classifier, or a run: `python train.py --model {spec.name} --out RUN`"
            )
        return _from_hub(spec)
    model, path = _build(spec), Path(spec.weights)
    state = _read(path)
    if spec.image_size is None:
        _check_image_size(model, state, path)
    state = _convert(state, model, path)
    classes = head_classes(model, state)
    if classes is None:
        raise UsageError(f"{path} holds no trained head ({head_names(model)[0]}.weight); give a file saved with one")
    model.reset_classifier(classes)
    return _fill(model, state, path, head=True)


def architecture(spec: BackboneSpec) -> TimmModel:
    """Return the model without weights, on the meta device: its structure and data config."""
    with torch.device("meta"):
        return _build(spec, initialised=False)


def data_config(spec: BackboneSpec) -> dict:
    """Return input_size, interpolation, mean, std, crop_pct and crop_mode, without weights."""
    return model_data_config(architecture(spec))


def model_data_config(model: TimmModel) -> dict:
    """Return a model's data config, as plain JSON, with the image size that it was built for."""
    config = resolve_input_data_config(model)
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if built_for is not None:  # timm keeps the recommended size of models that take any size
        config["input_size"] = (config["input_size"][0], *built_for)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def is_timm_name(name: str) -> bool:
    """Tell whether timm has an architecture of this name, with or without a tag behind a dot."""
    return timm.is_model(name.split(".")[0])


def head_names(model: TimmModel) -> tuple[str, ...]:
    """Return the name of the classifier's module, or of both in distilled models."""
    heads = model.pretrained_cfg["classifier"]
    return (heads,) if isinstance(heads, str) else tuple(heads)


def is_head(model: TimmModel, key: str) -> bool:
    """Tell whether a parameter name belongs to the classifier (or to one of two, in distilled models)."""
    return key.startswith(tuple(f"{name}." for name in head_names(model)))


def head_classes(model: TimmModel, state: dict) -> int | None:
    """Return the number of classes of the head in a state dict with the model's names, or None where it holds none."""
    weight = state.get(f"{head_names(model)[0]}.weight")
    return None if weight is None else len(weight)


def near_names(name: str) -> str:
    """Return a phrase that offers timm's names closest to a misspelt one."""
    close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return "python -c 'import timm; print(timm.list_models())' lists them"


def content_hash(model: TimmModel, head: bool = False) -> str:
    """Return the SHA-256 over the names, shapes and values of a model's state; the file format makes no difference.

    head: whether the head's parameters count too.
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if head or not is_head(model, key):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _build(spec: BackboneSpec, initialised: bool = True, **options) -> TimmModel:
    """Return the architecture with random weights, in evaluation mode; a missing weights file is refused first.

    initialised: False leaves timm's initialisation out where it can be, which is slow on the meta device.
    """
    name, overrides, overlay = spec.name, {}, None
    if name == BUNDLED:
        card = json.loads((BUNDLED_FOLDER / "config.json").read_text())
        name, overrides = card["timm_name"], dict(card["kwargs"])
        overlay = {key: card[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    elif not is_timm_name(name):
        raise UsageError(f"unknown model {spec.name!r}; expected 'bundled' or a timm name; {near_names(name)}")
    check_weights_file(spec.weights)
    overrides |= options
    if spec.image_size is not None:
        overrides["img_size"] = spec.image_size
    able = not initialised and is_model_in_modules(name.split(".")[0], ["vision_transformer"])
    skipped = {"weight_init": "skip"} if able else {}
    try:
        model = timm.create_model(name, pretrained=False, pretrained_cfg_overlay=overlay, **overrides, **skipped).eval()
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"timm cannot build {name!r} with {overrides or 'its defaults'}: {_first_line(error)}"
        ) from error
    _check_patches_divide(model, spec)
    return model


def _check_patches_divide(model: TimmModel, spec: BackboneSpec) -> None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if spec.image_size is not None and patch is not None and any(spec.image_size % side for side in patch):
        raise UsageError(
            f"--image-size {spec.image_size} cannot be cut into {spec.name}'s patches of {patch[0]} x "
            f"{patch[1]} pixels; give a multiple of {patch[0]}"
        )


def _with_head(model: TimmModel, num_classes: int) -> TimmModel:
    if num_classes:
        model.reset_classifier(num_classes)
    return model


def _load_file(model: TimmModel, path: Path) -> TimmModel:
    """Load a local file, head included where it fits."""
    return _fill(model, _convert(_read(path), model, path), path)


def _read(path: Path) -> dict:
    """Return the content of a weights file, under its own names."""
    try:
        return load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each raise their own kind
        raise _unreadable(path, error) from error


def _convert(state: dict, model: TimmModel, path: Path) -> dict:
    """Apply timm's renaming and resampling of position embeddings where the model is a VisionTransformer."""
    try:
        if isinstance(model, timm.models.VisionTransformer):
            state = timm.models.vision_transformer.checkpoint_filter_fn(state, model)
        if odd := [key for key, value in state.items() if not isinstance(value, torch.Tensor)]:
            raise ValueError(f"{', '.join(map(str, odd[:3]))}: not a tensor")
        return dict(state)
    except Exception as error:  # the file may hold anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ExplainedError:
    return ExplainedError(
        f"{path} cannot be read as weights ({type(error).__name__}: {_first_line(error)}); "
        f"expected a .safetensors file with timm's parameter names"
    )


def _fill(model: TimmModel, state: dict, path: Path, head: bool = False) -> TimmModel:
    """Load a state dict, names compared both ways first; the head may be missing or differ unless `head` is set."""
    own = model.state_dict()
    misfits = [k for k in own if (head or not is_head(model, k)) and (k not in state or state[k].shape != own[k].shape)]
    unknown = [k for k in state if k not in own and not is_head(model, k)]
    if misfits or unknown:
        raise ExplainedError(
            f"{path} does not fit {type(model).__name__} as built: {len(misfits)} parameter(s) missing or of "
            f"another shape ({', '.join(misfits[:3]) or 'none'}), {len(unknown)} unknown "
            f"({', '.join(unknown[:3]) or 'none'}); give the --model that these weights were trained with"
        )
    fitting = {k: v.float() for k, v in state.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(fitting, strict=False)
    return model


def _check_image_size(model: TimmModel, state: dict, path: Path) -> None:
    """Refuse position embeddings of another image size: resampled, they would give another model than the saved one."""
    found, own = state.get("pos_embed"), getattr(model, "pos_embed", None)
    if not isinstance(found, torch.Tensor) or own is None or found.shape[1:2] == own.shape[1:2]:
        return
    patches = found.shape[1] - (own.shape[1] - math.prod(model.patch_embed.grid_size))
    side = math.isqrt(max(patches, 0)) * model.patch_embed.patch_size[0]
    raise UsageError(
        f"{path} has positions for {patches} patches (images of {side} pixels, if square), not for the "
        f"{model.patch_embed.img_size[0]} pixels of this model; give --image-size {side}, or another "
        f"--image-size to resample them"
    )


def _from_hub(spec: BackboneSpec, **options) -> TimmModel:
    model = _build(spec, **options)  # refuses unknown names before the network is asked
    overrides = options | ({} if spec.image_size is None else {"img_size": spec.image_size})
    try:
        with _short_timeout():
            return timm.create_model(spec.name, pretrained=True, **overrides).eval()
    except Exception as error:  # the hub's client, urllib and timm raise many kinds
        source = model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url") or "unknown"
        raise ExplainedError(
            f"the weights of {spec.name!r} could not be downloaded ({type(error).__name__}; source: {source}); "
            f"connect to the network, or download them elsewhere and give --weights FILE, or train with --model bundled"
        ) from error


class _short_timeout:
    """Within the block, an unreachable hub counts as offline at once; what is cached still loads."""

    def __enter__(self) -> None:
        from huggingface_hub import constants

        self.constants, self.before = constants, constants.HF_HUB_OFFLINE
        if not self.before and not _reachable(constants.ENDPOINT):
            constants.HF_HUB_OFFLINE = True

    def __exit__(self, *_) -> None:
        self.constants.HF_HUB_OFFLINE = self.before


def _reachable(url: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT)
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
