"""Captures of commands at a terminal's width, and the check that no line breaks a word or a figure."""

import io
import re
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from fedloom.cli import compare, data, deal_picture, main, methods, output, plan, plan_tables, watch
from fedloom.core.terminal import console
from fedloom.deploy import commands

WIDTHS = (80, 120)
WIDEST = 1000
Capture = Callable[..., str]


def capture(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: object, terminal: bool = False) -> str:
    """What a command prints on a console of this width; a `terminal` also gets bars and colours."""
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        out = console(file=stream, width=width, force_terminal=terminal)
        for module in (
            compare,
            data,
            deal_picture,
            main,
            methods,
            output,
            plan,
            plan_tables,
            watch,
            commands,
        ):
            patch.setattr(module, "out", out)
        result = CliRunner().invoke(main.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return stream.getvalue() + result.stdout


def plain(text: str) -> str:
    """The text without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def check_whole(text: str, widest: str, width: int) -> None:
    """Every line fits, and the words are those of the widest capture: none is broken, none is cut."""
    for line in text.splitlines():
        assert len(line.rstrip()) <= width, line
    assert set(text.split()) - {"─" * n for n in range(width + 1)} == _words(widest)
    assert "…" not in text


def _words(text: str) -> set[str]:
    return {word for word in text.split() if word.strip("─")}
