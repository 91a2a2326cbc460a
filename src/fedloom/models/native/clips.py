"""Videos in native models: whole by the processor's part for video where it has one, else each frame as a picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample, Turn, modality_of
from fedloom.models.native.families import Family


def reads_whole(processor: Any, family: Family) -> bool:
    """Whether videos go to the processor's part for video, which needs torchvision."""
    return family.video and getattr(processor, "video_processor", None) is not None


def reads_frames(family: Family) -> bool:
    """Whether the frames of a video can be read as several pictures."""
    return "image" in family.towers and family.several and family.expands


def note_on(processor: Any, family: Family) -> str:
    """The sentence on how videos are read."""
    if reads_whole(processor, family):
        return "videos are read by the processor's part for video; clients train one after another"
    why = ", since the processor's part for video needs torchvision" if family.video else ""
    return f"each frame of a video is read as a picture{why}"


def decoded(sample: Sample) -> Sample:
    """The sample with its media in memory, and the lengths of its videos, as their files state them, in `meta["seconds"]`."""
    held = sample.modalities
    lengths: dict[str, float] = {}
    if isinstance(held, MediaFiles):
        lengths = {key: held.seconds(key) for key in held if modality_of(key) == "video"}
    return replace(sample, modalities=dict(held), meta={**sample.meta, "seconds": lengths})


def processor_options(
    sample: Sample, turns: Sequence[Turn], family: Family, *, whole: bool
) -> dict[str, Any]:
    """The processor's settings for a sample of `decoded` with videos; empty for any other.

    The frames are the middles of equal parts of a video; one of unknown length counts a second for each.
    """
    keys = [m.key for turn in turns for m in turn.media if m.modality == "video"]
    if not keys:
        return {}
    if not whole:
        return {"images_kwargs": dict(family.frames)} if family.frames else {}
    metadata = []
    for key in keys:
        count = len(sample.modalities[key])
        length = sample.meta["seconds"].get(key) or float(count)
        spread = {"total_num_frames": 2 * count, "frames_indices": [2 * i + 1 for i in range(count)]}
        metadata.append({**spread, "fps": 2 * count / length, "duration": length})
    return {"videos_kwargs": {"video_metadata": metadata, "do_sample_frames": False}}
