"""Loading clients' own models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom.models.load import choose_device
from fedloom.models.own.architectures import load_architecture
from fedloom.models.own.model_bank import ModelBank, deal
from fedloom.models.settings import Foundation


def load_model_bank(
    settings: Foundation,
    modalities: Mapping[str, str],
    names: Sequence[str],
    device: str,
    seed: int,
    only: str | None = None,
) -> ModelBank:
    """A bank of the architectures, dealt in turn to the clients of each modality. Raises ExperimentError.

    `only`: load the architecture of this client alone; the deal is that of all clients.
    """
    from fedloom.data.sources.labelled import vocabulary

    of_client = deal(modalities, {str(m): names for m, names in settings.architectures.items()})
    if only is not None:
        of_client = {only: of_client[only]}
    wanted = {name: modalities[client] for client, name in of_client.items()}
    architectures = [
        load_architecture(name, modality, len(names), settings.width, vocabulary(), seed)
        for name, modality in sorted(wanted.items())
    ]
    bank = ModelBank(architectures, of_client, names)
    bank.root.to(choose_device(device))
    return bank


def load_own_model(settings: Foundation, folder: Path, device: str, seed: int) -> ModelBank:
    """The model of one client as its folder holds it (see `ModelBank.save_adapters`)."""
    listed = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
    only = settings.model_copy(update={"architectures": {listed["modality"]: (listed["architecture"],)}})
    bank = load_model_bank(only, {folder.name: listed["modality"]}, listed["labels"], device, seed)
    bank.load(bank.read_adapters(folder))
    return bank
