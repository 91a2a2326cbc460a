"""Messages between server and site: a request and its answer, each one payload with a header among its numbers.

An answer carries the fingerprint of the request's bytes, so that an answer to another request, round or run is recognised
before its tensors are read. bfloat16 and every other dtype travel unchanged, because the bytes are safetensors.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloom.core.payload import Limits, Payload, PayloadError

DESCRIBE = "describe"
"""Request: modalities and sample counts of a site; sent once, before round 0."""
EVALUATE = "evaluate"
"""Request: metrics of a model on the site's own test samples."""
ALWAYS = (DESCRIBE, EVALUATE)
"""Requests of every experiment, in addition to its method's."""


def fingerprint(data: bytes) -> str:
    """The BLAKE2b digest of a message: 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _RequestHeader(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    experiment: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    round: Annotated[int, Field(ge=0, lt=10**6)]
    step: Annotated[int, Field(ge=0, lt=10**3)]
    sites: str = ""
    numbers: dict[str, Any]


class _AnswerHeader(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    site: Annotated[str, Field(min_length=1, max_length=100)]
    to: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    error: str | None
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request to one site: run id (32 hex digits), experiment digest (64), the request's name, round and step.

    `step` counts the requests of a round from 0 and distinguishes a repeated request from the next one. `sites` is the text of
    the signed list of sites that the server goes by (see `deploy.site_list`), or empty.
    """

    run: str
    experiment: str
    name: str
    round: int
    step: int
    payload: Payload
    sites: str = ""

    def encode(self) -> bytes:
        """Serialise to bytes."""
        header = {n: getattr(self, n) for n in ("run", "experiment", "name", "round", "step", "sites")}
        return Payload(self.payload.tensors, {**header, "numbers": dict(self.payload.numbers)}).encode()

    @classmethod
    def decode(cls, data: bytes, limits: Limits = Limits()) -> "Request":  # noqa: B008 - frozen
        """Parse a request. Raises PayloadError for anything else."""
        payload = Payload.decode(data, limits)
        header = _checked(_RequestHeader, payload)
        fields = header.model_dump(exclude={"numbers"})
        return cls(**fields, payload=Payload(payload.tensors, header.numbers))


@dataclass(frozen=True)
class Answer:
    """A site's answer to the request with the fingerprint `to`: a payload, or an error message."""

    site: str
    to: str
    payload: Payload = field(default_factory=Payload)
    error: str | None = None

    def encode(self) -> bytes:
        """Serialise to bytes."""
        header = {"site": self.site, "to": self.to, "error": self.error}
        return Payload(self.payload.tensors, {**header, "numbers": dict(self.payload.numbers)}).encode()

    @classmethod
    def decode(cls, data: bytes, limits: Limits = Limits()) -> "Answer":  # noqa: B008 - frozen
        """Parse an answer. Raises PayloadError for anything else."""
        payload = Payload.decode(data, limits)
        header = _checked(_AnswerHeader, payload)
        fields = header.model_dump(exclude={"numbers"})
        return cls(**fields, payload=Payload(payload.tensors, header.numbers))


def _checked(kind: type[Any], payload: Payload) -> Any:
    try:
        return kind.model_validate(dict(payload.numbers))
    except (ValidationError, RecursionError) as error:
        raise PayloadError(f"a payload without the heading of a message: {type(error).__name__}") from error
