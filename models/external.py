"""Load models that train.py did not write: a timm name, a merged weights file, a plain peft folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset

from common.errors import ExplainedError, UsageError, in_one_line
from models.adapters import ADAPTER_WEIGHTS, load_adapter, merged
from models.backbone import (
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
from models.options import BUNDLED, BackboneSpec, ExternalOptions
from models.runs import CARD, Run, load_run
from models.sources import ADAPTER_CONFIG, FILE, NAME, PEFT, RUN_FOLDER, read_names, source_of
from models.types import TimmModel

NO_OPTIONS = ExternalOptions()
IN_ADAPTER = "base_model.model."  # what peft writes before a model's own parameter names


@dataclass(frozen=True)
class ExternalConfig:
    """What is known of a model that train.py did not write; names are those of RunConfig.

    name: as it was given, the last part of a path.
    class_names: in the order of the head's outputs.
    data_config: timm's data config.
    data, seed: unknown, None.
    """

    name: str
    class_names: tuple[str, ...]
    data_config: dict[str, Any]
    data: None = None
    seed: None = None

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON."""
        return asdict(self) | {"class_names": list(self.class_names)}


@dataclass
class ExternalModel(Run):
    """A model that no run folder describes, labelled by what was given for it; its summary is empty."""

    config: ExternalConfig  # type: ignore[assignment]

    @property
    def label(self) -> str:
        """The name that was given."""
        return self.config.name

    @property
    def identity(self) -> str:
        """The SHA-256 of its configuration and its parameters."""
        config = json.dumps(self.config.to_json())
        return hashlib.sha256(f"{config} {content_hash(self.model, head=True)}".encode()).hexdigest()


def load_model(given: str, options: ExternalOptions = NO_OPTIONS) -> Run:
    """Load a RUN of any kind: a run folder, a timm name, a merged .safetensors or .pth file, a plain peft folder.

    given: the folder, file or name.
    options: what models trained elsewhere do not say themselves.
    Raises UsageError where there is no such model or an option is missing (its line says which), and ExplainedError
    where a file is damaged or does not fit.
    """
    load = _loader(given)
    return load_run(given, options.weights) if load is None else load(given, options)


def check_known(given: Sequence[str]) -> None:
    """Raise UsageError where one of several RUNs could only be a pretrained model, and timm has none of this name."""
    for one in given:
        _loader(one)


def is_pretrained(given: str) -> bool:
    """Tell whether a RUN is the name of a pretrained model and not a path."""
    return not Path(given).exists() and (given == BUNDLED or is_timm_name(given))


def _loader(given: str) -> Callable[[str, ExternalOptions], Run] | None:
    """Return what loads a model trained elsewhere, or None for a run folder."""
    source = source_of(given)
    if source == NAME and not is_pretrained(given):
        raise UsageError(
            f"{given} is not a folder, a file or a timm name; expected a run folder, a merged file, a "
            f"peft folder or a timm name; {near_names(given)}"
        )
    return LOADERS[source]


def _from_timm(name: str, options: ExternalOptions) -> Run:
    """Load a pretrained model with its own head and the class names that timm knows for it."""
    model = create_with_head(BackboneSpec(name, options.weights, options.image_size))
    return _run(name, name, model, _pretrained_names(model, options), model_data_config(model))


def _from_file(path: str, options: ExternalOptions) -> Run:
    """Load a merged model; options override what the file's metadata says, as `runs.export` writes it."""
    card = _card(Path(path))
    name = options.model or card.get("model")
    if name is None:
        raise UsageError(f"{path} does not say what model it is; give --model NAME, the timm name of its architecture")
    if name != card.get("model"):
        card = {}  # it describes another model
    model = create_with_head(BackboneSpec(name, path, options.image_size or card.get("image_size")))
    names = read_names(options.class_names) if options.class_names else card.get("class_names")
    config = model_data_config(model)
    config = {**config, **card.get("data_config", {}), "input_size": config["input_size"]}
    return _run(path, Path(path).stem, model, _as_many(names, model, path, options), config)


