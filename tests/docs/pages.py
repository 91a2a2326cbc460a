"""The pages of the documentation, and the blocks of code and the commands on them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
GIVEN = re.compile(r"<!-- given: (.*?) -->")
"""Marks files that the reader brings, such as `<!-- given: visits.parquet -->`, above the commands that name them."""
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^ *(?P=fence)", re.M | re.S
)
SPAN = re.compile(r"(?<!`)`((?:fedloom|make|python|pip|pytest) [^`]+)`(?!`)")
LOOP = re.compile(r"for (\w+) in ([^;]+); do (.*?); done")
TYPED = {"bash", "sh", "shell", "console"}


@dataclass(frozen=True)
class Block:
    """A block of code and its place."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def executed() -> list[Path]:
    """The pages that a test of their own runs word by word, with the files and methods that they write on the way."""
    test = ROOT / "tests" / "test_tutorial_pages.py"
    return [ROOT / "docs" / n for n in ("tutorial.md", "your-method.md")] if test.exists() else []


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code."""
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m["language"], dedented(m["text"], len(m["indent"])))
        for m in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page's text, with its blocks of code emptied, line for line."""
    return FENCE.sub(lambda m: "\n" * m[0].count("\n"), page.read_text("utf-8"))


def spans(page: Path) -> Iterator[Block]:
    """The commands that stand in a sentence or a table."""
    text = prose(page)
    for m in SPAN.finditer(text):
        yield Block(page, text.count("\n", 0, m.start()) + 1, "span", " ".join(m[1].split()))


def given(page: Path) -> set[str]:
    """The files that the reader brings, as the page marks them."""
    return {name.strip() for m in GIVEN.finditer(page.read_text("utf-8")) for name in m[1].split(",")}


def dedented(text: str, indent: int) -> str:
    return "".join(line[indent:] if line.strip() else line for line in text.splitlines(keepends=True))


def commands(text: str) -> list[list[str]]:
    """The commands of a shell's text, word by word: loops unrolled, comments left out."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        unrolled = LOOP.sub(
            lambda m: "; ".join(re.sub(rf"\${m[1]}\b", word, m[3]) for word in m[2].split()), line
        )
        lexer = shlex.shlex(unrolled, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        found.append([])
        for word in lexer:
            if word in (";", "&&", "|"):
                found.append([])
            else:
                found[-1].append(word)
    return [words for words in found if words]
