"""What training costs beside the loop that most notebooks have: whole processes, one thread each, one after another.

    python benchmarks/train.py --data PHOTOS --weights FILE --out docs/results/training-cost.md   DeiT-Tiny, about 50 minutes
    python benchmarks/train.py --data photos/ --model test_vit --epochs 2 --blocks 4-5

Both sides see every image as the model's data config has it, without augmentation, in the same number of epochs (a
probe of ours has none). Ours starts with an empty cache, checks every file first, holds out a tenth of the training
images to choose on, and writes a whole run, pictures included; the plain loop (plain_loop.py beside this file) prints
accuracies. Time is CPU time, so that waiting for other processes is not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

BESIDE = Path(__file__).resolve().parent
ROOT = BESIDE.parent
sys.path.insert(0, str(ROOT))

from cli.command import run
from cli.parser import make_parser, positive
from common.errors import ExplainedError
from common.files import check_writable
from common.tables import markdown_table, number, percent, write_text
from models.adapters import target_pattern
from models.backbone import architecture
from models.methods import parse_settings
from models.options import BackboneSpec
from models.training.recipe import RECIPES

PROBE_GAIN, DORA_GAIN = 4.0, 1.5  # times as fast as the plain loop, the least that train.py is meant to be


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        __doc__, "python benchmarks/train.py --data photos/ --model test_vit --epochs 2 --blocks 4-5"
    )
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
        help="of the plain loop with a frozen backbone; a probe of ours has none",
    )
    parser.add_argument(
        "--dora-epochs",
        type=positive,
        default=5,
        metavar="N",
        help="of DoRA on both sides (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="of the plain loop")
    parser.add_argument("--blocks", default="9-11", metavar="A-B", help="blocks that DoRA adapts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


@dataclass
class Finished:
    """A process that has ended: CPU seconds, most memory in bytes, and the accuracy of each epoch with its CPU seconds.

    fresh: whether it found nothing that an earlier one had computed.
    """

    seconds: float
    peak: int
    epochs: list[dict] = field(default_factory=list)
    accuracy: float = float("nan")
    fresh: bool = True


def ended(argv: list) -> tuple[Finished, str]:
    """Run a Python script with one thread; return what it took and what it printed.

    Raises ExplainedError with its last line where it fails.
    """
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, *map(str, argv)], stdout=out, stderr=err, env={**os.environ, **one})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, said = (file.seek(0) or file.read() for file in (out, err))
    if process.returncode:
        raise ExplainedError(
            f"{' '.join(map(str, argv))} ended with status {process.returncode}: {(said.strip() or '-').splitlines()[-1]}"
        )
    return Finished(usage.ru_utime + usage.ru_stime, peak_bytes(usage)), printed


def peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plain(args: argparse.Namespace, method: str, epochs: int) -> Finished:
    argv = [
        BESIDE / "plain_loop.py",
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
        argv += ["--targets", target_pattern(architecture(BackboneSpec(args.model)), parse_settings(late(args)))]
    found, printed = ended(argv + weights_of(args))
    found.epochs = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    found.accuracy = max(row["accuracy"] for row in found.epochs)
    return found


def ours(args: argparse.Namespace, method: str, folder: Path, cache: Path, *more) -> Finished:
    """Train by train.py into a folder of its own; its accuracy is that of the epoch it chose without looking at it."""
    fresh = not cache.exists()
    found, _ = ended(
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
    found.fresh, found.accuracy = (
        fresh,
        json.loads((folder / "summary.json").read_text(encoding="utf-8"))["accuracy"]["val"]["accuracy"],
    )
    return found


def weights_of(args: argparse.Namespace) -> list:
    return ["--weights", args.weights] if args.weights else []


def late(args: argparse.Namespace) -> str:
    """Return DoRA in the blocks asked for, as train.py takes it."""
    return f"dora:blocks={args.blocks}"


def main(args: argparse.Namespace) -> None:
    check_writable(args.out and args.out.parent)
    common, epochs, usual = ["--augment", "none", "--epochs"], args.dora_epochs, RECIPES["dora"].epochs
    with tempfile.TemporaryDirectory() as folder:
        one, two, three = (Path(folder) / name for name in "abc")  # caches: the last run of each list finds one filled
        probe = measured(
            "linear probe",
            {
                f"plain loop, {args.epochs} epochs": lambda: plain(args, "linear", args.epochs),
                "train.py": lambda: ours(args, "linear", one / "run", one),
                "train.py, with the features kept from before": lambda: ours(args, "linear", one / "again", one),
            },
        )
        dora = measured(
            f"DoRA in blocks {args.blocks}",
            {
                f"plain loop, {epochs} epochs": lambda: plain(args, "dora", epochs),
                f"train.py, {epochs} epochs": lambda: ours(args, late(args), two / "run", two, *common, epochs),
                f"train.py, its own {usual} epochs": lambda: ours(
                    args, late(args), three / "run", three, *common, usual
                ),
                f"train.py, {epochs} epochs, with the tokens kept from before": lambda: ours(
                    args, late(args), two / "again", two, *common, epochs, "--seed", 1
                ),
            },
        )
    text = document(args, probe, dora)
    print(text)
    if args.out:
        write_text(args.out, text)


Runs = list[tuple[str, Finished]]  # the plain loop first, then ours, with an empty cache


def measured(what: str, runs: dict[str, Callable[[], Finished]]) -> Runs:
    """Run one after another, saying what each took."""
    found = []
    for name, start in runs.items():
        one = start()
        print(f"{what}: {name}: {number(one.seconds, 0)} s, {percent(one.accuracy)}", file=sys.stderr, flush=True)
        found.append((name, one))
    return found


def table(runs: Runs) -> str:
    """Return the runs as a table, counted in the plain loop."""
    (_, loop), *_ = runs
    return markdown_table(
        [
            {
                "": name,
                "CPU seconds": number(run.seconds, 0),
                "times as fast": number(loop.seconds / run.seconds, 1),
                "validation accuracy": percent(run.accuracy),
                "peak memory, GiB": number(run.peak / 2**30, 2),
            }
            for name, run in runs
        ],
        align="lrrrr",
    )


def mark(runs: Runs, least: float) -> str:
    """Say whether ours is as fast as it is meant to be at the same epochs, with no less accuracy."""
    (_, loop), (name, own), *_ = runs
    fast = loop.seconds / own.seconds
    met = "Met" if fast >= least and own.accuracy >= loop.accuracy else "Missed"
    return (
        f"{met}: `{name}` is meant to be {number(least, 1)} times as fast, with no less accuracy; it is {number(fast, 2)} times "
        f"as fast, with {percent(own.accuracy)} against {percent(loop.accuracy)}."
    )


def to_same_accuracy(runs: Runs, least: float | None = None) -> str:
    """Say how long ours took, pictures and all, to the best accuracy that the plain loop has after any epoch."""
    (_, loop), *others = runs
    best = next(row for row in loop.epochs if row["accuracy"] == loop.accuracy)
    what = f"The plain loop reaches its best, {percent(loop.accuracy)}, in epoch {best['epoch']}, after {number(best['seconds'], 0)} s"
    there = [(run.seconds, name) for name, run in others if run.accuracy >= loop.accuracy and run.fresh]
    if not there:
        return f"{what}; ours does not reach it."
    seconds, name = min(there)
    fast = best["seconds"] / seconds
    judged = "" if least is None else f" ({'met' if fast > least else 'missed'}: more than {number(least, 1)} is meant)"
    return (
        f"{what}; `{name}` is there, and ends, after {number(seconds, 0)} s: {number(fast, 2)} times as fast{judged}."
    )


def document(args: argparse.Namespace, probe: Runs, dora: Runs) -> str:
    weights = " --weights FILE" if args.weights else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "peft"))
    epochs = "\n".join(
        f"- {name}: " + ", ".join(percent(row["accuracy"]) for row in runs[0][1].epochs)
        for name, runs in (("linear probe", probe), ("DoRA", dora))
    )
    return f"""# What training costs beside a plain loop

    python benchmarks/train.py --data PHOTOS --model {args.model}{weights} --epochs {args.epochs} --dora-epochs {args.dora_epochs} \\
        --batch-size {args.batch_size} --blocks {args.blocks} --out FILE

{args.model}; whole processes with one thread each, in CPU time, one after another; {packages}. The plain loop is
`benchmarks/plain_loop.py`: batches of {args.batch_size}, SGD with momentum, images read and frozen blocks run in every epoch, peft's DoRA. Its
accuracy is the best of all its epochs, chosen on validation itself; ours is that of the epoch, or penalty, chosen on a
tenth of the training images, which it does not train on. Ours starts with an empty cache and reads every file once more to check it.

## Linear probe

{table(probe)}
{mark(probe, PROBE_GAIN)}

{to_same_accuracy(probe)}

## DoRA in blocks {args.blocks}, rank 8

{table(dora)}
{mark(dora, DORA_GAIN)}

{to_same_accuracy(dora, DORA_GAIN)}

## The plain loop's validation accuracy, epoch by epoch

{epochs}
"""


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was kept; the same command starts again"))
