"""`fedloom deploy ...`: deployments on Flower."""

import time
from contextlib import AbstractContextManager, closing
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.core.errors import ExperimentError
from fedloom.deploy.demo_command import demo
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


STARTING = 5.0
"""Seconds that `run` gives a server that has just been started."""


class SitePart(str, Enum):
    """The half of a site that a process keeps running."""

    both = "both"
    trainer = "trainer"
    node = "node"


RunName = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="the run's name; its folder is runs/<name>. None: the run that is stopped or not finished, else first",
    ),
]

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
    from fedloom.deploy.server_lock import only_server
    from fedloom.deploy.status import StatusReader

    reader = StatusReader(folder)
    with (
        only_server(folder),
        closing(EventLog(folder / "logs" / "server.jsonl", "server", say=say, as_json=log_json)) as log,
    ):
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
    trainer_user: Annotated[
        str | None, typer.Option(help="as root: the user that holds data and keys, by name or number")
    ] = None,
    node_user: Annotated[
        str | None, typer.Option(help="as root: the user that speaks to the server, by name or number")
    ] = None,
    hand_over: Annotated[
        bool, typer.Option("--hand-over", help="as root: give the folder to the two users, and start nothing")
    ] = False,
    part: Annotated[
        SitePart, typer.Option(help="run this half alone, as its user; the node in its own folder")
    ] = SitePart.both,
    log_json: LogJSON = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Show what this site is asked for; once that is accepted, join and stay, until interrupted."""
    from fedloom.deploy import metrics, run_site, site_users
    from fedloom.deploy.logs import EventLog
    from fedloom.deploy.settings import Site, read_settings

    users = [site_users.User.of(name) for name in (trainer_user, node_user) if name is not None]
    if len(users) == 1 or (hand_over and not users) or (users and part is not SitePart.both):
        raise ExperimentError(
            "--trainer-user and --node-user stand together, and without --part; --hand-over needs both"
        )
    if users and metrics_port is not None:
        raise ExperimentError(
            "--metrics-port goes with one half: start each by --part, with a port of its own"
        )
    if part is not SitePart.node:  # the node has no experiment, and joins once the trainer has started
        terms = run_site.terms(folder)
        if not log_json:
            out.print(table(list(terms.items())))
            if not accept:
                for sentence in run_site.missing(folder):
                    out.print(Text(f"missing: {sentence}"), soft_wrap=True)
    divided = (folder / "node").is_dir()
    if accept and part is not SitePart.node and not (users and divided):
        run_site.accept(folder)  # a folder that is another user's is written by that user alone
    if users:
        trainer_half, node_half = users
        site_users.hand_over(folder, trainer_half, node_half)
        if not hand_over:
            options = ["--log-json"] if log_json else []
            site_users.run_halves(
                folder.resolve(),
                trainer_half,
                node_half,
                until_signalled(),
                accept=accept and divided,
                options=options,
            )
        return
    name = read_settings(Site, folder / "site.yaml").name
    with closing(
        EventLog(folder / "logs" / "site.jsonl", "site", say=say, as_json=log_json, site=name)
    ) as log:

        def around(trainer: Child, node: Child) -> AbstractContextManager[None]:
            collect = metrics.of_site(folder, trainer, node)
            return metrics.serving(metrics_port, metrics_host, collect, lambda line: log(line, "metrics"))

        run_site.run_site(folder, log, until_signalled(), part.value, around)


@app.command(epilog="Example: fedloom deploy run hospitals/server --run first")
def run(
    folder: ServerFolder,
    name: RunName = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="do not wait for the end, nor for a server that is not running")
    ] = False,
) -> None:
    """Begin a run, or go on with one that was stopped or cut off."""
    from fedloom.deploy import current_run as current
    from fedloom.deploy.kit_version import check_version
    from fedloom.deploy.server_lock import server_runs
    from fedloom.deploy.settings import Deployment, read_settings

    check_version(read_settings(Deployment, folder / "deployment.yaml"), folder)
    name = name or current.unfinished(folder) or "first"
    path = current.run_path(folder, name)
    begins = not current.finished(path)
    up = not begins or server_runs(folder, 0.0 if detach else STARTING)
    if not (up or detach):
        raise ExperimentError(
            f"no server runs for {folder}: start `fedloom deploy server {folder}` first, or give --detach, and the run begins "
            "once it does"
        )
    path = current.begin(folder, name)
    if detach:
        if not up:
            say(f"run {name} begins once `fedloom deploy server {folder}` runs")
        return
    shown = -1
    while not current.finished(path):
        if (why := current.failure(path)) is not None:
            raise ExperimentError(why)
        if current.current(folder) != name:
            raise ExperimentError(f"run {name} was stopped; `{current.way_on(folder, name)}` goes on with it")
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
    from fedloom.deploy.settings import Deployment, read_settings

    read_settings(Deployment, folder / "deployment.yaml")  # of any version: `upgrade` asks for this
    name = current.current(folder)
    if name is None or current.finished(current.run_path(folder, name)):
        out.print("no run goes on")
        return
    current.end(folder)
    at_work = current.worked_on(current.run_path(folder, name))
    said = "stops after the phase under way" if at_work else "is stopped"
    out.print(Text(f"run {name} {said}; `{current.way_on(folder, name)}` goes on with it"), soft_wrap=True)


app.command(epilog="Example: fedloom deploy demo --system fedmmkt --out runs/deploy-demo")(demo)
