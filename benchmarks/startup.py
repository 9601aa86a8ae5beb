"""Measure the startup of commands: --help, a usage error, and importing explain, in CPU and wall seconds.

    python benchmarks/startup.py --out docs/results/startup.md    # about a minute on an idle machine
    python benchmarks/startup.py --rounds 1

Every call is a process of its own. The calls of a round run one after another, after a first round that is not counted;
the median over rounds is reported. CPU time depends little on other processes, wall time does.
"""

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

from child_process import Finished, check_status, run_python
from tqdm import tqdm

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, write_text


@dataclass(frozen=True)
class Call:
    """A Python process.

    name: for the table.
    arguments: what follows `python`.
    status: the expected exit status.
    """

    name: str
    arguments: tuple[str, ...]
    status: int = 0


# Wrong inputs that a command refuses before it loads a model or data.
USAGE_ERRORS = {
    "study.py": ("--data", "missing/data"),
    "train.py": ("--data", "missing/data", "--out", "missing/run"),
    "visualize.py": ("missing/run", "missing/image.png"),
    "compare.py": ("missing/run-a", "missing/run-b", "--out", "missing/comparison"),
}
CALLS = (
    Call("`python -c pass`", ("-c", "pass")),
    Call("`import explain`", ("-c", "import explain")),
    Call("`from explain import relevance`", ("-c", "from explain import relevance")),
    *(Call(f"`{script} --help`", (str(ROOT / script), "--help")) for script in USAGE_ERRORS),
    *(Call(f"`{script}`, usage error", (str(ROOT / script), *wrong), 2) for script, wrong in USAGE_ERRORS.items()),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/startup.py --rounds 1")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="measurements behind each median")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table as Markdown")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure; print and write the table."""
    text = document(args.rounds, measure(args.rounds))
    print(text)
    if args.out:
        write_text(args.out, text)


def measure(rounds: int) -> dict[Call, list[Finished]]:
    """Run every call once per round; return its counted processes. Raises ExplainedError for an unexpected status."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found: dict[Call, list[Finished]] = {call: [] for call in CALLS}
    with tempfile.TemporaryDirectory() as folder:  # where nothing exists
        order = [(number, call) for number in range(rounds + 1) for call in CALLS]
        for number_of_round, call in tqdm(order, "processes", delay=2, leave=False, disable=None):
            finished = run_python(call.arguments, environment, Path(folder))
            check_status(finished, call.arguments, call.status)
            if number_of_round:
                found[call].append(finished)
    return found


def document(rounds: int, found: dict[Call, list[Finished]]) -> str:
    """Return the table, and how it was made."""
    rows = [
        {
            "": call.name,
            "CPU seconds": number(statistics.median(one.cpu_seconds for one in finished), 2),
            "wall seconds": number(statistics.median(one.wall_seconds for one in finished), 2),
        }
        for call, finished in found.items()
    ]
    return f"""# The time of startup

    python benchmarks/startup.py --rounds {rounds} --out FILE

Medians of whole processes, {rounds} per call; Python {sys.version.split()[0]}, {os.cpu_count()} cores. The usage error is a
missing input, which a command refuses in one line with exit status 2.

{markdown_table(rows, align="lrr")}"""


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
