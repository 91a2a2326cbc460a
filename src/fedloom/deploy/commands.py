"""`fedloom deploy ...`: deployments on Flower."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Group
from rich.text import Text

from fedloom.core.errors import ExperimentError
from fedloom.core.terminal import console
from fedloom.core.terminal_tables import fitted
from fedloom.deploy.demo_command import demo

app = typer.Typer(
    no_args_is_help=True, help="Real silos: a server and its sites, over TLS, on Flower (docs/deploy.md)."
)
out = console()

Server = Annotated[Path, typer.Argument(help="the server's folder, as init wrote it")]
RunName = Annotated[str, typer.Option("--run", help="the run's name; its folder is runs/<name>")]


@app.command(
    epilog="Example: fedloom deploy init hospitals experiments/uniflow/quickstart.yaml --row FedA²-LoRA --site north "
    "--site south --host fl.example.org data.source=folder data.path=silos"
)
def init(
    folder: Annotated[Path, typer.Argument(help="a new folder for everything that server and sites need")],
    experiment: Annotated[Path, typer.Argument(help="the experiment's YAML file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that win over the file, such as rounds=10")
    ] = None,
    row: Annotated[str | None, typer.Option(help="this row of the file")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="a site's name; repeat it. None: the experiment's generated clients"),
    ] = None,
    host: Annotated[str, typer.Option(help="the name under which the sites reach the server")] = "localhost",
    port: Annotated[int, typer.Option(help="the SuperLink's port on the server", min=1, max=65534)] = 8000,
    proxy_port: Annotated[
        int, typer.Option(help="the proxy's port, which the sites reach", min=1, max=65535)
    ] = 443,
    direct: Annotated[
        bool, typer.Option("--direct", help="sites speak to the SuperLink itself: for one machine only")
    ] = False,
) -> None:
    """Write certificates, node keys, settings and the proxy's configuration."""
    from fedloom.deploy.settings import Deployment
    from fedloom.deploy.site_kit import write_kit
    from fedloom.experiment.settings import Experiment

    chosen = Experiment.load(experiment, overrides or (), row=row)
    names = site or [client.name for client in chosen.data.load(chosen.seed)]
    if len(set(names)) < len(names):
        raise ExperimentError("two sites have one name; give each --site a name of its own")
    try:
        deployment = Deployment(sites=tuple(names), host=host, port=port, proxy_port=proxy_port)
    except ValidationError as error:
        raise ExperimentError(_option_error(error)) from error
    write_kit(folder, chosen, deployment, direct=direct)
    out.print(_table([("server", str(folder / "server")), *((n, str(folder / "sites" / n)) for n in names)]))
    out.print(f"Keep {folder / 'ca.key'} offline; hand each site its own folder and no other.")


@app.command(epilog="Example: fedloom deploy server hospitals/server")
def server(folder: Server) -> None:
    """Run the server, and keep its current run going through crashes, until interrupted."""
    from fedloom.deploy.run_server import Server as Watchdog

    Watchdog(folder, _say).run(_until_signalled())


@app.command(epilog="Example: fedloom deploy site hospitals/sites/north --accept")
def site(
    folder: Annotated[Path, typer.Argument(help="this site's folder, as init wrote it")],
    accept: Annotated[
        bool, typer.Option("--accept", help="agree to what is shown; asked once for each experiment")
    ] = False,
) -> None:
    """Show what this site is asked for; once that is accepted, join and stay, until interrupted."""
    from fedloom.deploy import run_site

    out.print(_table(list(run_site.terms(folder).items())))
    if accept:
        run_site.accept(folder)
    run_site.run_site(folder, _say, _until_signalled())


@app.command(epilog="Example: fedloom deploy run hospitals/server --run first")
def run(
    folder: Server,
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
            _say(f"run {name}: round {done} is finished" if done >= 0 else f"run {name}: waits for the sites")
        time.sleep(1.0)
    out.print(Text(f"report   {path / 'report.html'}"), soft_wrap=True)


@app.command(epilog="Example: fedloom deploy status hospitals/server")
def status(folder: Server) -> None:
    """Show the current run: its round, the sites of the last one, and who was refused and why."""
    from fedloom.deploy import current_run as current
    from fedloom.deploy.settings import Deployment, read_settings
    from fedloom.federation.run_folder import RunFolder

    deployment = read_settings(Deployment, folder / "deployment.yaml")
    name = current.current(folder)
    if name is None:
        out.print("no run is current; `fedloom deploy run` begins one")
        return
    path = current.run_path(folder, name)
    why = current.failure(path)
    state = (
        "finished"
        if current.finished(path)
        else f"failed: {why}"
        if why
        else "at work"
        if current.worked_on(path)
        else "waits for the server"
    )
    rows = [("run", name), ("state", state), ("last finished round", str(max(current.last_round(path), 0)))]
    ledger = RunFolder(path).history("ledger.jsonl")
    last = dict.fromkeys(deployment.sites, "not asked yet")
    for entry in ledger:
        last |= dict.fromkeys(entry["answered"], f"answered in round {entry['round']}")
        last |= {s: f"round {entry['round']}: {reason}" for s, reason in entry["refused"].items()}
    out.print(_table([*rows, *last.items()]))


@app.command(epilog="Example: fedloom deploy stop hospitals/server")
def stop(folder: Server) -> None:
    """Stop the current run at its last finished round; `run` goes on with it. The server stays up."""
    from fedloom.deploy import current_run as current

    name = current.current(folder)
    current.end(folder)
    out.print(
        "no run was current" if name is None else f"run {name} stops; `fedloom deploy run` goes on with it"
    )


app.command(epilog="Example: fedloom deploy demo --system fedmmkt --out runs/deploy-demo")(demo)


def _until_signalled() -> Callable[[], bool]:
    """A condition that is true until this process receives SIGTERM or SIGINT."""
    received: list[int] = []
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda number, frame: received.append(number))
    return lambda: not received


def _say(line: str) -> None:
    out.print(Text(f"{time.strftime('%H:%M:%S')}  {line}"), soft_wrap=True)


def _option_error(error: ValidationError) -> str:
    """The first mistake in a deployment's settings, under the name of its option."""
    first = error.errors()[0]
    option = str(first["loc"][0]).removesuffix("s")  # sites come from --site
    return f"--{option}: {first['msg'].removeprefix('Value error, ')}"


def _table(rows: Sequence[tuple[str, str]]) -> Group:
    return fitted(("", ""), rows, out.width, rule=False)
