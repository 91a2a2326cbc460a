"""`fedloom deploy ...`: deployments on Flower."""

import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.core.errors import ExperimentError
from fedloom.deploy.kit_commands import add_site, init, remove_site, upgrade
from fedloom.deploy.processes import Child
from fedloom.deploy.status_command import status
from fedloom.deploy.terminal import (
    LogJSON,
    MetricsHost,
    MetricsPort,
    ServerFolder,
    out,
    say,
    table,
    until_signalled,
)

app = typer.Typer(
    no_args_is_help=True, help="Real silos: a server and its sites, over TLS, on Flower (docs/deploy.md)."
)

RunName = Annotated[str, typer.Option("--run", help="the run's name; its folder is runs/<name>")]

app.command(
    epilog="Example: fedloom deploy init hospitals experiments/uniflow/quickstart.yaml --row FedA²-LoRA --site north "
    "--site south --host fl.example.org data.source=folder data.path=silos"
)(init)
app.command(epilog="Example: fedloom deploy add-site hospitals west")(add_site)
app.command(epilog="Example: fedloom deploy remove-site hospitals south")(remove_site)
app.command(epilog="Example: fedloom deploy upgrade hospitals/server")(upgrade)


@app.command(epilog="Example: fedloom deploy server hospitals/server")
def server(
    folder: ServerFolder,
    log_json: LogJSON = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Run the server, and keep its current run going through crashes, until interrupted."""
    from fedloom.deploy import metrics
    from fedloom.deploy.logs import EventLog
    from fedloom.deploy.run_log import RunLog
    from fedloom.deploy.run_server import Server as Watchdog
    from fedloom.deploy.status import StatusReader

    reader = StatusReader(folder)
    with closing(EventLog(folder / "logs" / "server.jsonl", "server", say=say, as_json=log_json)) as log:
        watchdog = Watchdog(folder, log)
        watchdog.each_second = RunLog(watchdog.folder, log)
        collect = metrics.of_server(reader, watchdog.link)
        with metrics.serving(metrics_port, metrics_host, collect, lambda line: log(line, "metrics")):
            watchdog.run(until_signalled())


@app.command(epilog="Example: fedloom deploy site hospitals/sites/north --accept")
def site(
    folder: Annotated[Path, typer.Argument(help="this site's folder, as init wrote it")],
    accept: Annotated[
        bool, typer.Option("--accept", help="agree to what is shown; asked once for each experiment")
    ] = False,
    log_json: LogJSON = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Show what this site is asked for; once that is accepted, join and stay, until interrupted."""
    from fedloom.deploy import metrics, run_site
    from fedloom.deploy.logs import EventLog

    terms = run_site.terms(folder)
    if not log_json:
        out.print(table(list(terms.items())))
    if accept:
        run_site.accept(folder)
    file = folder / "logs" / "site.jsonl"
    with closing(EventLog(file, "site", say=say, as_json=log_json, site=terms["site"])) as log:

        def around(trainer: Child, node: Child) -> AbstractContextManager[None]:
            collect = metrics.of_site(folder, trainer, node)
            return metrics.serving(metrics_port, metrics_host, collect, lambda line: log(line, "metrics"))

        run_site.run_site(folder, log, until_signalled(), around)


@app.command(epilog="Example: fedloom deploy run hospitals/server --run first")
def run(
    folder: ServerFolder,
    name: RunName = "first",
    detach: Annotated[bool, typer.Option("--detach", help="do not wait for the end")] = False,
) -> None:
    """Begin a run, or go on with one that was stopped or cut off; the server has to be running."""
    from fedloom.deploy import current_run as current
    from fedloom.deploy.settings import Deployment, read_settings

    read_settings(Deployment, folder / "deployment.yaml")
    path = current.begin(folder, name)
    if detach:
        return
    shown = -1
    while not current.finished(path):
        if (why := current.failure(path)) is not None:
            raise ExperimentError(why)
        if current.current(folder) != name:
            raise ExperimentError(f"run {name} was stopped; `fedloom deploy run` goes on with it")
        if (done := current.last_round(path)) != shown:
            shown = done
            say(f"run {name}: round {done} is finished" if done >= 0 else f"run {name}: waits for the sites")
        time.sleep(1.0)
    out.print(Text(f"report   {path / 'report.html'}"), soft_wrap=True)


app.command(epilog="Example: fedloom deploy status hospitals/server --watch")(status)


@app.command(epilog="Example: fedloom deploy stop hospitals/server")
def stop(folder: ServerFolder) -> None:
    """Stop the current run at its last finished round; `run` goes on with it. The server stays up."""
    from fedloom.deploy import current_run as current

    name = current.current(folder)
    current.end(folder)
    out.print(
        "no run was current" if name is None else f"run {name} stops; `fedloom deploy run` goes on with it"
    )


@app.command(epilog="Example: fedloom deploy demo --out runs/deploy-demo")
def demo(
    folder: Annotated[
        Path | None, typer.Option("--out", help="folder for everything; a new one in runs/ if none")
    ] = None,
    rounds: Annotated[int, typer.Option(help="communication rounds", min=1)] = 3,
) -> None:
    """A SuperLink and three SuperNodes on this machine, TLS and node keys on; the result beside the local engine's."""
    from fedloom.deploy.demo import show

    rows = show(folder or _free(Path("runs/deploy-demo")), rounds, say)
    out.print(table(rows))


def _free(folder: Path) -> Path:
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
