"""`fedloom deploy server`: the SuperLink, and a watchdog that restarts the current run after crashes."""

import json
import re
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.current_run import current, fail, failure, finished, last_round, run_path, worked_on
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.settings import Deployment, read_settings
from fedloom.deploy.site_kit import write_template

SERVER = "FEDLOOM_SERVER"
PATIENCE = 120.0
"""Seconds from a submission until its ServerApp must be active."""
ATTEMPTS = 5
"""Submissions without a new finished round after which a run counts as failed."""

Log = Callable[[str], None]


class Server:
    """The SuperLink of a server folder, and the watchdog of its current run."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log = folder.resolve(), log
        self.deployment = read_settings(Deployment, folder / "deployment.yaml")
        (self.folder / "state").mkdir(exist_ok=True)
        self.env = environment(self.folder / "flower", {SERVER: str(self.folder)})
        values = {"port": str(self.deployment.port), "ca": str(self.folder / "tls" / "ca.pem")}
        write_template(self.folder / "flower" / "config.toml", "config.toml", values)
        self.link = Child(self._superlink(), self.env, self.folder / "logs" / "superlink.log")
        self._submitted = -PATIENCE
        self._attempts: list[int] = []
        self._seen = False

    def run(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Serve while `go_on()` is true. Raises ExperimentError if the SuperLink keeps crashing."""
        try:
            while go_on():
                if not self.link.alive:
                    self._start_link()
                self._supervise()
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

    def _start_link(self) -> None:
        if self.link.restarted_too_often():
            raise ExperimentError(
                f"the SuperLink does not stay up ({self.link.last_words()}); see {self.link.log}"
            )
        self.link.start()
        self._submitted, self._seen = -PATIENCE, False
        until = time.monotonic() + PATIENCE
        while not self._healthy():
            if not self.link.alive or time.monotonic() > until:
                raise ExperimentError(
                    f"the SuperLink did not start ({self.link.last_words()}); see {self.link.log}"
                )
            time.sleep(0.5)
        self._register()
        self.log(f"server ready on {self.deployment.bind}:{self.deployment.port}")

    def _healthy(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / "ca.pem"))
        address = f"https://127.0.0.1:{self.deployment.port}/health"
        try:
            with urllib.request.urlopen(address, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _register(self) -> None:
        """Register the sites' public keys, each once."""
        file = self.folder / "state" / "registered.json"
        registered = json.loads(file.read_text()) if file.is_file() else []
        for site in self.deployment.sites:
            if site not in registered:
                key = str(self.folder / "nodes" / f"{site}.pub")
                try:
                    self.flower("supernode", "register", key, "fedloom", "--name", site)
                except ExperimentError as error:  # registered just before a previous server was killed
                    if "alreadyinuse" not in re.sub("[^a-z]", "", str(error).lower()):
                        raise
                registered.append(site)
                write_atomic(file, json.dumps(registered).encode())

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
        if name is None:
            self._submitted, self._seen, self._attempts = -PATIENCE, False, []
            return
        path = run_path(self.folder, name)
        if finished(path) or failure(path) is not None:
            self._submitted, self._seen, self._attempts = -PATIENCE, False, []
            return
        if worked_on(path):
            self._seen = True
            return
        waiting = not self._seen and time.monotonic() - self._submitted < PATIENCE
        if waiting:
            return
        rounds = last_round(path)
        self._attempts = [r for r in self._attempts if r == rounds] + [rounds]
        if len(self._attempts) > ATTEMPTS:
            fail(path, f"the run was started {ATTEMPTS} times without finishing another round; see the logs")
            return
        self.log(f"run {name}: {'goes on' if rounds >= 0 else 'begins'}")
        self._submitted, self._seen = time.monotonic(), False
        try:
            self.flower("run", str(self.folder / "app"), "fedloom")
        except ExperimentError as error:
            self.log(f"run {name}: {error}")
            self._submitted -= PATIENCE - 10  # retry in ten seconds, up to ATTEMPTS times
