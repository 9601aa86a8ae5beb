"""What is imported when: options wait for no torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported(code: str) -> set[str]:
    """Run code in a fresh interpreter; return which of torch, timm and peft it imported."""
    asked = "import sys; print(*({'torch', 'timm', 'peft'} & set(sys.modules)), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", f"{code}\n{asked}"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


def test_options_of_a_training_import_no_torch():
    code = """
from cli.train import build_parser, train_options
from common.errors import UsageError
import models.run_config

def options(*argv):
    return train_options(build_parser().parse_args(["--out", "run", *argv]))

assert options("--method", "dora:rank=4", "--epochs", "2").recipe.epochs == 2
for wrong in (["--method", "vera"], ["--epochs", "2"], ["--method", "full", "--amp", "float16", "--device", "cpu"]):
    try:
        options(*wrong)
    except UsageError:
        continue
    raise AssertionError(wrong)
"""
    assert imported(code) == set()
