"""What a site has refused the server, kept in a file until `deploy site` says it."""

from pathlib import Path

FILE = "turned-away"
"""In a site's folder; a line for each refusal."""


def note(folder: Path, line: str) -> None:
    """Keep a refusal."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(line.replace("\n", " ")[:300] + "\n")


def taken(folder: Path) -> list[str]:
    """The refusals since the last call, each once."""
    file = folder / FILE
    if not file.is_file():
        return []
    lines = sorted(set(file.read_text(encoding="utf-8").splitlines()))
    file.unlink()
    return lines