def _from_peft(folder: str, options: ExternalOptions) -> Run:
    """Load an adapter on its base and merge it; the head is the adapter's, or else that of the base's file."""
    state, name = _read_adapter(Path(folder), options)
    spec = BackboneSpec(name, options.weights, options.image_size)
    blank = architecture(spec)
    heads = {key for key in blank.state_dict() if is_head(blank, key)}
    if heads and heads <= set(state):
        model = create_backbone(spec, head_classes(blank, state) or 0)
    elif options.weights is not None:
        model = create_with_head(spec)
    else:
        raise UsageError(
            f"{folder} holds no trained head: its adapter was saved without modules_to_save; give the "
            f"base's file with its head as --weights FILE (or, of train.py's runs, the run's own folder)"
        )
    try:
        model = merged(load_adapter(model, Path(folder))).eval()
    except Exception as error:  # peft has many tuners, and each raises its own kind
        raise ExplainedError(
            f"the adapter in {folder} cannot be merged into {name} ({in_one_line(error)}); give the "
            f"base that it was trained on with --model"
        ) from error
    names = read_names(options.class_names) if options.class_names else None
    return _run(
        folder, Path(folder).resolve().name, model, _as_many(names, model, folder, options), model_data_config(model)
    )


def _run(given: str, name: str, model: TimmModel, class_names: list[str], data_config: dict) -> Run:
    if len(class_names) < 2:
        raise UsageError(
            f"the head in {given} has one class; expected a classifier of two or more, whose classes can be told apart"
        )
    return ExternalModel(Path(given), ExternalConfig(name, tuple(class_names), data_config), {}, model)


def _as_many(names: list[str] | None, model: TimmModel, given: str, options: ExternalOptions) -> list[str]:
    """Return the names; raise UsageError unless there is one for each class of the head."""
    if names is None:
        raise UsageError(
            f"{given} does not name its {model.num_classes} classes; give --class-names FILE, one name a "
            f"line in the head's order"
        )
    if len(names) != model.num_classes:
        source = f"--class-names {options.class_names}" if options.class_names else f"the metadata of {given}"
        raise UsageError(
            f"{source} has {len(names)} names, but the head in {given} has {model.num_classes} classes; "
            f"give one name a class, in the head's order"
        )
    return names


def _pretrained_names(model: TimmModel, options: ExternalOptions) -> list[str]:
    """Return the names given, or else what timm calls a pretrained model's classes, or else their numbers."""
    if options.class_names:  # --weights may hold a custom head with as many classes as timm's
        return _as_many(read_names(options.class_names), model, model.pretrained_cfg["architecture"], options)
    if (subset := infer_imagenet_subset({"num_classes": model.num_classes})) is None:
        return [f"class {c}" for c in range(model.num_classes)]
    info = ImageNetInfo(subset)
    lemmas = [description.split(",")[0] for description in info.label_descriptions()]
    count = Counter(lemmas)  # a crane is a bird and a machine
    return [lemma if count[lemma] == 1 else f"{lemma} ({synset})" for lemma, synset in zip(lemmas, info.label_names())]


def _card(path: Path) -> dict:
    """Return the metadata that `runs.export` writes into a file; nothing for other files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(CARD, "{}"))
    except Exception as error:
        raise ExplainedError(
            f"{path} cannot be read as weights ({in_one_line(error)}); expected a .safetensors file, "
            f"as train.py --export writes it"
        ) from error


def _read_adapter(folder: Path, options: ExternalOptions) -> tuple[dict, str]:
    """Return an adapter's parameters, under the model's own names, and the timm name of its base."""
    from peft import PeftConfig

    try:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        state = {key.removeprefix(IN_ADAPTER): value for key, value in load_file(folder / ADAPTER_WEIGHTS).items()}
    except Exception as error:  # a missing file, damage, a peft type that this version does not know
        raise ExplainedError(
            f"the adapter in {folder} cannot be read ({in_one_line(error)}); expected "
            f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, as peft writes them"
        ) from error
    name = options.model or (base or "").removeprefix("timm/")
    if options.model is None and not is_timm_name(name):
        raise UsageError(
            f"{folder} names {repr(base) if base else 'nothing'} as its base; expected a timm name: give "
            f"it as --model NAME"
        )
    return state, name


# What loads each kind of model trained elsewhere; None for run folders.
LOADERS: dict[str, Callable[[str, ExternalOptions], Run] | None] = {
    RUN_FOLDER: None,
    NAME: _from_timm,
    FILE: _from_file,
    PEFT: _from_peft,
}
