"""`fedloom deploy init`, `add-site`, `remove-site` and `upgrade`: the commands that write a kit."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.deploy.terminal import out, table

Kit = Annotated[Path, typer.Argument(help="the folder that init wrote, with server/ and sites/")]
SiteName = Annotated[str, typer.Argument(help="the site's name")]
CAKey = Annotated[Path | None, typer.Option(help="the deployment's ca.key, if it is not in the kit's folder")]
Direct = Annotated[
    bool, typer.Option("--direct", help="sites speak to the SuperLink itself: for one machine only")
]


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
        int | None,
        typer.Option(help="the proxy's port, which the sites reach; 443 if none", min=1, max=65535),
    ] = None,
    direct: Direct = False,
) -> None:
    """Write certificates, node keys, settings and the proxy's configuration."""
    from fedloom.deploy.settings import Deployment
    from fedloom.deploy.site_kit import write_kit
    from fedloom.experiment.settings import Experiment

    if direct and proxy_port is not None:
        raise ExperimentError("--direct goes without a proxy; leave --proxy-port out, or --direct")
    chosen = Experiment.load(experiment, overrides or (), row=row)
    if not site and chosen.data.has_own_files:
        raise ExperimentError("the data are the sites' own files; name the sites with --site, once for each")
    names = site or [client.name for client in chosen.data.load(chosen.seed)]
    if len(set(names)) < len(names):
        raise ExperimentError("two sites have one name; give each --site a name of its own")
    try:
        deployment = Deployment(
            sites=tuple(names), host=host, port=port, proxy_port=proxy_port or 443, direct=direct
        )
    except ValidationError as error:
        raise ExperimentError(_option_error(error)) from error
    write_kit(folder, chosen, deployment)
    out.print(table([("server", str(folder / "server")), *((n, str(folder / "sites" / n)) for n in names)]))
    out.print(f"Keep {folder / 'ca.key'} offline; hand each site its own folder and no other.")


def add_site(kit: Kit, name: SiteName, ca_key: CAKey = None) -> None:
    """Write the folder of a further site. A run under way counts it from the next round on, once it has joined."""
    from fedloom.deploy import kit_changes

    folder = kit_changes.add_site(kit, name, ca_key or kit / "ca.key")
    out.print(table([(name, str(folder))]))
    out.print(
        f"Hand {name} this folder; the other sites need nothing. Where the server's folder lies elsewhere, copy "
        f"{', '.join(str(kit / 'server' / file) for file in _changed(name))} there, in this order."
    )


def remove_site(kit: Kit, name: SiteName, ca_key: CAKey = None) -> None:
    """Take a site out for good: it is not asked from the next round on, and its key is let in no more."""
    from fedloom.deploy import kit_changes

    kit_changes.remove_site(kit, name, ca_key or kit / "ca.key")
    out.print(
        f"{name} is out from the next round on. Where the server's folder lies elsewhere, copy "
        f"{', '.join(str(kit / 'server' / file) for file in _changed())} there, in this order."
    )


def upgrade(
    folder: Annotated[Path, typer.Argument(help="the server's folder, or a site's")],
) -> None:
    """Take a folder of another version of fedloom over to the installed one; a site is asked for its terms again."""
    from fedloom.deploy.kit_version import upgrade

    out.print(upgrade(folder))


def _changed(*added: str) -> list[str]:
    """The files of the server's folder that a change writes, the one that the server acts on last."""
    return [*(f"nodes/{name}.pub" for name in added), "sites.json", "deployment.yaml"]


def _option_error(error: ValidationError) -> str:
    """The first mistake in a deployment's settings, under the name of its option."""
    first = error.errors()[0]
    place = str(first["loc"][0]) if first["loc"] else "proxy-port"  # two ports together have no place
    option = place.removesuffix("s")  # sites come from --site
    return f"--{option}: {first['msg'].removeprefix('Value error, ')}"
