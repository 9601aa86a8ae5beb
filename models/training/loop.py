"""Epochs of AdamW: the loop, the choice of the epoch, and resuming at any step to the same bits.

Everything random in a step depends on (seed, epoch, step, part) alone, and the state of a fit is saved between steps:
so a fit that was killed anywhere continues as if nothing had happened. Several processes share each step's images, and
together do what one would do but for rounding, and for what is drawn for each process's part of a step: mixup, cutmix
and stochastic depth. With these, the number of processes is part of what a result depends on.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from scipy.stats import binomtest
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from common.errors import ExplainedError
from models.training.loading import Batch
from models.training.optimizer import parameter_groups, warmup_cosine
from models.training.prediction import predict
from models.training.process_group import ALONE, Share
from models.training.resume_state import Position, State
from models.training.sampling import Batches, deal

PRECISIONS = {"no": "no", "bfloat16": "bf16", "float16": "fp16"}
SAVE_EVERY = 300.0  # seconds between saved states within an epoch
CLEARLY = 0.05  # p-value from which an earlier epoch is taken for more accurate than a later one


@dataclass(frozen=True)
class Recipe:
    """Optimisation: AdamW, linear warm-up over a share of all steps, then a cosine to zero.

    batch_size: images of a step, over all processes and accumulated parts. accumulate: parts of a process's images of a
    step that go through the model one after another. layer_decay: factor of the learning rate from each layer to the
    one before. clip: largest norm of all gradients together, 0 for any. ema: decay of a running mean of what trains,
    which is then what is evaluated and kept; 0 for none. mixup, cutmix: alphas of timm's Mixup, 0 for none. patience:
    epochs since the most accurate one on held-out images that end the fit, 0 for never. precision: of matrix products,
    a name in PRECISIONS. balance: "weights", losses by the inverse of their class's size, "sampling", images drawn so,
    or "none".
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    layer_decay: float = 1.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    patience: int = 0
    precision: str = "no"
    balance: str = "none"


@dataclass
class Fit:
    """History (a row an epoch or a penalty) and the number of the chosen one, counted from 1, whose weights the model
    holds. seconds: of training steps, waiting for images among them, not of evaluation; a probe's: of the pass
    that gives its features. images_per_second: that the loader can give, 0 where it was asked for none."""

    history: list[dict] = field(default_factory=list)
    chosen: int = 0
    seconds: float = field(default=0.0, compare=False)
    waiting: float = field(default=0.0, compare=False)
    images_per_second: float = field(default=0.0, compare=False)


def fit(
    model: nn.Module,
    train: Batches,
    evaluations: dict[str, Batches],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int = 0,
    classes: int = 0,
    weights: Tensor | None = None,
    resume: Path | None = None,
    save_every: float = SAVE_EVERY,
    report: Callable[[dict], None] = lambda row: None,
    keep: Callable[[list[dict]], None] = lambda history: None,
    progress: bool = False,
    share: Share = ALONE,
) -> Fit:
    """Train what requires grad; after every epoch evaluate; keep the epoch that `held_out` speaks for.

    `evaluations` holds "held_out", on which the epoch is chosen, and others that are only reported, where they are
    finite. The learning rate ends at zero, so the last epoch is the one that is meant, and an earlier one has to be
    clearly better: kept is the last that is not less accurate on held-out images than the most accurate one, by
    McNemar's exact test at 0.05. (The plain maximum follows single images; loss also rises where a model only becomes
    too sure.) Fewer than six images never speak clearly. With `patience` a fit may end anywhere on the schedule: the
    most accurate epoch is kept.

    classes: how many there are, for mixup; weights (C,): of each class's loss. The state goes to `resume` after every
    epoch and every `save_every` seconds, so that a killed fit continues there and ends with the same bits. report: is
    told every epoch's row; keep: is given all rows so far before a state is saved that holds them. With several
    processes, `share`, the first one writes and keeps. Raises ExplainedError at the first loss or gradient that is not
    finite, with the last good state saved (float16 leaves out such steps instead, until its scale is below 1), and
    OSError.
    """
    loop = _Loop(model, train, recipe, device, seed, classes, weights, resume, save_every, progress, share)
    state, share = loop.state, loop.share
    if resume is not None and resume.is_file():
        state.load(resume)
        print(
            f"continuing after {_reached(state.position, len(state.history), len(train))} of {recipe.epochs} ({resume})"
        )
    with loop.bar():
        while len(state.history) < recipe.epochs and not _is_over(state, recipe):
            row = loop.epoch()
            kept = state.put(state.ema)
            found = {
                name: predict(model, batches, device, row["epoch"], share) for name, batches in evaluations.items()
            }
            for name, predictions in found.items():
                row |= {f"{name}_loss": float(predictions.loss.mean()), f"{name}_accuracy": predictions.accuracy}
            loop.refuse_unless_finite(row)
            _finish(state, row, torch.from_numpy(found["held_out"].correct), recipe)
            state.put(kept)
            if share.first:
                keep(state.history)
            loop.save()
            report(row)
    state.put(state.best)
    return Fit(state.history, state.chosen, loop.seconds, loop.waiting)


