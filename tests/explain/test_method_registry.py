"""The table of relevance methods agrees with the functions, and needs no torch."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import explain
from explain import COMPARISON_METHOD, CONTRASTS, DEFAULT_METHOD, METHODS, RelevanceOptions, find_method
from explain.methods import FUNCTIONS
from explain.registry import NOT_IN_HALF, check_precision

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_says_what_its_function_takes(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    keywords = {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert METHODS[name].options == tuple(keywords)
    assert METHODS[name].contrast == (keywords["contrast"].default if "contrast" in keywords else None)
    assert list(parameters)[:3] == ["network", "images", "targets"]
    assert all(value.default is not value.empty for value in keywords.values())
    assert not keywords.get("centre_head") or keywords["centre_head"].default is False
    assert FUNCTIONS[name].__doc__


def test_every_entry_is_complete_and_has_a_function():
    assert list(METHODS) == list(FUNCTIONS) and {DEFAULT_METHOD, COMPARISON_METHOD, *NOT_IN_HALF} <= METHODS.keys()
    for name, method in METHODS.items():
        assert method.name == name and method.source and method.description and method.passes >= 0
        assert method.contrast in (*CONTRASTS, None) and (method.contrast is None) == (not method.uses_target)


def imported_by(code: str) -> set[str]:
    """Which of these packages a fresh Python has imported after some code."""
    heavy = ("torch", "timm", "numpy")
    code = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(found.stdout))


def test_names_options_and_checks_need_no_torch():
    code = """
import explain
from explain import CONTRASTS, DEFAULT_METHOD, METHODS, RelevanceOptions, find_method, refuse_more_than_maps
find_method(DEFAULT_METHOD, {"contrast": "mean", "precision": "float16"})
RelevanceOptions("lrp", "mean", True).keywords()
assert "relevance" in dir(explain)
"""
    assert imported_by(code) == set()


def test_what_needs_torch_is_imported_at_its_first_use():
    code = """
import explain
from explain import METHODS
import explain.compute, explain.support
assert explain.relevance is explain.compute.relevance, explain.relevance
assert explain.check_explainable is explain.support.check_explainable
from explain import *
assert relevance is explain.compute.relevance and issubclass(UnsupportedModel, ValueError)
"""
    assert "torch" in imported_by(code)


def test_public_names_are_never_modules():
    for name in explain.__all__:
        assert not inspect.ismodule(getattr(explain, name)) and not (ROOT / "explain" / f"{name}.py").exists()
    with pytest.raises(AttributeError, match="module 'explain' has no attribute 'relevances'"):
        _ = explain.relevances


# ---- options


@pytest.mark.parametrize(
    "given, keywords, changes",
    [
        (RelevanceOptions(), {}, []),
        (RelevanceOptions("lrp"), {}, []),
        (RelevanceOptions("lrp", "none"), {}, []),
        (RelevanceOptions("lrp", "mean"), {"contrast": "mean"}, ["contrast mean"]),
        (RelevanceOptions("lrp_blend", "softmax"), {}, []),
        (RelevanceOptions("lrp_blend", "none"), {"contrast": "none"}, ["contrast none"]),
        (RelevanceOptions("rollout", "none"), {}, []),
        (RelevanceOptions("rollout", "mean"), {"contrast": "mean"}, ["contrast mean"]),
        (
            RelevanceOptions("attnlrp", "log_p", True, "float16"),
            {"contrast": "log_p", "centre_head": True, "precision": "float16"},
            ["contrast log_p", "centre head", "precision float16"],
        ),
    ],
)
def test_only_what_differs_from_a_methods_defaults_is_passed_on_and_named(given, keywords, changes):
    assert given.keywords() == keywords and given.changes() == changes


def test_unknown_options_and_precisions_are_refused_by_name():
    assert find_method("lrp", {"start_block": 9, "precision": None}) is METHODS["lrp"]
    with pytest.raises(ValueError, match="unknown relevance method 'lrp_dept'; did you mean lrp_depth"):
        find_method("lrp_dept")
    with pytest.raises(ValueError, match="rollout has no option 'contrast'; it has start_block, layers"):
        find_method("rollout", RelevanceOptions("rollout", "mean").keywords())
    with pytest.raises(ValueError, match="gradcam differs by more than 2 % in float16: it weighs heads"):
        find_method("gradcam", {"precision": "float16"})
    with pytest.raises(ValueError, match="precision is 'int8'; expected None"):
        check_precision("int8", "lrp_depth")
