"""A log breaks no line; a terminal has its width."""

import io
import re
from pathlib import Path

import pytest

import mpt_jax
from mpt_jax.terminal import RULE_WIDTH, Output

LINE = "teach: backbone embedded " + "(1,050,624 parameters) " * 20 + "fingerprint abc"


@pytest.fixture(autouse=True)
def no_columns(monkeypatch):
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def printed(**options):
    out = io.StringIO()
    console = Output(file=out, **options)
    console.print(LINE)
    console.rule("what follows", align="left")
    return out.getvalue().splitlines()


def test_a_log_has_whole_lines_and_short_rules():
    line, rule = printed()
    assert line == LINE
    assert rule.startswith("what follows ─") and len(rule) == RULE_WIDTH


def test_a_terminal_has_its_own_width():
    lines = printed(force_terminal=True, width=60, no_color=True)
    assert len(lines) > 3 and max(map(len, lines)) <= 60


def test_a_width_that_is_asked_for_holds(monkeypatch):
    assert max(map(len, printed(width=70))) <= 70
    monkeypatch.setenv("COLUMNS", "50")
    assert max(map(len, printed())) <= 50


def test_all_commands_print_there():
    root = Path(mpt_jax.__file__).parent
    found = [p for p in root.rglob("*.py") if re.search(r"\bConsole\(", p.read_text())]
    assert found == []
