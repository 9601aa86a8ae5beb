"""What a RUN on the command line names, and all that can be refused before a model is loaded. Imports no torch.

A RUN is a run folder that train.py wrote, or a model trained elsewhere: a merged weights file, a peft folder, or the
name of a pretrained model.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from common.errors import UsageError, in_one_line
from models.options import ExternalOptions

CONFIG, SUMMARY = "config.json", "summary.json"  # of a run folder
ADAPTER_CONFIG = "adapter_config.json"  # of a peft folder
RUN_FOLDER, FILE, PEFT, NAME = "run folder", "merged file", "peft folder", "pretrained model"
# Kind of RUN -> the options that are used for it.
USED = {
    RUN_FOLDER: {"weights"},
    NAME: {"weights", "image_size", "class_names"},
    FILE: {"model", "image_size", "class_names"},
    PEFT: {"model", "weights", "image_size", "class_names"},
}


def source_of(given: str) -> str:
    """Return what a RUN is, a key of USED; NAME where only timm can tell whether there is such a model."""
    path = Path(given)
    if path.is_file():
        return FILE
    if path.is_dir():
        return PEFT if (path / ADAPTER_CONFIG).is_file() else RUN_FOLDER
    return NAME if path.name == given else RUN_FOLDER  # a name has no folder before it


def check_sources(given: Sequence[str], options: ExternalOptions) -> None:
    """Raise UsageError for a RUN that does not exist or is not finished, and for options that do not fit.

    given: each RUN.
    options: what the user says about models trained elsewhere.
    """
    check_external_options(given, options)
    for one in given:
        if source_of(one) == RUN_FOLDER:
            check_finished(Path(one))
    check_weights_file(options.weights)
    if options.class_names is not None:
        read_names(options.class_names)


def check_external_options(given: Sequence[str], options: ExternalOptions) -> None:
    """Raise UsageError where an option was given that is used for none of the models."""
    used = set().union(*(USED[source_of(one)] for one in given))
    unused = [
        f"--{f.name.replace('_', '-')}"
        for f in fields(options)
        if getattr(options, f.name) is not None and f.name not in used
    ]
    if unused:
        raise UsageError(f"{', '.join(unused)} is used for none of {', '.join(given)}; leave it out")


def check_finished(folder: Path) -> None:
    """Raise UsageError unless a folder holds a finished run."""
    if not (folder / CONFIG).is_file():
        what = "holds no config.json" if folder.is_dir() else "is not a folder"
        raise UsageError(f"{folder} {what}; expected a run folder, as `python train.py --out RUN` writes it")
    if not (folder / SUMMARY).is_file():
        raise UsageError(f"the run in {folder} was interrupted; finish it by giving its train.py command again")


def check_weights_file(weights: str | None) -> None:
    """Raise UsageError where --weights does not name a file; None is always fine."""
    if weights is not None and not Path(weights).is_file():
        raise UsageError(f"--weights {weights} is not a file; expected a .safetensors or .pth file of the backbone")


def read_names(path: str) -> list[str]:
    """Read class names: a text file, one a line, or a JSON list. Raises UsageError when it is neither."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else list(map(str.strip, text.strip().splitlines()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--class-names {path} cannot be read ({in_one_line(error)}); expected a text file with one "
            f"name per line, or a JSON list"
        ) from error
    if odd := [name for name in names if not isinstance(name, str) or not name]:
        raise UsageError(
            f"--class-names {path} holds {odd[0]!r}, which is not a name; expected one name per line, or a "
            f"JSON list of names"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(
            f"--class-names {path} names {', '.join(twice[:3])} more than once; give every class a name of its own"
        )
    return names
