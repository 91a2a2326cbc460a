"""Tiny random checkpoints of native families by model type."""

from collections.abc import Callable
from pathlib import Path

from tests.models.native.tiny_other_families import audioflamingo3, janus, mistral3, mllama
from tests.models.native.tiny_picture_families import (
    gemma3,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    paligemma,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    smolvlm,
)
from tests.models.native.tiny_sound_families import gemma4, qwen2_5_omni_thinker, qwen2_audio, voxtral

FAMILIES: dict[str, Callable[[Path], Path]] = {
    build.__name__: build
    for build in (
        llava,
        llava_next,
        llava_next_video,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        idefics3,
        smolvlm,
        paligemma,
        gemma3,
        gemma4,
        internvl,
        qwen2_audio,
        voxtral,
        qwen2_5_omni_thinker,
    )
}

OTHERS: dict[str, Callable[[Path], Path]] = {
    build.__name__: build for build in (janus, mllama, audioflamingo3, mistral3)
}
