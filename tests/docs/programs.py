"""Checks of single commands without running what takes long: options exist, files exist or were made, experiments are read."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import click
import typer.main

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.experiment.shipped import experiment_files
from tests.docs.pages import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OUTPUTS = {
    *("out_dir", "picture", "file"),
    *("card target", "deploy init folder", "deploy demo folder", "experiments copy folder", "export folder"),
    "foundation import-imagebind folder",
}
"""Parameters of paths that a command writes, by their name, or by command and name."""
MADE_BY_MAKE = {
    "demo": "runs/demo",
    "real-assets": "real",
    "real-demo": "runs/real-demo",
    "docs": "site",
}
NEVER_HELD = ("runs", "real", "site")
"""Folders that commands make: in this checkout they may be there, in a fresh clone they are not."""
OTHERS = {
    "nginx": "the web server of a deployment",
    "cp": "of the shell",
    "systemctl": "of the system that runs a deployment",
    ".ci/run": "make lint and make test",
    ".venv/bin/pre-commit": "an optional tool of contributors",
    "export": "of the shell",
    "git": "the repository's own",
    "ssh": "a way to another machine",
    "tensorboard": "of the extra",
}
"""Programs that are not checked."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


class Shell:
    """One reader who types a page's commands in a fresh clone, from above to below."""

    def __init__(self, given: set[str]) -> None:
        self.made = set(given)
        """Paths that are there although the repository does not hold them."""
        self.variables = {"PWD": "."}
        self.file = "FILE"

    def check(self, words: list[str], *, mention: bool = False) -> None:
        """Raise ExperimentError, click.UsageError or AssertionError for a command that would end with a mistake.

        `mention`: the command stands in a sentence, where a file need not be there and an argument may be missing.
        """
        words = [re.sub(r"\$(\w+)", lambda m: self.variables.get(m[1], m[0]), w) for w in words]
        self.file = some_file(words) or self.file
        words = [w.replace("FILE", self.file) for w in words]
        while words and re.fullmatch(r"\w+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.variables[name] = value
        words, file = without_redirection(words)
        self.made |= {file} if file else set()
        if not words:
            return
        program, arguments = Path(words[0]).name, words[1:]
        if program == "fedloom":
            self.fedloom(arguments, mention)
        elif program == "make":
            self.make(arguments)
        elif program in ("python", "python3"):
            self.python(arguments, mention)
        elif program == "pytest":
            self.pytest(arguments)
        elif program == "pip":
            self.pip(arguments)
        else:
            assert words[0] in OTHERS, f"the program {words[0]} is not known here"

    def there(self, path: str) -> bool:
        """Whether a path is in the repository, or was made."""
        plain = path.rstrip("/").rstrip("*").rstrip("/")
        held = Path(plain).parts[:1] not in [(name,) for name in NEVER_HELD] and (ROOT / plain).exists()
        return held or any(plain == m or plain.startswith(f"{m}/") for m in self.made)

    def needs(self, path: str) -> None:
        assert self.there(path), f"{path} does not exist in a fresh clone, and no command above makes it"

    def fedloom(self, arguments: list[str], mention: bool) -> None:
        """Parse with the command line's own parser; then look at files and experiments."""
        if arguments and arguments[0].startswith("-"):
            assert arguments[0] in ("--help", "-h", "--install-completion", "--show-completion")
            return
        context = parsed(arguments, mention)
        if context is None:
            return
        name, values = " ".join(context.command_path.split()[1:]), context.params
        for parameter in context.command.params:
            paths = values.get(parameter.name)
            if not isinstance(parameter.type, click.Path) or paths is None or paths == parameter.default:
                continue
            written = {parameter.name, f"{name} {parameter.name}"} & OUTPUTS
            for path in map(str, paths if isinstance(paths, tuple | list) else [paths]):
                if written:
                    self.made.add(path.rstrip("/"))
                elif parameter.name == "experiment":
                    self.experiment(path, values, mention)
                elif not mention:
                    self.needs(path)
        if name == "init":
            self.made.add(str(values.get("file") or "my.yaml"))
        if name == "generate" and not mention and not str(values["source"]).startswith("tiny-"):
            self.needs(values["source"])

    def experiment(self, path: str, values: dict[str, Any], mention: bool) -> None:
        """Read the experiment with these overrides and rows."""
        file = ROOT / path if (ROOT / path).exists() else experiment_files().get(path)
        if file is None:
            if not mention:
                self.needs(path)
            return
        chosen = values.get("row") or ()
        named = [chosen] if isinstance(chosen, str) else chosen
        rows = [name for name in named if not (mention and name.isupper())]
        load_rows(file, values.get("overrides") or (), only=rows)

    def make(self, arguments: list[str]) -> None:
        """Targets stand in the Makefile, and so do variables."""
        makefile = (ROOT / "Makefile").read_text("utf-8")
        for word in arguments:
            name, sign, _ = word.partition("=")
            wanted = rf"^{name}\b *\??=" if sign else rf"^{name}:"
            assert re.search(wanted, makefile, re.M), f"the Makefile has no {name}"
            if not sign and name in MADE_BY_MAKE:
                self.made.add(MADE_BY_MAKE[name])

    def python(self, arguments: list[str], mention: bool) -> None:
        """A module or a script exists, and takes the arguments."""
        if arguments[0] == "-m":
            module, rest = arguments[1], arguments[2:]
            if module == "pytest":
                self.pytest(rest)
            elif module == "benchmarks":
                self.benchmark(rest, mention)
            else:
                assert importlib.util.find_spec(module), f"there is no module {module}"
            return
        script, rest = arguments[0], arguments[1:]
        assert (ROOT / script).is_file() or self.there(script), f"there is no script {script}"
        if (ROOT / script).parent == ROOT / "scripts":
            self.script(Path(script).stem, rest, mention)

    def script(self, name: str, arguments: list[str], mention: bool) -> None:
        """The arguments of a script of ours, by its own parser or by the signature of its `main`."""
        module = importlib.import_module(name)  # as it is found beside itself
        if name.startswith("offline_"):
            parts = importlib.import_module("scripts.offline.parts")
            given = parts.parser("", module.PARTS).parse_args(arguments)
            self.made |= {str(given.folder)} if not given.list else set()
        elif name == "projector_start":
            Experiment.load(ROOT / arguments[0], arguments[2:])
            self.made.add(arguments[1])
        elif name == "published_shapes":
            assert 1 <= len(arguments) <= 4
            self.made |= {arguments[0], *map(str, map(int, arguments[1:]))}
        elif name == "by_question":
            for folder in arguments if not mention else ():
                self.needs(folder)
        elif name == "step_cost":
            load_rows(ROOT / arguments[0])
        elif arguments:
            inspect.signature(module.main).bind(*arguments)
            if name == "one_batch":
                Experiment.load(ROOT / arguments[0])

    def benchmark(self, arguments: list[str], mention: bool) -> None:
        """The benchmark exists, and its source names the options."""
        main = importlib.import_module("benchmarks.__main__")
        words = list(arguments)
        while words and words[0].startswith("--"):
            assert words[0] in ("--out", "--against"), f"the benchmarks have no {words[0]}"
            self.made.add(words[1]) if words[0] == "--out" else self.needs(words[1])
            words = words[2:]
        if words:
            assert words[0] in (*main.ROWS, *main.PLOTS), f"there is no benchmark {words[0]}"
            source = (ROOT / "benchmarks" / f"{words[0]}.py").read_text("utf-8")
            for option in (w for w in words[1:] if w.startswith("--")):
                assert option in source, f"the benchmark {words[0]} has no {option}"

    def pytest(self, arguments: list[str]) -> None:
        for word in arguments:
            if "/" in word:
                assert (ROOT / word.partition("::")[0]).exists(), f"there is no {word}"

    def pip(self, arguments: list[str]) -> None:
        """What is installed is this project, with extras that it has; other packages are named by a page."""
        for word in arguments[1:]:
            if found := re.fullmatch(r"(?:fedloom|\.)\[(.*)\]", word):
                for extra in found[1].split(","):
                    assert extra in EXTRAS, f"fedloom has no extra {extra}"


def parsed(arguments: list[str], mention: bool) -> click.Context | None:
    """The context of the command that these words call, its parameters parsed; None for the mention of its name alone."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="fedloom")
    words = list(arguments)
    while isinstance(command, click.Group):
        if words and words[0].startswith("-"):
            return command.make_context(context.info_name, words, parent=context.parent)
        if not words:
            return None
        name = words.pop(0)
        if not re.fullmatch(r"[a-z-]+", name):
            raise click.UsageError(f"{name} is no command")
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"there is no command {name}")
        command, context = found, click.Context(found, info_name=name, parent=context)
    if words in (["--help"], ["-h"]):
        return None
    try:
        return command.make_context(context.info_name, words, parent=context.parent)
    except (click.MissingParameter, click.BadOptionUsage):  # `fedloom run --resume` in a sentence
        if not mention:
            raise
        return None


def without_redirection(words: list[str]) -> tuple[list[str], str | None]:
    """The command alone, and the file that its output goes to."""
    if ">" not in words:
        return words, None
    at = words.index(">")
    return words[:at], words[at + 1]


def some_file(words: list[str]) -> str | None:
    """A name for FILE, in a command that stands for all files of a folder; None in any other."""
    folder = next((Path(w).parent for w in words if w.endswith("/FILE.yaml")), None)
    return None if folder is None else min((ROOT / folder).glob("*.yaml")).stem


__all__ = ["ExperimentError", "Shell"]
