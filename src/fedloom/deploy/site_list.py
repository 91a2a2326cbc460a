"""The signed list of a federation's sites, `sites.json` in the server's folder and in each site's.

    {"version": 3, "sites": {"north": "<64 hex digits>", ...}, "signature": "<hex digits>"}

`sites` holds each site's public signing key (Ed25519, 32 bytes), whose private half is `signing.key` in that site's folder.
`version` is 1 in a new kit and grows by one with every change. `signature` is ECDSA with SHA-384 by `ca.key`, which stays
offline; every site checks it with its own `ca.pem`. Signed is PURPOSE followed by the JSON of `sites` and `version`, keys sorted
and without spaces; PURPOSE makes it different from every certificate, which the same key signs, too.

A site replaces its list only by one with a higher version, so that a server cannot bring back a site that was removed.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.addresses import SiteName
from fedloom.deploy.private_files import private_files
from fedloom.deploy.settings import Site
from fedloom.experiment.settings import Experiment
from fedloom.privacy.secure.signatures import Identity, PublicKeys

LIST, SIGNING_KEY, CA = "sites.json", "signing.key", "ca.pem"
PURPOSE = b"fedloom: signed list of sites, format 1\n"
LARGEST = 2**20
"""Largest accepted list, in characters."""
CA_KEY_IS = "name with --ca-key where the ca.key lies that `fedloom deploy init` wrote with this kit"
MISSING = (
    "secure sums between sites need the signed list of sites, and {folder} has no {file}; it comes from an older kit, so write "
    "a new one with `fedloom deploy init` and hand each site its folder, or leave privacy.secure out"
)


class SiteList(BaseModel):
    """One version of the list. An instance from `verified` or `signed` has a signature that holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: int = Field(ge=1, lt=10**9)
    sites: dict[SiteName, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        min_length=1, max_length=10_000
    )
    signature: Annotated[str, Field(pattern="^([0-9a-f]{2}){8,200}$")]

    @property
    def text(self) -> str:
        """The list as it is written and as it travels."""
        return json.dumps(self.model_dump(), sort_keys=True, indent=1) + "\n"

    @property
    def keys(self) -> PublicKeys:
        """The sites' public keys, for secure sums."""
        return PublicKeys(self.version, {name: bytes.fromhex(key) for name, key in self.sites.items()})


def signed(sites: Mapping[str, str], version: int, ca_key: Path) -> SiteList:
    """A list of public signing keys (hex digits) by site, signed with the CA's private key. Raises ExperimentError."""
    try:
        key = load_pem_private_key(ca_key.read_bytes(), None)
    except OSError as error:
        why = (
            f"there is no {ca_key}" if not ca_key.exists() else f"{ca_key} cannot be read ({error.strerror})"
        )
        raise ExperimentError(f"{why}; {CA_KEY_IS}") from error
    except (ValueError, TypeError) as error:
        raise ExperimentError(f"{ca_key} is no CA key of a deployment; {CA_KEY_IS}") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ExperimentError(f"{ca_key} is no CA key of a deployment; {CA_KEY_IS}")
    signature = key.sign(_signed_text(sites, version), ECDSA(SHA384()))
    return SiteList(version=version, sites=dict(sites), signature=signature.hex())


def verified(text: str, ca: Path, origin: str) -> SiteList:
    """The list in a text whose signature holds under the CA's certificate. Raises ExperimentError; `origin` names the text."""
    try:
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST} characters")
        found = SiteList.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise ExperimentError(f"{origin} is no signed list of sites ({type(error).__name__})") from error
    try:
        authority = x509.load_pem_x509_certificate(ca.read_bytes()).public_key()
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{ca} cannot be read as the CA's certificate: {error}") from error
    if not isinstance(authority, EllipticCurvePublicKey):
        raise ExperimentError(f"{ca} is no certificate of a deployment's CA")
    try:
        authority.verify(
            bytes.fromhex(found.signature), _signed_text(found.sites, found.version), ECDSA(SHA384())
        )
    except InvalidSignature:
        raise ExperimentError(f"{origin} is not signed by this federation's CA") from None
    return found


