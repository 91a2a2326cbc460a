"""Samples about the same picture or sound: they stay together where a split or a partition is drawn."""

import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from fedloom.core.streams import stream_seed


def groups(media: Sequence[Collection[Hashable]]) -> list[int]:
    """The group of each sample, from its media: samples that share one, also by way of others, have one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers = {medium: n for n, medium in enumerate(dict.fromkeys(chain.from_iterable(media)), len(media))}
    edges = np.array([(i, numbers[m]) for i, own in enumerate(media) for m in own], np.int64).reshape(-1, 2)
    size = len(media) + len(numbers)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, group_of = connected_components(graph, directed=False)
    return [int(group) for group in group_of[: len(media)]]


def contents(files: Iterable[Path]) -> dict[Path, Hashable]:
    """A key for the content of each file: equal for copies under several names. Reads only files of equal size."""
    sizes = {file: file.stat().st_size for file in files}
    count = Counter(sizes.values())
    return {f: content(f.read_bytes()) if count[size] > 1 else f for f, size in sizes.items()}


def content(data: bytes) -> Hashable:
    """A key for a file's content."""
    return hashlib.sha256(data).digest()


def together(order: Iterable[int], group_of: Sequence[int]) -> list[list[int]]:
    """The samples of `order` by group, each group where its first sample stands."""
    members: dict[int, list[int]] = {}
    for sample in order:
        members.setdefault(group_of[sample], []).append(sample)
    return list(members.values())


def cut(grouped: Iterable[Sequence[int]], sizes: Sequence[int]) -> list[list[int]]:
    """Parts of these sizes, filled in order; what does not fit of a part's last group is left out.

    Parts are smaller where the groups run out.
    """
    parts: list[list[int]] = [[] for _ in sizes]
    at = 0
    for group in grouped:
        while at < len(sizes) and len(parts[at]) == sizes[at]:
            at += 1
        if at == len(sizes):
            break
        parts[at] += group[: sizes[at] - len(parts[at])]
    return parts


def draw_test(
    declared: Mapping[int, str | None],
    media: Mapping[int, Collection[Hashable]],
    share: float,
    seed: int,
    client: str,
) -> set[int]:
    """Test lines among those without a declared split: whole groups of shared media, the lowest by seeded hash.

    About `share` of these lines, as near as whole groups allow, and one group or more in either part if there are two. A line
    that shares media with lines declared as test is tested, with lines declared as train it is trained on.
    """
    lines = list(declared)
    members: dict[int, list[int]] = {}
    for line, group in zip(lines, groups([media[line] for line in lines]), strict=True):
        members.setdefault(group, []).append(line)
    parts = set(declared.values()) - {None}
    free, test = [], set[int]()
    for own in members.values():
        said = {declared[line] for line in own} - {None}
        if not said:
            free.append(own)
        elif said == {"test"}:
            test.update(line for line in own if declared[line] is None)
    target = round(share * sum(part is None for part in declared.values())) - len(test)
    if "test" not in parts and len(members) > 1:
        target = max(target, 1)
    left = len(free) if "train" in parts else len(free) - 1  # groups that may be tested
    ranked = sorted(free, key=lambda own: stream_seed(seed, "folder-split", client, own[0]))
    drawn: list[int] = []
    for own in ranked:
        if left > 0 and abs(len(drawn) + len(own) - target) < abs(len(drawn) - target):
            drawn += own
            left -= 1
    if not drawn and "test" not in parts and left > 0 and target > 0:
        drawn = min(ranked, key=len)
    return test | set(drawn)
