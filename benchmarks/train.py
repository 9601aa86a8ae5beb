"""Compare the time of train.py with that of a plain loop: whole processes, one thread each, one after another.

    python benchmarks/train.py --data PHOTOS --weights FILE --out docs/results/training-cost.md    # about 50 minutes
    python benchmarks/train.py --data photos/ --model test_vit --epochs 2 --blocks 4-5

Both see every image preprocessed by the model's data config, without augmentation, in the same number of epochs (train.py
fits a linear probe without epochs). train.py starts with an empty cache, checks every file first, holds out a tenth of
the training images for choices, and writes a whole run with figures; the plain loop (plain_loop.py) prints accuracies.
CPU time does not count waiting for other processes.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

from child_process import ONE_THREAD, Finished, check_status, run_python

from cli.command import run
from cli.parser import make_parser, positive
from common.files import check_writable
from common.tables import markdown_table, number, percent, write_text
from models.adapters import target_pattern
from models.backbone import architecture
from models.methods import parse_settings
from models.options import BackboneSpec
from models.training.recipe import RECIPES

PROBE_GAIN, DORA_GAIN = 4.0, 1.5  # goals: how many times faster than the plain loop train.py has to be


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/train.py --data photos/ --model test_vit --epochs 2 --blocks 4-5")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PHOTOS", help="a folder with train/ and val/ or valid/"
    )
    parser.add_argument("--model", default="deit_tiny_patch16_224", metavar="NAME", help="timm name")
    parser.add_argument("--weights", metavar="FILE", help="local weights (default: the model hub's)")
    parser.add_argument(
        "--epochs",
        type=positive,
        default=5,
        metavar="N",
        help="epochs of the plain loop with a frozen backbone; train.py fits a linear probe without epochs",
    )
    parser.add_argument(
        "--dora-epochs",
        type=positive,
        default=5,
        metavar="N",
        help="epochs of DoRA in both",
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="batch size of the plain loop")
    parser.add_argument("--blocks", default="9-11", metavar="A-B", help="blocks that DoRA adapts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


@dataclass(frozen=True)
class Trained:
    """A finished training.

    seconds: CPU time of the process.
    peak: its peak memory in bytes.
    accuracy: on validation.
    epochs: what the plain loop printed after each epoch.
    empty_cache: whether it started without cached features or tokens.
    """

    seconds: float
    peak: int
    accuracy: float
    epochs: list[dict] = field(default_factory=list)
    empty_cache: bool = True


def run_one_thread(arguments: list) -> Finished:
    """Run a Python script with one thread; raises ExplainedError where it fails."""
    finished = run_python(arguments, os.environ | ONE_THREAD)
    check_status(finished, arguments)
    return finished


def plain(args: argparse.Namespace, method: str, epochs: int) -> Trained:
    """Train with the plain loop; its accuracy is the best of all epochs."""
    argv = [
        ROOT / "benchmarks" / "plain_loop.py",
        "--data",
        args.data,
        "--model",
        args.model,
        "--method",
        method,
        "--epochs",
        epochs,
        "--batch-size",
        args.batch_size,
    ]
    if method == "dora":
        argv += ["--targets", target_pattern(architecture(BackboneSpec(args.model)), parse_settings(late_dora(args)))]
    finished = run_one_thread(argv + weights_of(args))
    rows = [json.loads(line) for line in finished.output.splitlines() if line.startswith("{")]
    return Trained(finished.cpu_seconds, finished.peak, max(row["accuracy"] for row in rows), rows)


def train_py(args: argparse.Namespace, method: str, folder: Path, cache: Path, *more) -> Trained:
    """Train with train.py; its accuracy is that of the epoch or penalty chosen on held-out training images.

    args: the command line.
    method: of train.py.
    folder: the run.
    cache: folder of cached features and tokens.
    more: further arguments of train.py.
    """
    empty_cache = not cache.exists()
    finished = run_one_thread(
        [
            ROOT / "train.py",
            "--data",
            args.data,
            "--model",
            args.model,
            *weights_of(args),
            "--method",
            method,
            "--cache",
            cache,
            "--out",
            folder,
            "--device",
            "cpu",
            "--workers",
            0,
            *more,
        ]
    )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    accuracy = summary["accuracy"]["val"]["accuracy"]
    return Trained(finished.cpu_seconds, finished.peak, accuracy, empty_cache=empty_cache)


def weights_of(args: argparse.Namespace) -> list:
    """Return the arguments for the weights."""
    return ["--weights", args.weights] if args.weights else []


def late_dora(args: argparse.Namespace) -> str:
    """Return the method of train.py that adapts the blocks of --blocks."""
    return f"dora:blocks={args.blocks}"


def main(args: argparse.Namespace) -> None:
    """Train each way; print and write the tables."""
    check_writable(args.out and args.out.parent)
    common, epochs, usual = ["--augment", "none", "--epochs"], args.dora_epochs, RECIPES["dora"].epochs
    with tempfile.TemporaryDirectory() as folder:
        one, two, three = (Path(folder) / name for name in "abc")  # caches; the last run of each part reuses one
        probe = measured(
            "linear probe",
            {
                f"plain loop, {args.epochs} epochs": lambda: plain(args, "linear", args.epochs),
                "train.py": lambda: train_py(args, "linear", one / "run", one),
                "train.py, with cached features": lambda: train_py(args, "linear", one / "again", one),
            },
        )
        dora = measured(
            f"DoRA in blocks {args.blocks}",
            {
                f"plain loop, {epochs} epochs": lambda: plain(args, "dora", epochs),
                f"train.py, {epochs} epochs": lambda: train_py(
                    args, late_dora(args), two / "run", two, *common, epochs
                ),
                f"train.py, default of {usual} epochs": lambda: train_py(
                    args, late_dora(args), three / "run", three, *common, usual
                ),
                f"train.py, {epochs} epochs, with cached tokens": lambda: train_py(
                    args, late_dora(args), two / "again", two, *common, epochs, "--seed", 1
                ),
            },
        )
    text = document(args, probe, dora)
    print(text)
    if args.out:
        write_text(args.out, text)


Runs = list[tuple[str, Trained]]  # the plain loop first, then train.py with an empty cache


def measured(what: str, runs: dict[str, Callable[[], Trained]]) -> Runs:
    """Run one after another; print the time of each."""
    found = []
    for name, start in runs.items():
        one = start()
        print(f"{what}: {name}: {number(one.seconds, 0)} s, {percent(one.accuracy)}", file=sys.stderr, flush=True)
        found.append((name, one))
    return found


def table(runs: Runs) -> str:
    """Return the table of the runs, with speed relative to the plain loop."""
    (_, loop), *_ = runs
    return markdown_table(
        [
            {
                "": name,
                "CPU seconds": number(run.seconds, 0),
                "relative speed": number(loop.seconds / run.seconds, 1),
                "validation accuracy": percent(run.accuracy),
                "peak memory, GiB": number(run.peak / 2**30, 2),
            }
            for name, run in runs
        ],
        align="lrrrr",
    )


def goal(runs: Runs, least: float) -> str:
    """Say whether train.py reaches a goal for its speed at the same epochs, with no lower accuracy."""
    (_, loop), (name, own), *_ = runs
    fast = loop.seconds / own.seconds
    met = "Met" if fast >= least and own.accuracy >= loop.accuracy else "Missed"
    return (
        f"{met}: the goal for `{name}` is {number(least, 1)} times the speed with no lower accuracy; it reaches "
        f"{number(fast, 2)} times the speed, with {percent(own.accuracy)} and {percent(loop.accuracy)} accuracy."
    )


def to_same_accuracy(runs: Runs, least: float | None = None) -> str:
    """Compare the time to the best accuracy of the plain loop with that of the fastest run of train.py that reaches it."""
    (_, loop), *others = runs
    best = next(row for row in loop.epochs if row["accuracy"] == loop.accuracy)
    what = (
        f"The plain loop reaches its best accuracy, {percent(loop.accuracy)}, in epoch {best['epoch']}, after "
        f"{number(best['seconds'], 0)} s"
    )
    reached = [(run.seconds, name) for name, run in others if run.accuracy >= loop.accuracy and run.empty_cache]
    if not reached:
        return f"{what}; train.py does not reach it."
    seconds, name = min(reached)
    fast = best["seconds"] / seconds
    met = "" if least is None else f" (goal {'met' if fast > least else 'missed'}: more than {number(least, 1)} times)"
    return f"{what}; `{name}` reaches it and ends after {number(seconds, 0)} s: {number(fast, 2)} times the speed{met}."


def document(args: argparse.Namespace, probe: Runs, dora: Runs) -> str:
    """Return the tables with what they say and how they were made."""
    weights = " --weights FILE" if args.weights else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "peft"))
    epochs = "\n".join(
        f"- {name}: " + ", ".join(percent(row["accuracy"]) for row in runs[0][1].epochs)
        for name, runs in (("linear probe", probe), ("DoRA", dora))
    )
    return f"""# The time of training, beside a plain loop

    python benchmarks/train.py --data PHOTOS --model {args.model}{weights} --epochs {args.epochs} --dora-epochs {args.dora_epochs} \\
        --batch-size {args.batch_size} --blocks {args.blocks} --out FILE

{args.model}; CPU time of whole processes with one thread each, one after another; {packages}. The plain loop is
`benchmarks/plain_loop.py`: batches of {args.batch_size}, SGD with momentum, images read and frozen blocks run in every epoch, peft's DoRA. Its
accuracy is the best of all epochs, chosen on validation itself; that of train.py belongs to the epoch or penalty chosen on a
held-out tenth of the training images. train.py starts with an empty cache, and reads every file once more to check it. DoRA's
lines have `--augment none`, as the plain loop has; with train.py's own augmentation, frozen blocks run in every epoch.

## Linear probe

{table(probe)}
{goal(probe, PROBE_GAIN)}

{to_same_accuracy(probe)}

## DoRA in blocks {args.blocks}, rank 8

{table(dora)}
{goal(dora, DORA_GAIN)}

{to_same_accuracy(dora, DORA_GAIN)}

## Validation accuracy of the plain loop by epoch

{epochs}
"""


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
