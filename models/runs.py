"""Run folder <-> model: small, self-describing, no pickles."""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from common.errors import ExplainedError, UsageError, out_of_memory
from models.adapters import METHODS, Settings, adapt, plain, timm_model
from models.backbone import BackboneSpec, content_hash, create_backbone, is_head
from models.dora import speed_up_dora
from models.training.resume_state import whole, write_tensors

FORMAT = 1
CONFIG, SUMMARY, RESUME = "config.json", "summary.json", "resume.safetensors"
HEAD, BACKBONE, ADAPTER = "head.safetensors", "backbone.safetensors", "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "train.py export"  # the key of a merged file's metadata

# Where these differ, the same model can still come out: they say how a thing was found, not what it is.
NOT_IDENTITY = {("versions",), ("backbone", "weights"), ("data", "spec"), ("format",)}


@dataclass
class Run:
    """A finished run: the plain timm model in evaluation mode (adapters merged), its config and its summary.

    `config["data"]` says which images it was trained on; a model trained elsewhere has None, and an empty summary.
    """

    folder: Path
    config: dict
    summary: dict
    model: nn.Module

    @property
    def class_names(self) -> list[str]:
        return self.config["class_names"]

    @property
    def label(self) -> str:
        return settings_of(self.config).label()

    @property
    def identity(self) -> str:
        """A SHA-256 that another model, or the same trained on other data, does not share."""
        config = {k: v for k, v in self.config.items() if k != "versions"}
        head = (self.folder / HEAD).read_bytes()
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + head).hexdigest()


def make_config(
    settings: Settings,
    spec: BackboneSpec,
    backbone_hash: str,
    data_config: dict,
    class_names,
    data: dict,
    recipe: dict,
    seed: int,
) -> dict:
    """Return what rebuilding a run needs; everything in it is plain JSON."""
    return json.loads(
        json.dumps(
            {
                "format": FORMAT,
                "method": settings.method,
                "settings": asdict(settings),
                "backbone": {**asdict(spec), "sha256": backbone_hash},
                "data": data,
                "class_names": list(class_names),
                "data_config": data_config,
                "recipe": recipe,
                "seed": seed,
                "versions": {
                    name: importlib.metadata.version(name) for name in ("torch", "torchvision", "timm", "peft")
                },
            }
        )
    )


def settings_of(config: dict) -> Settings:
    """Return the Settings recorded in a config."""
    values = dict(config["settings"])
    values["targets"] = tuple(values["targets"])
    values["blocks"] = None if values["blocks"] is None else tuple(values["blocks"])
    return Settings(**values)


def state_of(folder: Path, config: dict) -> str:
    """Say what lies in an output folder: "new", "finished" or "interrupted" with this very configuration.

    Raises UsageError, listing what differs, when it holds a run of another configuration.
    """
    if not (folder / CONFIG).is_file():
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {folder} is a file; expected a folder for the run")
        return "new"
    differences = differing(read_json(folder / CONFIG), config)
    if differences:
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(differences[:6])}); give another "
            f"--out, or --overwrite to replace it"
        )
    return "finished" if (folder / SUMMARY).is_file() else "interrupted"


def differing(old: dict, new: dict, path: tuple[str, ...] = ()) -> list[str]:
    """List the settings in which two configurations differ, as `name: old -> new`, leaving out what is no identity."""
    rows = []
    for key in sorted(set(old) | set(new)):
        here, a, b = (*path, key), old.get(key), new.get(key)
        if here in NOT_IDENTITY or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            rows += differing(a, b, here)
        else:
            rows.append(f"{'.'.join(here)}: {_short(a)} -> {_short(b)}")
    return rows


def save_trained(folder: Path, model: nn.Module, settings: Settings) -> None:
    """Write what was trained: the head, and the adapter or the whole backbone."""
    method, inner = METHODS[settings.method], timm_model(model)
    state = inner.state_dict()
    head = {key: value for key, value in state.items() if is_head(inner, key)}
    if method.adapter:
        with whole(folder / ADAPTER) as temporary:
            model.save_pretrained(temporary)
    if method.whole:
        write_tensors({key: value for key, value in state.items() if not is_head(inner, key)}, folder / BACKBONE)
    write_tensors(head, folder / HEAD)


