"""Native families: where the encoder of each modality, the projector and the LLM are, by module path. Data, no code.

A module's rows are the first dimension of its input. In cohort training every row must belong to one example:

    items     as many rows per example as the encoder's input has entries: pictures, tiles, or chunks of sound
    tiles     the same where the encoder's input is (pictures, tiles, ...)
    tokens    packed rows, equally many for every placeholder token of the prompt
    frames    packed rows, one for every two frames of the sound
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Rows = Literal["items", "tiles", "tokens", "frames"]

LLM = ("q_proj", "k_proj", "v_proj", "o_proj")
CLIP = ("q_proj", "k_proj", "v_proj", "out_proj")
CLIPPED = ("q_proj.linear", "k_proj.linear", "v_proj.linear", "o_proj.linear")


@dataclass(frozen=True)
class Tower:
    """An encoder and its projector.

    `path`, `projector`: paths of modules; a projector may stand inside its encoder. `targets`: the encoder's LoRA targets by
    default. `input`: the processor's output that the encoder reads. `rows`, `projector_rows` (by default the same): see above;
    None where the rows of different examples cannot be told apart.
    """

    path: str
    projector: tuple[str, ...]
    targets: tuple[str, ...] = CLIP
    input: str = "pixel_values"
    rows: Rows | None = "items"
    projector_rows: Rows | None = None

    @property
    def rows_of_projector(self) -> Rows | None:
        """The rule of the projector's rows."""
        return self.projector_rows or self.rows


@dataclass(frozen=True)
class Family:
    """The checkpoints of one `model_type`.

    `llm`: path of the language model without its head. `targets`: its LoRA targets by default. `model_class`: the class where no
    AutoModel has the right one. `stand_in`: a processor class that reads pictures alike, where the own one cannot be built.
    `template`: the chat template of checkpoints that have none. `answer_type`: `token_type_ids` of the answer. `text_alone`:
    whether the processor reads a prompt without pictures. `expands`: whether the processor repeats placeholders itself.
    `several`: whether a sample may hold several inputs of a modality. `video`: whether videos are read whole, by the processor's
    part for video. `frames`: the image processor's settings for frames of videos, one picture each.
    """

    towers: Mapping[str, Tower]
    llm: str = "model.language_model"
    targets: tuple[str, ...] = LLM
    model_class: str | None = None
    stand_in: str | None = None
    template: str | None = None
    answer_type: int = 0
    text_alone: bool = True
    expands: bool = True
    several: bool = True
    video: bool = False
    frames: Mapping[str, bool] = field(default_factory=dict)


VISION, AUDIO = "model.vision_tower", "model.audio_tower"
PROJECTOR = ("model.multi_modal_projector",)
PACKED = Tower("model.visual", ("model.visual.merger",), ("qkv", "proj"), rows="tokens")
DEEPSTACK = Tower(
    "model.visual",
    ("model.visual.merger", "model.visual.deepstack_merger_list"),
    ("qkv", "proj"),
    rows="tokens",
)
TILED = Family(
    {"image": Tower("model.vision_model", ("model.connector",), rows="tiles")},
    llm="model.text_model",
    stand_in="Idefics3Processor",
    frames={"do_image_splitting": False},
)

PALIGEMMA = (
    "{% set media = messages[0]['content'] | selectattr('type', 'equalto', 'image') | list %}"
    "{{ '<image>' if media else bos_token }}"
    "{% for part in messages[0]['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if not media %}{{ '\n' }}{% endif %}"
    "{% if messages | length > 1 %}{{ messages[1]['content'][0]['text'] + eos_token }}{% endif %}"
)
"""With a picture, PaliGemma's processor itself writes bos before the question and a line break after it."""

VOXTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('it has no system turn') }}"
    "{% elif m['role'] == 'user' %}[INST]{% for part in m['content'] %}"
    "{% if part['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ part['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{{ m['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"
)

FAMILIES: dict[str, Family] = {
    "llava": Family({"image": Tower(VISION, PROJECTOR)}),
    "llava_next": Family({"image": Tower(VISION, PROJECTOR, rows="tiles")}),
    "llava_next_video": Family({"image": Tower(VISION, PROJECTOR, rows="tiles")}, video=True),
    "llava_onevision": Family({"image": Tower(VISION, PROJECTOR, rows="tiles")}, video=True),
    "qwen2_vl": Family({"image": PACKED}, video=True),
    "qwen2_5_vl": Family({"image": PACKED}, video=True),
    "qwen3_vl": Family({"image": DEEPSTACK}, video=True),
    "idefics3": TILED,
    "smolvlm": TILED,
    "paligemma": Family(
        {"image": Tower(VISION, PROJECTOR)},
        template=PALIGEMMA,
        answer_type=1,
        text_alone=False,
        several=False,
    ),
    "gemma3": Family({"image": Tower(VISION, PROJECTOR)}),
    "gemma4": Family(
        {
            "image": Tower(VISION, ("model.embed_vision",), CLIPPED, projector_rows="tokens"),
            "audio": Tower(  # sounds are padded to the longest of the batch, and dropout would draw for the padding
                AUDIO,
                ("model.embed_audio",),
                (*CLIPPED[:3], "post.linear"),
                input="input_features",
                rows=None,
            ),
        }
    ),
    "internvl": Family(
        {"image": Tower(VISION, PROJECTOR, ("q_proj", "k_proj", "v_proj", "projection_layer"))},
        frames={"crop_to_patches": False},
    ),
    "qwen2_audio": Family({"audio": Tower(AUDIO, PROJECTOR, input="input_features")}),
    "voxtral": Family(
        {"audio": Tower(AUDIO, PROJECTOR, input="input_features")}, template=VOXTRAL, expands=False
    ),
    "qwen2_5_omni_thinker": Family(
        {
            "image": Tower("model.visual", ("model.visual.merger",), ("q", "k", "v", "proj"), rows="tokens"),
            "audio": Tower(
                AUDIO,
                ("model.audio_tower.proj",),
                input="input_features",
                rows="frames",
                projector_rows="tokens",
            ),
        }
    ),
}
FAMILIES["qwen2_5_omni"] = Family(
    FAMILIES["qwen2_5_omni_thinker"].towers, model_class="Qwen2_5OmniThinkerForConditionalGeneration"
)
