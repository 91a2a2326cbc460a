"""Sites' descriptions of themselves: modalities, sample counts, package versions and more, kept in a run's `sites.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedloom import __version__
from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.payload import Payload, PayloadError
from fedloom.core.plain_text import plain, shown
from fedloom.core.seals import damaged
from fedloom.data.sample import MODALITIES
from fedloom.deploy.remote_engine import Carrier, Lost
from fedloom.deploy.wire import DESCRIBE, Answer, Request, fingerprint

FILE = "sites.json"
Short = Annotated[str, Field(max_length=100)]
Group = Annotated[str, Field(max_length=500)]


class Described(BaseModel):
    """A site's description: modalities, groups of its model, sample counts, versions, the digest of its class names."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    holds: tuple[Short, ...] = Field(max_length=100)
    groups: tuple[Group, ...] | None = Field(None, max_length=10_000)
    """The groups of the model as the site has built it; None from a kit of an earlier release."""
    train: int = Field(ge=0, le=10**12)
    test: int = Field(ge=0, le=10**12)
    versions: dict[Short, Short] = Field({}, max_length=100)
    classes: Short = ""


_MANY = TypeAdapter(dict[str, Described])


def ask_descriptions(
    carrier: Carrier, run: str, experiment: str, sites: tuple[str, ...]
) -> dict[str, Described]:
    """Every site's description, by name. Raises ExperimentError naming the first site without a valid one."""
    request = Request(run, experiment, DESCRIBE, 0, 0, Payload()).encode()
    described: dict[str, Described] = {}
    faults = dict.fromkeys(sites, "no answer")
    for site, data in carrier.exchange(dict.fromkeys(sites, request)):
        if isinstance(data, Lost):
            faults[site] = data.why
            continue
        try:
            answer = Answer.decode(data)
            if answer.site != site or answer.to != fingerprint(request) or answer.error is not None:
                faults[site] = plain(answer.error or "answers another question")
                continue
            described[site] = Described.model_validate(dict(answer.payload.numbers))
        except (PayloadError, ValidationError) as error:
            faults[site] = f"unreadable: {type(error).__name__}"
            continue
        if (version := described[site].versions.get("fedloom")) not in (None, __version__):
            raise ExperimentError(
                f"site {site} runs fedloom {shown(version)}, and the server {__version__}; install the same version at both"
            )
        if unknown := [m for m in described[site].holds if m not in MODALITIES]:
            raise ExperimentError(f"site {site} holds {shown(unknown[0])}, which is no modality")
    for site in sites:
        if site not in described:
            raise ExperimentError(f"site {site} has not joined ({faults[site]}); start it, then run again")
    return {site: described[site] for site in sorted(described)}


def read_descriptions(path: Path) -> dict[str, Described] | None:
    """The descriptions in a run's folder, by name in order; None before there are any. Raises DiskError for a damaged file."""
    file = path / FILE
    if not file.is_file():
        return None
    try:
        return dict(sorted(_MANY.validate_json(file.read_bytes()).items()))
    except ValidationError as error:
        raise damaged(file) from error


def write_descriptions(path: Path, described: Mapping[str, Described]) -> None:
    """Write the descriptions into a run's folder: a restarted server need not wait for an absent site."""
    text = json.dumps({name: site.model_dump() for name, site in sorted(described.items())}, indent=1)
    write_atomic(path / FILE, text.encode())
