"""Train by epochs of AdamW: the loop, the choice of the epoch, and resuming at any step to the same bits.

All randomness of a step depends on (seed, epoch, step, part) alone, and the state is saved between steps, so a training
that was killed anywhere continues as if it had not been. Several processes share the images of each step and give the
result of one process up to rounding, except for what is drawn for each process's part of a step: mixup, cutmix and
stochastic depth. With these, the result depends on the number of processes.
"""

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from models.training.fit_result import NO_CALLBACKS, Callbacks, FitResult
from models.training.prediction import predict
from models.training.process_group import SINGLE_PROCESS, ProcessGroup
from models.training.recipe import NOT_SAVED, Checkpointing, Recipe
from models.training.resume_state import Position, State
from models.training.sampling import Batches
from models.training.steps import TrainingSteps

CLEARLY = 0.05  # p-value below which an earlier epoch counts as more accurate than a later one


def fit(
    model: nn.Module,
    train: Batches,
    evaluations: dict[str, Batches],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int = 0,
    class_count: int = 0,
    class_weights: Tensor | None = None,
    checkpointing: Checkpointing = NOT_SAVED,
    callbacks: Callbacks = NO_CALLBACKS,
    group: ProcessGroup = SINGLE_PROCESS,
) -> FitResult:
    """Train the parameters that require a gradient, evaluate after every epoch, and keep the chosen epoch's weights.

    The learning rate ends at zero, so the last epoch is kept unless an earlier one is clearly more accurate on held-out
    images: kept is the last that is not less accurate than the most accurate one by McNemar's exact test at 0.05. (The
    plain maximum follows single images; and the loss also rises where a model merely becomes overconfident.) With fewer
    than six images that changed, no difference is clear. With `recipe.patience`, a training may end anywhere on the
    schedule, and the most accurate epoch is kept.

    model: inputs (B, ...) -> logits (B, C).
    train: the training images.
    evaluations: "held_out", on which the epoch is chosen, and others that are only reported.
    recipe: the optimisation.
    device: where to train.
    seed: of everything random.
    class_count: number of classes C, for mixup and cutmix.
    class_weights: weight (C,) of each class's losses; None weighs all alike.
    checkpointing: where the state is saved, and continued from where it exists.
    callbacks: called after every epoch.
    group: processes that share each step; the first one saves the state.
    Raises ExplainedError at the first loss or gradient that is not finite, with the last good state saved (float16
    skips such steps instead, until its scale is below 1), and OSError.
    """
    steps = TrainingSteps(
        model, train, recipe, device, seed, class_count, class_weights, checkpointing, callbacks.progress, group
    )
    state = steps.state
    if checkpointing.resume is not None and checkpointing.resume.is_file():
        state.load(checkpointing.resume)
        reached = _reached(state.position, len(state.history), len(train))
        print(f"continuing after {reached} of {recipe.epochs} ({checkpointing.resume})")
    with steps.bar():
        while len(state.history) < recipe.epochs and not _is_over(state, recipe):
            row = steps.epoch()
            trained = state.put(state.ema)
            found = {
                name: predict(model, batches, device, row["epoch"], group) for name, batches in evaluations.items()
            }
            for name, predictions in found.items():
                row |= {f"{name}_loss": float(predictions.loss.mean()), f"{name}_accuracy": predictions.accuracy}
            steps.refuse_unless_finite(row)
            _finish_epoch(state, row, torch.from_numpy(found["held_out"].correct), recipe)
            state.put(trained)
            if group.first:
                callbacks.keep(state.history)
            steps.save()
            callbacks.report(row)
    state.put(state.best)
    return FitResult(state.history, state.chosen, steps.seconds, steps.waiting)


def _reached(position: Position, finished: int, steps: int) -> str:
    return f"step {position.step} of {steps} in epoch {position.epoch}" if position.step else f"epoch {finished}"


def _finish_epoch(state: State, row: dict, correct: Tensor, recipe: Recipe) -> None:
    """Add an epoch to the history, and keep its weights where it is the one to choose so far.

    correct: whether each held-out image is classified correctly (N,) bool.
    """
    state.history.append(row)
    best = row is _best(state.history)
    if best:
        state.right = correct
    late = not recipe.patience and not _clearly_worse(correct, state.right)
    if best or late:
        state.chosen = row["epoch"]
        state.best = {name: p.detach().cpu().clone() for name, p in state.trained.items()}
    state.position = Position(epoch=len(state.history) + 1)


def _clearly_worse(correct: Tensor, best: Tensor) -> bool:
    """Tell whether fewer images are correct than at best, by McNemar's exact test on those that changed."""
    lost, gained = int((best & ~correct).sum()), int((correct & ~best).sum())
    return lost > gained and binomtest(lost, lost + gained).pvalue < CLEARLY


def _best(history: list[dict]) -> dict:
    return max(history, key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))


def _is_over(state: State, recipe: Recipe) -> bool:
    if not recipe.patience or not state.history:
        return False
    return len(state.history) - _best(state.history)["epoch"] >= recipe.patience
