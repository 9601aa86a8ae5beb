"""The state of a training, saved as tensors and JSON in one safetensors file: no pickles."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.errors import ExplainedError, out_of_memory
from models.tensor_files import write_tensors

KINDS = ("now", "best", "ema")


@dataclass
class Position:
    """Where a training stands.

    epoch: the epoch, from 1.
    step: number of its steps that were taken.
    loss, correct, images: sums over these steps of losses, correct predictions and images.
    """

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0


@dataclass
class State:
    """All that the rest of a training depends on.

    trained: the parameters that train, by name.
    optimizer: theirs.
    best: their values in the chosen epoch.
    ema: their exponential moving averages, if asked for.
    history: a row per epoch.
    chosen: number of the epoch to keep, from 1.
    right: whether each held-out image was classified correctly in the most accurate epoch.
    position: where the training stands.
    scaler: of gradients in float16, or None.
    """

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
        """Write everything; an earlier file is replaced once the new one is complete. Raises OSError."""
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
        """Read what `save` wrote; raises ExplainedError where the file is damaged or of another training."""
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
                raise  # the file is complete, and should not be removed
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
        """Set parameters by name; return their previous values."""
        before = {name: self.trained[name].detach().clone() for name in values}
        for name, value in values.items():
            self.trained[name].copy_(value)
        return before
