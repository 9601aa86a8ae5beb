"""What a RUN is, and what is refused before anything is loaded."""

import pytest

from common.errors import UsageError
from models.options import ExternalOptions
from models.sources import FILE, NAME, PEFT, RUN_FOLDER, check_sources, check_weights_file, source_of


@pytest.fixture
def places(tmp_path):
    """A run folder, an interrupted run, a peft folder and a file."""
    for name, files in {
        "run": ("config.json", "summary.json"),
        "interrupted": ("config.json",),
        "peft": ("adapter_config.json",),
        "empty": (),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    (tmp_path / "model.pth").write_bytes(b"")
    (tmp_path / "names.txt").write_text("a\nb")
    return tmp_path


def test_a_run_is_what_lies_there_and_otherwise_a_name_or_a_missing_folder(places, monkeypatch):
    kinds = {"run": RUN_FOLDER, "interrupted": RUN_FOLDER, "peft": PEFT, "model.pth": FILE, "gone/run": RUN_FOLDER}
    assert {name: source_of(str(places / name)) for name in kinds} == kinds
    assert source_of("vit_tiny_patch16_224") == source_of("bundled") == NAME
    monkeypatch.chdir(places)
    assert source_of("run") == RUN_FOLDER and source_of("model.pth") == FILE, "what lies there comes first"


def test_what_is_there_and_finished_passes(places):
    runs = [str(places / name) for name in ("run", "peft", "model.pth")] + ["bundled"]
    check_sources(runs, ExternalOptions(class_names=str(places / "names.txt")))
    check_sources(runs[:1], ExternalOptions())


@pytest.mark.parametrize(
    "runs, options, words",
    [
        (["run", "gone"], {}, "gone is not a folder; expected a run folder"),
        (["run", "empty"], {}, "empty holds no config.json; expected a run folder"),
        (["interrupted"], {}, "was interrupted; finish it"),
        (["run"], {"model": "vit"}, "--model is used for none of"),
        (["run"], {"weights": "gone.pth"}, "--weights gone.pth is not a file"),
        (["model.pth"], {"weights": "names.txt"}, "--weights is used for none of"),
        (["model.pth"], {"class_names": "gone.txt"}, "--class-names gone.txt cannot be read"),
    ],
)
def test_what_is_not_is_one_line(places, runs, options, words):
    with pytest.raises(UsageError) as caught:
        check_sources([str(places / run) for run in runs], ExternalOptions(**options))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_weights_need_not_be_given(places):
    check_weights_file(None)
    check_weights_file(str(places / "model.pth"))