def export(run: Run, path: Path) -> None:
    """Write the merged model as one safetensors file that plain timm loads, head included.

    Its metadata holds, as JSON under one key, what names cannot tell: the timm name, the image size, the data config
    and the class names. (One key, because safetensors writes several in no fixed order.)
    """
    backbone = run.config["backbone"]
    card = {
        "model": backbone["name"],
        "image_size": backbone["image_size"],
        "data_config": run.config["data_config"],
        "class_names": run.class_names,
    }
    write_tensors(run.model.state_dict(), path, {CARD: json.dumps(card)})


def load_run(folder: str | Path, weights: str | None = None) -> Run:
    """Rebuild a finished run; `weights` says where the backbone's file lies now, if it was moved.

    Raises UsageError where there is no finished run, ExplainedError where a file is damaged or the backbone is
    not the one that the run was trained on.
    """
    folder = Path(folder)
    config, summary = read_finished(folder)
    return Run(folder, config, summary, plain(load_adapted(folder, config, weights)).eval())


def read_finished(folder: Path) -> tuple[dict, dict]:
    """Return config and summary of a finished run; see `load_run` for what is raised."""
    if not (folder / CONFIG).is_file():
        what = "holds no config.json" if folder.is_dir() else "is no folder"
        raise UsageError(f"{folder} {what}; expected a run folder, as `python train.py --out RUN` writes it")
    if not (folder / SUMMARY).is_file():
        raise UsageError(f"the run in {folder} was interrupted; finish it by giving its train.py command again")
    config, summary = read_json(folder / CONFIG), read_json(folder / SUMMARY)
    if missing := sorted({"backbone", "settings", "class_names", "data", "data_config"} - set(config)):
        raise ExplainedError(f"{folder / CONFIG} was not written by train.py: it lacks {', '.join(missing)}")
    return config, summary


def load_adapted(folder: Path, config: dict, weights: str | None = None) -> nn.Module:
    """Rebuild the model as it was trained, adapters in place."""
    recorded = config["backbone"]
    spec = BackboneSpec(recorded["name"], weights or recorded["weights"], recorded["image_size"])
    model = create_backbone(spec, len(config["class_names"]))
    if content_hash(model) != recorded["sha256"]:
        raise ExplainedError(
            f"{folder} was trained on another backbone than {spec.weights or spec.name} holds "
            f"(SHA-256 {recorded['sha256'][:12]}... recorded, {content_hash(model)[:12]}... found); "
            f"give the original file with --weights"
        )
    settings = settings_of(config)
    for path in (folder / HEAD, folder / BACKBONE, folder / ADAPTER / ADAPTER_WEIGHTS):
        if (
            path.is_file()
        ):  # safetensors would call one that may not be read missing: nobody should train a whole run again
            path.open("rb").close()
    try:
        return _put_on(model, folder, settings)
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())  # torch and peft write several lines
        raise ExplainedError(
            f"the run in {folder} is damaged ({type(error).__name__}: {reason}); train it again with --overwrite"
        ) from error


def _put_on(model: nn.Module, folder: Path, settings: Settings) -> nn.Module:
    method = METHODS[settings.method]
    if method.whole:
        _load_exactly(model, load_file(folder / BACKBONE), head=False)
    if method.adapter:
        adapted = speed_up_dora(with_adapter(model, folder / ADAPTER))  # as in training, to the bit
    else:
        adapted = adapt(model, settings)
    _load_exactly(timm_model(adapted), load_file(folder / HEAD), head=True)
    return adapted


def with_adapter(model: nn.Module, folder: Path) -> PeftModel:
    """Put a saved peft adapter on a model, its names compared both ways; raises as peft and torch do, or ValueError."""
    adapted = PeftModel.from_pretrained(model, folder)
    # a ViT has no embedding layers; looking for them, peft would ask the hub for the base's config
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _check_names(set(expected), set(load_file(folder / ADAPTER_WEIGHTS)))
    return adapted


def _load_exactly(model: nn.Module, state: dict, head: bool) -> None:
    """Load one part, its names compared both ways first."""
    _check_names({key for key in model.state_dict() if is_head(model, key) == head}, set(state))
    model.load_state_dict(state, strict=False)


def _check_names(expected: set[str], found: set[str]) -> None:
    if expected != found:
        raise ValueError(f"parameters missing: {sorted(expected - found)[:3]}, unknown: {sorted(found - expected)[:3]}")


def read_json(path: Path) -> dict:
    """Read a JSON file of ours; raises ExplainedError when it is damaged."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise ExplainedError(f"{path} cannot be read ({error}); remove it or give --overwrite") from error


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:44]}..."
