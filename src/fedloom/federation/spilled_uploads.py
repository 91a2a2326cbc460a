"""A round's uploads: in memory up to a budget, then spilled to files that are read tensor by tensor."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedloom.core.errors import DiskError
from fedloom.core.payload import Payload, Reply
from fedloom.core.tensor_files import PREFIX, write_tensors


class SpilledUploads:
    """Stores each reply on arrival. `limit` is in bytes; files go to a temporary folder in `inside`, or the system's."""

    def __init__(self, limit: int, inside: Path | None = None) -> None:
        self._limit, self._inside = limit, inside
        self._held = 0
        self._count = 0
        self._temporary: TemporaryDirectory[str] | None = None

    def take(self, reply: Reply) -> Reply:
        """A copy of the reply, in memory or, beyond the budget, backed by a file.

        Raises DiskError if the file cannot be written.
        """
        if reply.error is not None:
            return reply
        size = reply.payload.nbytes
        if self._held + size <= self._limit:
            self._held += size
            return replace(reply, payload=reply.payload.detached())
        try:
            tensors = write_tensors(self._next_file(), reply.payload.tensors)
        except OSError as error:
            raise DiskError(
                f"a client's upload cannot be written to {self._inside or 'the temporary folder'} ({error.strerror}); "
                "make room there, or raise engine.memory"
            ) from error
        return replace(reply, payload=Payload(tensors, dict(reply.payload.numbers)))

    def clear(self) -> None:
        """Release the round's uploads; its replies must not be read any more."""
        self._held = self._count = 0
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _next_file(self) -> Path:
        if self._temporary is None:
            if self._inside is not None:
                self._inside.mkdir(parents=True, exist_ok=True)
            self._temporary = TemporaryDirectory(prefix=PREFIX, dir=self._inside, ignore_cleanup_errors=True)
        self._count += 1
        return Path(self._temporary.name) / f"{self._count:06d}"
