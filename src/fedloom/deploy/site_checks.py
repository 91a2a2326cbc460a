"""Checks of a site before it joins: its data's folder, its device, its keys, requests that exist."""

from pathlib import Path

import torch

from fedloom.deploy.settings import Site, requests_of
from fedloom.deploy.site_list import SIGNING_KEY
from fedloom.deploy.trainer_link import NODE
from fedloom.experiment.settings import Experiment

NODE_KEY = "node.key"
"""The site's private key for the server."""


def lacking(site: Site, experiment: Experiment, folder: Path) -> list[str]:
    """A sentence for everything that keeps the site from joining, as far as it can be seen without reading the data."""
    found = [*unsound(site, experiment, folder), wrong_data(site, experiment), wrong_device(site)]
    return [sentence for sentence in found if sentence is not None]


def unsound(site: Site, experiment: Experiment, folder: Path) -> list[str]:
    """The sentences for what no waiting mends, as a late disk would: requests and private keys."""
    found = [wrong_requests(site, experiment), *wrong_keys(folder)]
    return [sentence for sentence in found if sentence is not None]


def wrong_device(site: Site) -> str | None:
    """The sentence for a GPU that this machine does not have, or None. Takes no memory of the GPU."""
    name = site.engine.device
    kind, _, number = name.partition(":")
    if kind != "cuda" or (torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()):
        return None
    return f"site.yaml: engine.device: {name} is not available here; use cpu, or auto"


def wrong_requests(site: Site, experiment: Experiment) -> str | None:
    """The sentence for a request in `site.yaml` that the experiment does not have, or None."""
    known = requests_of(experiment)
    strange = [name for name in site.requests if name not in known]
    if not strange:
        return None
    return f"site.yaml: requests names {', '.join(strange)}, and this experiment has {', '.join(known)}"


def wrong_data(site: Site, experiment: Experiment) -> str | None:
    """The sentence for a data folder that is not there, or is not the folder that holds the site's own, or None."""
    data, name = experiment.data, site.name
    path = site.data or getattr(data, "path", None)
    if not data.has_own_files or path is None:
        return None
    named = (
        f"site.yaml: data names {path}" if site.data else f"site.yaml: data is not set, and {path} is meant"
    )
    if not path.exists():
        here = "" if path.is_absolute() else f" (a relative path, looked for in {Path.cwd()})"
        return f"{named}, which does not exist{here}; name the folder that holds the folder {name} with this site's data"
    if not data.has_client_folders:
        return None
    if not path.is_dir():
        return (
            f"{named}, which is no folder; name the folder that holds the folder {name} with this site's data"
        )
    if (path / name).is_dir() or any(path.glob(f"{name}.*")):
        return None
    if path.resolve().name == name:
        return f"{named}, which is one folder too deep: right is the folder above it, {path.resolve().parent}"
    return f"{named}, which holds no folder {name}; right is the folder that holds {name}, and in it this site's data"


def wrong_keys(folder: Path) -> list[str]:
    """Sentences for private keys that are missing, or that other users may read."""
    files = [] if (folder / NODE).is_dir() else [folder / NODE_KEY]  # else it is the node's user's to see
    if (folder / SIGNING_KEY).exists():  # secure sums alone need it, and say so
        files.append(folder / SIGNING_KEY)
    return [sentence for file in files if (sentence := wrong_key(file)) is not None]


def wrong_key(file: Path) -> str | None:
    """The sentence for a private key that is missing, or that other users may read, or None."""
    if not file.is_file():
        return f"there is no {file}, a private key of this site's kit; ask who made the kit"
    if mode := file.stat().st_mode & 0o077:
        may = "read" if mode & 0o044 else "write or run"
        return f"other users of this machine may {may} {file}, a private key; type `chmod 600 {file}`"
    return None
