"""The command line as a user meets it: separate processes, exit codes, one sentence per mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUICK = """
rounds: 3
data: {clients: {image: 1, audio: 1}, train: 24, test: 4}
method: feda2-lora
training: {batch_size: 4}
evaluation: {generate: false, controls: false, samples: 2}
"""


def fedloom(*args: object, cwd: Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fedloom.cli.main import main; main()", *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240, **kwargs
    )


@pytest.fixture
def quick_file(tmp_path: Path) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK)
    return path


def model_files(run: Path) -> dict[str, bytes]:
    folder = run / "model"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def picture_client(root: Path, name: str = "ann", **record: str) -> Path:
    from PIL import Image

    folder = root / name
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 30), (200, 10, 10)).save(folder / "x.png")
    line = {"image": "x.png", "question": "what colour is it?", "answer": "red", **record}
    (folder / "metadata.jsonl").write_text((json.dumps(line) + "\n") * 3)
    return folder


def mistake(kind: str, tmp_path: Path) -> list[object]:
    """The command that makes this mistake."""
    experiment = tmp_path / "quick.yaml"
    own = [
        "run",
        experiment,
        "data.source=folder",
        f"data.path={tmp_path / 'own'}",
        "--out",
        tmp_path / "out",
    ]
    if kind == "missing file":
        picture_client(tmp_path / "own", image="gone.png")
    elif kind == "broken picture":
        (picture_client(tmp_path / "own") / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    elif kind == "empty client":
        picture_client(tmp_path / "own")
        (tmp_path / "own" / "bob").mkdir()
        (tmp_path / "own" / "bob" / "metadata.jsonl").write_text("")
    elif kind == "unknown key":
        return ["run", experiment, "training.learning_rate=1", "--out", tmp_path / "out"]
    elif kind == "negative learning rate":
        return ["run", experiment, "training.lr=-1", "--out", tmp_path / "out"]
    elif kind == "unwritable output":
        (tmp_path / "file").write_text("")
        return ["run", experiment, "--out", tmp_path / "file" / "out"]
    elif kind == "no experiment":
        return ["run", tmp_path / "none.yaml"]
    elif kind == "nothing to resume":
        return ["run", "--resume", tmp_path / "none"]
    elif kind == "rank above the layer":
        return ["run", experiment, "model.llm_lora.rank=4096", "--out", tmp_path / "out"]
    elif kind == "no such foundation":
        return ["run", experiment, "model.foundation=vicuna", "--out", tmp_path / "out"]
    elif kind == "ask without a run":
        return ["ask", tmp_path / "none", "--question", "what?"]
    elif kind == "report on nothing":
        return ["report", tmp_path / "none"]
    return own


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing file", ["ann", "gone.png"]),
        ("broken picture", ["ann", "x.png"]),
        ("empty client", ["bob"]),
        ("unknown key", ["training.learning_rate"]),
        ("negative learning rate", ["training.lr", "-1"]),
        ("unwritable output", ["file"]),
        ("no experiment", ["none.yaml"]),
        ("nothing to resume", ["none"]),
        ("rank above the layer", ["4096"]),
        ("no such foundation", ["vicuna"]),
        ("ask without a run", ["none"]),
        ("report on nothing", ["none"]),
    ],
)
def test_a_mistake_costs_one_sentence_and_exit_code_2(
    kind: str, named: list[str], tmp_path: Path, quick_file: Path
) -> None:
    done = fedloom(*mistake(kind, tmp_path), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in named), done.stderr
    assert not (tmp_path / "out" / "metrics.jsonl").exists(), "training must not have begun"


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_round_resumes_to_the_same_bytes(
    tmp_path: Path, quick_file: Path
) -> None:
    assert fedloom("run", quick_file, "--out", tmp_path / "whole", cwd=tmp_path).returncode == 0
    checkpoint = tmp_path / "cut" / "state" / "round-000001"
    code = (
        "import os, sys, time; sys.argv = ['fedloom', *sys.argv[1:]]\n"
        "from fedloom.models.mllm.trainable import AdaptedMLLM as M; step = M.losses\n"
        f"M.losses = lambda *a: (os.path.exists({str(checkpoint)!r}) and time.sleep(600), step(*a))[1]\n"  # to be hit in it
        "from fedloom.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "run", str(quick_file), "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert fedloom("run", "--resume", tmp_path / "cut", cwd=tmp_path).returncode == 0
    whole, cut = (model_files(tmp_path / name) for name in ("whole", "cut"))
    assert whole == cut
    assert any(name.endswith("adapter_model.safetensors") for name in whole)


def test_rows_are_run_reported_and_resumed_without_running_the_finished_ones_again(
    tmp_path: Path, quick_file: Path
) -> None:
    quick_file.write_text(
        QUICK.replace("rounds: 3", "rounds: 1") + "rows: {A²: {method.name: fedavg-lora}, B: {}}\n"
    )
    assert fedloom("run", quick_file, "--out", tmp_path / "t", cwd=tmp_path).returncode == 0
    first = (tmp_path / "t" / "a2" / "seed-0" / "summary.json").read_bytes()
    (tmp_path / "t" / "b" / "seed-0" / "summary.json").unlink()
    (tmp_path / "t" / "rows.json").unlink()
    again = fedloom("run", "--resume", tmp_path / "t", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "t" / "a2" / "seed-0" / "summary.json").read_bytes() == first
    assert [e["row"] for e in json.loads((tmp_path / "t" / "rows.json").read_text())] == ["A²", "B"]
    assert (tmp_path / "t" / "report.html").stat().st_size > 1000
    compared = fedloom("compare", tmp_path / "t", "--markdown", cwd=tmp_path)
    assert "| A² |" in compared.stdout
    assert "| B |" in compared.stdout


def test_import_is_quick_and_pulls_in_no_framework(tmp_path: Path) -> None:
    code = "import fedloom, sys; print([m for m in ('torch', 'transformers', 'peft', 'flwr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "run",
        "compare",
        "report",
        "ask",
        "methods",
        "data",
        "schema",
        "foundation build",
        "doctor",
        "ledger add",
    ]
    + [f"deploy {name}" for name in ("init", "server", "site", "run", "status", "stop", "demo")],
)
def test_every_command_shows_an_example_in_its_help(command: str) -> None:
    from typer.testing import CliRunner

    from fedloom.cli.main import app

    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert f"Example: fedloom {command}" in " ".join(shown.output.split())
