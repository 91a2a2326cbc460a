"""`fedloom watch`: one line, one folder, and an end by Ctrl-C."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from fedloom.experiment.watch import server
from tests.cli.terminal import WIDTHS, capture
from tests.cli.test_going_on import started, wait_for
from tests.cli.test_refusals import refused


@pytest.mark.parametrize("width", WIDTHS)
def test_watch_says_its_address_in_one_line(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.Server, "serve_forever", lambda self, poll_interval: None)
    monkeypatch.chdir(tmp_path)
    text = capture(monkeypatch, width, "watch", "runs/q")
    assert re.fullmatch(
        r"watching runs/q at http://127\.0\.0\.1:\d+/[\w-]{16}/ \(Ctrl-C ends the page; no run has begun there yet\)\n",
        text,
    )


def test_a_folder_that_is_no_run_and_a_port_that_is_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no run")
    assert "holds no run, study or deployment" in refused("watch", tmp_path)
    assert "notes.txt is no folder" in refused("watch", tmp_path / "notes.txt")


def test_open_opens_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    monkeypatch.setattr(server.Server, "serve_forever", lambda self, poll_interval: None)
    text = capture(monkeypatch, 80, "watch", tmp_path / "r", "--open")
    assert opened == re.findall(r"http://\S+/", text)


def test_ctrl_c_ends_the_page_with_the_code_of_the_others(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w+") as said, started("watch", "r", cwd=tmp_path, stdout=said) as process:
        wait_for(lambda: "http" in (tmp_path / "said").read_text(), process)
        [address] = re.findall(r"http://\S+/", (tmp_path / "said").read_text())
        assert b"no run has begun in r yet" in urllib.request.urlopen(f"{address}data", timeout=30).read()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["said"], "nothing is written"
