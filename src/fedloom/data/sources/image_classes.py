"""Image classification for CLIP: pictures by class, partitioned over clients, and the common test sets.

An example is a Sample with one image: `answer` is the class name; meta holds `classes` ("base" or "novel"), `label` (the index
in that list), `domain`, and under label skew `own`: the indices of all classes of its client.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.media import DEFAULT, Media, MediaSettings
from fedloom.data.partition.common_sets import common_sets, commonly_tested
from fedloom.data.partition.dirichlet import Share, label_skew, pachinko
from fedloom.data.partition.few_shot import base_and_novel, class_shares, draw_shots
from fedloom.data.partition.settings import ClassFolders, DomainShift, FewShot, LabelSkew, Partition
from fedloom.data.pictures import folder as pictures_folder
from fedloom.data.pictures import hub as pictures_hub
from fedloom.data.pictures.class_names import Classes
from fedloom.data.pictures.client_folders import read_client_folders, read_common
from fedloom.data.pictures.known_sets import KNOWN, Known
from fedloom.data.pictures.pictures import Picture, Pictures, sample
from fedloom.data.sample import Sample
from fedloom.data.sources import small_worlds as pictures_small
from fedloom.data.sources.file_source import STRICT, FileRules, FileSource, check_samples
from fedloom.data.sources.source import Features, checked_counts
from fedloom.data.tabletop.styles import PRIVATE_STYLES

TABLETOP = tuple(pictures_small.TABLETOP_CLASSES)
"""Data sets of the small world, generated to the wanted size."""
GENERATED = (*TABLETOP, "digits")
"""Data sets that need no files."""


class ImageClassSource(FileSource):
    """Pictures by class for CLIP."""

    for_task: ClassVar[str] = "image-classification"
    holds: ClassVar[tuple[str, ...]] = ("image",)
    not_read: ClassVar[Mapping[str, str]] = {"missing": "its samples are pictures alone"}

    source: Literal["classes"] = "classes"
    dataset: str = Field(
        "tabletop",
        description="tabletop, tabletop48, digits, caltech101, oxford-pets, flowers102, food101, dtd, sun397, ucf101, domainnet, "
        "office-caltech10, cifar10, cifar100, a Hugging Face id, or any name beside data.path",
    )
    path: Annotated[Path | None, ReadWith(".dataset", unless=GENERATED)] = Field(
        None,
        description="<path>/<class>/<image>, a folder with a split file or parquet files; none = generate or download",
    )
    clients: Annotated[dict[Holding, int], ReadWith(".partition.kind", unless=("folder",))] = Field(
        {"image": 3}, description="number of clients, as {image: N}"
    )
    train: Annotated[int, ReadWith(".dataset", TABLETOP)] = Field(
        160, ge=1, description="data sets tabletop and tabletop48: training pictures per class"
    )
    test: Annotated[int, ReadWith(".dataset", TABLETOP)] = Field(
        40, ge=1, description="data sets tabletop and tabletop48: test pictures per class"
    )
    test_share: Annotated[float, ReadWith(".dataset", unless=GENERATED)] = Field(
        0.2, gt=0, lt=1, description="share of test samples in data without a split"
    )
    styles: Annotated[tuple[str, ...], ReadWith(".dataset", TABLETOP)] = Field(
        PRIVATE_STYLES,
        min_length=1,
        description="data sets tabletop and tabletop48: the pictures' styles, which are the domains",
    )
    partition: Partition = Field(
        FewShot(),
        description="partition of the pictures over clients; kind: few-shot, labeldir, pachinko, domains or folder",
    )

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "classes", ("image",), "{image: N}")
        return value

    @model_validator(mode="after")
    def _folders_need_a_path(self) -> "ImageClassSource":
        if isinstance(self.partition, ClassFolders) and (self.path is None or _is_generated(self.dataset)):
            raise ValueError(
                "partition: kind folder reads <path>/<client>/<class>/<image>; name the folder in data.path, and the data set "
                "as you like in data.dataset"
            )
        return self

    def classes(self) -> Classes:
        """The class names, without decoding pictures if the data set allows it. Raises ExperimentError."""
        if isinstance(self.partition, ClassFolders):
            return _agreed(self.partition)
        return classes_of(self.pictures(0).names, self.partition)

    @property
    def published(self) -> tuple[str, ...]:
        """A known data set that is on the hub, or the one named as on the hub."""
        hub = KNOWN[self.dataset].hub if self.dataset in KNOWN else None
        named = self.dataset if self.path is None and "/" in self.dataset else None
        return tuple(filter(None, (hub, named)))

    @property
    def reads_media(self) -> bool:
        """Whether the pictures are not generated: from a folder, or from the hub."""
        return not _is_generated(self.dataset)

    def load_common(self, seed: int) -> dict[str, list[Sample]]:
        """Common test sets for every client's model, by name: base and novel, or domain/<name>; empty for other partitions.

        Pictures that cannot be used are left out if `skip_bad` says so.
        """
        apart = isinstance(self.partition, ClassFolders)
        pictures = self._common_folder() if apart else self.pictures(seed)
        sets = common_sets(pictures, self.partition)
        if not self.skip_bad:
            return sets
        skipped = _unusable(commonly_tested(pictures, self.partition), self.rules)
        return {name: [s for s in samples if s.uid not in skipped] for name, samples in sets.items()}

    def pictures(self, seed: int) -> Pictures:
        """All pictures of the data set. Raises ExperimentError."""
        if isinstance(self.partition, ClassFolders) and self.path is not None:
            found = read_client_folders(self.path, _agreed(self.partition), self.test_share, seed, self.media)
            return replace(found, test=(*found.test, *self._common_folder().test))
        by_domain = isinstance(self.partition, DomainShift)
        return open_pictures(
            self.dataset,
            self.path,
            self.styles,
            self.train,
            self.test,
            self.test_share,
            seed,
            by_domain,
            self.media,
        )

    def _common_folder(self) -> Pictures:
        """The common test pictures beside the clients' folders."""
        assert isinstance(self.partition, ClassFolders) and self.path is not None  # noqa: S101, PT018 - validated
        classes = _agreed(self.partition)
        common = read_common(self.path, classes, self.media)
        return Pictures((*classes.base, *classes.novel), (), tuple(common))

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients according to the partition."""
        return class_clients(self.pictures(seed), self.partition, self.clients["image"], seed, self.rules)


def open_pictures(
    dataset: str,
    path: Path | None,
    styles: tuple[str, ...],
    train: int,
    test: int,
    share: float,
    seed: int,
    by_domain: bool,
    settings: MediaSettings = DEFAULT,
) -> Pictures:
    """The data set of this name, from the folder `path` if not None. Raises ExperimentError."""
    known = KNOWN.get(dataset, Known())
    if path is None or _is_generated(dataset):
        return _without_folder(dataset, known, styles, train, test, share, seed, settings)
    if path.is_dir() and pictures_hub.has_parquet(path):
        return pictures_hub.read_parquet(path, known, share, seed, settings)
    by_domain = by_domain or bool(known.domains)
    return pictures_folder.read_folder(path, known, share, seed, by_domain=by_domain, settings=settings)


def _is_generated(dataset: str) -> bool:
    return dataset in (*pictures_small.TABLETOP_CLASSES, "digits")


@lru_cache(maxsize=4)
def _without_folder(
    dataset: str,
    known: Known,
    styles: tuple[str, ...],
    train: int,
    test: int,
    share: float,
    seed: int,
    settings: MediaSettings,
) -> Pictures:
    if dataset in pictures_small.TABLETOP_CLASSES:
        return pictures_small.tabletop(dataset, styles, train, test, seed)
    if dataset == "digits":
        return pictures_small.digits()
    hub = known.hub if dataset in KNOWN else dataset if "/" in dataset else None
    if hub is not None:
        return pictures_hub.read_hub(hub, known, share, seed, settings)
    if dataset in KNOWN:
        raise ExperimentError(
            f"data.dataset: {dataset} has to lie on this machine; name its folder in data.path"
        )
    raise ExperimentError(
        f"data.dataset: there is no data set {dataset}; known are tabletop, tabletop48, digits, {', '.join(KNOWN)}, "
        "a Hugging Face id with a slash in it, or any name beside data.path"
    )


def classes_of(names: Sequence[str], partition: Partition) -> Classes:
    """The base and novel classes under a partition; only few-shot learning has novel classes."""
    if not isinstance(partition, FewShot):
        return Classes(tuple(names))
    base, novel = base_and_novel(len(names))
    return Classes(tuple(names[i] for i in base), tuple(names[i] for i in novel))


def _agreed(partition: ClassFolders) -> Classes:
    return Classes(partition.base, partition.novel)


def class_clients(
    pictures: Pictures, partition: Partition, clients: int, seed: int, rules: FileRules = STRICT
) -> list[ClientData]:
    """`clients` clients, ordered by name; their pictures and those of the common test sets are checked.

    Raises ExperimentError if the partition is impossible, or for pictures that cannot be used.
    """
    if isinstance(partition, FewShot):
        parts_of = _few_shot(pictures, partition, clients, seed)
    elif isinstance(partition, ClassFolders):
        parts_of = _by_folder(pictures)
    elif isinstance(partition, LabelSkew):
        parts_of = _label_skew(pictures, partition, clients, seed)
    else:
        parts_of = _domains(pictures, partition, clients, seed)
    dealt = [p for client in parts_of.values() for p in (*client.train, *client.test)]
    skipped = _unusable([*dealt, *commonly_tested(pictures, partition)], rules)
    listed = [_client(name, parts_of[name], pictures.names, partition, skipped) for name in sorted(parts_of)]
    nobodys = [skipped[uid] for uid in skipped.keys() - {p.uid for p in dealt}]
    listed[0] = replace(listed[0], skipped=(*listed[0].skipped, *sorted(nobodys)))
    return listed


@dataclass(frozen=True)
class _Parts:
    """One client's training and test pictures."""

    train: tuple[Picture, ...]
    test: tuple[Picture, ...]


