"""The Tabletop world's private split dealt out to clients: each has its own scenes, its own style and its own voice."""

from collections.abc import Mapping

from fedloom.data.client_data import ClientData, Holding
from fedloom.data.tabletop.speech import PRIVATE_VOICES
from fedloom.data.tabletop.styles import PRIVATE_STYLES
from fedloom.data.tabletop.world import Tabletop

_TEST: dict[Holding, tuple[str, ...]] = {
    "image": ("image",),
    "audio": ("audio",),
    "both": ("image", "audio", "image+audio"),
    "text": ("text",),
}
"""What a client is tested on: questions."""

_TRAIN: dict[Holding, tuple[str, ...]] = _TEST | {
    "image": ("caption", "caption", "caption", "image"),
    "both": ("caption", "image", "audio", "image+audio"),
}
"""What it trains on: descriptions, too, because one tells all of a picture and a question asks for one thing in it."""

_SCENES = 1_000_000
"""Scene numbers reserved for one client, so that no two clients, and no train and test part, share a scene."""


def tabletop_clients(counts: Mapping[Holding, int], train: int, test: int, seed: int) -> list[ClientData]:
    """`counts` clients of each holding (image, audio, both, text), ordered by name, with `train` and `test` samples each.

    Client number i of a holding photographs in private style i and is spoken to by private voice i (round the end): the
    clients' data differ as silos do.
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
