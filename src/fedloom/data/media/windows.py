"""Long recordings as one sample per window."""

from collections.abc import Sequence
from dataclasses import replace

from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample


def by_window(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, those with recordings that are too long as one sample for each window, with the same texts."""
    return tuple(cut for sample in samples for cut in _cut(sample))


def _cut(sample: Sample) -> list[Sample]:
    files = sample.modalities
    if not isinstance(files, MediaFiles):
        return [sample]
    counts = {name: files.windows(name) for name in files}
    count = max(counts.values(), default=1)
    if count == 1:
        return [sample]
    cut = []
    for k in range(count):
        media = {n: replace(m, part=(k, count)) if counts[n] > 1 else m for n, m in files.media.items()}
        uid = f"{sample.uid}, window {k + 1} of {count}"
        cut.append(replace(sample, uid=uid, modalities=MediaFiles(media, files.error)))
    return cut