def _client(
    name: str, parts: _Parts, names: Sequence[str], partition: Partition, skipped: Mapping[str, str]
) -> ClientData:
    own: dict[str, tuple[int, ...]] = {}
    if isinstance(partition, LabelSkew | ClassFolders):
        own["own"] = tuple(sorted({p.label for p in (*parts.train, *parts.test)}))
    train, test = (
        [sample(p, names, "base", p.label, **own) for p in part if p.uid not in skipped]
        for part in (parts.train, parts.test)
    )
    held = [p.uid for p in (*parts.train, *parts.test)]
    return ClientData(name, train, test, tuple(skipped[uid] for uid in held if uid in skipped))


def _few_shot(pictures: Pictures, partition: FewShot, clients: int, seed: int) -> dict[str, _Parts]:
    base, _ = base_and_novel(len(pictures.names))
    shots = draw_shots([p.label for p in pictures.train], partition.shots, seed)
    tests: dict[int, list[Picture]] = defaultdict(list)
    for picture in pictures.test:
        tests[picture.label].append(picture)
    parts_of = {}
    shares = class_shares(len(base), clients, partition.class_shuffle_seed, balanced=partition.balanced)
    for k, share in enumerate(shares, 1):
        held = sorted(share)  # base labels are class ids: the first half counts from 0
        if missing := [c for c in held if c not in shots or not tests[c]]:
            raise ExperimentError(
                f"data.partition: the class {pictures.names[missing[0]]!r} has no training or no test picture"
            )
        parts_of[_client_name("image", k, clients)] = _Parts(
            tuple(pictures.train[i] for c in held for i in shots[c]),
            tuple(p for c in held for p in tests[c]),
        )
    return parts_of


