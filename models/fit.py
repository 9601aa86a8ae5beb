"""Epochs: training, evaluation, the choice of the epoch, and resuming at the last finished one."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from errors import ExplainedError
from files import atomic
from models.features import Features
from models.optim import parameter_groups, warmup_cosine

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Optimisation: AdamW, linear warm-up over a share of all steps, then a cosine to zero.

    layer_decay: factor of the learning rate from each layer to the one before. clip: largest norm of all gradients
    together, 0 for any.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    layer_decay: float = 1.0
    clip: float = 0.0


@dataclass(frozen=True)
class Batches:
    """Batches in a random order that depends on (seed, epoch) alone, or in the given order where `seed` is None.

    `make(indices, epoch)` returns an iterable of (inputs, labels) for the images in that order.
    """

    count: int
    batch_size: int
    make: Callable[[list[int], int], Iterable[Batch]]
    seed: int | None = None

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def epoch(self, epoch: int) -> Iterable[Batch]:
        if self.seed is None:
            order = range(self.count)
        else:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return self.make([int(i) for i in order], epoch)


@dataclass(frozen=True)
class Predictions:
    """Per image, shape (N,): true class, predicted class (int64), probability of the true class, cross-entropy,
    probability of the predicted class, and how many classes are more probable than the true one (int64)."""

    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@dataclass
class Fit:
    """History (a row an epoch or a penalty) and the number of the chosen one, counted from 1, whose weights the model
    holds."""

    history: list[dict] = field(default_factory=list)
    chosen: int = 0


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> Predictions:
    """Evaluate a model without changing it but for its mode, which becomes evaluation."""
    model.eval()
    columns: list[tuple[np.ndarray, ...]] = []
    for inputs, labels in batches:
        log_probability = F.log_softmax(model(inputs.to(device)).float(), dim=-1).cpu()
        true, (best, predicted) = log_probability.gather(1, labels[:, None])[:, 0], log_probability.max(1)
        rank = (log_probability > true[:, None]).sum(1)
        columns.append(tuple(value.numpy() for value in (labels, predicted, true.exp(), -true, best.exp(), rank)))
    return Predictions(*map(np.concatenate, zip(*columns)))


def fit(
    model: nn.Module,
    train: Batches,
    evaluations: dict[str, Batches],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int = 0,
    resume: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
    progress: bool = False,
) -> Fit:
    """Train what requires grad; after every epoch evaluate; keep the epoch that is best on `held_out`.

    `evaluations` holds "held_out", on which the epoch is chosen (accuracy, then loss), and others that are only
    reported. The state after every epoch goes to `resume`, so that a killed fit continues there and ends with
    the same bits. Raises ExplainedError at the first loss that is not finite.
    """
    model.to(device)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(recipe.epochs * len(train), recipe.warmup))
    state = _State(trained, optimizer, schedule)
    if resume is not None and resume.is_file():
        state.load(resume)
        print(f"continuing after epoch {state.fit.history[-1]['epoch']} of {recipe.epochs} ({resume})")
    for epoch in range(len(state.fit.history) + 1, recipe.epochs + 1):
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout, where a model has it
        row = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
        row |= _train_epoch(model, train, epoch, optimizer, schedule, recipe, device, progress)
        for name, batches in evaluations.items():
            predictions = predict(model, batches.epoch(epoch), device)
            row |= {f"{name}_loss": float(predictions.loss.mean()), f"{name}_accuracy": predictions.accuracy}
        state.finish_epoch(row)
        if resume is not None:
            state.save(resume)
        report(row)
    state.restore_best()
    return state.fit


def _train_epoch(model, train: Batches, epoch, optimizer, schedule, recipe, device, progress) -> dict:
    model.train()
    loss_sum = correct = count = 0.0
    bar = tqdm(train.epoch(epoch), total=len(train), desc=f"epoch {epoch}/{recipe.epochs}", unit="batch", delay=2,
               leave=False, disable=None if progress else True)
    for step, (inputs, labels) in enumerate(bar):
        inputs, labels = inputs.to(device), labels.to(device)
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise ExplainedError(f"the loss became {loss.item()} in epoch {epoch}, batch {step}; the last finished epoch "
                                 f"is kept; try a smaller --learning-rate with another --out")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], recipe.clip)
        optimizer.step()
        schedule.step()
        # the curves show plain cross-entropy, so that train, held-out and validation can be compared
        loss_sum += F.cross_entropy(logits.detach(), labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
        bar.set_postfix(loss=f"{loss_sum / count:.3f}", accuracy=f"{correct / count:.3f}", refresh=False)
    return {"train_loss": loss_sum / count, "train_accuracy": correct / count}


class _State:
    """All that the rest of a fit depends on, as tensors and JSON: no pickles."""

    def __init__(self, trained: dict[str, nn.Parameter], optimizer, schedule) -> None:
        self.trained, self.optimizer, self.schedule, self.fit = trained, optimizer, schedule, Fit()
        self.best: dict[str, torch.Tensor] = {}

    def finish_epoch(self, row: dict) -> None:
        self.fit.history.append(row)
        best = max(self.fit.history, key=lambda r: (r["held_out_accuracy"], -r["held_out_loss"]))
        if best is row:
            self.fit.chosen = row["epoch"]
            self.best = {name: p.detach().cpu().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def restore_best(self) -> None:
        for name, value in self.best.items():
            self.trained[name].copy_(value)

    def save(self, path: Path) -> None:
        tensors = {f"now/{name}": p.detach().cpu() for name, p in self.trained.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": value.detach().cpu() for key, value in entries.items()}
        about = {"history": self.fit.history, "chosen": self.fit.chosen,
                 "steps": self.schedule.state_dict()["last_epoch"]}
        with atomic(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"fit": json.dumps(about)})

    @torch.no_grad()
    def load(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["fit"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ExplainedError(f"{path} is damaged and cannot be continued from; remove it to train from the "
                                 f"start") from error
        for name, parameter in self.trained.items():
            parameter.copy_(tensors[f"now/{name}"])
        self.best = {key.removeprefix("best/"): v for key, v in tensors.items() if key.startswith("best/")}
        self._load_optimizer(tensors)
        self.fit = Fit(about["history"], about["chosen"])
        self.schedule.last_epoch = about["steps"]
        self.schedule._step_count = about["steps"] + 1
        for group, rate in zip(self.optimizer.param_groups, self._rates()):
            group["lr"] = rate
        self.schedule._last_lr = self._rates()

    def _rates(self) -> list[float]:
        return [base * f(self.schedule.last_epoch) for base, f in zip(self.schedule.base_lrs, self.schedule.lr_lambdas)]

    def _load_optimizer(self, tensors: dict[str, torch.Tensor]) -> None:
        entries: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                entries.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})


def stored_batches(views: Sequence[Features], batch_size: int, seed: int | None = None) -> Batches:
    """Return batches of features or tokens that lie in a cache, read as they are needed: one view after another of the
    same images, an epoch each."""

    def make(indices: list[int], epoch: int) -> Iterator[Batch]:
        view = views[(epoch - 1) % len(views)]
        for chunk in torch.tensor(indices).split(batch_size):
            yield view.rows(chunk), view.labels[chunk]

    return Batches(len(views[0]), batch_size, make, seed)


def feature_batches(inputs: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int | None = None) -> Batches:
    """Return batches of tensors that lie in memory, as for a linear probe on cached features."""

    def make(indices: list[int], epoch: int) -> Iterator[Batch]:
        for chunk in torch.tensor(indices).split(batch_size):
            yield inputs[chunk], labels[chunk]

    return Batches(len(inputs), batch_size, make, seed)