def _reached(position: Position, finished: int, steps: int) -> str:
    return f"step {position.step} of {steps} in epoch {position.epoch}" if position.step else f"epoch {finished}"


def _finish(state: State, row: dict, right: Tensor, recipe: Recipe) -> None:
    """Take an epoch into the history, and its weights where they are the ones to keep. right: which held-out images
    are."""
    state.history.append(row)
    best = row is _best(state.history)
    if best:
        state.right = right
    late = not recipe.patience and not _clearly_worse(right, state.right)
    if best or late:
        state.chosen = row["epoch"]
        state.best = {name: p.detach().cpu().clone() for name, p in state.trained.items()}
    state.position = Position(epoch=len(state.history) + 1)


def _clearly_worse(right: Tensor, best: Tensor) -> bool:
    """Tell whether fewer images are right than at best by McNemar's exact test, of those that one of both has right."""
    lost, gained = int((best & ~right).sum()), int((right & ~best).sum())
    return lost > gained and binomtest(lost, lost + gained).pvalue < CLEARLY


def _best(history: list[dict]) -> dict:
    return max(history, key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))


def _is_over(state: State, recipe: Recipe) -> bool:
    if not recipe.patience or not state.history:
        return False
    return len(state.history) - _best(state.history)["epoch"] >= recipe.patience


