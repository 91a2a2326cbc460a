"""The view of those who run a deployment: the status, the logs, the metrics, and kits of another version."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fedloom import __version__
from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import locked
from fedloom.core.payload import Limits, Payload
from fedloom.deploy import current_run as current
from fedloom.deploy import logs
from fedloom.deploy.commands import app
from fedloom.deploy.demo import free_ports
from fedloom.deploy.logs import EventLog
from fedloom.deploy.metrics import of_server, of_site, serving
from fedloom.deploy.run_log import RunLog
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.status import StatusReader
from fedloom.deploy.status_command import view
from fedloom.deploy.trainer_log import noted, read_counts
from fedloom.deploy.wire import Answer, Request

NAMES = ("north", "south")
UNIT = "ε"


def invoke(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, ExperimentError):
        return 2, str(done.exception)
    return done.exit_code, done.output


@pytest.fixture
def server(quick, tmp_path) -> Path:
    experiment = quick("fedavg-lora", data={"clients": {"image": 2}, "train": 6, "test": 1})
    write_kit(tmp_path / "kit", experiment, Deployment(sites=NAMES))
    return tmp_path / "kit" / "server"


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def add(path: Path, file: str, *lines: dict[str, Any]) -> None:
    (path / file).parent.mkdir(parents=True, exist_ok=True)
    with (path / file).open("a") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in lines)


def entry(round: int, *answered: str, refused: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    asked = [*answered, *(refused or {})]
    fields = {
        "round": round,
        "request": "train",
        "asked": asked,
        "answered": answered,
        "refused": refused or {},
    }
    return {**fields, "bytes_up": 1000, "bytes_down": 3000, "seconds": 1.5, **more}


@pytest.fixture
def path(server) -> Path:
    """A run in its third round, with differential privacy."""
    path = current.begin(server, "first")
    settings = {"rounds": 9, "privacy": {"dp": {"epsilon": 8.0}}}
    (path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    (path / "run.json").write_text('{"run": "ab12"}')
    (path / "state" / "round-000002").mkdir(parents=True)
    (path / "state" / "doing.json").write_text('{"text": "round 3/9, training", "time": 1.0}')
    add(
        path,
        "state/events.jsonl",
        {"event": "begun", "time": 1.0},
        {"event": "round", "time": 2.0, "round": 1, "rounds": 9},
    )
    why = "raised ValueError: the answer was 'a red cup'"
    add(
        path,
        "ledger.jsonl",
        entry(1, *NAMES, epsilon=1.5),
        entry(2, "north", refused={"south": why}, epsilon=2.25),
    )
    add(
        path,
        "metrics.jsonl",
        *({"round": r, "name": f"train/{n}loss", "value": 3.5 - r} for r in (1, 2) for n in ("", "north/")),
    )
    return path


def test_the_status_has_the_round_the_sites_and_what_was_spent(server, path) -> None:
    with locked(path):
        found = StatusReader(server).read()
        text = json.loads(invoke("status", server, "--json")[1])
        shown = invoke("status", server)[1]
    assert (found.state, found.round, found.rounds, found.loss) == ("at work", 2, 9, 1.5)
    assert (found.bytes_up, found.bytes_down, found.epsilon, found.epsilon_limit) == (2000, 6000, 2.25, 8.0)
    south = next(s for s in found.sites if s.name == "south")
    assert (south.answered, south.refused, south.last[:24]) == (1, 1, "round 2: raised ValueErr")
    assert text["sites"][0] == {
        "name": "north",
        "last": "answered in round 2",
        "answered": 2,
        "refused": 0,
        "missing": 0,
        "loss": 1.5,
    }
    assert text["seconds"] == {"train": 3.0}
    assert f"{UNIT} 2.25 of 8" in shown
    assert "round 3/9, training" in shown
    assert max(map(len, shown.splitlines())) <= 80
    current.end(server)
    stopped = json.loads(invoke("status", server, "--json")[1])
    assert (stopped["run"], stopped["state"], stopped["round"]) == ("first", "stopped", 2)
    assert "go on with" in invoke("status", server)[1]


def test_sites_that_joined_and_left_say_so(server, path) -> None:
    add(path, "ledger.jsonl", entry(3, request="members", joined=["west"], left=["south"]))
    last = {s.name: s.last for s in StatusReader(server).read().sites}
    assert last == {
        "north": "answered in round 2",
        "south": "left before round 3",
        "west": "takes part from round 3 on",
    }


def test_a_long_reason_and_many_sites_fit_a_narrow_terminal(server, path) -> None:
    from fedloom.core.terminal import console

    add(
        path,
        "ledger.jsonl",
        entry(3, refused={f"hospital-{n:02d}": "refused: " + "why " * 40 for n in range(12)}),
    )
    narrow = console(width=80, force_terminal=False)
    with narrow.capture() as caught:
        narrow.print(view(StatusReader(server).read(), 80))
    assert max(map(len, caught.get().splitlines())) <= 80
    assert "hospital-11" in caught.get()


def test_the_view_that_follows_a_run_ends_on_ctrl_c_with_code_0(server, path) -> None:
    command = [sys.executable, "-m", "fedloom", "deploy", "status", str(server), "--watch", "--json"]
    # As at a terminal: a shell's background jobs, and all that they start, ignore SIGINT.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heeds) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["round"] == 2
        (path / "state" / "round-000003").mkdir()
        assert json.loads(process.stdout.readline())["round"] == 3, "a line for every change"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_log_has_json_lines_and_is_put_aside_by_size(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(logs, "SIZE", 400)
    said: list[str] = []
    log = EventLog(tmp_path / "logs" / "site.jsonl", "site", say=said.append, site="north")
    for number in range(20):
        log("", "quiet", number=number, why=None)
    log("joins\x1b[31m fl.example.org", "joins", "warning", server="x:1")
    log.close()
    assert said == ["joins\x1b[31m fl.example.org"]
    files = sorted(p.name for p in (tmp_path / "logs").iterdir())
    assert files == ["site.jsonl", *(f"site.jsonl.{n}" for n in range(1, 6))], "five are kept"
    assert all(p.stat().st_size <= 400 for p in (tmp_path / "logs").iterdir())
    last = lines_of(tmp_path / "logs" / "site.jsonl")[-1]
    assert last.pop("time").endswith("+00:00")
    assert last == {
        "level": "warning",
        "process": "site",
        "site": "north",
        "event": "joins",
        "server": "x:1",
        "text": "joins\x1b[31m fl.example.org",
    }


def test_a_full_disk_ends_no_process_that_logs(tmp_path, monkeypatch, capsys) -> None:
    log = EventLog(tmp_path / "site.jsonl", "site")
    [handler] = log._logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.stream.close()
    handler.stream = Path("/dev/full").open("w")  # noqa: SIM115 - the log closes it
    log("line", "event")
    log.close()
    assert capsys.readouterr().err == ""


def test_log_json_gives_standard_output_the_same_lines(tmp_path, capsys) -> None:
    said: list[str] = []
    log = EventLog(tmp_path / "server.jsonl", "server", say=said.append, as_json=True)
    log("server ready", "ready")
    log.close()
    assert said == []
    assert capsys.readouterr().out == (tmp_path / "server.jsonl").read_text()


def test_the_servers_log_tells_of_every_answer_once_and_quotes_no_reason(server, path, tmp_path) -> None:
    log = EventLog(tmp_path / "server.jsonl", "server")
    told = RunLog(server, log)
    told()
    assert not (tmp_path / "server.jsonl").read_text(), "what was there before is not told again"
    add(
        path,
        "ledger.jsonl",
        entry(3, "north", refused={"south": "raised ValueError: 'a red cup'"}, epsilon=2.5),
    )
    add(path, "state/events.jsonl", {"event": "round", "time": 3.0, "round": 3, "rounds": 9})
    told()
    told()
    north, south, phase, event = lines_of(tmp_path / "server.jsonl")
    assert (north["event"], north["site"], north["run"], north["round"]) == (
        "site_answered",
        "north",
        "ab12",
        3,
    )
    assert (south["event"], south["why"], south["level"]) == ("site_refused", "raised ValueError", "warning")
    assert (phase["event"], phase["bytes_up"], phase["epsilon"], phase["seconds"]) == (
        "phase_finished",
        1000,
        2.5,
        1.5,
    )
    assert (event["event"], event["round"]) == ("round_finished", 3)
    assert "red cup" not in (tmp_path / "server.jsonl").read_text()
    ledger = (path / "ledger.jsonl").read_text().splitlines(keepends=True)
    (path / "ledger.jsonl").write_text(
        "".join(ledger[:2])
    )  # a resume cuts what the round wrote, and does it again
    add(path, "state/events.jsonl", {"event": "resumed", "time": 4.0, "after": 2})
    told()
    add(path, "ledger.jsonl", entry(3, *NAMES))
    told()
    again = lines_of(tmp_path / "server.jsonl")[4:]
    assert [(line["event"], line.get("site")) for line in again] == [
        ("run_resumed", None), ("site_answered", "north"), ("site_answered", "south"), ("phase_finished", None)
    ]  # fmt: skip


def test_a_stopped_run_and_a_server_that_starts_again_log_nothing_twice(server, path, tmp_path) -> None:
    def told(*, restarted: bool) -> list[tuple[str, int | None]]:
        before = len(lines_of(tmp_path / "server.jsonl"))
        (RunLog(server, log) if restarted else known)()
        return [(x["event"], x.get("round")) for x in lines_of(tmp_path / "server.jsonl")[before:]]

    log = EventLog(tmp_path / "server.jsonl", "server")
    known = RunLog(server, log)
    add(path, "ledger.jsonl", entry(3, *NAMES))
    current.end(server)
    add(path, "state/events.jsonl", {"event": "stopped", "time": 3.0, "why": "on request"})
    assert [event for event, _ in told(restarted=False)][-2:] == ["phase_finished", "run_stopped"]
    current.begin(server, "first")
    assert told(restarted=False) == []
    current.fail(path, "the disk is full")
    current.begin(server, "second")
    assert told(restarted=False) == []
    current.fail(current.run_path(server, "second"), "the disk is full")
    current.begin(server, "first")
    assert told(restarted=False) == [], "another run came between"
    assert told(restarted=True) == []
    add(path, "ledger.jsonl", entry(4, "north"))  # while no server ran
    assert told(restarted=True) == [("site_answered", 4), ("phase_finished", 4)]
    ledger = (path / "ledger.jsonl").read_text().splitlines(keepends=True)
    (path / "ledger.jsonl").write_text("".join([*ledger[:3], json.dumps(entry(4, "south")) + "\n"]))
    add(path, "state/events.jsonl", {"event": "resumed", "time": 4.0, "after": 3})
    assert told(restarted=True) == [("site_answered", 4), ("phase_finished", 4), ("run_resumed", None)]


def test_the_trainers_log_and_counts_say_what_was_asked_and_no_text(tmp_path) -> None:
    errors = iter(
        [None, "refused: this site has not agreed", "raised ValueError: the question was 'which cup?'"]
    )
    log = EventLog(tmp_path / "trainer.jsonl", "trainer", site="north")
    answer = noted(
        lambda data: Answer("north", "0" * 32, error=next(errors)).encode(), tmp_path, log, Limits()
    )
    question = Request("a" * 32, "b" * 64, "train", 4, 1, Payload()).encode()
    for data in (question, question, b"no message"):
        assert Answer.decode(answer(data)).site == "north"
    first, second, third = lines_of(tmp_path / "trainer.jsonl")
    assert (first["event"], first["run"], first["request"], first["round"], first["step"]) == (
        "answered",
        "a" * 32,
        "train",
        4,
        1,
    )
    assert first["bytes_in"] == len(question)
    assert (second["event"], second["why"]) == ("refused", "refused")
    assert (third["event"], third["why"]) == ("failed", "raised")
    assert "cup" not in (tmp_path / "trainer.jsonl").read_text()
    counts = read_counts(tmp_path)
    assert (counts.answered, counts.refused, counts.failed) == (1, 1, 1)
    (tmp_path / "trainer-counts.json").write_text("[]")
    assert read_counts(tmp_path).answered == 0


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {k: float(v) for k, _, v in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


def child(starts: int, *, alive: bool = True) -> Any:
    return SimpleNamespace(alive=alive, starts=[0.0] * starts)


def test_a_server_and_a_site_are_scraped_over_http(server, path, tmp_path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    [port] = free_ports(1)
    said: list[str] = []
    with serving(port, "127.0.0.1", of_server(StatusReader(server), child(3)), said.append):
        found = scraped(port)
        add(path, "ledger.jsonl", entry(3, *NAMES, epsilon=2.5))
        later = scraped(port)
    assert said == [f"metrics on http://127.0.0.1:{port}/metrics"]
    run = '{run="first"'
    assert found[f"fedloom_run_finished_rounds{run}}}"] == 2
    assert found['fedloom_run_payload_bytes_total{direction="up",run="first"}'] == 2000
    assert found['fedloom_run_site_requests_total{outcome="refused",run="first",site="south"}'] == 1
    assert found['fedloom_run_phase_seconds_total{request="train",run="first"}'] == 3.0
    assert found[f"fedloom_run_training_loss{run}}}"] == 1.5
    assert (found[f"fedloom_run_privacy_epsilon{run}}}"], later[f"fedloom_run_privacy_epsilon{run}}}"]) == (
        2.25,
        2.5,
    )
    assert found[f"fedloom_run_privacy_epsilon_limit{run}}}"] == 8.0
    assert found['fedloom_process_restarts_total{process="superlink"}'] == 2
    with serving(port, "127.0.0.1", of_site(tmp_path, child(1), child(0, alive=False)), said.append):
        found = scraped(port)
    assert found['fedloom_process_up{process="trainer"}'] == 1
    assert found['fedloom_process_up{process="node"}'] == 0
    assert found["fedloom_site_trainer_up"] == 0, "it has not loaded yet"
    assert found['fedloom_site_requests_total{outcome="answered"}'] == 0


def test_metrics_without_the_extra_or_the_port_are_one_sentence(server, monkeypatch) -> None:
    monkeypatch.setattr("fedloom.deploy.metrics.find_spec", lambda name: None)
    code, output = invoke("server", server, "--metrics-port", 9999)
    assert code == 2
    assert output == '--metrics-port needs prometheus-client; pip install "fedloom[metrics]"'


def test_a_kit_of_another_version_is_one_sentence_until_it_is_taken_over(server, path) -> None:
    site = server.parent / "sites" / "north"
    assert read_settings(Site, site / "site.yaml").version == __version__
    for file in (server / "deployment.yaml", site / "site.yaml"):
        file.write_text(file.read_text().replace(f"version: {__version__}", "version: 0.0.9"))
    for command, folder in (("server", server), ("site", site)):
        code, output = invoke(command, folder)
        assert code == 2
        assert f"is of fedloom 0.0.9, and {__version__} is installed" in output
        assert f"fedloom deploy upgrade {folder}" in output
    (site / "accepted.json").write_text("{}")
    code, output = invoke("upgrade", server)
    assert code == 2
    assert output.startswith(
        "run first is not finished, and a run goes on under the version that began it: finish it with fedloom 0.0.9"
    )
    current.end(server)
    assert invoke("upgrade", server)[0] == 0
    assert invoke("upgrade", site)[0] == 0
    assert read_settings(Deployment, server / "deployment.yaml").version == __version__
    assert not (site / "accepted.json").exists(), "the terms are asked for again"
    assert "before its terms are accepted" in invoke("site", site)[1]


def test_a_run_and_a_site_of_another_version_are_refused_by_name(quick, tmp_path) -> None:
    from fedloom.deploy.server import go_on
    from tests.deploy.silos import Silos

    experiment = quick("fedavg-lora", data={"clients": {"image": 1}, "train": 6, "test": 1})
    silos = Silos(experiment, ("image-01",), tmp_path)
    trainer = silos.trainer("image-01")
    described = trainer.described()
    trainer.described = lambda: described | {"versions": {"fedloom": "9.9"}}  # type: ignore[method-assign]
    with pytest.raises(
        ExperimentError,
        match=f"site image-01 runs fedloom '9.9', and the server {__version__}; install the same",
    ):
        go_on(experiment, ("image-01",), tmp_path / "run", silos)
    (tmp_path / "run" / "experiment.yaml").write_text(
        yaml.safe_dump(experiment.as_dict() | {"versions": {"fedloom": "0.1"}})
    )
    with pytest.raises(
        ExperimentError,
        match=f"was begun with fedloom 0.1, and {__version__} is installed; finish it with the former",
    ):
        go_on(experiment, ("image-01",), tmp_path / "run", silos)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_of_a_kit_are_units(server) -> None:
    site = server.parent / "sites" / "north"
    units = [*server.glob("fedloom-*"), *site.glob("fedloom-*")]
    assert sorted(u.name for u in units) == [
        "fedloom-run.service", "fedloom-run.timer", "fedloom-server.service", "fedloom-site.service"
    ]  # fmt: skip
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "fedloom-" not in done.stderr


def test_the_scheduled_command_begins_a_run_and_none_beside_another(server) -> None:
    unit = (server / "fedloom-run.service").read_text()
    [line] = [x for x in unit.splitlines() if x.startswith("ExecStart=")]
    word = line.partition("'")[2].rpartition("'")[0].replace("%%", "%").replace("$$", "$")
    command = word.replace("fedloom deploy", f"{sys.executable} -m fedloom deploy")
    today = subprocess.run(["date", "+run-%F"], capture_output=True, text=True).stdout.strip()
    done = subprocess.run(["/bin/sh", "-c", command], cwd=server, capture_output=True, text=True, timeout=120)
    assert (done.returncode, current.current(server)) == (0, today)
    code, output = invoke("run", server, "--run", "another", "--detach")
    assert (code, current.current(server)) == (2, today)
    assert output.startswith(f"run {today} is not finished; wait for its end, or stop it with")
    current.fail(current.run_path(server, today), "the disk is full")
    assert invoke("run", server, "--run", "another", "--detach")[0] == 0
