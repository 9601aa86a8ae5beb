"""Methods and their settings as text."""

import pytest

from common.errors import ExplainedError, UsageError
from models.methods import METHODS, MethodSettings, parse_settings


def test_every_method_describes_itself():
    assert list(METHODS) == ["linear", "dora", "lora", "full"] and all(m.description for m in METHODS.values())


@pytest.mark.parametrize(
    "text, settings",
    [
        ("linear", MethodSettings("linear")),
        ("dora", MethodSettings("dora", ("qkv", "proj", "fc1", "fc2"), None, 8, 16.0)),
        ("dora:blocks=9,targets=fc1,rank=4,alpha=8", MethodSettings("dora", ("fc1",), (9,), 4, 8.0)),
        ("lora:blocks=0+9-11,targets=fc2+qkv", MethodSettings("lora", ("qkv", "fc2"), (0, 9, 10, 11))),
    ],
)
def test_settings_are_read_and_their_label_is_read_back(text, settings):
    assert parse_settings(text) == settings
    assert parse_settings(settings.label()) == settings


def test_a_label_names_only_what_differs_from_the_defaults():
    assert parse_settings("dora:rank=8,alpha=16").label() == "dora"
    assert parse_settings("dora:blocks=9-10,alpha=0.5").label() == "dora:blocks=9+10,alpha=0.5"


@pytest.mark.parametrize(
    "text, words",
    [
        ("dorra", "unknown method 'dorra'; expected one of linear, dora, lora, full"),
        ("", "unknown method ''"),
        ("dora:depth=3", "unknown setting 'depth'"),
        ("linear:rank=4", "'linear' takes no settings; 'rank' belongs to dora, lora"),
        ("dora:rank=four", "cannot read 'rank=four'"),
        ("dora:rank=0", "a rank is at least 1"),
        ("dora:targets=fc3", "unknown target(s) fc3"),
        ("dora:targets=", "unknown target(s)"),
        ("dora:blocks=", "cannot read 'blocks='"),
        ("dora:blocks=11-9", "cannot read 'blocks=11-9'"),
        ("dora:alpha=0", "cannot read 'alpha=0'"),
        ("dora:rank=4,rank=8", "'rank' is given twice"),
        ("dora:alpha=nan", "cannot read 'alpha=nan'"),
    ],
)
def test_settings_that_cannot_be_read_are_named(text, words):
    with pytest.raises(UsageError) as caught:
        parse_settings(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["linear", "dora", "lora:blocks=0+9-11,targets=fc2+qkv", "dora:rank=4,alpha=0.5"])
def test_settings_survive_a_record(text):
    settings = parse_settings(text)
    assert MethodSettings.of_record(settings.record()) == settings


@pytest.mark.parametrize("record", [[], {}, {"method": "linear"}, MethodSettings().record() | {"method": "vera"}])
def test_a_record_of_something_else_is_refused(record):
    with pytest.raises(ExplainedError, match="it holds unknown settings"):
        MethodSettings.of_record(record)
