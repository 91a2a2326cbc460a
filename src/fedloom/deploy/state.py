"""A site's state of a run on its own disk: personal tensors and the latest answers, by round and step.

A server that was killed repeats its unfinished round, for which the site must be rolled back. Each state is a file
`personal/000003-000.safetensors`, named by the round and step that wrote it; states of the repeated round are removed, and
among earlier rounds only the newest state is kept. A repeated request gets its stored answer
(`answers/000003-000-<fingerprint>`), so that nothing is trained twice.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.tensor_files import read_checked, with_checksum
from fedloom.deploy.private_files import private_files

Position = tuple[int, int]


class SiteState:
    """One run's state at one site, below `folder`; used as the client's `states`."""

    @private_files()
    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Create the folders; tensors are read onto `device`."""
        self.device = device
        self.personal, self.answers = folder / "personal", folder / "answers"
        for directory in (self.personal, self.answers):
            directory.mkdir(parents=True, exist_ok=True)
            for partial in directory.glob(".*.part"):  # left by an interrupted write
                partial.unlink(missing_ok=True)
        self._before: Position = (10**6, 0)
        self._at: Position = (0, 0)

    @property
    def newest(self) -> int:
        """The last round with a state or an answer; 0 if none."""
        files = [*_files(self.personal), *_files(self.answers)]
        return max((round for (round, _), _ in files), default=0)

    def kept(self, round: int, step: int, question: str) -> bytes | None:
        """The stored answer to the request with fingerprint `question`, or None."""
        file = self._answer(round, step, question)
        return file.read_bytes() if file.is_file() else None

    def keep(self, round: int, step: int, question: str, answer: bytes) -> None:
        """Store an answer and delete those of earlier rounds."""
        write_atomic(self._answer(round, step, question), answer)
        for (earlier, _), file in _files(self.answers):
            if earlier < round:
                file.unlink(missing_ok=True)

    def stand_before(self, round: int, step: int) -> None:
        """Roll back to the position before this step: states and answers of this step and later are deleted."""
        current = round, step
        for directory in (self.personal, self.answers):
            for position, file in _files(directory):
                if position >= current:
                    file.unlink(missing_ok=True)
        # The server has a checkpoint of the previous round, so that only its newest state can be needed again.
        earlier = sorted((p, file) for p, file in _files(self.personal) if p[0] < round)
        for _, file in earlier[:-1]:
            file.unlink(missing_ok=True)
        self._before = (round, step + 1)
        self._at = current

    def look_at(self, round: int) -> None:
        """Make `read` return the state at the end of `round`; nothing is deleted."""
        self._before = (round + 1, 0)

    def read(self, client: str) -> dict[str, Tensor] | None:
        """The tensors at the current position; None if there are none. Raises ExperimentError for a damaged file."""
        positions = [p for p, _ in _files(self.personal) if p < self._before]
        if not positions:
            return None
        return read_checked(self._file(max(positions)), self.device)

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors at the current position."""
        if round != self._at[0]:
            raise ExperimentError(f"{client} keeps a state of round {round} in round {self._at[0]}")
        write_atomic(self._file(self._at), with_checksum(tensors))

    def _file(self, position: Position) -> Path:
        return self.personal / f"{position[0]:06d}-{position[1]:03d}.safetensors"

    def _answer(self, round: int, step: int, question: str) -> Path:
        return self.answers / f"{round:06d}-{step:03d}-{question}"


def _files(directory: Path) -> list[tuple[Position, Path]]:
    """The files of a folder, each with the (round, step) in its name."""
    files = []
    for file in directory.glob("[0-9]*"):
        round, step = file.stem.split("-")[:2]
        files.append(((int(round), int(step)), file))
    return files
