"""Make the modules of benchmarks/ importable, behind the packages: one of these is called explain like a benchmark."""

import sys

from running import ROOT

sys.path.append(str(ROOT / "benchmarks"))
