"""Missing modalities: a share of the samples, or of the clients, lacks its pictures or sounds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample, modalities_of, modality_of
from fedloom.data.tables.samples import LazySamples

Share = Annotated[float, Field(ge=0, le=1)]
_MODALITIES = ("image", "video", "audio", "depth", "thermal", "imu")


class Missing(BaseModel):
    """The shares that lack a modality. A larger share lacks what a smaller one does, and more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Share = Field(0.0, description="share that lacks its pictures")
    video: Share = Field(0.0, description="share that lacks its videos")
    audio: Share = Field(0.0, description="share that lacks its sounds")
    depth: Share = Field(0.0, description="share that lacks its depth maps")
    thermal: Share = Field(0.0, description="share that lacks its thermal pictures")
    imu: Share = Field(0.0, description="share that lacks its motion traces")
    of: Literal["samples", "clients"] = Field(
        "samples", description="samples of every client that hold it | clients that hold it"
    )
    parts: Literal["train", "both"] = Field(
        "both", description="training samples alone | test samples as well"
    )
    alone: Literal["keep", "drop"] = Field(
        "keep", description="a sample that lost its only input: keep its question alone | drop it"
    )

    @model_validator(mode="after")
    def _names_a_modality(self) -> "Missing":
        if self.model_fields_set and not self.model_fields_set & {*_MODALITIES}:
            raise ValueError(
                f"names no modality that is missing; add one, such as {{image: 0.3, of: {self.of}}}"
            )
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The shares above 0 by modality."""
        return {m: share for m in _MODALITIES if (share := getattr(self, m)) > 0}


def lacking(clients: Sequence[ClientData], missing: Missing, seed: int) -> list[ClientData]:
    """The clients without what is missing; notes on it stand with the first.

    A sample that would lose every one of several modalities keeps one, drawn at random. One that loses its only one is kept
    with its question alone, or left out with `alone: drop` and where it has no question. Media are not read. Raises
    ExperimentError where no client holds a modality, or a client loses all training or all test samples.
    """
    if not missing.shares:
        return list(clients)
    held = {m: [c.name for c in clients if m in c.holds] for m in missing.shares}
    for modality, holders in held.items():
        if not holders:
            there = sorted({m for c in clients for m in c.holds})
            raise ExperimentError(
                f"data.missing.{modality}: no client holds {modality}; the samples hold {', '.join(there) or 'text'}."
            )
    without = {
        m: {holders[i] for i in _first(len(holders), missing.shares[m], seed, "clients", m)}
        for m, holders in held.items()
        if missing.of == "clients"
    }
    listed, counts = [], dict.fromkeys(("touched", "alone", "dropped", "all"), 0)
    for client in clients:
        own = {m for m, names in without.items() if client.name in names}
        parts: dict[str, Sequence[Sample]] = {"train": client.train, "test": client.test}
        for part in ("train",) if missing.parts == "train" else ("train", "test"):
            parts[part] = _part(client.name, part, parts[part], missing, own, seed, counts)
            if getattr(client, part) and not parts[part]:
                raise ExperimentError(
                    f"data.missing leaves client {client.name} without a {part} sample; lower the share, or set alone: keep."
                )
        listed.append(replace(client, train=parts["train"], test=parts["test"]))
    says = (
        f"data.missing: {counts['touched']} of {counts['all']} samples lack a modality, {counts['alone']} of them have their "
        f"question alone; {counts['dropped']} further ones are left out"
    )
    return [replace(listed[0], notes=(*listed[0].notes, says)), *listed[1:]]


def _first(count: int, share: float, seed: int, *stream: str) -> list[int]:
    """The share of `count` places, drawn; more of them for a larger share, in the same order."""
    order: list[int] = numpy_stream(seed, "missing", *stream).permutation(count).tolist()
    return order[: round(share * count)]


def _part(
    client: str,
    part: str,
    samples: Sequence[Sample],
    missing: Missing,
    without: set[str],
    seed: int,
    counts: dict[str, int],
) -> Sequence[Sample]:
    """A part of a client's samples; `without`: the modalities that the client lacks as a whole."""
    holds = [modalities_of(sample.modalities) for sample in samples]
    lost: list[set[str]] = [without & set(own) for own in holds]
    if missing.of == "samples":
        for modality, share in missing.shares.items():
            holders = [i for i, own in enumerate(holds) if modality in own]
            for i in _first(len(holders), share, seed, "samples", modality, client, part):
                lost[holders[i]].add(modality)
    # the modality that is kept where all would be lost: one for each sample, or one for the client
    size = len(samples) if missing.of == "samples" else 1
    draws = numpy_stream(seed, "missing", "kept", client, *([part] if size > 1 else [])).random(size)
    kept = []
    for i, own in enumerate(holds):
        if len(own) > 1 and lost[i] == set(own):
            lost[i].discard(own[int(draws[i % size] * len(own))])
        elif lost[i] and lost[i] == set(own):
            if missing.alone == "drop" or not samples[i].question.strip():
                counts["dropped"] += 1
                continue
            counts["alone"] += 1
        counts["touched"] += bool(lost[i])
        kept.append(i)
    counts["all"] += len(kept)
    return LazySamples(lambda i: _without(samples[i], lost[i]) if lost[i] else samples[i], kept)


def _without(sample: Sample, lost: set[str]) -> Sample:
    """The sample without these modalities; its files are not read."""
    inputs = sample.modalities
    keys = [key for key in inputs if modality_of(key) not in lost]
    if isinstance(inputs, MediaFiles):
        return replace(sample, modalities=MediaFiles({k: inputs.media[k] for k in keys}, inputs.error))
    return replace(sample, modalities={k: inputs[k] for k in keys})
