"""Models trained elsewhere, wherever a run is asked for: a timm name, a merged file, a plain peft folder."""

import hashlib
import json
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from peft import PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from common.errors import ExplainedError, UsageError
from models.adapters import plain
from models.backbone import (
    BUNDLED,
    BackboneSpec,
    architecture,
    content_hash,
    create_backbone,
    create_with_head,
    head_classes,
    is_head,
    is_timm_name,
    model_data_config,
    near_names,
)
from models.runs import ADAPTER_WEIGHTS, CARD, Run, load_run, with_adapter

ADAPTER_CONFIG = "adapter_config.json"
IN_ADAPTER = "base_model.model."  # what peft writes before a model's own parameter names


@dataclass(frozen=True)
class Hints:
    """What the command line says about models that do not say it themselves.

    `model`: timm name of a file's architecture or of a peft folder's base; `weights`: file of the backbone (of runs,
    timm names and peft folders); `image_size` in pixels; `class_names`: file with the names in the head's order.
    """

    model: str | None = None
    weights: str | None = None
    image_size: int | None = None
    class_names: str | None = None


@dataclass
class Elsewhere(Run):
    """A model that no run folder describes, named by what was given for it; its config holds names and data config."""

    @property
    def label(self) -> str:
        return self.config["name"]

    @property
    def identity(self) -> str:
        """The SHA-256 of its parameters and config."""
        return hashlib.sha256(f"{json.dumps(self.config)} {content_hash(self.model, head=True)}".encode()).hexdigest()


def load_model(given: str, hints: Hints = Hints()) -> Run:
    """Load whatever a RUN may be: a run folder, a timm name, a merged .safetensors or .pth file, a plain peft folder.

    Raises UsageError where nothing of the kind is there or something must be added (its line says what), and
    ExplainedError where a file is damaged or does not fit.
    """
    load = _loader(given)
    return load_run(given, hints.weights) if load is None else load(given, hints)


def check_hints(given: list[str], hints: Hints) -> None:
    """Raise UsageError where a hint is given that none of the models reads: it would be passed over without a word."""
    read = set().union(*(READS[_loader(one)] for one in given))
    useless = [
        f"--{f.name.replace('_', '-')}"
        for f in fields(hints)
        if getattr(hints, f.name) is not None and f.name not in read
    ]
    if useless:
        raise UsageError(f"{', '.join(useless)} is read for none of {', '.join(given)}; leave it out")


def is_pretrained(given: str) -> bool:
    """Tell whether a RUN is the name of a pretrained model and no path."""
    return not Path(given).exists() and (given == BUNDLED or is_timm_name(given))


def _loader(given: str) -> Callable[[str, Hints], Run] | None:
    """Return what loads a model trained elsewhere, or None for a run folder."""
    path = Path(given)
    if path.is_file():
        return _from_file
    if path.is_dir():
        return _from_peft if (path / ADAPTER_CONFIG).is_file() else None
    if is_pretrained(given):
        return _from_timm
    if path.name == given:  # no folder before it: perhaps a name
        raise UsageError(
            f"{given} is no folder, no file and no timm name; expected a run folder, a merged file, a "
            f"peft folder or a timm name; {near_names(given)}"
        )
    return None


def _from_timm(name: str, hints: Hints) -> Run:
    """Load the un-tuned model: its own head, and the classes that timm knows it was pretrained on."""
    model = create_with_head(BackboneSpec(name, hints.weights, hints.image_size))
    return _run(name, name, model, _pretrained_names(model, hints), model_data_config(model))


def _from_file(path: str, hints: Hints) -> Run:
    """Load a merged model; what the file's own metadata says, as `runs.export` writes it, hints override."""
    card = _card(Path(path))
    name = hints.model or card.get("model")
    if name is None:
        raise UsageError(f"{path} does not say what model it is; give --model NAME, the timm name of its architecture")
    if name != card.get("model"):
        card = {}  # it speaks of another model
    model = create_with_head(BackboneSpec(name, path, hints.image_size or card.get("image_size")))
    names = read_names(hints.class_names) if hints.class_names else card.get("class_names")
    config = model_data_config(model)
    config = {**config, **card.get("data_config", {}), "input_size": config["input_size"]}
    return _run(path, Path(path).stem, model, _as_many(names, model, path, hints), config)


