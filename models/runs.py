"""Run folders: write what was trained, and rebuild the model from it. Small, self-describing, no pickles."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from common.errors import ExplainedError, UsageError, out_of_memory
from models.adapters import ADAPTER_WEIGHTS, adapt, load_adapter, merged, timm_model
from models.backbone import content_hash, create_backbone, is_head
from models.methods import MethodSettings
from models.run_config import RunConfig, differing
from models.sources import CONFIG, SUMMARY, check_finished
from models.tensor_files import atomic_tensors, check_names, write_tensors
from models.types import TimmModel

RESUME, HEAD, BACKBONE, ADAPTER = "resume.safetensors", "head.safetensors", "backbone.safetensors", "adapter"
CARD = "train.py export"  # the key of a merged file's metadata


@dataclass
class Run:
    """A finished run.

    folder: where it lies.
    config: its configuration.
    summary: the content of summary.json.
    model: the plain timm model in evaluation mode, adapters merged.
    """

    folder: Path
    config: RunConfig
    summary: dict[str, Any]
    model: TimmModel

    @property
    def class_names(self) -> list[str]:
        """The class names in the order of the head's outputs."""
        return list(self.config.class_names)

    @property
    def label(self) -> str:
        """The method in its text form."""
        return self.config.settings.label()

    @property
    def identity(self) -> str:
        """A SHA-256 that another model, or the same trained on other data, does not share."""
        config = {k: v for k, v in self.config.to_json().items() if k != "versions"}
        head = (self.folder / HEAD).read_bytes()
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + head).hexdigest()


def state_of(folder: Path, config: RunConfig) -> str:
    """Return the state of an output folder for a configuration: "new", "finished" or "interrupted".

    Raises UsageError, listing what differs, where it holds a run of another configuration, and ExplainedError where
    its config.json is damaged or of another format.
    """
    if not (folder / CONFIG).is_file():
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {folder} is a file; expected a folder for the run")
        return "new"
    found = read_config(folder)
    if differences := differing(found.to_json(), config.to_json()):
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(differences[:6])}); give another "
            f"--out, or --overwrite to replace it"
        )
    return "finished" if (folder / SUMMARY).is_file() else "interrupted"


def save_trained(folder: Path, model: TimmModel, settings: MethodSettings) -> None:
    """Write what was trained: the head, and the adapter or the whole backbone. Raises OSError.

    model: as it was trained, adapters in place.
    """
    inner = timm_model(model)
    state = inner.state_dict()
    head = {key: value for key, value in state.items() if is_head(inner, key)}
    if settings.kind.adapter:
        with atomic_tensors(folder / ADAPTER) as temporary:
            model.save_pretrained(temporary)
    if settings.kind.whole:
        write_tensors({key: value for key, value in state.items() if not is_head(inner, key)}, folder / BACKBONE)
    write_tensors(head, folder / HEAD)


def export(run: Run, path: Path) -> None:
    """Write the merged model as one safetensors file that plain timm loads, head included. Raises OSError.

    Its metadata holds, as JSON under one key, what parameter names do not say: the timm name, the image size, the data
    config and the class names. (One key, because safetensors writes several in no fixed order.)
    """
    card = {
        "model": run.config.backbone.name,
        "image_size": run.config.backbone.image_size,
        "data_config": run.config.data_config,
        "class_names": run.class_names,
    }
    write_tensors(run.model.state_dict(), path, {CARD: json.dumps(card)})


def load_run(folder: str | Path, weights: str | None = None) -> Run:
    """Rebuild a finished run.

    weights: the present place of the backbone's weights file, if it was moved.
    Raises UsageError where there is no finished run, ExplainedError where a file is damaged or the backbone is
    not the one that the run was trained on.
    """
    folder = Path(folder)
    config, summary = read_finished(folder)
    return Run(folder, config, summary, merged(load_adapted(folder, config, weights)).eval())


def read_finished(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Return configuration and summary of a finished run; raises as `load_run` does."""
    check_finished(folder)
    return read_config(folder), read_json(folder / SUMMARY)


def read_config(folder: Path) -> RunConfig:
    """Return the configuration of a run folder; raises ExplainedError where it is damaged or of another format."""
    return RunConfig.from_json(read_json(folder / CONFIG), folder / CONFIG)


def load_adapted(folder: Path, config: RunConfig, weights: str | None = None) -> TimmModel:
    """Rebuild the model as it was trained, adapters in place; see `load_run`."""
    spec = replace(config.backbone, weights=weights or config.backbone.weights)
    model = create_backbone(spec, len(config.class_names))
    if (found := content_hash(model)) != spec.sha256:
        raise ExplainedError(
            f"{folder} was trained on another backbone than {spec.weights or spec.name} holds "
            f"(SHA-256 {spec.sha256[:12]}... recorded, {found[:12]}... found); give the original file with --weights"
        )
    for path in (folder / HEAD, folder / BACKBONE, folder / ADAPTER / ADAPTER_WEIGHTS):
        if path.is_file():  # raises PermissionError, where safetensors would say that there is no such file
            path.open("rb").close()
    try:
        return _put_on(model, folder, config.settings)
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())  # torch and peft write several lines
        raise ExplainedError(
            f"the run in {folder} is damaged ({type(error).__name__}: {reason}); train it again with --overwrite"
        ) from error


def _put_on(model: TimmModel, folder: Path, settings: MethodSettings) -> TimmModel:
    if settings.kind.whole:
        _load_exactly(model, load_file(folder / BACKBONE), head=False)
    if settings.kind.adapter:
        from models.dora import speed_up_dora

        adapted = speed_up_dora(load_adapter(model, folder / ADAPTER))  # as in training, to the bit
    else:
        adapted = adapt(model, settings)
    _load_exactly(timm_model(adapted), load_file(folder / HEAD), head=True)
    return adapted


def _load_exactly(model: TimmModel, state: dict, head: bool) -> None:
    """Load the head, or all but the head; names are compared both ways first."""
    check_names({key for key in model.state_dict() if is_head(model, key) == head}, set(state))
    model.load_state_dict(state, strict=False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; raises ExplainedError where it is damaged."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it does not hold a JSON object")
        return content
    except (OSError, ValueError) as error:
        raise ExplainedError(f"{path} cannot be read ({error}); remove it or give --overwrite") from error
