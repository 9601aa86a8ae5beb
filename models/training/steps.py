"""The optimiser steps of a training: batches in parts, several processes, mixed precision, and saved states."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from common.devices import seed_generators
from common.errors import ExplainedError
from models.training.loading import Batch
from models.training.mixing import Mixing, mixed_seed
from models.training.optimizer import parameter_groups, warmup_cosine
from models.training.process_group import ProcessGroup
from models.training.recipe import PRECISIONS, Checkpointing, Recipe
from models.training.resume_state import State
from models.training.sampling import Batches, deal


@dataclass
class TrainingSteps:
    """The steps of a training, taken by one of the processes that share it; see `models.training.loop.fit`."""

    model: nn.Module
    train: Batches
    recipe: Recipe
    device: torch.device
    seed: int
    class_count: int
    class_weights: Tensor | None
    checkpointing: Checkpointing
    progress: bool
    group: ProcessGroup

    def __post_init__(self) -> None:
        model, recipe = self.model.to(self.device), self.recipe
        self.accelerator = accelerator(recipe.precision, self.device)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay)
        )
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.factor = warmup_cosine(recipe.epochs * len(self.train), recipe.warmup)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.state = State(trained, optimizer, scaler=self.accelerator.scaler)
        if recipe.ema:
            self.state.ema = {name: p.detach().clone() for name, p in trained.items()}
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        # not accelerate's `prepare_model`: its autocast would stay with the model, and evaluate in half precision
        own = [self.device] if self.device.type == "cuda" else None
        self.shared: Any = DistributedDataParallel(model, device_ids=own) if self.group.count > 1 else model
        self.class_weights = None if self.class_weights is None else self.class_weights.to(self.device)
        self.mixing = Mixing(recipe, self.class_count) if recipe.mixup or recipe.cutmix else None
        self.seconds, self.waiting, self.saved = 0.0, 0.0, time.monotonic()

    def bar(self) -> tqdm:
        """Return the progress bar of all epochs, which starts where the state stands."""
        total = self.recipe.epochs * self.train.count
        position = self.state.position
        done = len(self.state.history) * self.train.count + position.step * self.train.batch_size
        hidden = None if self.progress and self.group.first else True
        self.shown = tqdm(total=total, initial=min(done, total), unit="image", delay=2, leave=False, disable=hidden)
        return self.shown

    def epoch(self) -> dict:
        """Train the rest of the epoch that the state stands in; return its row."""
        position = self.state.position
        steps = self.train.steps(position.epoch)[position.step :]
        row = {"epoch": position.epoch, "learning_rate": max(self._rates(0))}
        self.model.train()
        plan = [self._own_parts(step) for step in steps]
        loaded = [part or step[:1] for step, parts in zip(steps, plan) for part in parts]
        batches = iter(self.train.make(loaded, position.epoch))
        for step, parts in zip(steps, plan):
            self._step(step, parts, batches)
        return row | {
            "train_loss": position.loss / position.images,
            "train_accuracy": position.correct / position.images,
        }

    def _own_parts(self, step: list[int]) -> list[list[int]]:
        """Return this process's images of a step, in as many parts as are accumulated; a part may be empty."""
        parts = self.group.count * self.recipe.accumulate
        return [deal(step, self.group.rank + self.group.count * part, parts) for part in range(self.recipe.accumulate)]

    def _rates(self, step: int) -> list[float]:
        """Return the learning rate of each parameter group in a step of this epoch."""
        factor = self.factor((self.state.position.epoch - 1) * len(self.train) + step)
        return [rate * factor for rate in self.rates]

    def _step(self, step: list[int], parts: list[list[int]], batches: Iterator[Batch]) -> None:
        """Take one optimiser step; the state moves on only when losses and gradients are finite."""
        start, position = time.monotonic(), self.state.position
        for group, rate in zip(self.state.optimizer.param_groups, self._rates(position.step)):
            group["lr"] = rate
        sums, waited = self._gradients(len(step), parts, batches)
        late = time.monotonic() - self.saved > self.checkpointing.save_every
        found = self.group.all_gather((sums.tolist(), late))
        total = np.sum([values for values, _ in found], axis=0)
        self._refuse_step_unless_finite("loss", total[0], step)
        norm = self.accelerator.clip_grad_norm_(list(self.state.trained.values()), self.recipe.clip or math.inf)
        scaler = self.accelerator.scaler  # skips such steps by itself, and goes on with half the scale
        if not scaler or scaler.get_scale() < 1:
            self._refuse_step_unless_finite("gradient's norm", float(norm), step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        position.step, position.loss = position.step + 1, position.loss + total[0]
        position.correct, position.images = position.correct + total[1], position.images + total[2]
        # the first process's clock decides; the end of the epoch has a state of its own
        if found[0][1] and position.step < len(self.train) and self._is_finite():
            self.save()
        self.seconds, self.waiting = self.seconds + time.monotonic() - start, self.waiting + waited
        self._show(len(step))

    def _gradients(self, step_size: int, parts: list[list[int]], batches: Iterator[Batch]) -> tuple[np.ndarray, float]:
        """Accumulate the gradients of this process's parts; return their sums, see `_part`, and seconds of waiting."""
        position, sums, waited = self.state.position, np.zeros(3), 0.0
        for number, part in enumerate(parts):
            asked = time.monotonic()
            inputs, labels = next(batches)
            waited += time.monotonic() - asked
            seed = mixed_seed(self.seed, position.epoch, position.step, number, self.group.rank)
            seed_generators(seed, self.device)
            last = number == len(parts) - 1
            with nullcontext() if last or self.group.count == 1 else self.shared.no_sync():
                sums += self._part(inputs.to(self.device), labels.to(self.device), bool(part), step_size, seed)
        return sums, waited

    def _part(self, inputs: Tensor, labels: Tensor, counts: bool, step_size: int, seed: int) -> np.ndarray:
        """Run the forward and backward pass of one part; return its sums of losses, correct predictions and images.

        counts: False for a process without an image of its own, which takes part with another's, of weight 0: all have
            to meet in the gradients.
        """
        targets: Tensor | None = None
        if self.mixing:
            inputs, targets = self.mixing(inputs, labels, seed)
        with self.accelerator.autocast():
            logits = self.shared(inputs)
        logits = logits.float()
        losses = self._losses(logits, labels, targets)
        # gradients are averaged over processes: the sum over all of a step's images, divided by their number
        self.accelerator.backward(losses.sum() * (float(counts) * self.group.count / step_size))
        if not counts:
            return np.zeros(3)
        # curves show plain cross-entropy, so that train, held-out and validation can be compared
        plain = F.cross_entropy(logits.detach(), labels, reduction="sum").item()
        correct = (logits.argmax(1) == (labels if targets is None else targets.argmax(1))).sum().item()
        trained_loss = losses.detach().sum().item()
        return np.array([plain if np.isfinite(trained_loss) else trained_loss, correct, len(labels)])

    def _losses(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        if targets is None:
            weight = 1.0 if self.class_weights is None else self.class_weights[labels]
            smoothing = self.recipe.label_smoothing
            return weight * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        weight = 1.0 if self.class_weights is None else targets @ self.class_weights
        return weight * -(targets * F.log_softmax(logits, -1)).sum(-1)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the exponential moving average; early on it is the mean of few steps, as in timm."""
        if self.state.ema:
            taken = (self.state.position.epoch - 1) * len(self.train) + self.state.position.step
            decay = min(self.recipe.ema, (1 + taken) / (10 + taken))
            for name, mean in self.state.ema.items():
                mean.lerp_(self.state.trained[name].detach(), 1 - decay)

    def _show(self, images: int) -> None:
        position = self.state.position
        self.shown.update(images)
        self.shown.set_postfix(
            loss=f"{position.loss / position.images:.3f}",
            accuracy=f"{position.correct / position.images:.3f}",
            epoch=position.epoch,
            refresh=False,
        )

    def _refuse_step_unless_finite(self, what: str, value: float, step: list[int]) -> None:
        if np.isfinite(value):
            return
        if self._is_finite():  # otherwise the state that was saved before is better
            self.save()
        position = self.state.position
        names = ", ".join(dict.fromkeys(map(self.train.name, step)))  # sampling may draw one twice
        self._refuse(f"the {what} became {value} in epoch {position.epoch}, step {position.step + 1} (images: {names})")

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.state.trained.values())

    def refuse_unless_finite(self, row: dict) -> None:
        """Raise ExplainedError where a loss of an epoch's evaluation is not finite; nothing is saved of that epoch."""
        for name, value in row.items():
            if name.endswith("_loss") and not np.isfinite(value):
                self._refuse(f"{name} became {value} after epoch {row['epoch']}")

    def _refuse(self, what: str) -> NoReturn:
        resume = self.checkpointing.resume
        kept = f"the last good state is in {resume}; " if resume is not None and resume.is_file() else ""
        raise ExplainedError(f"{what}; {kept}try a smaller --learning-rate with another --out")

    def save(self) -> None:
        """Save the state, by the first process; all learn whether that failed before they go on."""
        if self.checkpointing.resume is not None and self.group.first:
            self.state.save(self.checkpointing.resume)
        self.group.all_gather(None)
        self.saved = time.monotonic()


def accelerator(precision: str, device: torch.device) -> Accelerator:
    """Return an accelerator for a device; accelerate's own state of an earlier fit, with its precision, is dropped."""
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISIONS[precision])
