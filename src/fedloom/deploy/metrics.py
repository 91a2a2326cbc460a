"""Prometheus metrics of `fedloom deploy server` and `site` (extra `fedloom[metrics]`), read from files when they are scraped.

Names end in their unit, counters in `_total`. Counters of a run begin again with another run, as its label `run` says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from fedloom.core.errors import ExperimentError
from fedloom.deploy.addresses import in_url
from fedloom.deploy.processes import Child
from fedloom.deploy.status import ServerStatus, StatusReader
from fedloom.deploy.trainer_link import endpoint
from fedloom.deploy.trainer_log import read_counts

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Collect = Callable[[], Iterator["Metric"]]


@contextmanager
def serving(port: int | None, host: str, collect: Collect, say: Callable[[str], None]) -> Iterator[None]:
    """Serve what `collect` yields at `http://host:port/metrics` inside the context; nothing for port None.

    Raises ExperimentError where the extra is not installed or the port cannot be had.
    """
    if port is None:
        yield
        return
    if find_spec("prometheus_client") is None:
        raise ExperimentError('--metrics-port needs prometheus-client; pip install "fedloom[metrics]"')
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector(collect))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExperimentError(
            f"--metrics-port: {host}:{port} cannot be had ({reason}); take another"
        ) from error
    say(f"metrics on http://{in_url(host)}:{port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def of_server(status: StatusReader, superlink: Child) -> Collect:
    """The metrics of a server: its current run and its SuperLink."""

    def collect() -> Iterator["Metric"]:
        try:
            found = status.read()
        except ExperimentError:  # settings that are being edited
            found = ServerStatus()
        yield from _process("superlink", superlink)
        if found.run is not None:
            yield from _run(found)

    return collect


def of_site(folder: Path, trainer: Child, node: Child) -> Collect:
    """The metrics of a site: its processes and what its trainer was asked."""

    def collect() -> Iterator["Metric"]:
        yield from _process("trainer", trainer)
        yield from _process("node", node)
        counts = read_counts(folder)
        requests = _counter("site_requests", "Requests of the server since the trainer started", ["outcome"])
        for outcome in ("answered", "refused", "failed"):
            requests.add_metric([outcome], getattr(counts, outcome))
        yield requests
        yield _plain_counter("site_request_seconds", "Seconds spent on requests", counts.seconds)
        yield _gauge("site_round", "Round of the last request", counts.round)
        ready = endpoint(folder).is_file() and trainer.alive
        yield _gauge("site_trainer_up", "1 once the trainer has loaded foundation and data", float(ready))

    return collect


def _run(found: ServerStatus) -> Iterator["Metric"]:
    label = {"run": found.run or ""}
    yield _gauge("run_rounds", "Rounds of the run", found.rounds, label)
    yield _gauge("run_finished_rounds", "Last finished round", found.round, label)
    states = _gauges("run_state", "1 for the run's state", ["run", "state"])
    for state in (
        "waits for the server",
        "waits for the sites",
        "at work",
        "stopping",
        "stopped",
        "finished",
        "failed",
    ):
        states.add_metric([label["run"], state.replace(" ", "_")], float(state == found.state))
    yield states
    traffic = _counter(
        "run_payload_bytes", "Bytes of payloads, up from the sites or down", ["run", "direction"]
    )
    traffic.add_metric([label["run"], "up"], found.bytes_up)
    traffic.add_metric([label["run"], "down"], found.bytes_down)
    yield traffic
    answers = _counter("run_site_requests", "Requests to a site by their outcome", ["run", "site", "outcome"])
    losses = _gauges("run_site_training_loss", "A site's last training loss", ["run", "site"])
    for site in found.sites:
        for outcome in ("answered", "refused", "missing"):
            answers.add_metric([label["run"], site.name, outcome], getattr(site, outcome))
        if site.loss is not None:
            losses.add_metric([label["run"], site.name], site.loss)
    yield answers
    yield losses
    phases = _counter("run_phase_seconds", "Seconds of a phase over all rounds", ["run", "request"])
    for request, seconds in found.seconds.items():
        phases.add_metric([label["run"], request], seconds)
    yield phases
    if found.loss is not None:
        yield _gauge("run_training_loss", "Mean training loss of the last round", found.loss, label)
    if found.epsilon is not None:
        yield _gauge("run_privacy_epsilon", "Privacy budget spent", found.epsilon, label)
    if found.epsilon_limit is not None:
        yield _gauge("run_privacy_epsilon_limit", "Privacy budget of the run", found.epsilon_limit, label)


def _process(name: str, child: Child) -> Iterator["Metric"]:
    up = _gauges("process_up", "1 while the process runs", ["process"])
    up.add_metric([name], float(child.alive))
    yield up
    restarts = _counter("process_restarts", "Starts of the process after its first", ["process"])
    restarts.add_metric([name], max(len(child.starts) - 1, 0))
    yield restarts


def _gauge(name: str, text: str, value: float, labels: dict[str, str] | None = None) -> Any:
    gauge = _gauges(name, text, list(labels or {}))
    gauge.add_metric(list((labels or {}).values()), value)
    return gauge


def _plain_counter(name: str, text: str, value: float) -> Any:
    counter = _counter(name, text, [])
    counter.add_metric([], value)
    return counter


def _gauges(name: str, text: str, labels: list[str]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"fedloom_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: list[str]) -> Any:
    """A counter; its name gets the ending `_total`."""
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"fedloom_{name}", text, labels=labels)


class _Collector:
    """As prometheus_client wants it; two scrapes at a time would share a reader."""

    def __init__(self, collect: Collect) -> None:
        self._collect, self._lock = collect, Lock()

    def collect(self) -> list["Metric"]:
        with self._lock:
            return list(self._collect())
