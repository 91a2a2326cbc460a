"""What a server and a site say to each other: a question and its answer, each one payload whose numbers hold the heading.

An answer names the fingerprint of the question's bytes: what answers another question, another round or another run is told
apart before anybody looks at its tensors. bfloat16 and every other type travel as they are, because the bytes are safetensors.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloom.core.payload import Payload, PayloadError

DESCRIBE = "describe"
"""What a site holds: asked once, before round 0."""
EVALUATE = "evaluate"
"""Figures of a model on the site's own test samples."""
ALWAYS = (DESCRIBE, EVALUATE)
"""Tasks of every experiment, beside its method's."""


def fingerprint(data: bytes) -> str:
    """The name of these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _Heading(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    experiment: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    round: Annotated[int, Field(ge=0, lt=10**6)]
    step: Annotated[int, Field(ge=0, lt=10**3)]
    numbers: dict[str, Any]


class _Closing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    site: Annotated[str, Field(min_length=1, max_length=100)]
    to: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    error: str | None
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A question to one site: the run (32 hex digits), the experiment's fingerprint (64), the request, and when it is asked.

    `step` counts the questions of a round from 0, so that a repeated question can be told from the next one.
    """

    run: str
    experiment: str
    name: str
    round: int
    step: int
    payload: Payload

    def encode(self) -> bytes:
        """The bytes that travel."""
        told = {n: getattr(self, n) for n in ("run", "experiment", "name", "round", "step")}
        return Payload(self.payload.tensors, {**told, "numbers": dict(self.payload.numbers)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Request":
        """The question in these bytes. Raises PayloadError on anything else."""
        payload = Payload.decode(data)
        heading = _checked(_Heading, payload)
        told = heading.model_dump(exclude={"numbers"})
        return cls(**told, payload=Payload(payload.tensors, heading.numbers))


@dataclass(frozen=True)
class Answer:
    """A site's answer to the question with the fingerprint `to`: a payload, or the error in words."""

    site: str
    to: str
    payload: Payload = field(default_factory=Payload)
    error: str | None = None

    def encode(self) -> bytes:
        """The bytes that travel."""
        told = {"site": self.site, "to": self.to, "error": self.error}
        return Payload(self.payload.tensors, {**told, "numbers": dict(self.payload.numbers)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Answer":
        """The answer in these bytes. Raises PayloadError on anything else."""
        payload = Payload.decode(data)
        closing = _checked(_Closing, payload)
        told = closing.model_dump(exclude={"numbers"})
        return cls(**told, payload=Payload(payload.tensors, closing.numbers))


def _checked(kind: type[Any], payload: Payload) -> Any:
    try:
        return kind.model_validate(dict(payload.numbers))
    except (ValidationError, RecursionError) as error:
        raise PayloadError(f"a payload without the heading of a message: {type(error).__name__}") from error
