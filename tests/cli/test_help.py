"""--help of every command: its purpose, an example that parses, and the relevance methods."""

import shlex

import pytest

import compare
import study
import train
import visualize
from explain.registry import METHODS

SCRIPTS = (train, compare, visualize, study)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_help_opens_with_a_purpose_and_an_example_that_parses(script):
    text = script.build_parser().format_help()
    example = text.split("example:\n")[1].splitlines()[0]
    name, *argv = shlex.split(example)[1:]
    purpose = script.__doc__.splitlines()[0]
    assert name == f"{script.__name__}.py" and " ".join(text.split()).startswith(purpose)
    script.build_parser().parse_args(argv)


@pytest.mark.parametrize("script", [compare, visualize, study])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_describes_every_relevance_method(monkeypatch, script, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = script.build_parser().format_help().splitlines()
    start = next(i for i, line in enumerate(lines) if line == "explanation:")
    table = lines[start : next(i for i, line in enumerate(lines) if line.startswith("  --relevance"))]
    assert max(map(len, table)) <= max(64, columns - 2)
    said = " ".join(" ".join(table).split())
    for method in METHODS.values():
        kind = "signed" if method.signed else "unsigned"
        assert f"{method.name} {kind} {method.passes:.1f} {method.description}" in said
    assert "forward passes" in said and "K = 2" in said


def test_help_needs_no_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "wide")
    assert "--relevance" in compare.build_parser().format_help()


def test_help_says_where_a_contrast_enters_and_whose_it_is():
    said = " ".join(visualize.build_parser().format_help().split())
    assert "For lrp and lrp_magnitude it enters through the gradient only" in said
    assert "Gu et al., ACCV 2018" in said and "Iwana et al., ICCV workshops 2019" in said
