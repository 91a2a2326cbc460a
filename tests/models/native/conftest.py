from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.models.lora.layers import LoRA
from fedloom.models.native.load import load_native
from fedloom.models.native.prompt import Reader
from fedloom.models.native.trainable import NativeMLLM
from fedloom.models.settings import Foundation
from tests.models.native.tiny_families import FAMILIES, OTHERS

SOUND = {"qwen2_audio", "voxtral", "audioflamingo3"}
BOTH = {"qwen2_5_omni_thinker", "gemma4"}


def modalities_of(name: str) -> list[str]:
    return ["image", "audio"] if name in BOTH else ["audio"] if name in SOUND else ["image"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random checkpoint by its family, written once."""
    root = tmp_path_factory.mktemp("native")

    def folder(name: str) -> Path:
        place = root / name
        if not place.exists():
            place.mkdir()
            {**FAMILIES, **OTHERS}[name](place)
        return place

    return folder


@pytest.fixture(scope="session")
def reader(checkpoint: Callable[[str], Path]) -> Callable[[str], Reader]:
    """The processor side of a family's checkpoint, loaded once."""
    known: dict[str, Reader] = {}

    def of(name: str) -> Reader:
        if name not in known:
            known[name] = load_native(Foundation(native=str(checkpoint(name))), [], "cpu", 0).reader
        return known[name]

    return of


@pytest.fixture
def native(checkpoint: Callable[[str], Path]) -> Callable[..., NativeMLLM]:
    """A native model with adapters of rank 4 on the LLM and 2 on the encoder."""

    def make(name: str, modalities: list[str] | None = None, second: bool = False, **lora: Any) -> NativeMLLM:
        settings = Foundation(
            native=str(checkpoint(name)),
            llm_lora=LoRA(rank=4, **lora),
            encoder_lora=LoRA(rank=2, **lora),
        )
        held = modalities_of(name) if modalities is None else modalities
        return load_native(settings, held, "cpu", 0, second=second)

    return make
