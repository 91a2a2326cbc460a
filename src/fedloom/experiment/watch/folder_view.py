"""The kind of a folder: a run, a study, or the place where one is awaited."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import LOCK, is_locked
from fedloom.experiment.study import PLAN
from fedloom.experiment.watch.run_view import RunView
from fedloom.experiment.watch.status import Status
from fedloom.experiment.watch.study_view import ROWS, StudyView


class View(Protocol):
    """A page's content."""

    def snapshot(self) -> dict[str, Any]:
        """The values that the page draws; the same object as long as nothing has changed."""
        ...

    def medium(self, number: int) -> Path | None:
        """The file of the page's picture or sound of this number."""
        ...


class FolderView:
    """A folder's content, or that nothing has begun in it; `ways` find what other kinds of folders hold."""

    def __init__(self, folder: Path, *ways: Callable[[Path], View | None]) -> None:
        """Raises ExperimentError for a folder that holds other things than a run."""
        self.folder, self._ways = folder, (*ways, run_or_study)
        self._view: View | None = None
        self._waiting: dict[str, Any] = {}
        if not self._found():
            _check_may_begin(folder)

    @property
    def waits(self) -> bool:
        """Whether nothing has begun yet."""
        return not self._found()

    def snapshot(self) -> dict[str, Any]:
        """The page's values."""
        if self._found() and self._view is not None:
            return self._view.snapshot()
        preparing = is_locked(self.folder)
        text = (
            "Getting ready: data and model are being loaded"
            if preparing
            else f"Waiting: no run has begun in {self.folder} yet"
        )
        status = Status("preparing" if preparing else "waiting", text).fields()
        if self._waiting.get("status") != status:
            self._waiting = {"title": self.folder.name or str(self.folder), "status": status}
        return self._waiting

    def medium(self, number: int) -> Path | None:
        """The file of the page's picture or sound of this number."""
        return None if self._view is None else self._view.medium(number)

    def run(self, number: int) -> View | None:
        """A study's run by its number."""
        return self._view.run(number) if isinstance(self._view, StudyView) else None

    def _found(self) -> bool:
        if self._view is None:
            self._view = next((view for way in self._ways if (view := way(self.folder)) is not None), None)
        return self._view is not None


def run_or_study(folder: Path) -> View | None:
    """The study or the run in a folder; None where there is neither."""
    if any((folder / name).is_file() for name in (PLAN, ROWS)):
        return StudyView(folder)
    return RunView(folder) if (folder / "experiment.yaml").is_file() else None


def _check_may_begin(folder: Path) -> None:
    """Raise ExperimentError for a folder in which no run can begin, or that holds other things."""
    if folder.exists() and not folder.is_dir():
        raise ExperimentError(f"{folder} is no folder: name the folder that a run is, or will be, written to")
    others = {p.name for p in folder.iterdir()} - {LOCK, ".write-test"} if folder.is_dir() else set()
    if others:
        raise ExperimentError(
            f"{folder} holds no run, study or deployment, but {len(others)} other files, such as {min(others)}; "
            "name the folder that `fedloom run` or `fedloom deploy init` wrote to"
        )
