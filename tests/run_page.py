"""Runs a page of the documentation word by word: files, commands and Python in the order in which they stand, in one shell.

A fence after a line "Save as `NAME`:" is a file. Other `bash` and `python` fences are run; a `text` fence holds lines of the
output of what stands before it. Numbers are compared as numbers only in shape: `12.5` stands for any number. A fence after a
comment `<!-- not in the test: WHY -->` is left out.
"""

import re
import shlex
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = "@@@ fence"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_SAVE = re.compile(r"Save as `([^`]+)`:\s*\Z")
_SKIP = re.compile(r"<!-- not in the test: [^>]+ -->\s*\Z")
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class Fence:
    """One fence of a page; `file` is the name that it is saved under, or None."""

    language: str
    text: str
    file: str | None
    skipped: bool


def fences(page: Path) -> list[Fence]:
    """The fences of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        save = _SAVE.search(before)
        skipped = _SKIP.search(before) is not None
        found.append(Fence(match[1], match[2], save[1] if save else None, skipped))
    return found


def environment(folder: Path, smaller: str = "") -> dict[str, str]:
    """A fresh virtual environment that sees this checkout and the tests' packages, as variables of a shell.

    `pip install` there takes what the tests have, and no index. `smaller`: settings that are added to every `fedloom run` of a
    shipped experiment.
    """
    venv.create(folder / "venv")
    bin_folder = folder / "venv" / "bin"
    python = bin_folder / "python"
    (own,) = (folder / "venv").glob("lib/python3*/site-packages")
    seen = [str(ROOT / "src"), *(f"import site; site.addsitedir({p!r})" for p in site.getsitepackages())]
    (own / "tests.pth").write_text("\n".join(seen) + "\n")
    pip = f"{shlex.quote(sys.executable)} -m pip --python {shlex.quote(str(python))}"
    offline = "--quiet --no-index --no-deps --no-build-isolation"
    scripts = {
        "pip": f'verb="$1"; shift; exec {pip} "$verb" {offline} "$@"',
        "fedloom": f'if [ "$1" = run ] && [ "${{2%%/*}}" = uniflow ]; then set -- "$@" {smaller}; fi\n'
        f'exec {shlex.quote(str(python))} -m fedloom "$@"',
    }
    for name, body in scripts.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    home = folder / "home"
    home.mkdir()
    return {
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
        "FEDLOOM_CACHE": str(folder / "cache"),
    }


def run_page(page: Path, folder: Path, smaller: str = "") -> list[str]:
    """Run a page's fences; returns the excerpts that did not come out, each with what did. Fails where a command fails."""
    script = ["set -e"]
    steps = [
        f for f in fences(page) if not f.skipped and (f.file or f.language in ("bash", "python", "text"))
    ]
    for number, fence in enumerate(steps):
        if fence.file is not None:
            script.append(f"cat > {fence.file} <<'{MARK}'\n{fence.text}{MARK}")
        elif fence.language != "text":
            script.append(f"echo '{MARK} {number}'")
            python = f"python - <<'{MARK}'\n{fence.text}{MARK}"
            script.append(python if fence.language == "python" else fence.text.rstrip("\n"))
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment(folder, smaller),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (folder / "output.txt").write_text(done.stdout)
    assert done.returncode == 0, f"{page.name} ended with {done.returncode}:\n{done.stdout[-3000:]}"
    assert "Traceback" not in done.stdout, done.stdout
    outputs = dict(_outputs(done.stdout))
    missing, output = [], ""
    for number, fence in enumerate(steps):
        output = outputs.get(number, output)
        if fence.language == "text" and fence.file is None:
            came = [shape(line) for line in output.splitlines()]
            lines = [line for line in fence.text.splitlines() if shape(line) and line.strip() != "..."]
            missing += [f"{x!r} in\n{output}" for x in lines if not any(c.startswith(shape(x)) for c in came)]
    return missing


def shape(line: str) -> str:
    """A line with one space for many, a sign for each number, and no rules of tables."""
    return " ".join(_NUMBER.sub("#", line).replace("─", "").split())


def _outputs(text: str) -> list[tuple[int, str]]:
    parts = re.split(rf"^{MARK} (\d+)$\n?", text, flags=re.M)
    return [(int(number), output) for number, output in zip(parts[1::2], parts[2::2], strict=True)]
