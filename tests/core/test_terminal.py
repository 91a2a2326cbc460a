"""No control character of a text reaches the terminal, however the text is printed."""

import io
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.progress import Progress
from rich.text import Text
from typer.testing import CliRunner

from fedloom.cli import main as cli
from fedloom.cli.output import echo, plain_table
from fedloom.core.terminal import console, visible

NASTY = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e\u2066\x00\ud800"


def hidden(text: str) -> set[str]:
    """The control characters in a text."""
    return {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")} | {*text} & {
        *"\u202e\u2066"
    }


def printed(*things: object) -> str:
    stream = io.StringIO()
    out = console(file=stream, width=60)
    for thing in things:
        out.print(thing, soft_wrap=True)
    return stream.getvalue()


@given(st.text())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_way_to_print_a_text(text: str) -> None:
    table = plain_table(("a", "b"), [(text, NASTY)])
    assert not hidden(visible(text))
    assert len(visible(text)) == len(text)
    assert not hidden(printed(Text(text + NASTY), Text(NASTY, style="red"), table))


def test_tabs_lines_and_letters_of_all_scripts_stay() -> None:
    text = "a\tb\nقال “نعم” 👩‍⚕️ 骨折\u3000กระดูก नहीं"
    assert visible(text) == text


def test_a_terminal_still_gets_richs_own_colours_and_bars() -> None:
    stream = io.StringIO()
    out = console(file=stream, force_terminal=True, width=60)
    out.print(Text(f"red{NASTY}", style="red"))
    with Progress(console=out) as bar:
        bar.add_task("work", total=2)
        out.print(Text(NASTY))
    assert "\x1b[31mred\ufffd[2J" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "work" in stream.getvalue()


def test_the_commands_show_no_control_character_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = tmp_path / "own/\x1b[31mann"
    client.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(client / "\x9bx.png")
    nasty = NASTY[:-1]  # half a letter is refused
    records = [{"image": "\x9bx.png", "question": f"what{nasty}?", "answer": f"red{nasty}"}] * 3
    (client / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    experiment = tmp_path / "own.yaml"
    experiment.write_text("name: own\nrounds: 1\ndata: {source: folder, path: own}\nmethod: fedavg\n")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli.app, ["data", str(experiment)])
    assert shown.exit_code == 0, shown.output
    assert "what\ufffd[2J" in shown.output
    assert not hidden(shown.output)

    (client / "metadata.jsonl").write_text(json.dumps({f"key{nasty}": 1}), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["fedloom", "data", str(experiment)])
    with pytest.raises(SystemExit):
        cli.main()
    echo(NASTY)
    said = capsys.readouterr()
    assert "ann" in said.err
    assert not hidden(said.err + said.out)
