"""Commands at 80 and 120 columns: no line is broken inside a word, and no figure is cut."""

import json
import time
from pathlib import Path

import pytest

from fedloom import __version__
from fedloom.core.activity import told_to
from fedloom.core.terminal_tables import fitted
from fedloom.experiment.run import run
from fedloom.experiment.settings import load_rows
from tests.cli.terminal import WIDEST, WIDTHS, capture, check_whole, plain
from tests.cli.test_refusals import refused
from tests.experiment.report.report_folders import make_rows

TINY = """
name: a tiny run
rounds: 1
data: {clients: {image: 1, both: 1}, train: 4, test: 2}
method: fedavg-lora
training: {batch_size: 4}
evaluation: {generate: false, controls: false, samples: 1}
rows:
  FedAvg-LoRA with a long name of its own: {}
"""

DOING = ("reading the data", "loading the model", "before training, evaluating", "round 1/1, training")
SCREEN = 24
"""Lines of the smallest usual terminal."""
LABEL = "FedAvg-LoRA with a long name of its own (seed 123456789)"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = {
        (row, seed): {"image": 0.6 + seed / 100} for row in ("FedA²-LoRA II-stage", "b") for seed in (0, 1)
    }
    return make_rows(tmp_path / "study", rows)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A deployment's folder, in whose last round one site was refused."""
    run = tmp_path / "server/runs/first"
    run.mkdir(parents=True)
    (tmp_path / "server/deployment.yaml").write_text(
        f"sites: [hospital-of-the-north, hospital-of-the-south]\nversion: {__version__}\n"
    )
    (tmp_path / "server/current.json").write_text('{"run": "first"}')
    why = "the tensor llm.q_proj.lora_A has 1,234,567 values that are not finite, which nobody can use"
    entry = {"round": 12, "answered": ["hospital-of-the-south"], "refused": {"hospital-of-the-north": why}}
    (run / "ledger.jsonl").write_text(json.dumps(entry) + "\n")
    return tmp_path / "server"


@pytest.mark.parametrize("width", WIDTHS)
def test_compare_breaks_no_word(study: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for more in ([], ["--against", "b"]):
        text = capture(monkeypatch, width, "compare", study, *more)
        check_whole(text, capture(monkeypatch, WIDEST, "compare", study, *more), width)
        assert "FedA²-LoRA II-stage" in text
        assert "% ↑" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_deploy_status_breaks_no_word(server: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = capture(monkeypatch, width, "deploy", "status", server)
    check_whole(text, capture(monkeypatch, WIDEST, "deploy", "status", server), width)
    assert "1,234,567" in text


def test_data_breaks_no_word(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widest = capture(monkeypatch, WIDEST, "data", tiny, "--show", "1")
    for width in WIDTHS:
        check_whole(capture(monkeypatch, width, "data", tiny, "--show", "1"), widest, width)


def test_plan_breaks_no_word(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedloom.experiment.plan.make import make_plan
    from fedloom.experiment.settings import load_rows

    made = make_plan(load_rows(tiny)[0], time.time(), how="none", limit=60.0)
    monkeypatch.setattr("fedloom.experiment.plan.plan", lambda *args, **options: made)
    widest = capture(monkeypatch, WIDEST, "plan", tiny)
    assert "parameters" in widest
    for width in WIDTHS:
        check_whole(capture(monkeypatch, width, "plan", tiny), widest, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_methods_fit_one_screen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedloom.cli.methods import IN_WORDS
    from fedloom.methods import METHODS

    text = capture(monkeypatch, width, "methods")
    assert len(text.splitlines()) <= SCREEN
    assert {word.strip("(),") for word in text.split()} >= set(METHODS)
    assert "(fedcmp)" in text, "not with privacy"
    assert "(fedavg" not in text
    every = capture(monkeypatch, width, "methods", "--all")
    assert len(every.splitlines()) <= len(METHODS) + 4  # a line each
    for listed in (text, every):
        assert max(map(len, listed.splitlines())) <= width
        assert "*" not in listed
    own = [m for m in METHODS.values() if m.__module__.startswith("fedloom.")]
    assert {p for m in own for p in (*m.shares.shared, *m.shares.personal)} <= IN_WORDS.keys()
    one = capture(monkeypatch, width, "methods", "feda2-lora")
    check_whole(one, capture(monkeypatch, WIDEST, "methods", "feda2-lora"), width)


def test_methods_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {m["name"]: m for m in json.loads(capture(monkeypatch, 80, "methods", "--json"))}
    assert found["fedsa-lora"]["personal"] == ["*.lora_B", "*.lambda_b"]
    assert json.loads(capture(monkeypatch, 80, "methods", "fedsa-lora", "--json")) == found["fedsa-lora"]
    costs = json.loads(capture(monkeypatch, 80, "methods", "ffa-lora", "--cost", "vicuna-7b", "--json"))
    assert [c["trained"] for c in costs] == [16_777_216]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_shows_seed_and_figures_whole(
    tiny: Path, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shown = capture(monkeypatch, width, "run", tiny, "seed=123456789", "--out", out, terminal=True)
    lines = [part for line in plain(shown).splitlines() for part in line.split("\r")]
    assert (
        max(len(line.rstrip()) for line in lines if "report" not in line and "model  " not in line) <= width
    )
    text = " ".join(" ".join(lines).split())
    assert f"{LABEL} round 1/1 loss" in text
    assert any(doing in text for doing in DOING)
    assert " 0 s" not in text
    assert "…" not in text
    assert "already holds a run" in refused("run", "no such file.yaml", "--out", out)


def test_a_run_tells_what_it_is_doing(tiny: Path) -> None:
    said: list[str] = []
    with told_to(said.append):
        run(load_rows(tiny, [])[0])
    first = [next(i for i, text in enumerate(said) if text.startswith(doing)) for doing in DOING]
    assert first == sorted(first)


def test_a_column_that_does_not_exist_is_refused_and_columns_are_listed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused("compare", study, "--column", "global/image/exact_mach")
    assert "there are global/image/exact_match" in said
    assert "--columns lists all" in said
    listed = capture(monkeypatch, 80, "compare", study, "--columns")
    assert {"global/image/exact_match", "bytes_up", "clients/image/token_accuracy"} <= set(listed.split())


def test_a_table_too_wide_is_continued_below_with_the_names_of_its_rows() -> None:
    from rich.console import Console

    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    header = ("", *(f"column-number-{i}" for i in range(4)))
    console.print(fitted(header, [("a row", "1.5 ± 0.1", "2 MB", "[1.0, 2.0]", "four")], 40))
    text = console.export_text()
    assert text.count("a row") == 2
    assert {*header[1:]} <= set(text.split())
    assert max(map(len, text.splitlines())) <= 40
