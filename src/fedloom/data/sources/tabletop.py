"""The Tabletop world's private split, distributed to clients with their own scenes, style and voice."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from fedloom.data.client_data import ClientData, Holding
from fedloom.data.missing import Missing
from fedloom.data.partition.redeal import redealt
from fedloom.data.partition.settings import RowPartition
from fedloom.data.sources.source import Features, Source, checked_counts
from fedloom.data.tabletop.speech import PRIVATE_VOICES
from fedloom.data.tabletop.styles import PRIVATE_STYLES
from fedloom.data.tabletop.world import Tabletop

_TEST: dict[Holding, tuple[str, ...]] = {
    "image": ("image",),
    "audio": ("audio",),
    "both": ("image", "audio", "image+audio"),
    "text": ("text",),
}
"""Kinds of test samples by holding: questions."""

_TRAIN: dict[Holding, tuple[str, ...]] = _TEST | {
    "image": ("caption", "caption", "caption", "image"),
    "both": ("caption", "image", "audio", "image+audio"),
}
"""Kinds of training samples by holding: also captions, which describe a whole picture, unlike a question."""

_SCENES = 1_000_000
"""Scene numbers reserved for one client, so that no two clients, and no train and test part, share a scene."""


class TabletopSource(Source):
    """The project's own small world: pictures and speech with questions."""

    for_task: ClassVar[str] = "question-answering"

    source: Literal["tabletop"] = "tabletop"
    clients: dict[Holding, int] = Field(
        {"image": 3, "audio": 3}, description="number of clients that hold images, speech, both, or text"
    )
    partition: RowPartition | None = Field(
        None,
        description="how all clients' samples are dealt anew, as {kind: iid}: dirichlet, few-shot and domain over answer, kind, "
        "question_kind or client; none = every client has scenes, a style and a voice of its own",
    )
    missing: Missing | None = Field(
        None, description="modalities that are missing, as {image: 0.3, audio: 0.7}"
    )
    train: int = Field(160, ge=1, description="training samples per client")
    test: int = Field(40, ge=1, description="test samples per client")

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "tabletop", tuple(_TEST), "{image: 3, audio: 3}")
        return value

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients with scenes, a style and a voice of their own, or all their samples by `partition`."""
        clients = tabletop_clients(self.clients, self.train, self.test, seed)
        return redealt(clients, self.partition, len(clients), seed) if self.partition else clients


def tabletop_clients(counts: Mapping[Holding, int], train: int, test: int, seed: int) -> list[ClientData]:
    """`counts` clients of each holding (image, audio, both, text), ordered by name, with `train` and `test` samples each.

    Client i of a holding has pictures in private style i and questions by private voice i, cyclically, so that clients' data
    differ like those of silos.
    """
    world = Tabletop(seed)
    clients = []
    number = 0
    for holding in _TEST:
        for i in range(counts.get(holding, 0)):
            style = PRIVATE_STYLES[i % len(PRIVATE_STYLES)]
            voice = PRIVATE_VOICES[i % len(PRIVATE_VOICES)]
            first = number * _SCENES
            of_part = (("train", _TRAIN[holding], 0, train), ("test", _TEST[holding], train, train + test))
            samples = {
                part: [
                    world.sample("private", first + j, kinds[j % len(kinds)], style=style, voice=voice)
                    for j in range(start, stop)
                ]
                for part, kinds, start, stop in of_part
            }
            clients.append(ClientData(f"{holding}-{i + 1:02d}", samples["train"], samples["test"]))
            number += 1
    return sorted(clients, key=lambda client: client.name)
