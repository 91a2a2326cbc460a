"""The repository's experiment files, as the ledger lists them: name, rows, parts, and the folder that their command names."""

import re
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.grid import cells_of
from fedloom.experiment.yaml_rows import read_yaml

OUT = re.compile(r"--out (\S+)")


@dataclass(frozen=True)
class ExperimentFile:
    """One file: `path` below `root`, rows and parts at size tiny, and the output folder of its first line.

    Parts are the entries of `across`, or the cells of `grid`. `sized`: whether the file knows other sizes than tiny.
    """

    name: str
    path: Path
    rows: tuple[str, ...]
    parts: tuple[str, ...]
    columns: tuple[str, ...]
    out: str
    description: str = ""
    grid: bool = False
    sized: bool = False

    @property
    def command(self) -> str:
        """The command that runs it whole."""
        return f"fedloom run {self.path.as_posix()} --out {self.out}"


def experiment_files(folder: Path) -> dict[str, ExperimentFile]:
    """The experiment files below a folder by name, in the order of their paths. Raises ExperimentError for a name given twice."""
    files: dict[str, ExperimentFile] = {}
    paths = sorted(folder.glob("**/*.yaml"), key=_order)
    if not paths:
        raise ExperimentError(
            f"there is no experiment file in {folder}; call the command in the repository's root"
        )
    for path in paths:
        fields = read_yaml(path)
        name = str(fields.get("name", path.stem))
        if name in files:
            raise ExperimentError(f"{path} and {files[name].path} have the same name {name!r}; rename one")
        with path.open(encoding="utf-8") as lines:
            out = OUT.search(lines.readline())
        rows, across, columns = (fields.get(key) or () for key in ("rows", "across", "columns"))
        across = cells_of(fields["grid"], str(path)) if fields.get("grid") else across
        files[name] = ExperimentFile(
            name,
            Path(folder.name) / path.relative_to(folder),
            tuple(map(str, rows)),
            tuple(map(str, across)),
            tuple(map(str, columns)),
            f"runs/{name}" if out is None else out[1],
            " ".join(str(fields.get("description") or "").split()),
            bool(fields.get("grid")),
            bool(fields.get("sizes")),
        )
    return files


def _order(path: Path) -> tuple[str, list[tuple[str, int]]]:
    """By folder, then by name, numbers by size: table2 before table10."""
    parts = re.findall(r"(\D+)(\d*)", path.stem)
    return path.parent.as_posix(), [(text, int(number or 0)) for text, number in parts]
