"""TensorBoard's event files: scalars by round; settings and status as texts."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom.experiment.tracking.settings import TensorBoardSettings
from fedloom.experiment.tracking.tracker import Ending, TrackedRun


class TensorBoard:
    """A folder of event files, another one after every resume. The id is the folder and the first file in it.

    Events are written here and now: `SummaryWriter` writes in a thread, whose errors nobody can catch.
    """

    def __init__(self, settings: TensorBoardSettings) -> None:
        self.settings = settings
        self.round = 0
        self._path = Path()
        self._file: Any = None

    def open(self, run: TrackedRun, previous: str | None) -> str:
        """Open the folder, or a new one beside those that hold other runs."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder, known = self._folder(run, previous)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"{name}.{len(list(folder.glob(f'{name}.*')))}"
        self._file = RecordWriter(self._path.open("xb"))
        self._write(file_version="brain.Event:2")
        if not known:
            self._text("settings", "\n".join(f"    {n}: {json.dumps(v)}" for n, v in run.settings.items()))
        return previous if known and previous else f"{folder.name}/{self._path.name}"

    def _folder(self, run: TrackedRun, previous: str | None) -> tuple[Path, bool]:
        """The run's folder, and whether it holds the run's earlier rounds."""
        if self.settings.folder is not None:
            parent, name = Path(self.settings.folder), run.file_name
        else:
            assert run.folder is not None  # noqa: S101 - `Track.check` saw to it
            parent, name = run.folder, "tensorboard"
        if previous is not None and (parent / previous).is_file():
            return (parent / previous).parent, True
        free, number = parent / name, 1
        while _has_events(free):
            number += 1
            free = parent / f"{name}-{number}"
        return free, False

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Write the scalars to the event file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self._path.is_file():  # what is written to a file that was removed vanishes without an error
            self._file.close()
            raise FileNotFoundError(f"{self._path} is gone")
        self.round = round
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(summary=Summary(value=values))

    def log_end(self, round: int, figures: Mapping[str, float]) -> None:
        """The same."""
        self.log(round, figures)

    def close(self, ending: Ending, status: str) -> None:
        """Write the status, and close the file."""
        self._text("status", status)
        self._file.close()

    def _text(self, tag: str, text: str) -> None:
        from torch.utils.tensorboard.summary import text as text_summary

        self._write(summary=text_summary(tag, text))  # type: ignore[no-untyped-call]

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), step=self.round, **content).SerializeToString())
        self._file.flush()


def _has_events(folder: Path) -> bool:
    return any(folder.glob("events.out.tfevents.*"))
