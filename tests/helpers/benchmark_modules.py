"""Import a benchmark by its file, and a clock for benchmarks that tests move."""

import importlib.util
import sys
from types import ModuleType

from running import ROOT


def benchmark(name: str) -> ModuleType:
    """Return a benchmark as a module, under another name where a package or script has its name (explain, train)."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ticks:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float):
        """Return a call that takes `seconds` on this clock."""

        def call() -> None:
            self.now += seconds

        return call
