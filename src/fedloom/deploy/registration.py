"""The sites' keys at the SuperLink: registered when a site is listed, unregistered when it is listed no more.

`state/registered.json` has each registered site's Flower node id and the SHA-256 of its public key.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.logs import Log

Flower = Callable[..., str]
"""Runs a `flwr` command and returns its output; raises ExperimentError if it fails."""


class Registration:
    """The registered keys of a server's folder."""

    def __init__(self, folder: Path, flower: Flower, log: Log) -> None:
        self.folder, self.flower, self.log = folder, flower, log
        self.file = folder / "state" / "registered.json"

    def match(self, sites: Collection[str]) -> None:
        """Register the keys of these sites and unregister all others, each once. Raises ExperimentError; it can be repeated."""
        known = self._read()
        for site in sites:
            if not (file := self._file(site)).is_file():
                raise ExperimentError(
                    f"{site} is one of the sites, and {file} is missing; `fedloom deploy add-site` writes it"
                )
        for site in sorted(known):
            if site not in sites or known[site]["key"] not in ("", self._key(site)):
                self._unregister(site, known)
        for site in sites:
            if site not in known:
                self._register(site, known)

    def _register(self, site: str, known: dict[str, dict[str, str]]) -> None:
        file = str(self._file(site))
        try:
            said = self.flower("supernode", "register", file, "fedloom", "--format", "json", "--name", site)
            node = str(_fields(said).get("node-id", ""))
        except ExperimentError as error:  # registered just before a previous server was killed
            if "alreadyinuse" not in re.sub("[^a-z]", "", str(error).lower()):
                raise
            node = ""
        known[site] = {"node": node, "key": self._key(site)}
        self._write(known)
        self.log("", "site_registered", site=site)

    def _unregister(self, site: str, known: dict[str, dict[str, str]]) -> None:
        node = known[site]["node"] or self._stray(known)
        if node:
            try:
                self.flower("supernode", "unregister", node, "fedloom")
            except ExperimentError as error:  # unregistered just before a previous server was killed
                if "notfound" not in re.sub("[^a-z]", "", str(error).lower()):
                    raise
        else:
            self.log(f"{site} is not asked any more, but Flower still knows its key", "site_not_unregistered")
        del known[site]
        self._write(known)
        self.log(f"{site} has left: its key is not let in any more", "site_unregistered", site=site)

    def _stray(self, known: dict[str, dict[str, str]]) -> str:
        """The id of the only node that no other site has, or nothing."""
        nodes = _fields(self.flower("supernode", "list", "fedloom", "--format", "json")).get("nodes", [])
        ids = {str(n["node-id"]) for n in nodes if n.get("status") not in ("deleted", "unregistered")}
        left = ids - {entry["node"] for entry in known.values()}
        return left.pop() if len(left) == 1 else ""

    def _file(self, site: str) -> Path:
        return self.folder / "nodes" / f"{site}.pub"

    def _key(self, site: str) -> str:
        return hashlib.sha256(self._file(site).read_bytes()).hexdigest()

    def _read(self) -> dict[str, dict[str, str]]:
        found = json.loads(self.file.read_text()) if self.file.is_file() else {}
        # Until 0.2 it was a list of names.
        return found if isinstance(found, dict) else {site: {"node": "", "key": ""} for site in found}

    def _write(self, known: dict[str, dict[str, str]]) -> None:
        write_atomic(self.file, json.dumps(known).encode())


def _fields(said: str) -> dict[str, Any]:
    """The JSON object in a command's output; empty where there is none."""
    begin = said.find("{")
    try:
        found = json.loads(said[begin : said.rfind("}") + 1]) if begin >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
