"""All that the rest of a fit depends on, as tensors and JSON in one safetensors file: no pickles."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import ExplainedError, out_of_memory
from common.files import atomic

KINDS = ("now", "best", "ema")


@dataclass
class Position:
    """Where a fit stands: `step` steps of epoch `epoch` (counted from 1) are taken, with the sums of their losses,
    right predictions and images."""

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0


@dataclass
class State:
    """trained: the parameters that train, by name; best: their values in the chosen epoch; ema: their running means, if
    asked for. history: a row an epoch; chosen: the number of the one to keep; right: of each held-out image, whether it
    was in the most accurate epoch."""

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    chosen: int = 0
    right: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    position: Position = field(default_factory=Position)
    scaler: torch.amp.GradScaler | None = None

    def save(self, path: Path) -> None:
        """Write everything; what stood there before is replaced when the new file is whole. Raises OSError."""
        now = {name: p.detach() for name, p in self.trained.items()}
        tensors = {
            f"{kind}/{name}": value
            for kind, values in zip(KINDS, (now, self.best, self.ema))
            for name, value in values.items()
        }
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": value for key, value in entries.items()}
        tensors["held_out/right"] = self.right
        about = {
            "history": self.history,
            "chosen": self.chosen,
            "position": asdict(self.position),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        write_tensors(tensors, path, {"fit": json.dumps(about)})

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Read what `save` wrote; raises ExplainedError where the file is damaged or of another fit."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["fit"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            now, self.best, self.ema = (
                {key.removeprefix(f"{kind}/"): value for key, value in tensors.items() if key.startswith(f"{kind}/")}
                for kind in KINDS
            )
            for name, parameter in self.trained.items():
                parameter.copy_(now[name])
            self.right = tensors["held_out/right"]
            self.history, self.chosen, self.position = about["history"], about["chosen"], Position(**about["position"])
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if out_of_memory(error):
                raise  # the file is whole, and nobody should remove it
            raise ExplainedError(
                f"{path} is damaged and cannot be continued from; remove it to train from the start"
            ) from error
        device = next(iter(self.trained.values())).device
        self.ema = {name: value.to(device) for name, value in self.ema.items()}
        self._load_optimizer(tensors)
        if self.scaler and about["scaler"]:
            self.scaler.load_state_dict(about["scaler"])

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        entries: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                entries.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})

    @torch.no_grad()
    def put(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put values in the parameters' place; return those that stood there."""
        before = {name: self.trained[name].detach().clone() for name in values}
        for name, value in values.items():
            self.trained[name].copy_(value)
        return before


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; raises OSError."""
    with whole(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """`atomic` for safetensors: what the disk refuses it becomes an OSError, as it is everywhere else."""
    try:
        with atomic(path) as temporary:
            yield temporary
    except SafetensorError as error:
        if "I/O error" in str(error) or "IoError" in str(error):
            raise OSError(None, str(error).split(":", 1)[-1].strip(), str(path)) from error
        raise
