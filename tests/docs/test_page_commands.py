"""Every command on every page: quick ones run in full, the others are parsed and checked as far as nothing is trained.

A file that the reader brings is marked on the page: `<!-- given: visits.parquet -->`. Every other file has to be in the
repository, or to be made by a command above.
"""

import shlex
from pathlib import Path

import click
import datasets
import pytest
import typer.main
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.core.yaml_text import load_yaml
from fedloom.experiment.settings import Experiment
from tests.docs.pages import PAGES, ROOT, TYPED, blocks, commands, executed, given, spans
from tests.docs.programs import Shell, without_redirection

HISTORY = {"CHANGELOG.md": "names commands of former versions, too"}
QUICK = (
    "fedloom methods",
    "fedloom schema",
    "fedloom experiments",
    "fedloom --help",
    "fedloom data experiments/",
)
"""Commands that are run in full."""
CHECKED = [
    page for page in PAGES if page.relative_to(ROOT).as_posix() not in HISTORY and page not in executed()
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise ConnectionError("no hub in this test")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def fault(shell: Shell, words: list[str], *, mention: bool = False) -> str | None:
    """What a reader would be told, or None."""
    try:
        shell.check(words, mention=mention)
    except click.ClickException as error:
        return error.format_message()
    except (ExperimentError, AssertionError, TypeError, SystemExit) as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_can_be_typed(page: Path) -> None:
    shell = Shell(given(page))
    wrong = []
    for block in blocks(page):
        if block.language == "yaml":
            named = block.text.partition("\n")[0].removeprefix("# ")
            if named.startswith("fedloom run "):  # a whole experiment: the reader saves it under this name
                Experiment._parsed(
                    load_yaml(block.text), str(block)
                )  # what is read depends on data that are not here
                shell.made |= {shlex.split(named)[2]}
                wrong += [f"{block}: {said}" for w in commands(named) if (said := fault(shell, w))]
        if block.language not in TYPED:
            continue
        for words in commands(block.text):
            if said := fault(shell, words):
                wrong.append(f"{block}: {' '.join(words)}: {said}")
    for block in spans(page):
        if "..." in block.text or "[O" in block.text:
            continue
        wrong += [
            f"{block}: {block.text}: {s}"
            for w in commands(block.text)
            if (s := fault(shell, w, mention=True))
        ]
    assert not wrong, "\n".join(wrong)


def test_the_first_line_of_every_experiment_is_its_command() -> None:
    for file in sorted(ROOT.glob("experiments/*/*.yaml")):
        first = file.read_text("utf-8").partition("\n")[0]
        assert first.startswith(f"# fedloom run experiments/{file.parent.name}/{file.name}"), file
        for words in commands(first.removeprefix("# ").partition("  ")[0]):  # a remark may follow
            assert fault(Shell(set()), words, mention=True) is None, first


def quick() -> list[str]:
    """The quick commands of all pages, each once."""
    typed = [
        shlex.join(without_redirection(w)[0])
        for p in CHECKED
        for b in blocks(p)
        if b.language in TYPED
        for w in commands(b.text)
    ]
    named = [b.text for p in CHECKED for b in spans(p) if not set("[") & set(b.text)]
    asked = {c for c in (*typed, *named) if c.startswith(QUICK) and "NAME" not in c}
    return sorted(asked | {"fedloom schema --markdown"})


@pytest.mark.parametrize("command", quick())
def test_quick_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert result.output


def leaves(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    return [leaf for n, c in command.commands.items() for leaf in leaves(c, f"{name} {n}")]


def test_the_example_of_every_command_can_be_typed() -> None:
    for name, command in leaves(typer.main.get_command(app), "fedloom"):
        if command.hidden:
            continue
        example = (command.epilog or "").removeprefix("Example: ")
        assert example.startswith(name), f"{name} has no example"
        for words in commands(example):
            assert fault(Shell(set()), words, mention=True) is None, example


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fedloom compare runs/demo", "no command above makes it"),
        ("make demo; fedloom compare runs/demo", None),
        ("fedloom ask runs/q --image some.png", "runs/q does not exist"),
        (
            "fedloom run experiments/uniflow/quickstart.yaml --out runs/q; fedloom ask runs/q --image some.png",
            "some.png",
        ),
        ("fedloom run experiments/uniflow/quickstart.yaml method.rige=1", "did you mean"),
        ("fedloom run experiments/uniflow/table3.yaml --row Nobody", "has no row"),
        ("fedloom run experiments/nothing.yaml", "does not exist"),
        ("fedloom compare --colum x runs", "No such option"),
        ("fedloom compair runs", "there is no command compair"),
        (
            "for x in a b; do fedloom foundation build t2i --out runs/$x; done; fedloom generate runs/b seven",
            None,
        ),
        ("make dmo", "no dmo"),
        ("python scripts/nothing.py", "no script"),
        ("python scripts/offline_data.py --only nothing", "2"),
        ("python -m benchmarks nothing", "no benchmark nothing"),
        ("pip install 'fedloom[nothing]'", "no extra nothing"),
        ("fedloom schema > x.json; fedloom init x.json", None),
    ],
)
def test_a_wrong_command_is_found(command: str, says: str | None) -> None:
    shell = Shell(set())
    found = next((said for words in commands(command) if (said := fault(shell, words))), None)
    assert found is None if says is None else says in str(found)
