"""What a run's config.json holds: all that rebuilding the run needs, and all that its result depends on."""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import ExplainedError
from models.methods import MethodSettings
from models.options import BackboneSpec

FORMAT = 1
PACKAGES = ("torch", "torchvision", "timm", "peft")
# Entries that say where something was found or who wrote it: runs that differ in these alone are the same run.
NOT_COMPARED = {("versions",), ("backbone", "weights"), ("data", "spec"), ("format",)}


@dataclass(frozen=True)
class RecordedBackbone(BackboneSpec):
    """The backbone that a run started from.

    sha256: of its parameters without the head, see `models.backbone.content_hash`.
    """

    sha256: str = ""


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run; equal configurations give equal runs.

    format: version of the run folder's layout.
    method: name of the method, as in `settings`.
    settings: the method with its settings.
    backbone: the pretrained model, its weights and image size.
    data: the options of the data set, its fingerprint among them.
    class_names: in the order of the head's outputs.
    data_config: timm's data config: input size, interpolation, crop, mean and standard deviation.
    recipe: the settings of the optimisation and of the augmentation.
    seed: of initialisation, order and augmentation.
    versions: of the packages that trained the run.
    """

    format: int
    method: str
    settings: MethodSettings
    backbone: RecordedBackbone
    data: dict[str, Any]
    class_names: tuple[str, ...]
    data_config: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return record | {
            "settings": self.settings.record(),
            "backbone": asdict(self.backbone),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any], source: Path) -> "RunConfig":
        """Return the configuration that config.json holds.

        record: the content of the file.
        source: the file, for messages.
        Raises ExplainedError for another format, and for missing or unknown entries.
        """
        if record.get("format", FORMAT) != FORMAT:
            raise ExplainedError(
                f"{source} has format {record['format']}, and this version reads format {FORMAT}; train the run again "
                f"with --overwrite, or use the version that wrote it"
            )
        if problem := _entries(record, cls) or _entries(record["backbone"], RecordedBackbone, "backbone."):
            raise ExplainedError(f"{source} is not a configuration of train.py: it {problem}; train the run again")
        try:
            settings = MethodSettings.of_record(record["settings"])
        except ExplainedError as error:
            raise ExplainedError(
                f"{source} is not a configuration of train.py: {error}; train the run again"
            ) from error
        return cls(
            **record
            | {
                "settings": settings,
                "backbone": RecordedBackbone(**record["backbone"]),
                "class_names": tuple(record["class_names"]),
            }
        )


def make_config(
    settings: MethodSettings,
    backbone: BackboneSpec,
    backbone_hash: str,
    data_config: dict[str, Any],
    class_names: Sequence[str],
    data: dict[str, Any],
    recipe: dict[str, Any],
    seed: int,
) -> RunConfig:
    """Return the configuration of a new run, with the versions of the installed packages; see RunConfig.

    backbone_hash: the SHA-256 of the backbone's content.
    """
    record = {
        "format": FORMAT,
        "method": settings.method,
        "settings": settings.record(),
        "backbone": {**asdict(backbone), "sha256": backbone_hash},
        "data": data,
        "class_names": list(class_names),
        "data_config": data_config,
        "recipe": recipe,
        "seed": seed,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return RunConfig.from_json(json.loads(json.dumps(record)), Path("config.json"))  # as it is when it is read back


def differing(old: dict[str, Any], new: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """List the entries in which two configurations differ, as `name: old -> new`; NOT_COMPARED are left out.

    path: the names above these entries.
    """
    rows = []
    for key in sorted(set(old) | set(new)):
        here, a, b = (*path, key), old.get(key), new.get(key)
        if here in NOT_COMPARED or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            rows += differing(a, b, here)
        else:
            rows.append(f"{'.'.join(here)}: {_short(a)} -> {_short(b)}")
    return rows


def _entries(record: Any, kind: type, prefix: str = "") -> str:
    """Return what is wrong with the names of a record's entries, or "" where they are those of a dataclass."""
    expected = {field.name for field in fields(kind)}
    found = set(record) if isinstance(record, dict) else set()
    problems = {"lacks": expected - found, "has the unknown": found - expected}
    return " and ".join(
        f"{what} {', '.join(prefix + name for name in sorted(names))}" for what, names in problems.items() if names
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:44]}..."
