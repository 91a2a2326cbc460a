"""The sites of a run as they join and leave between rounds.

`state/members.json` holds the sites of the beginning and every change with the first round that it holds for. It is written
before that round asks anybody, so that a round that is repeated after a crash has the same sites and ends in the same bits. A
site that joins is to the method as a client that was never drawn before.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.core.plain_text import plain
from fedloom.core.seals import damaged, read_sealed, write_sealed
from fedloom.deploy.descriptions import Described
from fedloom.deploy.site_list import SiteList
from fedloom.federation.client import Client

FILE = "members.json"
REQUEST = "members"
"""The name of a change in the ledger."""

Wanted = Callable[[Collection[str]], Collection[str]]
"""The sites that are to take part from now on, given those that do; of others only those that are connected."""


class HeldList:
    """The signed list of sites, held for a round: the phases of a secure sum have to go by one version."""

    def __init__(self, read: Callable[[], SiteList | None]) -> None:
        """Read the list for the first time."""
        self._read = read
        self._held = read()

    def __call__(self) -> SiteList | None:
        """The list of this round."""
        return self._held

    def on_it(self, wanted: Wanted) -> Wanted:
        """`wanted`, of those on the list, which is read anew."""

        def listed(known: Collection[str]) -> Collection[str]:
            self._held = self._read()
            names = wanted(known)
            return names if self._held is None else [name for name in names if name in self._held.sites]

        return listed


class Change(BaseModel):
    """Sites that take part from `round` on, and sites that do not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int = Field(ge=1)
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    first: tuple[str, ...]
    changes: tuple[Change, ...] = ()


@dataclass
class Members:
    """Who takes part in a run: the sites of its beginning and the changes since."""

    file: Path
    first: tuple[str, ...]
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def of(cls, state: Path, described: Collection[str], last: int) -> "Members":
        """The members as the run's folder has them, or all of `described` at the beginning; changes beyond the round after
        `last` are dropped. Raises DiskError for a damaged file."""
        file = state / FILE
        if not file.is_file():
            members = cls(file, tuple(sorted(described)))
            members._write()
            return members
        try:
            found = _File.model_validate(read_sealed(file))
        except ValidationError as error:
            raise damaged(file) from error
        members = cls(file, found.first, [c for c in found.changes if c.round <= last + 1])
        if unknown := members.ever - set(described):
            raise ExperimentError(f"{file} names the site {min(unknown)}, which sites.json does not describe")
        return members

    @property
    def ever(self) -> set[str]:
        """Every site that takes part or did."""
        return {*self.first, *(name for change in self.changes for name in change.joined)}

    def add(self, change: Change) -> None:
        """Record a change; it is on the disk on return."""
        self.changes.append(change)
        self._write()

    def _write(self) -> None:
        self.file.parent.mkdir(exist_ok=True)
        write_sealed(self.file, _File(first=self.first, changes=tuple(self.changes)).model_dump(mode="json"))


@dataclass
class Joining:
    """Lets sites join and leave a run before a round; see `Federation.before_round`."""

    members: Members
    clients: dict[str, Client]
    """The engine's clients, which are changed in place."""
    wanted: Wanted
    describe: Callable[[str], Described]
    """Asks a site for its description; raises ExperimentError."""
    keep: Callable[[Mapping[str, Described]], None]
    """Keeps the descriptions of sites that join."""
    client: Callable[[str, Described], Client]
    """The client of a site that joins; raises ExperimentError where it cannot take part."""
    check: Callable[[Mapping[str, Client]], None]
    """Raises ExperimentError where the run cannot go on with these clients."""
    changed: Callable[[], None] = lambda: None
    """Called after a change."""
    forget: Callable[[str], None] = lambda name: None
    """Drops what the run's state holds of a site that has left, before the round that goes on without it."""

    def restore(self, described: Mapping[str, Described]) -> None:
        """Apply the changes that the run has seen already."""
        for change in self.members.changes:
            self._apply(change, {name: self.client(name, described[name]) for name in change.joined})

    def __call__(self, number: int) -> Sequence[Mapping[str, Any]]:
        """The ledger's line of the changes before round `number`. Raises ExperimentError where too few sites are left."""
        began, refused = time.perf_counter(), dict[str, str]()
        made = [c for c in self.members.changes if c.round == number]
        if not made:  # else the round is repeated, with the sites that it had
            wanted = set(self.wanted(self.clients))
            left = tuple(sorted(set(self.clients) - wanted))
            described: dict[str, Described] = {}
            joining = self._joining(sorted(wanted - set(self.clients)), left, described, refused)
            if joining or left:
                change = Change(round=number, joined=tuple(joining), left=left)
                self._check(joining, left)
                self.keep({name: described[name] for name in joining})
                self.members.add(change)
                self._apply(change, joining)
                made = [change]
        joined = [name for change in made for name in change.joined]
        gone = [name for change in made for name in change.left]
        for name in gone:
            self.forget(name)
        if not (joined or gone or refused):
            return ()
        notes = [f"{name} takes part from this round on" for name in joined]
        notes += [f"{name} has left and is not asked from this round on" for name in gone]
        line = {
            "round": number,
            "request": REQUEST,
            "asked": [],  # for an update: none
            "answered": [],
            "joined": joined,
            "refused": {name: plain(why) for name, why in refused.items()},
            "left": gone,
            "bytes_up": 0,
            "bytes_down": 0,
            "seconds": round(time.perf_counter() - began, 4),
            "notes": notes,
        }
        return (line,)

    def _joining(
        self,
        names: Sequence[str],
        left: Collection[str],
        described: dict[str, Described],
        refused: dict[str, str],
    ) -> dict[str, Client]:
        """The clients of the sites that can join; their descriptions go into `described`, the others' reasons into `refused`."""
        joining: dict[str, Client] = {}
        for name in names:
            try:
                described[name] = self.describe(name)
                client = self.client(name, described[name])
                self.check({**self._without(left), **joining, name: client})
            except ExperimentError as error:
                refused[name] = f"cannot join: {error}"
            else:
                joining[name] = client
        return joining

    def _without(self, left: Collection[str]) -> dict[str, Client]:
        return {name: client for name, client in self.clients.items() if name not in left}

    def _check(self, joining: Mapping[str, Client], left: Sequence[str]) -> None:
        """Raise ExperimentError where the sites that stay are too few."""
        after = {**self._without(left), **joining}
        try:
            if not after:
                raise ExperimentError("no site is left")
            self.check(after)
        except ExperimentError as error:
            raise ExperimentError(f"the run cannot go on without {', '.join(left)}: {error}") from error

    def _apply(self, change: Change, joining: Mapping[str, Client]) -> None:
        for name in change.left:
            self.clients.pop(name, None)
        self.clients.update(joining)
        self.changed()
