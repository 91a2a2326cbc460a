"""What a site keeps of a run on its own disk: its personal tensors and its last answers, by round and step.

A server that was killed asks a round again. The site then stands where it stood before that round: each of its states lies in a
file `personal/000003-000.safetensors` (the round and step that made it), and one that a repeated round makes anew is removed
first. Only the newest state of the rounds before the current one, and what is newer, is kept. A question that has been answered
already gets the kept answer (`answers/000003-000-<fingerprint>`), and nothing is trained twice.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.tensor_files import read_checked, with_checksum

Position = tuple[int, int]


class SiteState:
    """One run's state at one site, below `folder`. Serves as the client's `states`."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Tensors are read onto `device`."""
        self.device = device
        self.personal, self.answers = folder / "personal", folder / "answers"
        for place in (self.personal, self.answers):
            place.mkdir(parents=True, exist_ok=True)
            for left in place.glob(".*.part"):  # of a write that a kill cut short
                left.unlink(missing_ok=True)
        self._before: Position = (10**6, 0)
        self._at: Position = (0, 0)

    @property
    def newest(self) -> int:
        """The last round that has left anything here; 0 if none."""
        found = [*_files(self.personal), *_files(self.answers)]
        return max((round for (round, _), _ in found), default=0)

    def kept(self, round: int, step: int, question: str) -> bytes | None:
        """The answer to this question, if it was given before."""
        file = self._answer(round, step, question)
        return file.read_bytes() if file.is_file() else None

    def keep(self, round: int, step: int, question: str, answer: bytes) -> None:
        """Keep an answer; those of earlier rounds go."""
        write_atomic(self._answer(round, step, question), answer)
        for (earlier, _), file in _files(self.answers):
            if earlier < round:
                file.unlink(missing_ok=True)

    def stand_before(self, round: int, step: int) -> None:
        """Stand before this step: what was made at it or later, in a round that the server has forgotten, is removed."""
        at = round, step
        for place in (self.personal, self.answers):
            for position, file in _files(place):
                if position >= at:
                    file.unlink(missing_ok=True)
        # The server has a checkpoint of the round before this one: what is older than its state is never needed again.
        earlier = sorted((p, file) for p, file in _files(self.personal) if p[0] < round)
        for _, file in earlier[:-1]:
            file.unlink(missing_ok=True)
        self._before = (round, step + 1)
        self._at = at

    def look_at(self, round: int) -> None:
        """Read what stood after a round; nothing is removed."""
        self._before = (round + 1, 0)

    def read(self, client: str) -> dict[str, Tensor] | None:
        """The tensors as of the current position; None if none were kept. Raises ExperimentError for a damaged file."""
        found = [p for p, _ in _files(self.personal) if p < self._before]
        if not found:
            return None
        return read_checked(self._file(max(found)), self.device)

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors down at the current position."""
        if round != self._at[0]:
            raise ExperimentError(f"{client} keeps a state of round {round} in round {self._at[0]}")
        write_atomic(self._file(self._at), with_checksum(tensors))

    def _file(self, position: Position) -> Path:
        return self.personal / f"{position[0]:06d}-{position[1]:03d}.safetensors"

    def _answer(self, round: int, step: int, question: str) -> Path:
        return self.answers / f"{round:06d}-{step:03d}-{question}"


def _files(place: Path) -> list[tuple[Position, Path]]:
    """The files of a folder with the round and step in their names."""
    found = []
    for file in place.glob("[0-9]*"):
        round, step = file.stem.split("-")[:2]
        found.append(((int(round), int(step)), file))
    return found
