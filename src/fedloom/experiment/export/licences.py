"""Licences of base models, as their own files state them: a model card, a configuration, a licence text."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedloom.models.imagebind.checkpoint import licence_of
from fedloom.models.load import shipped
from fedloom.models.lora.peft_files import read_json
from fedloom.models.sources import hub_id

OWN = "apache-2.0"
"""The licence of the package and of the models in it."""
TEXTS: Mapping[str, str] = {
    r"apache license\s+version 2\.0": "apache-2.0",
    r"\bmit license|permission is hereby granted, free of charge": "mit",
    r"redistribution and use in source and binary forms.*neither the name": "bsd-3-clause",
    r"cc[ -]by[ -]nc[ -]sa|attribution-noncommercial-sharealike": "cc-by-nc-sa-4.0",
    r"cc[ -]by[ -]nc|attribution-noncommercial": "cc-by-nc-4.0",
    r"cc[ -]by[ -]sa|attribution-sharealike": "cc-by-sa-4.0",
    r"cc[ -]by|creative commons attribution": "cc-by-4.0",
    r"llama 2 community license": "llama2",
    r"llama 3\.2 community license": "llama3.2",
}
"""Patterns of licence texts, with the hub's names of the licences; the first that is found counts."""
_CARD, _NAMES = "README.md", ("LICENSE*", "LICENCE*", "COPYING*")
_READ = 20_000


def licence(source: str) -> str | None:
    """The hub's name of a base's licence: a folder's, or what the hub's cache holds of an id; None if nothing states it.

    Nothing is downloaded.
    """
    folder = Path(source)
    roots = [path for _, _, path in shipped()]
    if source in {path.name for path in roots} or any(path in (folder, *folder.parents) for path in roots):
        return OWN
    if (known := hub_id(source)) is not None:
        return next(filter(None, map(_of_card, _cached(known))), None)
    stated = licence_of(folder)
    if stated is not None:
        return _of_text(stated)
    places = [folder, folder.parent] if (folder.parent / "mllm.json").is_file() else [folder]
    return next((name for place in places for name in _in_folder(place)), None)


def _in_folder(folder: Path) -> Iterator[str]:
    """The licences that the files of a folder state."""
    for file in (folder / _CARD, folder / "config.json"):
        if file.is_file() and (name := (_of_card if file.suffix == ".md" else _of_config)(file)):
            yield name
    for pattern in _NAMES:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and (name := _of_text(_text(file))):
                yield name


def _cached(known: str) -> list[Path]:
    """The model card of a hub id in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(known, _CARD)
    return [Path(found)] if isinstance(found, str) else []


def _of_card(file: Path) -> str | None:
    from huggingface_hub import ModelCard

    try:
        stated = ModelCard(_text(file), ignore_metadata_errors=True).data.get("license")
    except Exception:  # a card that is no YAML, in any of the parser's own ways
        return None
    return stated if isinstance(stated, str) and stated != "unknown" else None


def _of_config(file: Path) -> str | None:
    try:
        config: dict[str, Any] = read_json(file)
    except (OSError, ValueError):
        return None
    stated = config.get("license") or config.get("licence")
    return stated.lower() if isinstance(stated, str) and re.fullmatch(r"[\w.-]+", stated) else None


def _of_text(text: str) -> str | None:
    plain = " ".join(text.lower().split())
    return next((name for pattern, name in TEXTS.items() if re.search(pattern, plain)), None)


def _text(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(_READ)
