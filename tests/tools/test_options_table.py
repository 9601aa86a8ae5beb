"""docs/options.md is what tools/options_table.py reads from the parsers."""

import pytest

from tools import options_table


def test_the_page_has_every_option_of_every_command():
    text = options_table.options_page()
    assert options_table.OUT.read_text(encoding="utf-8") == text, "run python tools/options_table.py"
    assert "| `--seed N` | 0 | seed of initialisation" in text and "| `--out RUN` | required |" in text
    assert "| `--methods M...` | linear dora | two or more" in text


@pytest.mark.parametrize("change", [0, 1])
def test_a_page_out_of_step_is_refused(tmp_path, monkeypatch, capsys, change):
    monkeypatch.setattr(options_table, "ROOT", tmp_path)
    monkeypatch.setattr(options_table, "OUT", tmp_path / "options.md")
    assert options_table.main([]) == 0
    (tmp_path / "options.md").write_text((tmp_path / "options.md").read_text() + "x" * change)
    assert options_table.main(["--check"]) == change
    assert ("run python tools/options_table.py" in capsys.readouterr().out) == bool(change)
