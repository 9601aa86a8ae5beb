"""Fixtures of all tests: the tiny ViT's weights, a small image folder and two runs, made once."""

import gc
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from running import Shop, command, files
from tiny import NAME, SIZE, colour_folder, write_weights

from models.options import BackboneSpec
from report import figures

torch.set_num_threads(1)  # on tensors this small, threads only wait for one another


@pytest.fixture(autouse=True)
def denormals():
    """Every test starts with Python's own arithmetic, whatever commands did in the one before or in its shared
    fixtures."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "test_vit.safetensors")


@pytest.fixture(scope="session")
def spec(weights) -> BackboneSpec:
    return BackboneSpec(NAME, str(weights), SIZE)


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """A folder with three classes, 12 training and 6 validation images each; read only, please."""
    return colour_folder(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="session")
def shop(tmp_path_factory, colours, weights) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"), colours, weights)


@pytest.fixture
def no_pictures(monkeypatch, request):
    """Write empty files in place of pictures, but for tests that are marked `draws`: half of a small command's time is
    drawing."""
    if request.node.get_closest_marker("draws"):
        return
    monkeypatch.setattr(Figure, "savefig", lambda _figure, path, **_: Path(path).write_bytes(b""))
    # all are imported before any is changed: one that came later would keep the stand-in of another
    for module in [import_module(found.name) for found in pkgutil.iter_modules(figures.__path__, "report.figures.")]:
        if hasattr(module, "stack"):  # lays a figure out and draws it
            monkeypatch.setattr(module, "stack", lambda path, *_: Path(path).write_bytes(b""))


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must fail: one line, no traceback, no file written or changed below tmp_path."""

    def run(script, *argv, status: int = 2) -> str:
        before = files(tmp_path)
        capsys.readouterr()
        assert command(script, *argv) == status
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert files(tmp_path) == before
        return error

    return run


def pytest_collection_finish():
    """Spare the garbage collector what imports and collection have made, which lives as long as the process: looking
    through it again and again takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
