"""The clients' personal tensors on disk: one file per client, read when the client is asked or evaluated.

A client's file is `<client>/round-000003.safetensors`, named after the last round that changed it; `index.jsonl` lists the
changed clients of every round. A checkpoint costs time for the changed clients only: it appends one line, and a file is
removed once no checkpoint needs it (docs/decisions/0009-what-does-not-fit-lies-on-disk.md).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from fedloom.core.files import sync, write_atomic
from fedloom.core.tensor_files import read_checked, with_checksum

INDEX = "index.jsonl"


class States(Protocol):
    """Storage of the clients' personal tensors."""

    def read(self, client: str) -> dict[str, Tensor] | None:
        """The client's tensors, private to the caller; None if it never kept any."""

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Store the client's tensors."""


class ClientStates:
    """The clients' personal tensors below `folder`, or in a temporary folder that is removed with this object."""

    def __init__(self, folder: Path | None = None, device: torch.device | str = "cpu") -> None:
        """Tensors are read onto `device`."""
        self.device = torch.device(device)
        self._folder = folder
        self._durable = folder is not None
        self._temporary: TemporaryDirectory[str] | None = None
        self._rounds: dict[str, int] = {}
        self._changed: set[str] = set()
        self._replaced: list[Path] = []

    def read(self, client: str) -> dict[str, Tensor] | None:
        """A client's tensors, mapped from its file and private to the caller; None if it never kept any."""
        if client not in self._rounds:
            return None
        return load_file(self._file(client, self._rounds[client]), device=str(self.device))

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a client's tensors; the file that they replace stays until the next checkpoint."""
        file = self._file(client, round)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, with_checksum(tensors), durable=self._durable)
        if (before := self._rounds.get(client, round)) != round:
            self._replaced.append(self._file(client, before))
        self._rounds[client] = round
        self._changed.add(client)

    def record(self, round: int) -> None:
        """Append the clients changed since the last checkpoint to the index; call it before the round's checkpoint is saved."""
        if self._changed and self._durable:
            with (self._root() / INDEX).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"round": round, "clients": sorted(self._changed)}) + "\n")
            sync(self._root() / INDEX)
        self._changed.clear()

    def forget_replaced(self) -> None:
        """Remove the files that no checkpoint needs any more; call it after the round's checkpoint is saved."""
        for file in self._replaced:
            file.unlink(missing_ok=True)
        self._replaced.clear()

    def restore(self, round: int) -> None:
        """Return to the state at the checkpoint of `round`; files of later rounds are removed.

        Raises ExperimentError where a client's file is damaged.
        """
        index = self._root() / INDEX
        lines = index.read_text(encoding="utf-8").splitlines(keepends=True) if index.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may tear the last one
        entries = [line for line in entries if line["round"] <= round]
        self._rounds = {client: line["round"] for line in entries for client in line["clients"]}
        self._changed.clear()
        if index.exists():
            write_atomic(index, "".join(json.dumps(line) + "\n" for line in entries).encode())
        used = {self._file(client, last) for client, last in self._rounds.items()}
        for file in used:
            read_checked(file)
        for file in self._root().glob("*/*.safetensors"):
            if file not in used:
                file.unlink(missing_ok=True)

    def _root(self) -> Path:
        if self._folder is None:
            self._temporary = TemporaryDirectory(prefix="fedloom-personal-", ignore_cleanup_errors=True)
            self._folder = Path(self._temporary.name)
        return self._folder

    def _file(self, client: str, round: int) -> Path:
        return self._root() / client / f"round-{round:06d}.safetensors"
