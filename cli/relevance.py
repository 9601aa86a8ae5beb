"""Checks of the relevance options, and what they change, in words. Imports no torch."""

from collections.abc import Sequence

from common.errors import UsageError
from explain.registry import RelevanceOptions, find_method


def check_relevance(asked: Sequence[RelevanceOptions], layers: bool = False) -> None:
    """Raise UsageError where a relevance method lacks an option that was given; the line names methods that have it.

    layers: relevance by block and head is wanted, too.
    """
    refusals = {one.method: why for one in asked if (why := _refusal(one, layers))}
    if not refusals:
        return
    options = dict.fromkeys(option for one in asked for option in _keywords(one, layers))
    flags = " and ".join(f"--{option.replace('_', '-')}" for option in options)
    able = [one.method for one in asked if one.method not in refusals]
    choice = f"Of those given, {', '.join(able)} can; give no other" if able else "Choose another --relevance"
    raise UsageError(f"{next(iter(refusals.values()))} {choice}, or drop {flags}")


def _keywords(one: RelevanceOptions, layers: bool) -> dict:
    return one.keywords() | ({"layers": True} if layers else {})


def _refusal(one: RelevanceOptions, layers: bool) -> str | None:
    options = _keywords(one, layers)
    try:
        start = find_method(one.method, options).contrast
    except ValueError as error:
        return str(error)
    if options.get("centre_head") and "contrast" not in options and start != "none":
        return f"{one.method} explains a contrast, which a centred head leaves as it is."
    return None
