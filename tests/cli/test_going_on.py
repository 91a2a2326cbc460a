"""The command line when a run is stopped, taken up elsewhere, or the disk fails: one sentence and a code."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors import SafetensorError

from fedloom.cli import main as command
from fedloom.core.errors import DiskError, ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.experiment.study import begun_in
from fedloom.federation.run_folder import RunFolder

LONG = """
rounds: 100000
data: {clients: {image: 1}, train: 4, test: 1}
method: fedavg-lora
training: {batch_size: 4}
evaluation: {generate: false, controls: false, samples: 0, every: 100000}
"""


@contextmanager
def started(
    *arguments: object, cwd: Path, stdout: Any = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own: it heeds Ctrl-C even where the tests ignore it, and never outlives them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedloom", *map(str, arguments)],
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_one_process_a_folder_and_signals_that_say_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    state = tmp_path / "out" / "state"

    def last() -> int:
        return max((int(p.name[6:]) for p in state.glob("round-*")), default=-1)

    with started("run", "long.yaml", "--out", "out", cwd=tmp_path) as first:
        wait_for(lambda: last() >= 1, first)
        for resume in (True, False):  # before any data are loaded
            with pytest.raises(ExperimentError, match=rf"out is in use by process {first.pid};"):
                run(Experiment.load(tmp_path / "long.yaml"), tmp_path / "out", resume=resume)
        first.send_signal(signal.SIGINT)
        words = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert words == "fedloom: interrupted; `fedloom run --resume out` goes on from the last finished round\n"
    reached = last()
    with started("run", "--resume", "out", cwd=tmp_path) as again:
        wait_for(lambda: last() > reached, again)
        again.send_signal(signal.SIGTERM)
        words = again.communicate(timeout=60)[1]
    assert again.returncode == 143
    assert words == "fedloom: terminated; `fedloom run --resume out` goes on from the last finished round\n"
    checkpoint = RunFolder(tmp_path / "out").last()
    assert checkpoint is not None
    assert checkpoint.round == last()


def test_a_resume_in_another_directory_reads_the_same_data(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "home" / "silos" / "ann"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere" / "silos").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(folder / "x.png")
    line = {"image": "x.png", "question": "what?", "answer": "red"}
    lines = [json.dumps(line | {"split": part}) + "\n" for part in ("train", "test")]
    (folder / "metadata.jsonl").write_text("".join(lines))
    (tmp_path / "home" / "e.yaml").write_text(
        LONG.replace("100000", "1").replace(
            "data: {clients: {image: 1}, train: 4, test: 1}", "data: {source: folder, path: silos}"
        )
    )
    monkeypatch.chdir(tmp_path / "home")
    arguments = ["fedloom", "run", "e.yaml", "--out", "out"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert begun_in(Path("out")) == tmp_path / "home"
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["fedloom", "run", "--resume", "../home/out"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert json.loads((tmp_path / "home" / "out" / "summary.json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ExperimentError("wrong"), 2, "fedloom: wrong"),
        (DiskError("full"), 3, "fedloom: full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x/y"), 3, "fedloom: No space left on device: x/y"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 3, "fedloom: Is a directory: x"),
        (
            PermissionError(errno.EACCES, "Permission denied", b"x\xff"),
            3,
            r"fedloom: Permission denied: x\udcff",
        ),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            3,
            "fedloom: No space left on device",
        ),
        (
            SafetensorError("header too large"),
            2,
            "fedloom: a file of tensors cannot be used: header too large",
        ),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "no"), 2, r"fedloom: 'a\udcff' is not UTF-8"),
        (KeyboardInterrupt(), 130, "fedloom: interrupted"),
    ],
)
def test_every_fault_is_one_sentence_and_a_code(error, code: int, words: str, monkeypatch, capsys) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(command, "app", fails)
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert said.startswith(words)
    assert said.count("\n") == 1


@pytest.mark.parametrize("what", ["out", "data"])
def test_a_folder_whose_name_is_not_utf8_is_one_sentence(what: str, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")
    (Path(odd) / "ann\udcfe").mkdir(parents=True)
    settings = LONG.replace("100000", "1")
    if what == "data":
        settings = settings.replace(
            "{clients: {image: 1}, train: 4, test: 1}", "{source: folder, path: PATH}"
        )
    fields = yaml.safe_load(settings)
    if what == "data":
        fields["data"]["path"] = odd
    with pytest.raises(ExperimentError, match=r"'.*udcf.*' (has a name that )?is not UTF-8"):
        run(Experiment.parse(fields), odd if what == "out" else tmp_path / "out")


def test_accept_changes_without_resume_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fedloom", "run", "e.yaml", "--accept-changes"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "--accept-changes goes with --resume FOLDER" in capsys.readouterr().err
