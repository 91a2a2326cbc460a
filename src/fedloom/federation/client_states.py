"""The clients' personal tensors on disk: one file per client, read when the client is asked or evaluated.

A client's file is `<client>/round-000003.safetensors`, named after the last round that changed it; `index.jsonl` lists the
changed clients of every round, and its seal is part of the checkpoint. A checkpoint costs time for the changed clients only: it
appends one line, and a file is removed once no checkpoint needs it (docs/decisions/0009-what-does-not-fit-lies-on-disk.md).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from torch import Tensor

from fedloom.core.errors import DiskError
from fedloom.core.files import disk_fault, write_atomic
from fedloom.core.seals import EMPTY, Log, Seal, damaged
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
        self._index: Log | None = None

    def read(self, client: str) -> dict[str, Tensor] | None:
        """A client's tensors, mapped from its file and private to the caller; None if it never kept any.

        Raises DiskError where the file is damaged.
        """
        if client not in self._rounds:
            return None
        return read_checked(self._file(client, self._rounds[client]), self.device)

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a client's tensors; the file that they replace stays until the next checkpoint. Raises DiskError."""
        file = self._file(client, round)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, with_checksum(tensors), durable=self._durable)
        except OSError as error:
            raise DiskError(
                f"the personal tensors of {client} cannot be written ({disk_fault(error)}); make room there"
            ) from error
        if (before := self._rounds.get(client, round)) != round:
            self._replaced.append(self._file(client, before))
        self._rounds[client] = round
        self._changed.add(client)

    def record(self, round: int) -> Mapping[str, Seal]:
        """Append the clients changed since the last checkpoint to the index, and seal it for the round's checkpoint."""
        if not self._durable:
            return {}
        if self._changed:
            self._log().append([{"round": round, "clients": sorted(self._changed)}])
        self._changed.clear()
        return {INDEX: self._log().seal()}

    def forget_replaced(self) -> None:
        """Remove the files that no checkpoint needs any more; call it after the round's checkpoint is saved."""
        for file in self._replaced:
            file.unlink(missing_ok=True)
        self._replaced.clear()

    def restore(self, round: int, seals: Mapping[str, Seal] | None) -> None:
        """Return to the state at the checkpoint of `round` with these seals; files of later rounds are removed.

        Without seals, in a checkpoint of an earlier version, no file is removed. Raises DiskError where the index or a client's
        file is damaged.
        """
        index, root = self._log(), self._root()
        present = set(root.glob("*/*.safetensors"))
        if seals is not None:
            index.cut(seals.get(INDEX, EMPTY))
        elif present and not index.path.exists():
            raise damaged(index.path)
        try:
            entries = [line for line in index.lines() if line["round"] <= round]
            self._rounds = {client: line["round"] for line in entries for client in line["clients"]}
        except (KeyError, TypeError) as error:
            raise damaged(index.path) from error
        self._changed.clear()
        used = {self._file(client, last) for client, last in self._rounds.items()}
        for file in used:
            read_checked(file)
        if seals is None:  # the index may hold later rounds; the next checkpoint seals what is left
            write_atomic(index.path, "".join(json.dumps(line) + "\n" for line in entries).encode())
            self._index = None
            return
        for file in present - used:
            file.unlink(missing_ok=True)

    def _log(self) -> Log:
        if self._index is None:
            self._root().mkdir(parents=True, exist_ok=True)
            self._index = Log(self._root() / INDEX)
        return self._index

    def _root(self) -> Path:
        if self._folder is None:
            self._temporary = TemporaryDirectory(prefix="fedloom-personal-", ignore_cleanup_errors=True)
            self._folder = Path(self._temporary.name)
        return self._folder

    def _file(self, client: str, round: int) -> Path:
        return self._root() / client / f"round-{round:06d}.safetensors"
