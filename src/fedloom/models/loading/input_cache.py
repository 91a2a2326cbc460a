"""Cache of preprocessed inputs on disk, bounded, shared by the runs of one user.

A tensor file with checksum for each sample in `prepared/` beside the cache of accepted files. Its name is a hash of the file's
place, size and times, and of all settings. Files and folders are readable by their owner alone. A cache that cannot be read or
written is done without.
"""

import os
import sys
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from fedloom.core.errors import DiskError
from fedloom.core.files import disk_fault, write_atomic
from fedloom.core.tensor_files import read_checked
from fedloom.data.media.accepted import cache_folder

SUFFIX = ".safetensors"
KEPT = 0.9
"""Share of the limit that is kept when it is passed, so that not every further file needs a look at all of them."""


class InputCache:
    """Files of preprocessed inputs, of `limit` bytes in all; the least recently read are removed first."""

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit = limit
        self.folder = cache_folder() / "prepared" if folder is None else folder
        self.written = self.hits = 0
        self._held: int | None = None
        self._off = limit == 0
        self._told = False

    def holds(self, key: str) -> bool:
        """Whether there is a file for the key."""
        return not self._off and self._file(key).exists()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The inputs of a key; None without a sound file. A damaged file is removed."""
        file = self._file(key)
        if not self.holds(key):
            return None
        try:
            tensors = read_checked(file)
            os.utime(file)
        except (DiskError, SafetensorError, OSError):
            self._tell(f"the cached file {file} is damaged, and read anew from its source")
            self._remove(file)
            return None
        self.hits += 1
        return tensors

    def write(self, key: str, data: bytes) -> None:
        """Keep the bytes of a tensor file with checksum."""
        if self._off or len(data) > self.limit:
            return
        try:
            self._make_room(len(data))
            file = self._file(key)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(file, data, durable=False)
            file.chmod(0o600)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.holds(key):  # another run has just kept the same
                return
            self._off = True
            self._tell(f"nothing more is cached in {self.folder}: {disk_fault(error)}")
            return
        self.written += 1

    def _make_room(self, size: int) -> None:
        """Remove the least recently read files until `size` more bytes fit."""
        if self._held is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self._held = sum(size for _, size, _ in self._listed())
        self._held += size
        if self._held <= self.limit:
            return
        listed = sorted(self._listed())  # other runs write here, too
        self._held = size + sum(size for _, size, _ in listed)
        for _, freed, file in listed:
            if self._held <= KEPT * self.limit:
                break
            self._remove(file)
            self._held -= freed

    def _listed(self) -> list[tuple[int, int, Path]]:
        """Time of the last reading in ns, size, and place of every file."""
        found = []
        for file in self.folder.glob(f"*/*{SUFFIX}"):
            try:
                status = file.stat()
            except OSError:  # removed by another run
                continue
            found.append((status.st_mtime_ns, status.st_size, file))
        return found

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError:
            self._off = True

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _tell(self, sentence: str) -> None:
        """Say the first fault on stderr."""
        if not self._told:
            print(sentence, file=sys.stderr, flush=True)
        self._told = True
