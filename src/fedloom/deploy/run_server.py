"""`fedloom deploy server`: the SuperLink, and a watchdog that restarts the current run after crashes."""

import errno
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.deploy.current_run import current, fail, failure, finished, last_round, run_path, worked_on
from fedloom.deploy.keeping import Keeper, Pauses
from fedloom.deploy.kit_version import check_version
from fedloom.deploy.logs import Log
from fedloom.deploy.private_files import private_files
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.registration import Registration
from fedloom.deploy.settings import Deployment, check_deployable, check_sites, read_settings
from fedloom.deploy.site_kit import write_template
from fedloom.deploy.site_list import check_list
from fedloom.experiment.finished_run import read_experiment
from fedloom.experiment.watch.growing import Document

SERVER = "FEDLOOM_SERVER"
PATIENCE = 120.0
"""Seconds that a Flower command may take, and from a submission until its ServerApp is expected; then it is tried again."""
ATTEMPTS = 5
"""ServerApps that ended by themselves, without another finished round, after which a run counts as failed."""


class Server:
    """The SuperLink of a server folder, and the watchdog of its current run."""

    @private_files()
    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log = folder.resolve(), log
        self.deployment = read_settings(Deployment, folder / "deployment.yaml")
        check_version(self.deployment, folder)
        self._settings = Document(self.folder / "deployment.yaml", _deployment)
        self._settings.read_on()
        (self.folder / "state").mkdir(exist_ok=True)
        self.env = environment(self.folder / "flower", {SERVER: str(self.folder)})
        # A TOML string is escaped as a JSON string is.
        ca = json.dumps(str(self.folder / "tls" / "ca.pem"), ensure_ascii=False)
        values = {"port": str(self.deployment.port), "ca": ca}
        write_template(self.folder / "flower" / "config.toml", "config.toml", values)
        self.link = Child(self._superlink(), self.env, self.folder / "logs" / "superlink.log")
        self._kept_link = Keeper(self.link, self._link_ending, log)
        self._registration = Registration(self.folder, lambda *words: self.flower(*words), log)
        self._ready = self._was_ready = False
        self._told = ""
        self._pauses, self._next = Pauses(), 0.0
        self._ended: list[int] = []  # the last finished round, each time that a ServerApp ended by itself
        self._seen = False
        self.each_second: Callable[[], None] = lambda: None
        """Called once a second while the server runs."""

    @private_files()
    def run(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Serve while `go_on()` is true. Raises ExperimentError for an experiment that cannot be deployed, and for a SuperLink
        that ends before it has ever been ready."""
        experiment = read_experiment(self.folder)
        check_deployable(experiment)
        check_sites(experiment, self.deployment.sites)
        check_list(experiment, self.folder)
        try:
            while go_on():
                self._tend_link()
                if self._ready:
                    self._supervise()
                self.each_second()
                time.sleep(1.0)
        finally:
            self.link.stop()

    def _superlink(self) -> list[str]:
        tls, deployment = self.folder / "tls", self.deployment
        return [
            program("flower-superlink"),
            *("--ssl-ca-certfile", str(tls / "ca.pem")),
            *("--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")),
            "--enable-supernode-auth",
            *("--database", str(self.folder / "state" / "flower.db")),
            *("--host", deployment.bind, "--port", str(deployment.port)),
            *("--fleet-api-address", f"127.0.0.1:{deployment.port + 1}"),
            "--disable-runtime-dependency-installation",
        ]

    def _tend_link(self) -> None:
        """Keep the SuperLink running; it is ready once it answers and knows the sites' keys."""
        if not self.link.alive:
            if self.link.starts and not self._was_ready:
                raise ExperimentError(self._link_ending())
            self._ready, self._seen, self._next = False, False, 0.0
            if _in_use(
                self.deployment.bind, self.deployment.port
            ):  # by a killed server's SuperLink, which takes a moment to go
                self._tell(f"waits until port {self.deployment.port} is free")
            else:
                self._kept_link.tend()
        elif self._is_listed_anew() or (not self._ready and time.monotonic() >= self._next):
            self._make_ready()

    def _is_listed_anew(self) -> bool:
        """Whether `deployment.yaml` has other sites than before; they hold from then on, all else from the next start on."""
        if not self._settings.read_on():
            return False
        found = self._settings.value
        if found is None:
            self.log(
                "deployment.yaml cannot be read; the sites stay as they are", "settings_unreadable", "error"
            )
            return False
        changed = found.sites != self.deployment.sites
        self.deployment = self.deployment.model_copy(update={"sites": found.sites})
        return changed

    def _make_ready(self) -> None:
        if not self._healthy():
            if self._kept_link.child.lasted > PATIENCE:
                self._tell(
                    f"the SuperLink does not answer on 127.0.0.1:{self.deployment.port}; see {self.link.log}"
                )
            return
        try:
            self._registration.match(self.deployment.sites)
        except ExperimentError as error:
            pause = self._pauses.next()
            self.log(f"{error}; tried again in {pause:.0f} s", "not_registered", "error")
            self._ready, self._next = False, time.monotonic() + pause
            return
        first, self._ready = not self._ready, True
        self._was_ready = True
        self._pauses.reset()
        self._next = 0.0
        if first:
            self._tell(f"server ready on {self.deployment.bind}:{self.deployment.port}", "ready")
        self._told = ""

    def _tell(self, line: str, event: str = "waiting") -> None:
        """Log a line, once while it stays true."""
        if line != self._told:
            self.log(line, event)
        self._told = line

    def _link_ending(self) -> str:
        return f"the SuperLink ended with {self.link.code} ({self.link.last_words()}); see {self.link.log}"

    def _healthy(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / "ca.pem"))
        address = f"https://127.0.0.1:{self.deployment.port}/health"
        try:
            with urllib.request.urlopen(address, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def flower(self, *arguments: str) -> str:
        """Run a `flwr` command and return its output. Raises ExperimentError if it fails."""
        command = [program("flwr"), *arguments]
        try:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise ExperimentError(f"flwr {arguments[0]} did not end within {PATIENCE:g} s") from error
        if done.returncode:
            output = " ".join((done.stderr or done.stdout).split())[-500:]
            raise ExperimentError(f"flwr {arguments[0]} failed: {output}")
        return done.stdout

    def _supervise(self) -> None:
        """Submit the current run to Flower unless it is finished, failed or active."""
        name = current(self.folder)
        path = None if name is None else run_path(self.folder, name)
        if path is None or finished(path) or failure(path) is not None:
            self._next, self._seen, self._ended = 0.0, False, []
            self._pauses.reset()
            return
        if worked_on(path):
            self._seen = True
            return
        rounds, now = last_round(path), time.monotonic()
        if self._seen:
            self._seen = False
            self._ended = [r for r in self._ended if r == rounds] + [rounds]
            if len(self._ended) == ATTEMPTS:
                fail(path, f"the run ended {ATTEMPTS} times without finishing another round; see the logs")
                return
            if len(self._ended) == 1:
                self._pauses.reset()
            self._next = now if len(self._ended) == 1 else now + self._pauses.next()
        if now < self._next:
            return
        self.log(
            f"run {name}: {'goes on' if rounds >= 0 else 'begins'}", "run_submitted", name=name, round=rounds
        )
        try:
            self.flower("run", str(self.folder / "app"), "fedloom")
            self._next = time.monotonic() + PATIENCE + self._pauses.next()
        except ExperimentError as error:
            pause = self._pauses.next()
            self.log(
                f"run {name}: {error}; tried again in {pause:.0f} s", "not_submitted", "error", name=name
            )
            self._next = time.monotonic() + pause


def _deployment(file: Path) -> Deployment:
    return read_settings(Deployment, file)


def _in_use(host: str, port: int) -> bool:
    """Whether something listens on a port of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE
