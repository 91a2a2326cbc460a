"""The shipped experiment files: inside the installed package, or in the checkout that it runs from."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.experiment.yaml_rows import read_yaml


def experiments_folder() -> Path:
    """The folder of the shipped experiments. Raises ExperimentError where there is none."""
    package = Path(str(files("fedloom")))
    for folder in (package / "experiments", package.parents[1] / "experiments"):
        if folder.is_dir():
            return folder
    raise ExperimentError(
        "this installation came without experiments; install fedloom from its wheel or checkout"
    )


@cache
def experiment_files() -> Mapping[str, Path]:
    """The files by name, such as uniflow/quickstart."""
    folder = experiments_folder()
    found = sorted(folder.glob("*/*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}


def sentence(file: Path) -> str:
    """The first sentence of an experiment's description, else its name."""
    fields = read_yaml(file)
    text = " ".join(str(fields.get("description") or fields.get("name") or file.stem).split())
    return text.partition(". ")[0].rstrip(".") + "."


def experiment_file(name: str) -> Path:
    """The file of a shipped experiment, by its name or its path in the checkout. Raises ExperimentError."""
    known = experiment_files()
    plain = name.removeprefix("experiments/").removesuffix(".yaml")
    if plain not in known:
        near = [n for n in known if plain and plain in n]
        listed = f"did you mean {', '.join(near[:5])}?" if near else "`fedloom experiments` lists them"
        raise ExperimentError(f"there is no shipped experiment {name!r}; {listed}")
    return known[plain]


def copy_experiment(name: str, folder: Path) -> Path:
    """Write a shipped experiment into `folder`, under its file's name. Raises ExperimentError where that file exists."""
    source = experiment_file(name)
    target = folder / source.name
    if target.exists():
        raise ExperimentError(f"{target} exists already; name another folder, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExperimentError(f"cannot write to the folder {folder}: {error.strerror}") from error
    write_atomic(target, source.read_bytes())
    return target