def _from_peft(folder: str, hints: Hints) -> Run:
    """Load an adapter on its base and merge it; the head is the adapter's, or else that of the base's file."""
    state, name = _read_adapter(Path(folder), hints)
    spec = BackboneSpec(name, hints.weights, hints.image_size)
    blank = architecture(spec)
    heads = {key for key in blank.state_dict() if is_head(blank, key)}
    if heads and heads <= set(state):
        model = create_backbone(spec, head_classes(blank, state))
    elif hints.weights is not None:
        model = create_with_head(spec)
    else:
        raise UsageError(
            f"{folder} holds no trained head: its adapter was saved without modules_to_save; give the "
            f"base's file with its head as --weights FILE (or, of train.py's runs, the run's own folder)"
        )
    try:
        merged = plain(with_adapter(model, Path(folder))).eval()
    except Exception as error:  # peft has many tuners, and each raises its own kind
        raise ExplainedError(
            f"the adapter in {folder} cannot be merged into {name} ({_in_one_line(error)}); give the "
            f"base that it was trained on with --model"
        ) from error
    names = read_names(hints.class_names) if hints.class_names else None
    return _run(
        folder, Path(folder).resolve().name, merged, _as_many(names, merged, folder, hints), model_data_config(merged)
    )


def _run(given: str, name: str, model: nn.Module, class_names: list[str], data_config: dict) -> Run:
    if len(class_names) < 2:
        raise UsageError(
            f"the head in {given} has one class; expected a classifier of two or more, whose classes can be told apart"
        )
    config = {"name": name, "class_names": class_names, "data_config": data_config, "data": None, "seed": None}
    return Elsewhere(Path(given), config, {}, model)


def read_names(path: str) -> list[str]:
    """Read class names: a text file, one a line, or a JSON list. Raises UsageError when it is neither."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else list(map(str.strip, text.strip().splitlines()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--class-names {path} cannot be read ({_in_one_line(error)}); expected a text file with one "
            f"name a line, or a JSON list"
        ) from error
    if odd := [name for name in names if not isinstance(name, str) or not name]:
        raise UsageError(
            f"--class-names {path} holds {odd[0]!r}, which is no name; expected one name a line, or a "
            f"JSON list of names"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(
            f"--class-names {path} names {', '.join(twice[:3])} more than once; give every class a name of its own"
        )
    return names


def _as_many(names: list[str] | None, model: nn.Module, given: str, hints: Hints) -> list[str]:
    """Return the names if there is one for each class of the head."""
    if names is None:
        raise UsageError(
            f"{given} does not name its {model.num_classes} classes; give --class-names FILE, one name a "
            f"line in the head's order"
        )
    if len(names) != model.num_classes:
        source = f"--class-names {hints.class_names}" if hints.class_names else f"the metadata of {given}"
        raise UsageError(
            f"{source} has {len(names)} names, but the head in {given} has {model.num_classes} classes; "
            f"give one name a class, in the head's order"
        )
    return names


def _pretrained_names(model: nn.Module, hints: Hints) -> list[str]:
    """Return the names given, or else what timm calls a pretrained model's classes, or else their numbers."""
    if hints.class_names:  # --weights may hold a head of somebody's own, with as many classes as timm's
        return _as_many(read_names(hints.class_names), model, model.pretrained_cfg["architecture"], hints)
    if (subset := infer_imagenet_subset({"num_classes": model.num_classes})) is None:
        return [f"class {c}" for c in range(model.num_classes)]
    info = ImageNetInfo(subset)
    lemmas = [description.split(",")[0] for description in info.label_descriptions()]
    count = Counter(lemmas)  # a crane is a bird and a machine
    return [lemma if count[lemma] == 1 else f"{lemma} ({synset})" for lemma, synset in zip(lemmas, info.label_names())]


def _card(path: Path) -> dict:
    """Return what an export of ours says about itself; nothing for a file from elsewhere."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(CARD, "{}"))
    except Exception as error:
        raise ExplainedError(
            f"{path} cannot be read as weights ({_in_one_line(error)}); expected a .safetensors file, "
            f"as train.py --export writes it"
        ) from error


def _read_adapter(folder: Path, hints: Hints) -> tuple[dict, str]:
    """Return an adapter's parameters, under the model's own names, and the timm name of its base."""
    try:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        state = {key.removeprefix(IN_ADAPTER): value for key, value in load_file(folder / ADAPTER_WEIGHTS).items()}
    except Exception as error:  # a missing file, damage, a peft type that this version does not know
        raise ExplainedError(
            f"the adapter in {folder} cannot be read ({_in_one_line(error)}); expected "
            f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, as peft writes them"
        ) from error
    name = hints.model or (base or "").removeprefix("timm/")
    if hints.model is None and not is_timm_name(name):
        raise UsageError(
            f"{folder} names {repr(base) if base else 'nothing'} as its base; expected a timm name: give "
            f"it as --model NAME"
        )
    return state, name


def _in_one_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)  # torch lists every parameter


# What is read of the hints for each kind of RUN; None is a run folder.
READS = {
    None: {"weights"},
    _from_timm: {"weights", "image_size", "class_names"},
    _from_file: {"model", "image_size", "class_names"},
    _from_peft: {"model", "weights", "image_size", "class_names"},
}
