"""What the command lines turn into typed options, and what they refuse without a model."""

import pytest

import compare
import study
import visualize
from cli.arguments import relevance_options
from cli.compare import compare_options
from cli.study import study_options
from explain.registry import COMPARISON_METHOD


def studied(*words):
    return study_options(study.build_parser().parse_args(words))


# ---- study.py


@pytest.mark.parametrize(
    "earlier, present",
    [("--others", "--random-classes"), ("--removal", "--imputation"), ("--images-at-once", "--batch-size")],
)
@pytest.mark.parametrize("form", ["{} 3", "{}=3"])
def test_an_option_of_an_earlier_version_is_refused_with_its_present_name(tmp_path, refused, earlier, present, form):
    message = refused(study, *form.format(earlier).split(), "--out", tmp_path / "out")
    assert message == f"error: {earlier} is called {present} in this version; use that\n"


def test_an_earlier_name_is_no_option_of_other_commands(tmp_path, refused):
    message = refused(compare, tmp_path / "a", tmp_path / "b", "--others", "3", "--out", tmp_path / "out")
    assert "unrecognized arguments: --others" in message


def test_metrics_are_asked_for_by_name_or_in_groups():
    everything = ("maps", "centred", "robustness", "faithfulness", "grid_pointing", "randomisation", "interventions")
    assert studied().measurement.measurements == everything
    assert studied("--metrics", "quick").measurement.measurements == everything[:3]
    assert studied("--metrics", "randomisation").measurement.measurements == ("maps", "randomisation")
    assert studied("--metrics", "grid_pointing", "quick").measurement.measurements == (*everything[:3], everything[4])


def test_what_is_named_twice_is_measured_once():
    options = studied("--relevance", "lrp", "rollout", "lrp", "--imputation", "blur", "mean", "blur").measurement
    assert [one.method for one in options.relevance] == ["lrp", "rollout"]
    assert options.imputations == ("blur", "mean")


@pytest.mark.parametrize("methods", [["linear"], ["linear", "linear"], ["dora", "dora:rank=8"]])
def test_a_study_needs_two_different_methods(tmp_path, refused, methods):
    assert "give two or more different methods" in refused(study, "--methods", *methods, "--out", tmp_path / "out")


# ---- compare.py


def test_a_comparison_has_three_random_classes_unless_others_are_asked_for(tmp_path):
    run, other = (tmp_path / name for name in ("run", "other"))
    for folder in (run, other):
        folder.mkdir()
        for name in ("config.json", "summary.json"):
            (folder / name).write_text("{}")

    def options(*words):
        return compare_options(compare.build_parser().parse_args([str(run), str(other), "--out", "out", *words]))

    default, asked = options(), options("--random-classes", "1", "--second", "runner-up", "--images", "5")
    assert (default.measurement.random_classes, default.second, default.measurement.images) == (3, "auto", 64)
    assert (asked.measurement.random_classes, asked.second, asked.measurement.images) == (1, "runner-up", 5)
    assert [one.method for one in default.measurement.relevance] == [COMPARISON_METHOD]


@pytest.mark.parametrize("script", [compare, study])
def test_maps_of_one_random_class_are_the_least_to_compare_with(tmp_path, refused, script):
    given = [tmp_path / "a", tmp_path / "b"] if script is compare else []
    assert "--random-classes: '0'" in refused(script, *given, "--random-classes", 0, "--out", tmp_path / "out")


# ---- relevance


def test_what_a_method_does_by_itself_is_no_change():
    def changes(*words: str) -> list[dict]:
        return [
            one.keywords()
            for one in relevance_options(visualize.build_parser().parse_args(["run", "photo.jpg", *words]))
        ]

    assert changes("--relevance", "lrp_depth", "rollout", "--contrast", "none") == [{}, {}]
    assert changes("--contrast", "softmax") == [{}]
    assert changes("--contrast", "none", "--centre-head") == [{"contrast": "none", "centre_head": True}]
    assert changes("--relevance", "lrp_depth", "--contrast", "softmax") == [{"contrast": "softmax"}]


@pytest.mark.parametrize("script", [compare, visualize, study])
def test_a_relevance_method_misspelt(tmp_path, refused, script):
    """Before anything is loaded: the runs are not even there."""
    given = {compare: [tmp_path / "a", tmp_path / "b"], visualize: [tmp_path / "a", tmp_path / "b.png"], study: []}
    message = refused(script, *given[script], "--relevance", "lrp_dept", "--out", tmp_path / "out")
    assert "unknown relevance method 'lrp_dept'; did you mean lrp_depth" in message


@pytest.mark.parametrize("script", [compare, visualize])
def test_a_method_without_a_class_has_no_contrast(tmp_path, refused, script):
    given = [tmp_path / "a", tmp_path / "b"]
    options = ["--relevance", "rollout", "--contrast", "mean"]
    assert "'contrast'" in refused(script, *given, *options, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "methods, options, words",
    [
        (
            ["lrp", "rollout", "lrp_depth"],
            ["--contrast", "mean"],
            "rollout has no option 'contrast'; it has start_block, layers. "
            "Of those given, lrp, lrp_depth can; give no other, or drop --contrast",
        ),
        (
            ["gradcam", "lrp"],
            ["--layers", "--centre-head"],
            "Of those given, lrp can; give no other, or drop --centre-head and --layers",
        ),
        (["rollout", "random"], ["--contrast", "mean"], "Choose another --relevance, or drop --contrast"),
        (
            ["lrp_blend"],
            ["--centre-head"],
            "lrp_blend explains a contrast, which a centred head leaves as it is. Choose another "
            "--relevance, or drop --centre-head",
        ),
        (
            ["lrp_depth", "lrp"],
            ["--precision", "float16"],
            "lrp differs by more than 2 % in float16",
        ),
    ],
)
def test_methods_that_have_the_option_are_named_where_another_lacks_it(tmp_path, refused, methods, options, words):
    """Before anything is loaded: the run is not even there."""
    given = [tmp_path / "run", tmp_path / "a.png", "--relevance", *methods]
    assert words in refused(visualize, *given, *options, "--out", tmp_path / "out")
