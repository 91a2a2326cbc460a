"""Common test sets of pictures by class: base and novel classes, or a held-out domain. Every client's model is tested on them."""

from fedloom.data.partition.few_shot import base_and_novel
from fedloom.data.partition.settings import ClassFolders, DomainShift, FewShot, Partition
from fedloom.data.pictures.pictures import Picture, Pictures, sample
from fedloom.data.sample import Sample


def common_sets(pictures: Pictures, partition: Partition) -> dict[str, list[Sample]]:
    """The common test sets: base and novel classes, or the held-out domain."""
    names, sets = pictures.names, {}
    if isinstance(partition, FewShot):
        base, novel = base_and_novel(len(names))
        for part, ids in (("base", base), ("novel", novel)):
            index = {label: i for i, label in enumerate(ids)}
            sets[part] = [sample(p, names, part, index[p.label]) for p in pictures.test if p.label in index]
    if isinstance(partition, ClassFolders):
        common = [p for p in pictures.test if p.domain is None]
        first = len(partition.base)
        for part, start, end in (("base", 0, first), ("novel", first, len(names))):
            own = [p for p in common if start <= p.label < end]
            sets |= {part: [sample(p, names, part, p.label - start) for p in own]} if own else {}
    if isinstance(partition, DomainShift) and partition.hold_out is not None:
        held_out = [
            sample(p, names, "base", p.label) for p in pictures.test if p.domain == partition.hold_out
        ]
        sets[f"domain/{partition.hold_out}"] = held_out
    return sets


def common_names(partition: Partition) -> tuple[str, ...]:
    """The names of the common test sets, whether their pictures are at hand or not."""
    if isinstance(partition, FewShot):
        return ("base", "novel")
    if isinstance(partition, ClassFolders):
        return ("base", "novel") if partition.novel else ("base",)
    hold_out = partition.hold_out if isinstance(partition, DomainShift) else None
    return () if hold_out is None else (f"domain/{hold_out}",)


def commonly_tested(pictures: Pictures, partition: Partition) -> list[Picture]:
    """The pictures of the common test sets."""
    uids = {s.uid for samples in common_sets(pictures, partition).values() for s in samples}
    return [p for p in pictures.test if p.uid in uids]
