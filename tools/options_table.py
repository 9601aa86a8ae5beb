"""Write docs/options.md: every option of every command, read from the parsers.

python tools/options_table.py            # writes it
python tools/options_table.py --check    # exit status 1 where it is out of step
"""

import argparse
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script in a subfolder; the packages lie one floor up

OUT = ROOT / "docs" / "options.md"
COMMANDS = ("train", "compare", "visualize", "study")
HEAD = """# Options

Written by `python tools/options_table.py` from the command lines; `python COMMAND.py --help` prints the same text.
[comparing.md](comparing.md#relevance-methods) describes the relevance methods. `--version` prints the versions of
Python and of the packages.
"""
DEFAULT = re.compile(r"\s*\(default: ([^()]*)\)")


def options_page() -> str:
    """Return the text of docs/options.md."""
    parts = [HEAD]
    for command in COMMANDS:
        parser = import_module(f"cli.{command}").build_parser()
        rows = "\n".join(_rows(parser))
        parts.append(f"\n## {command}.py\n\n| option | default | meaning |\n| --- | --- | --- |\n{rows}\n")
    return "".join(parts)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest not in ("help", argparse.SUPPRESS)]
        if actions:
            yield f"| **{group.title}** | | |"
        for action in actions:
            default, meaning = _default_and_meaning(action)
            meaning = meaning.replace("|", "\\|").replace("methods above", "relevance methods")
            yield f"| `{_name(action)}` | {default} | {meaning} |"


def _name(action: argparse.Action) -> str:
    """Return an option with its value, as in "--targets T..." and "--augment {none,flip}"."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    value = (str(action.metavar) if action.metavar else choices) + ("..." if action.nargs == "+" else "")
    if not action.option_strings:
        return value
    return action.option_strings[0] + (f" {value}" if action.nargs != 0 else "")


def _default_and_meaning(action: argparse.Action) -> tuple[str, str]:
    """Return an option's default and its help; a help that gives several defaults keeps them."""
    default = action.default
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    text = (action.help or "") % (vars(action) | {"default": shown})
    found = DEFAULT.findall(text)
    if len(found) == 1:
        return found[0], DEFAULT.sub("", text)
    if action.required and action.option_strings:
        return "required", text
    named = default is not None and default != [] and action.nargs != 0 and not found
    return (shown if named else ""), text


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/options.md from the parsers.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if out of step")
    if not parser.parse_args(argv).check:
        OUT.write_text(options_page(), encoding="utf-8")
        return 0
    if OUT.read_text(encoding="utf-8") == options_page():
        return 0
    print(f"error: {OUT.relative_to(ROOT)} is out of step with the parsers; run python tools/options_table.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
