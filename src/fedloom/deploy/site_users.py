"""A site whose halves run as two users: the trainer, which reads data and keys, and the node, which speaks to the server.

    site folder       trainer's, 0711    experiment, signing key, list of sites, personal tensors; readable by the trainer alone
      node/           trainer's, group of the node, 3770
        node.key      the node's, 0600; with copies of ca.pem and site.yaml
        trainer.json  the trainer's port and secret, 0640

The node's user reads nothing else, and the trainer's user cannot sign in at the server. Both reach each other over the
loopback socket alone. To hand a folder over takes root, and so does starting both halves with one command; each half by itself
(`--part`) is started by its user, by a service manager or in a container.
"""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import holder, is_locked
from fedloom.deploy.processes import end_with_parent
from fedloom.deploy.settings import Site, read_settings
from fedloom.deploy.trainer_link import NODE


@dataclass(frozen=True)
class User:
    """A user of the system, with the groups in which it works."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @classmethod
    def of(cls, name: str) -> "User":
        """The user of this name, or of this number, which a container may have without a name. Raises ExperimentError."""
        if name.isdecimal() and 0 < int(name) < 2**31:
            return cls(name, int(name), int(name), (), "/")
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError) as error:
            raise ExperimentError(f"this system has no user {name!r}") from error
        if entry.pw_uid == 0:
            raise ExperimentError(f"{name} is root; the halves of a site run as users that may read little")
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """A process of this user in a session of its own; it ends with this process. Takes root. Raises ExperimentError."""
        env = {**os.environ, "HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        try:
            return subprocess.Popen(  # noqa: S603 - commands of this file, no shell
                command,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise ExperimentError(f"{self.name} cannot run {command[0]} ({error.strerror})") from error

    def may(self, test: str, path: Path) -> bool:
        """Whether this user passes a test of the program `test`, such as `-r`, on a path. Takes root."""
        return self.start("test", test, str(path)).wait() == 0


def hand_over(folder: Path, trainer: User, node: User) -> None:
    """Give a site's folder to two users, once; a folder that is theirs already is only checked. Raises ExperimentError."""
    if os.geteuid() != 0:
        raise ExperimentError(
            "files are given to other users by root alone; start with sudo, or run all of the site as one user"
        )
    if trainer.uid == node.uid or trainer.gid == node.gid or node.gid in trainer.groups:
        raise ExperimentError(
            f"{trainer.name} and {node.name} have a group or a user in common; take two with groups of their own"
        )
    if (folder / NODE).is_dir():
        owners = (folder.stat().st_uid, (folder / NODE).stat().st_gid)
        if owners != (trainer.uid, node.gid):
            raise ExperimentError(f"{folder} was given to other users: {_names(*owners)}")
    else:
        if is_locked(folder):
            raise ExperimentError(
                f"{folder} is in use by a site that runs (process {holder(folder)}); stop it first"
            )
        _divide(folder, trainer, node)
    _check(folder, trainer, node)


def _divide(folder: Path, trainer: User, node: User) -> None:
    """Lay out the folder as the module's docstring says."""
    inner = folder / f".{NODE}.part"
    shutil.rmtree(inner, ignore_errors=True)
    inner.mkdir(mode=0o700)
    for name in ("ca.pem", "site.yaml", "node.key"):
        shutil.copyfile(folder / name, inner / name)
        os.chown(inner / name, node.uid, node.gid)
        (inner / name).chmod(0o600)
    for path in _below(folder):
        if inner != path and inner not in path.parents:
            os.lchown(path, trainer.uid, trainer.gid)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    os.chown(inner, trainer.uid, node.gid)
    inner.chmod(0o3770)
    os.chown(folder, trainer.uid, trainer.gid)
    folder.chmod(0o711)
    inner.rename(folder / NODE)  # last but one, so that whatever was cut off begins again
    (folder / "node.key").unlink()


def _below(folder: Path) -> Iterator[Path]:
    """Files and folders below a folder, links not followed."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(place) / name


def _check(folder: Path, trainer: User, node: User) -> None:
    """Raise ExperimentError where a user cannot read what it needs, or the node's the data."""
    for user, file in ((trainer, folder / "experiment.yaml"), (node, folder / NODE / "node.key")):
        if not user.may("-r", file):
            raise ExperimentError(f"{user.name} cannot read {file}; let it enter every folder above")
    data = read_settings(Site, folder / "site.yaml").data
    if data is not None and not trainer.may("-r", data):
        raise ExperimentError(f"{trainer.name} cannot read the data in {data}")
    if data is not None and node.may("-r", data):
        raise ExperimentError(
            f"{node.name}, who speaks to the server, can read the data in {data}; let {trainer.name} alone read it"
        )


def _names(uid: int, gid: int) -> str:
    """A user and a group by name, or by number where they have none."""
    user, group = str(uid), str(gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return f"{user}, and the group {group}"


def _command(folder: Path, part: str) -> list[str]:
    return [sys.executable, "-m", "fedloom", "deploy", "site", str(folder), "--part", part]


def run_halves(
    folder: Path,
    trainer: User,
    node: User,
    go_on: Callable[[], bool],
    *,
    accept: bool = False,
    options: Sequence[str] = (),
) -> None:
    """Keep both halves of a folder that was handed over running, each as its user, while `go_on()` is true. Takes root.

    `options` are further ones of both commands. This process reads and writes nothing of theirs. Raises ExperimentError if a
    half ends by itself.
    """
    agree = ["--accept"] if accept else []
    halves: dict[str, subprocess.Popen[bytes]] = {}
    try:
        halves["trainer"] = trainer.start(*_command(folder, "trainer"), *agree, *options)
        halves["node"] = node.start(*_command(folder / NODE, "node"), *options)
        while go_on():
            for name, half in halves.items():
                if (code := half.poll()) is not None:
                    raise ExperimentError(f"the site's {name} ended with {code}; its own message is above")
            time.sleep(0.5)
    finally:
        for half in reversed(halves.values()):
            half.send_signal(signal.SIGTERM)
        for half in halves.values():
            try:
                half.wait(30)
            except subprocess.TimeoutExpired:
                half.kill()
