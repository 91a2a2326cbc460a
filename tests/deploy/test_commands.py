"""The commands that need no running server, and what the ServerApp does about the current run."""

import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import LOCK, try_lock
from fedloom.deploy import current_run as current
from fedloom.deploy.commands import app
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Silos, said_into

NAMES = ("image-01", "image-02")


def invoke(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, ExperimentError):
        return 2, str(done.exception)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    data = {"clients": {"image": 2}, "train": 6, "test": 1}
    experiment = quick("fedsa-lora", data=data, engine={"cohort": "off"})
    deployment = Deployment(sites=NAMES, join_timeout=0.1, rejoin_timeout=0.0)
    write_kit(tmp_path / "kit", experiment, deployment)
    return tmp_path / "kit" / "server"


def test_init_names_the_generated_clients_and_shows_where_things_lie(tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(
        "{rounds: 2, method: fedavg-lora, data: {clients: {image: 1, audio: 1}, train: 4, test: 1}}"
    )
    code, output = invoke("init", tmp_path / "kit", file, "--host", "fl.example.org", "--direct")
    assert code == 0, output
    assert "offline" in output
    deployment = read_settings(Deployment, tmp_path / "kit/server/deployment.yaml")
    assert (deployment.sites, deployment.bind) == (("audio-01", "image-01"), "127.0.0.1")
    assert read_settings(Site, tmp_path / "kit/sites/image-01/site.yaml").server == "fl.example.org:8000"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--site", "a", "--site", "a"], "two sites have one name"),
        (["--site", "../up"], "--site: '../up' is no site's name"),
        (
            ["--site", "a", "--host", "x; return 200"],
            "--host: 'x; return 200' is no host; use a name such as",
        ),
        (["--site", "a", "--host", "x\n}"], "--host: 'x\\n}' is no host"),
        (["--site", "a", "--host", "0.0.0.0"], "--host: 0.0.0.0 stands for every address"),
        (["--site", "a", "--direct", "--proxy-port", "8443"], "--direct goes without a proxy"),
        (["--site", "a", "--port", "8443", "--proxy-port", "8443"], "--proxy-port: the proxy's port 8443 is"),
        (["--site", "a", "--port", "8442", "--proxy-port", "8443"], "which takes 8442 and 8443"),
        (["--site", "a", "--site", "A"], "--site: a and A differ by case only"),
        (["--site", "Common"], "--site: 'Common' is where common test pictures lie"),
        (["data.source=folder", "data.path=silos"], "name the sites with --site"),
        (["method=centralised", "--site", "a"], "pools"),
        (["method=nothing", "--site", "a"], "unknown method"),
    ],
)
def test_a_mistake_at_init_is_one_sentence_and_leaves_nothing(more, named, tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("{rounds: 2, method: fedavg-lora}")
    code, output = invoke("init", tmp_path / "kit", file, *more)
    assert code == 2
    assert named in output
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize(
    ("place", "named"),
    [("e.yaml", "is no folder"), ("e.yaml/in", "no folder can be made"), ("/proc/kit", "no folder")],
)
def test_a_kit_that_cannot_be_written_there_is_one_sentence(place, named, tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("{rounds: 2, method: fedavg-lora}")
    code, output = invoke("init", tmp_path / place, file, "--site", "a")
    assert code == 2
    assert f"{tmp_path / place}" in output
    assert named in output


def test_a_run_is_begun_shown_and_stopped(kit) -> None:
    assert "no run is current" in invoke("status", kit)[1]
    assert invoke("run", kit, "--run", "first", "--detach")[0] == 0
    output = invoke("status", kit)[1]
    assert "waits for the server" in output
    assert "image-02 not asked yet" in output
    current.fail(kit / "runs" / "first", "the disk is full")
    assert "failed: the disk is full" in invoke("status", kit)[1]
    assert (
        f"run first is stopped; `fedloom deploy run {kit} --run first` goes on with it"
        in invoke("stop", kit)[1]
    )
    (kit / "runs" / "first" / current.FAILURE).unlink()
    found = json.loads(invoke("status", kit, "--json")[1])
    assert (found["run"], found["state"]) == ("first", "stopped")
    assert found["go_on"] == f"fedloom deploy run {kit} --run first"
    assert "no run goes on" in invoke("stop", kit)[1]
    code, output = invoke("run", kit, "--run", "../up", "--detach")
    assert code == 2
    assert "no run's name" in output


def test_a_bare_run_goes_on_with_the_stopped_one(kit) -> None:
    current.begin(kit, "second")
    with try_lock(kit / "runs" / "second"):
        assert "run second stops after the phase under way; `fedloom deploy run " in invoke("stop", kit)[1]
        assert json.loads(invoke("status", kit, "--json")[1])["state"] == "stopping"
    assert invoke("run", kit, "--detach")[0] == 0
    assert current.current(kit) == "second"
    (kit / "runs" / "second" / "summary.json").write_text("{}")
    assert invoke("run", kit, "--detach")[0] == 0
    assert current.current(kit) == "first", "a finished run is not gone on with"


def test_a_run_without_a_server_says_so_and_begins_nothing(kit, monkeypatch) -> None:
    monkeypatch.setattr("fedloom.deploy.commands.STARTING", 0.3)
    code, output = invoke("run", kit)
    assert (code, current.current(kit)) == (2, None)
    assert output.startswith(f"no server runs for {kit}: start `fedloom deploy server {kit}` first")
    code, output = invoke("run", kit, "--detach")
    assert (code, current.current(kit)) == (0, "first")
    assert "run first begins once `fedloom deploy server" in output
    with try_lock(kit / "state"):
        assert "begins once" not in invoke("run", kit, "--detach")[1]


def test_a_second_server_of_a_folder_is_refused(kit) -> None:
    with try_lock(kit / "state"):
        code, output = invoke("server", kit)
    assert (code, output) == (
        2, f"the server of {kit} runs already (process {os.getpid()}); stop that one first"
    )  # fmt: skip


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_folder_of_another_version_is_the_same_sentence_everywhere(command, kit) -> None:
    file = kit / "deployment.yaml"
    file.write_text(file.read_text().replace("version: ", "version: 0.0.9 #"))
    code, output = invoke(command, kit)
    assert code == 2
    assert f"{kit} is of fedloom 0.0.9, and" in output
    assert invoke("stop", kit)[0] == 0, "an upgrade may ask for it"


@pytest.mark.parametrize("command", [["server"], ["run", "--detach"], ["status"], ["stop"], ["site"]])
def test_a_folder_that_is_none_is_one_sentence(command, tmp_path) -> None:
    code, output = invoke(command[0], tmp_path / "none", *command[1:])
    assert code == 2
    assert "fedloom deploy init" in output


def test_whoever_works_on_a_run_is_known_until_it_dies(tmp_path) -> None:
    path = tmp_path / "run"
    with try_lock(path) as mine:
        assert mine
        assert current.worked_on(path)
    assert not current.worked_on(path)
    child = os.fork()
    if child == 0:
        handle = os.open(path / LOCK, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert not current.worked_on(path), "the system gives back what a killed process held"


class Known(Silos):
    """A carrier that knows who is there."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.away: list[str] = []

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        return [s for s in sites if s in self.away]


def test_the_servers_app_waits_fails_stops_and_goes_on(kit, tmp_path) -> None:
    from fedloom.experiment.finished_run import read_experiment

    silos = Known(read_experiment(kit), NAMES, tmp_path / "sites")
    carrier: Callable[[Deployment], Known] = lambda deployment: silos  # noqa: E731
    current.serve_current(kit, carrier)
    assert silos.asked == [], "no run is current"
    path = current.begin(kit, "first")
    silos.away = ["image-02"]
    with pytest.raises(ExperimentError, match="image-02 has not joined"):
        current.serve_current(kit, carrier)
    assert "image-02 has not joined" in (current.failure(path) or "")
    (path / "sites.json").write_text("{}")  # as of a try that was refused before the run began
    current.begin(kit, "first")
    with pytest.raises(ExperimentError, match="image-02 has not joined within"):
        current.serve_current(kit, carrier)
    silos.away = []
    current.begin(kit, "first")
    assert current.failure(path) is None

    def stop_in_round_2(name: str, question: bytes) -> Any:
        if (path / "state" / "round-000001").exists():
            current.end(kit)
        yield name, silos.trainer(name).answer(question)

    silos.between = stop_in_round_2
    current.serve_current(kit, carrier)
    assert not current.finished(path)
    assert current.failure(path) is None
    silos.between = None
    current.begin(kit, "first")
    with try_lock(path):
        before = len(silos.asked)
        current.serve_current(kit, carrier)
        assert len(silos.asked) == before, "somebody else is at work"
    silos.away = ["image-02"]  # known from before: gone on without waiting for it
    current.serve_current(kit, carrier)
    assert current.finished(path)
    assert RunFolder(path).history("ledger.jsonl")[-1]["round"] == 2
    current.serve_current(kit, carrier)
    assert "finished" in invoke("status", kit)[1]


@pytest.fixture
def watch(kit, monkeypatch) -> Any:
    """A server's watch whose Flower commands are noted, not run; its clock moves by hand."""
    run_server = pytest.importorskip("fedloom.deploy.run_server")
    monkeypatch.setattr(run_server, "program", lambda name: f"/bin/{name}")
    said: list[str] = []
    watchdog = run_server.Server(kit, said_into(said))
    watchdog.said, watchdog.done, watchdog.fails, now = said, [], [], [1000.0]

    def flower(*arguments: str) -> str:
        watchdog.done.append(arguments)
        if watchdog.fails:
            raise ExperimentError(watchdog.fails.pop(0))
        return ""

    monkeypatch.setattr(watchdog, "flower", flower)
    monkeypatch.setattr(run_server.time, "monotonic", lambda: now[0])
    watchdog.now = now
    return watchdog


def test_every_key_is_let_in_once_also_after_a_kill_in_between(watch, kit) -> None:
    watch.fails = ["flwr supernode failed: │ The public key is already in │ │ use. │"]
    watch._registration.match(NAMES)
    assert [a[-1] for a in watch.done] == list(NAMES)
    watch._registration.match(NAMES)
    assert len(watch.done) == 2
    (kit / "state" / "registered.json").unlink()
    watch.fails = ["flwr supernode failed: no connection"]
    with pytest.raises(ExperimentError, match="no connection"):
        watch._registration.match(NAMES)


def test_the_watch_starts_the_current_run_and_starts_it_again_when_nobody_is_at_work(watch, kit) -> None:
    watch._supervise()
    assert watch.done == [], "no run is current"
    path = current.begin(kit, "first")
    watch._supervise()
    watch._supervise()
    assert [a[0] for a in watch.done] == ["run"], "it waits for the ServerApp"
    with try_lock(path):
        watch._supervise()
    watch._supervise()
    assert len(watch.done) == 2, "the ServerApp that was at work is gone"
    watch.now[0] += 60
    watch._supervise()
    assert len(watch.done) == 2
    watch.now[0] += 100
    watch._supervise()
    assert len(watch.done) == 3, "no ServerApp ever came"
    current.end(kit)
    watch.now[0] += 1000
    watch._supervise()
    assert len(watch.done) == 3


def serve_a_moment(watch, path: Path) -> None:
    """A ServerApp that was at work and ended."""
    with try_lock(path):
        watch._supervise()
    for _ in range(2):
        watch._supervise()
        watch.now[0] += 20


def test_a_run_whose_serverapp_keeps_ending_is_given_up_and_one_that_gets_on_is_not(watch, kit) -> None:
    path = current.begin(kit, "first")
    watch._supervise()
    for round in range(12):
        (path / "state" / f"round-{round:06d}").mkdir(parents=True)
        serve_a_moment(watch, path)
    assert current.failure(path) is None
    assert len(watch.done) == 13
    for _ in range(10):
        serve_a_moment(watch, path)
    assert "ended 5 times without finishing another round" in (current.failure(path) or "")
    assert len(watch.done) == 13 + 3


def test_a_flower_that_cannot_be_reached_or_is_slow_is_no_verdict_on_a_run(watch, kit) -> None:
    path = current.begin(kit, "first")
    watch.fails = ["flwr run failed: no connection"] * 100
    tries = []
    for _ in range(2 * 3600):
        watch.now[0] += 1
        watch._supervise()
        if len(watch.done) > len(tries):
            tries.append(watch.now[0])
    assert current.failure(path) is None
    assert len(tries) > 25, "it is tried for as long as it takes"
    assert tries[1] - tries[0] < 5
    assert 200 < tries[-1] - tries[-2] < 400, "with pauses that grow"
    assert "flwr run failed: no connection; tried again in" in watch.said[1]


class Link:
    """A SuperLink that runs, answers, and whose port is free, unless a test says otherwise."""

    code, log = 1, Path("log")

    def __init__(self, now: list[float]) -> None:
        self.now, self.starts = now, list[float]()
        self.alive, self.healthy, self.port_taken = False, True, False

    def start(self) -> None:
        self.starts.append(self.now[0])
        self.alive = True

    @property
    def lasted(self) -> float:
        return self.now[0] - self.starts[-1]

    def last_words(self) -> str:
        return "address already in use"


@pytest.fixture
def link(watch, monkeypatch) -> Link:
    link = Link(watch.now)
    watch.link = watch._kept_link.child = link
    watch._kept_link.clock = lambda: watch.now[0]
    monkeypatch.setattr(watch, "_healthy", lambda: link.healthy)
    monkeypatch.setattr("fedloom.deploy.run_server._in_use", lambda host, port: link.port_taken)
    return link


def tend(watch, seconds: int) -> None:
    for _ in range(seconds):
        watch.now[0] += 1
        watch._tend_link()


def test_a_server_waits_for_its_port_and_for_a_slow_superlink(watch, link) -> None:
    link.port_taken, link.healthy = True, False
    tend(watch, 1000)
    assert link.starts == []
    assert watch.said == ["waits until port 8000 is free"]
    link.port_taken = False
    tend(watch, 1000)
    assert len(link.starts) == 1
    assert not watch._ready
    assert "does not answer on 127.0.0.1:8000" in watch.said[1]
    assert len(watch.said) == 2, "said once"
    link.healthy = True
    tend(watch, 1)
    assert watch._ready
    assert watch.said[2] == "server ready on 127.0.0.1:8000"


def test_a_superlink_that_never_started_is_a_mistake_and_one_that_dies_later_is_started_again(
    watch, link
) -> None:
    tend(watch, 2)
    assert watch._ready
    for _ in range(20):
        link.alive = False
        tend(watch, 400)
        assert link.alive
        assert watch._ready
    watch._was_ready = link.alive = False
    with pytest.raises(
        ExperimentError, match=r"the SuperLink ended with 1 \(address already in use\); see log"
    ):
        tend(watch, 1)


def test_a_registration_that_fails_is_tried_again(watch, link) -> None:
    watch.fails = ["flwr supernode failed: no connection"] * 8
    tend(watch, 1000)
    assert watch._ready
    assert sum("no connection; tried again in" in line for line in watch.said) == 8


def test_a_port_in_use_is_noticed() -> None:
    run_server = pytest.importorskip("fedloom.deploy.run_server")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_server._in_use("127.0.0.1", port)
    assert not run_server._in_use("127.0.0.1", port)
