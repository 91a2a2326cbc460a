"""From an experiment to clients' own models, and to the server's generator and captioner."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom.models.load import choose_device
from fedloom.models.own.architectures import load_architecture
from fedloom.models.own.model_bank import ModelBank, deal
from fedloom.models.settings import Foundation


def load_model_bank(
    settings: Foundation, modalities: Mapping[str, str], names: Sequence[str], device: str, seed: int
) -> ModelBank:
    """The architectures that these clients, by the modality that each holds, get in turn. Raises ExperimentError."""
    from fedloom.data.sources.labelled import vocabulary

    of_client = deal(modalities, {str(m): names for m, names in settings.architectures.items()})
    wanted = {name: modalities[client] for client, name in of_client.items()}
    architectures = [
        load_architecture(name, modality, len(names), settings.width, vocabulary(), seed)
        for name, modality in sorted(wanted.items())
    ]
    zoo = ModelBank(architectures, of_client, names)
    zoo.root.to(choose_device(device))
    return zoo


def load_own_model(settings: Foundation, folder: Path, device: str, seed: int) -> ModelBank:
    """The model of one client as its folder holds it (see `Zoo.save_adapters`)."""
    listed = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
    only = settings.model_copy(update={"architectures": {listed["modality"]: (listed["architecture"],)}})
    zoo = load_model_bank(only, {folder.name: listed["modality"]}, listed["labels"], device, seed)
    zoo.load(zoo.read_adapters(folder))
    return zoo