class _Loop:
    """The steps of a fit, by one of the processes that share it."""

    def __init__(
        self,
        model,
        train: Batches,
        recipe: Recipe,
        device,
        seed,
        classes,
        weights,
        resume,
        save_every,
        progress,
        share: Share,
    ):
        self.model, self.train, self.recipe, self.seed, self.share = model.to(device), train, recipe, seed, share
        self.device, self.resume, self.save_every, self.progress = device, resume, save_every, progress
        self.accelerator = accelerator(recipe.precision, device)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay)
        )
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.factor = warmup_cosine(recipe.epochs * len(train), recipe.warmup)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.state = State(trained, optimizer, scaler=self.accelerator.scaler)
        if recipe.ema:
            self.state.ema = {name: p.detach().clone() for name, p in trained.items()}
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        # not accelerate's `prepare_model`, whose autocast would stay with the model, and evaluation be in half
        # precision
        own = [device] if device.type == "cuda" else None
        self.shared = DistributedDataParallel(model, device_ids=own) if share.count > 1 else model
        self.weights = None if weights is None else weights.to(device)
        self.mixup = _Mixing(recipe, classes) if recipe.mixup or recipe.cutmix else None
        self.seconds, self.waiting, self.saved = 0.0, 0.0, time.monotonic()

    def bar(self) -> tqdm:
        done = min(
            len(self.state.history) * self.train.count + self.state.position.step * self.train.batch_size,
            self.recipe.epochs * self.train.count,
        )
        hidden = None if self.progress and self.share.first else True
        self.shown = tqdm(
            total=self.recipe.epochs * self.train.count,
            initial=done,
            unit="image",
            delay=2,
            leave=False,
            disable=hidden,
        )
        return self.shown

    def epoch(self) -> dict:
        """Train the rest of the epoch that the state stands in; return its row."""
        position, steps = self.state.position, self.train.steps(self.state.position.epoch)
        row = {"epoch": position.epoch, "learning_rate": max(self._rates(0))}
        self.model.train()
        plan = [self._mine(step) for step in steps[position.step :]]
        batches = iter(
            self.train.make(
                [part or step[:1] for step, parts in zip(steps[position.step :], plan) for part in parts],
                position.epoch,
            )
        )
        for step, parts in zip(steps[position.step :], plan):
            self._step(step, parts, batches)
        return row | {
            "train_loss": position.loss / position.images,
            "train_accuracy": position.correct / position.images,
        }

    def _mine(self, step: list[int]) -> list[list[int]]:
        """This process's images of a step, in as many parts as are accumulated; a part may be empty."""
        parts = self.share.count * self.recipe.accumulate
        return [deal(step, self.share.rank + self.share.count * part, parts) for part in range(self.recipe.accumulate)]

    def _rates(self, step: int) -> list[float]:
        """The learning rate of each of the optimiser's groups in a step of this epoch."""
        factor = self.factor((self.state.position.epoch - 1) * len(self.train) + step)
        return [rate * factor for rate in self.rates]

    def _step(self, step: list[int], parts: list[list[int]], batches: Iterator[Batch]) -> None:
        """One step of the optimiser; the state moves on only when its losses are finite."""
        start, position = time.monotonic(), self.state.position
        for group, rate in zip(self.state.optimizer.param_groups, self._rates(position.step)):
            group["lr"] = rate
        sums, waited = np.zeros(3), 0.0
        for number, part in enumerate(parts):
            asked = time.monotonic()
            inputs, labels = next(batches)
            waited += time.monotonic() - asked
            drawn = _mixed(self.seed, position.epoch, position.step, number, self.share.rank)
            torch.manual_seed(drawn)
            last = number == len(parts) - 1
            with nullcontext() if last or self.share.count == 1 else self.shared.no_sync():
                sums += self._part(inputs.to(self.device), labels.to(self.device), bool(part), len(step), drawn)
        late = time.monotonic() - self.saved > self.save_every
        found = self.share.exchange((sums.tolist(), late))
        total = np.sum([values for values, _ in found], axis=0)
        self._refuse_step_unless_finite("loss", total[0], step)
        norm = self.accelerator.clip_grad_norm_(list(self.state.trained.values()), self.recipe.clip or math.inf)
        scaler = self.accelerator.scaler  # leaves out such steps by itself, and goes on with half the scale
        if not scaler or scaler.get_scale() < 1:
            self._refuse_step_unless_finite("gradient's norm", float(norm), step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        position.step, position.loss = position.step + 1, position.loss + total[0]
        position.correct, position.images = position.correct + total[1], position.images + total[2]
        if (
            found[0][1] and position.step < len(self.train) and self._is_finite()
        ):  # the epoch's end has a state of its own
            self.save()
        self.seconds, self.waiting = self.seconds + time.monotonic() - start, self.waiting + waited
        self.shown.update(len(step))
        self.shown.set_postfix(
            loss=f"{position.loss / position.images:.3f}",
            accuracy=f"{position.correct / position.images:.3f}",
            epoch=position.epoch,
            refresh=False,
        )

    def _part(self, inputs: Tensor, labels: Tensor, counts: bool, step: int, drawn: int) -> np.ndarray:
        """Forward and backward pass of one part; return its sums of losses, right predictions and images.

        A process without an image of its own takes part with another's, of weight 0: all have to meet in the gradients.
        """
        targets: Tensor | None = None
        if self.mixup:
            inputs, targets = self.mixup(inputs, labels, drawn)
        with self.accelerator.autocast():
            logits = self.shared(inputs)
        logits = logits.float()
        losses = self._losses(logits, labels, targets)
        # gradients are averaged over processes: the sum over all of a step's images, over their number
        self.accelerator.backward(losses.sum() * (float(counts) * self.share.count / step))
        if not counts:
            return np.zeros(3)
        # curves show plain cross-entropy, so that train, held-out and validation can be compared
        plain = F.cross_entropy(logits.detach(), labels, reduction="sum").item()
        right = (logits.argmax(1) == (labels if targets is None else targets.argmax(1))).sum().item()
        bad = losses.detach().sum().item()
        return np.array([plain if np.isfinite(bad) else bad, right, len(labels)])

    def _losses(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        if targets is None:
            weight = 1.0 if self.weights is None else self.weights[labels]
            return weight * F.cross_entropy(
                logits, labels, label_smoothing=self.recipe.label_smoothing, reduction="none"
            )
        weight = 1.0 if self.weights is None else targets @ self.weights
        return weight * -(targets * F.log_softmax(logits, -1)).sum(-1)

    def _refuse_step_unless_finite(self, what: str, value: float, step: list[int]) -> None:
        if np.isfinite(value):
            return
        if self._is_finite():  # else what was saved before is better
            self.save()
        position = self.state.position
        names = ", ".join(dict.fromkeys(map(self.train.name, step)))  # sampling may draw one twice
        self._refuse(f"the {what} became {value} in epoch {position.epoch}, step {position.step + 1} (images: {names})")

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.state.trained.values())

    def refuse_unless_finite(self, row: dict) -> None:
        """Raise ExplainedError where an epoch's evaluations hold a loss that is not finite; nothing is saved of it."""
        for name, value in row.items():
            if name.endswith("_loss") and not np.isfinite(value):
                self._refuse(f"{name} became {value} after epoch {row['epoch']}")

    def _refuse(self, what: str) -> NoReturn:
        kept = f"the last good state is in {self.resume}; " if self.resume is not None and self.resume.is_file() else ""
        raise ExplainedError(f"{what}; {kept}try a smaller --learning-rate with another --out")

    @torch.no_grad()
    def _average(self) -> None:
        """Move the running mean, early on as the mean of few steps (as in timm)."""
        if self.state.ema:
            taken = (self.state.position.epoch - 1) * len(self.train) + self.state.position.step
            decay = min(self.recipe.ema, (1 + taken) / (10 + taken))
            for name, mean in self.state.ema.items():
                mean.lerp_(self.state.trained[name].detach(), 1 - decay)

    def save(self) -> None:
        """Save the state, by the first process; all learn whether that failed before they go on."""
        if self.resume is not None and self.share.first:
            self.state.save(self.resume)
        self.share.exchange(None)
        self.saved = time.monotonic()


class _Mixing:
    """timm's mixup and cutmix, drawn from a seed for each part; an odd image out stays as it is."""

    def __init__(self, recipe: Recipe, classes: int) -> None:
        self.classes, self.smoothing = classes, recipe.label_smoothing
        self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)

    def __call__(self, inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed inputs and soft targets (B, C)."""
        even = len(inputs) // 2 * 2
        rest = F.one_hot(labels[even:], self.classes) * (1 - self.smoothing) + self.smoothing / self.classes
        if not even:
            return inputs, rest
        before = np.random.get_state()  # timm draws from numpy's global generator
        np.random.seed(seed % 2**32)
        try:
            mixed, targets = self.mixup(inputs[:even].clone(), labels[:even])
        finally:
            np.random.set_state(before)
        return torch.cat([mixed, inputs[even:]]), torch.cat([targets.to(inputs.device), rest])


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def accelerator(precision: str, device: torch.device) -> Accelerator:
    """Return an accelerator for a device. accelerate keeps one precision for a whole process: another fit may want
    another."""
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISIONS[precision])