def read_list(file: Path, ca: Path) -> SiteList:
    """The verified list of a file. Raises ExperimentError, also if there is none."""
    if not file.is_file():
        raise ExperimentError(MISSING.format(folder=file.parent, file=file.name))
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{file} is no signed list of sites") from error
    return verified(text, ca, str(file))


def server_list(server: Path) -> SiteList | None:
    """The list of a server's folder; None in one of an older kit. Raises ExperimentError for a list that does not verify."""
    return read_list(server / LIST, server / "tls" / CA) if (server / LIST).is_file() else None


def site_count(site: Site, folder: Path) -> int:
    """The number of sites in a site's list, or in its settings where its kit has none. Raises ExperimentError."""
    return len(read_list(folder / LIST, folder / CA).sites if (folder / LIST).is_file() else site.sites)


def check_list(experiment: Experiment, server: Path) -> None:
    """Raise ExperimentError for secure sums and a server's folder without the list of sites."""
    if experiment.privacy.secure is not None:
        read_list(server / LIST, server / "tls" / CA)


@private_files()
def change_list(
    server: Path, ca_key: Path, add: Mapping[str, str] | None = None, remove: Collection[str] = ()
) -> SiteList:
    """Write the server's list with sites added (public signing keys by name) or removed, under the next version.

    The sites get it with the server's next message. Raises ExperimentError; then nothing is written.
    """
    ca, add = server / "tls" / CA, add or {}
    before = read_list(server / LIST, ca)
    if there := sorted(set(add) & set(before.sites)):
        raise ExperimentError(f"{there[0]} is in the list of sites already")
    if absent := sorted(set(remove) - set(before.sites)):
        raise ExperimentError(f"{absent[0]} is not in the list of sites")
    sites = {name: key for name, key in before.sites.items() if name not in remove} | dict(add)
    if not sites:
        raise ExperimentError("a federation without any site is none; one has to be left in the list")
    try:
        after = signed(sites, before.version + 1, ca_key)
    except ValidationError as error:
        raise ExperimentError(f"the list of sites: {error.errors()[0]['msg']}") from error
    try:
        verified(after.text, ca, f"the list signed with {ca_key}")
    except ExperimentError as error:
        raise ExperimentError(f"{ca_key} is not the CA key of this deployment; {CA_KEY_IS}") from error
    write_atomic(server / LIST, after.text.encode())
    return after


def take_list(folder: Path, text: str) -> SiteList:
    """The list that a site goes by, once the server has sent `text`: written to its folder if its version is higher.

    Raises ExperimentError for a list that does not verify, for a lower version, and for another list of the same version.
    """
    sent = verified(text, folder / CA, "the list that the server sent")
    if (folder / LIST).is_file():
        own = read_list(folder / LIST, folder / CA)
        if sent.version < own.version:
            raise ExperimentError(
                f"the server's list of sites has version {sent.version}, and this site has {own.version} already"
            )
        if sent.version == own.version:
            if sent.sites != own.sites:
                raise ExperimentError(f"the server has another list of sites of version {own.version}")
            return own
    write_atomic(folder / LIST, sent.text.encode())
    return sent


def read_identity(folder: Path) -> Identity:
    """A site's signing key and list, as secure sums use them. Raises ExperimentError if its kit lacks them.

    The list is read again whenever it is used, because a message may bring a new one.
    """
    file = folder / SIGNING_KEY
    if not file.is_file():
        raise ExperimentError(MISSING.format(folder=folder, file=file.name))
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ExperimentError(f"{file} cannot be read as a signing key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ExperimentError(f"{file} is no signing key of a site")
    read_list(folder / LIST, folder / CA)
    return Identity(key, lambda: read_list(folder / LIST, folder / CA).keys)


def _signed_text(sites: Mapping[str, str], version: int) -> bytes:
    fields = {"sites": dict(sites), "version": version}
    return PURPOSE + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