def _label_skew(pictures: Pictures, partition: LabelSkew, clients: int, seed: int) -> dict[str, _Parts]:
    train, test = ([p.label for p in part] for part in (pictures.train, pictures.test))
    if partition.kind == "pachinko":
        if not pictures.coarse:
            raise ExperimentError(
                "data.partition: pachinko needs coarse classes, which only cifar100 has; take kind: labeldir"
            )
        shares = pachinko([*train, *test], pictures.coarse, len(train), clients, partition.beta, seed)
    else:
        shares = label_skew(train, test, clients, partition.beta, seed, least=partition.least)
    return {
        _client_name("image", k, clients): _select(pictures.train, pictures.test, share)
        for k, share in enumerate(shares, 1)
    }


def _by_folder(pictures: Pictures) -> dict[str, _Parts]:
    clients = dict.fromkeys(p.domain for p in (*pictures.train, *pictures.test) if p.domain is not None)
    return {
        client: _Parts(
            *(tuple(p for p in part if p.domain == client) for part in (pictures.train, pictures.test))
        )
        for client in clients
    }


def _domains(pictures: Pictures, partition: DomainShift, clients: int, seed: int) -> dict[str, _Parts]:
    out = partition.hold_out
    if out is not None and out not in pictures.domains:
        raise ExperimentError(
            f"data.partition.hold_out: there is no domain {out}; the domains are {', '.join(pictures.domains) or 'none'}"
        )
    domains = [d for d in pictures.domains if d != out]
    if not domains or clients % len(domains):
        raise ExperimentError(
            f"data.clients: {clients} clients cannot be dealt evenly to {len(domains)} domains "
            f"({', '.join(domains)}); name a multiple of {len(domains)}"
            if domains
            else "data.partition: these data have no domains; take kind: few-shot or labeldir"
        )
    each, parts_of = clients // len(domains), {}
    for domain in domains:
        train, test = (
            tuple(p for p in part if p.domain == domain) for part in (pictures.train, pictures.test)
        )
        shares = label_skew(
            [p.label for p in train],
            [p.label for p in test],
            each,
            partition.beta,
            seed,
            least=partition.least,
            stream=f"domain/{domain}",
        )
        for k, share in enumerate(shares, 1):
            parts = _select(train, test, share)
            assert {p.domain for p in (*parts.train, *parts.test)} == {domain}  # noqa: S101 - the map client to domain
            parts_of[_client_name(domain, k, each)] = parts
    return parts_of


def _select(train: Sequence[Picture], test: Sequence[Picture], share: Share) -> _Parts:
    return _Parts(tuple(train[i] for i in share.train), tuple(test[i] for i in share.test))


def _client_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number:0{max(len(str(count)), 2)}d}"


def _unusable(pictures: Sequence[Picture], rules: FileRules) -> dict[str, str]:
    """The pictures to leave out by uid, and why. Raises ExperimentError as `check_samples` does."""
    return check_samples(
        {p.uid: () if p.media is None else (p.media,) for p in pictures},
        lambda uid, media, fault: f"data.path: {_named(uid, media)} cannot be used ({fault})",
        rules,
    )


def _named(uid: str, media: Media) -> str:
    return str(media.source) if isinstance(media.source, Path) else f"the picture {uid}"


def domain_of(samples: Mapping[str, Sequence[Sample]]) -> dict[str, str]:
    """The domain of each client whose test samples all belong to one domain."""
    domains_by_client = {}
    for client, own in samples.items():
        domains = {s.meta.get("domain") for s in own}
        if len(domains) == 1 and (domain := domains.pop()) is not None:
            domains_by_client[client] = str(domain)
    return domains_by_client
