"""Measure a training step by the settings of torch's CPU threads, on an idle and on a busy machine.

    python benchmarks/threads.py --out docs/results/threads.md    # about half an hour; needs an idle machine
    python benchmarks/threads.py --models bundled --rounds 1 --steps 1

Every measurement is a process of its own. A round measures every setting with each number of other busy processes (a
Python loop each), so that drifts of the machine affect all alike; the median over rounds is reported. `chosen` is what
the commands do at their start (common/threads.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

from child_process import check_status, run_python
from tqdm import tqdm

from cli.command import run
from cli.parser import make_parser, natural, positive
from common.tables import markdown_table, number, percent, write_text
from common.threads import OWN, busy_fraction

DEFAULT, CHOSEN = "default", "chosen"
# Setting -> environment variables.
SETTINGS = {
    DEFAULT: {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    CHOSEN: {},
}
# Ends by itself when the process that started it has ended.
BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
Key = tuple[str, str, int]  # model, setting, number of other busy processes
Seconds = dict[Key, list[float]]  # -> wall seconds per step, one per round


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/threads.py --models bundled --rounds 1 --steps 1")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["deit_tiny_patch16_224", "bundled"],
        metavar="NAME",
        help="timm names, or bundled; weights are random (default: deit_tiny_patch16_224 bundled)",
    )
    parser.add_argument("--batch", type=positive, default=8, metavar="B", help="images per step")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=list(SETTINGS),
        choices=list(SETTINGS),
        metavar="NAME",
        help=f"some of {', '.join(SETTINGS)} (default: all)",
    )
    parser.add_argument(
        "--busy",
        type=natural,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="numbers of other busy processes (default: 0 1 2)",
    )
    parser.add_argument("--steps", type=positive, default=3, metavar="N", help="timed steps per process")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="processes behind each median")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables as Markdown")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure; print and write the tables."""
    before = busy_fraction(1.0)
    text = document(args, measure(args), before)
    print(text)
    if args.out:
        write_text(args.out, text)


def measure(args: argparse.Namespace) -> Seconds:
    """Measure every setting with each number of busy processes, round by round."""
    found: Seconds = defaultdict(list)
    order = [(busy, setting) for _ in range(args.rounds) for busy in args.busy for setting in args.settings]
    for busy, setting in tqdm(order, "processes", delay=2, leave=False, disable=None):
        with busy_processes(busy):
            for model, seconds in seconds_per_step(args, setting).items():
                found[model, setting, busy].append(seconds)
                line = f"{model}, {setting}, {heading(busy)}: {seconds:.4f} s"
                tqdm.write(line, file=sys.stderr)
    return found


def seconds_per_step(args: argparse.Namespace, setting: str) -> dict[str, float]:
    """Time a step of each model in a fresh process with a setting; return wall seconds by model."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN} | SETTINGS[setting]
    arguments = [ROOT / "benchmarks" / "training_step.py", *args.models, "--batch", args.batch, "--steps", args.steps]
    if setting == CHOSEN:
        arguments.append("--prepare-threads")
    finished = run_python(arguments, environment)
    check_status(finished, arguments)
    return json.loads(finished.output)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` other processes busy during the block."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


# ---- the document


def table(args: argparse.Namespace, found: Seconds, model: str) -> str:
    """Return a model's table: a row per setting, a column per number of busy processes."""
    medians = {key: statistics.median(values) for key, values in found.items() if key[0] == model}
    reference = medians.get((model, DEFAULT, 0))
    rows = [
        {"setting": f"`{setting}`" if setting not in (DEFAULT, CHOSEN) else setting}
        | {heading(busy): cell(medians[model, setting, busy], reference) for busy in args.busy}
        for setting in args.settings
    ]
    return markdown_table(rows, align="l" + "r" * len(args.busy))


def heading(busy: int) -> str:
    """Return the heading of a column."""
    return "idle" if busy == 0 else f"{busy} other process{'es' if busy > 1 else ''}"


def cell(seconds: float, reference: float | None) -> str:
    """Format seconds, and in brackets their ratio to the idle default where that was measured."""
    ratio = "" if reference is None else f" ({number(seconds / reference, 2)})"
    return f"{number(seconds, 4 if seconds < 0.1 else 2)}{ratio}"


def document(args: argparse.Namespace, found: Seconds, busy_before: float) -> str:
    """Return the tables, and how they were made."""
    tables = "\n".join(f"## {model}\n\n{table(args, found, model)}" for model in args.models)
    return f"""# The time of a training step by the settings of torch's threads

    python benchmarks/threads.py {command_of(args)}

Wall seconds of a training step (forward, backward, AdamW) of {args.batch} random images, and in brackets the ratio to the idle
default. Processes per median: {args.rounds}; timed steps per process: {args.steps}; torch {version("torch")}, {os.cpu_count()} cores, of whose
time other processes used {percent(busy_before)} before the start. `OMP_NUM_THREADS=1` is what `--threads 1` sets, and "chosen"
what the commands do without it (`common/threads.py`).

{tables}"""


def command_of(args: argparse.Namespace) -> str:
    """Return the arguments that write the document."""
    default = vars(build_parser().parse_args([]))
    given = [
        " ".join([f"--{name}", *map(str, value if isinstance(value, list) else [value])])
        for name, value in vars(args).items()
        if name != "out" and value != default[name]
    ]
    return " ".join([*given, "--out FILE"])


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
