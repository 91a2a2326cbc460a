"""The `model` part of an experiment: which frozen foundation, and what is trained on it."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.core.settings_tree import ReadWith
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.models.lora.layers import LoRA, SquareLoRA
from fedloom.models.quantize import Bits, Quantizer

Modality = Literal["image", "text", "audio"]
EncoderModality = Literal["image", "audio"]
ASSEMBLED = ReadWith(".native", (None,))
"""Mark of a setting of a model that is put together, which a native one does not read."""
PATHS = (
    "foundation",
    "encoder",
    "llm",
    "native",
    "classifier",
    "clip",
    "projector_from",
    "architectures",
    "synthesis",
)
"""Settings that may name a file or folder; names that begin with tiny- are models of the package."""


class ProjectorFile(BaseModel):
    """A projector in a safetensors file of another project."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="the safetensors file")
    names: tuple[tuple[str, str], ...] = Field(
        (),
        description="pairs of a tensor's name in the file and its name here, such as [[model.mm_projector.0.weight, 0.weight]]; "
        "none = all, by the same names",
    )


class ClassifierLoRA(LoRA):
    """A text classifier's adapter: LoRA with its own defaults."""

    alpha: Annotated[float, ReadWith(".kind", ("lora",))] = Field(
        16.0, gt=0, description="scale numerator: s = alpha / r; VeRA has none"
    )


class Foundation(BaseModel):
    """A frozen multimodal LLM, a text classifier or a CLIP, and the shapes of LoRA adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foundation: str = Field(
        "tiny-mllm", description="tiny-mllm (shipped), or a folder that MLLM.save_pretrained wrote"
    )
    encoder: str | dict[EncoderModality, str] | None = Field(
        None,
        description="instead of a foundation's, and for classes of pictures or sounds: folder with an ImageBind checkpoint "
        "(config.json, model.safetensors), or Hugging Face ids or folders by modality, such as "
        "{image: facebook/dinov2-small, audio: openai/whisper-tiny}",
    )
    audio_seconds: Annotated[float | None, ReadWith(".encoder")] = Field(
        None,
        gt=0,
        le=30,
        description="seconds of every sound that encoder.audio reads; a longer sound is cut; none = all that it can, "
        "such as Whisper's 30",
    )
    llm: str | None = Field(
        None, description="instead of a foundation: Hugging Face id or folder of a causal LM"
    )
    native: str | None = Field(
        None,
        description="instead of a foundation: Hugging Face id or folder of a multimodal LLM with its own processor, such as "
        "Qwen/Qwen2.5-VL-3B-Instruct",
    )
    classifier: str | None = Field(
        None,
        description="classes of texts: Hugging Face id or folder of a sequence classifier or masked LM, such as "
        "FacebookAI/roberta-large; none = tiny-roberta (shipped)",
    )
    clip: str | None = Field(
        None,
        description="source classes: Hugging Face id or folder of a CLIPModel, a SiglipModel or a VisionTextDualEncoderModel, "
        "such as openai/clip-vit-base-patch16; none = tiny-clip (shipped)",
    )
    quantize: Bits | None = Field(
        None,
        description="8bit | 4bit: quantise the frozen weights of llm, native (its LLM), foundation (its LLM) or classifier; "
        "none = they stay whole; needs the extra quantize",
    )
    quantizer: Annotated[Quantizer, ReadWith(".quantize")] = Field(
        "auto",
        description="auto | bitsandbytes | torchao; auto takes torchao for 8 bits and bitsandbytes for 4",
    )
    llm_lora: LoRA | None = Field(LoRA(), description="the LLM's adapter; null = none, the LLM is frozen")
    encoder_lora: LoRA | None = Field(
        LoRA(), description="the adapter of every modality's trunk; null = none, the encoder is frozen"
    )
    projector: Annotated[Literal["own", "linear", "mlp2x"], ASSEMBLED] = Field(
        "own",
        description="own: the foundation's; linear: a random linear layer; mlp2x: two random layers with a GELU between",
    )
    projector_from: Annotated[Path | ProjectorFile | None, ASSEMBLED] = Field(
        None,
        description="projector that this run starts from: folder of a finished run or of a foundation, a safetensors file, "
        "or {file: ..., names: [[name in the file, name here]]}",
    )
    tokens: Annotated[int | None, ASSEMBLED] = Field(
        None,
        ge=1,
        description="soft tokens per picture: means over so many groups of patches; none = the foundation's number",
    )
    scale: Annotated[Literal["unit", "native"] | None, ASSEMBLED] = Field(
        None,
        description="the encoder's output before the projector: unit, length 1; native, as the encoder gives it; none = the "
        "foundation's, and with model.encoder unit",
    )
    prompt: Annotated[Literal["auto", "chat", "paper", "bare"], ASSEMBLED] = Field(
        "auto",
        description="text around soft tokens and question: chat, the tokenizer's chat template; paper, UniFLoW's "
        "conversation; bare, nothing; auto, the foundation's, and with model.llm chat where its tokenizer has a template",
    )
    stop: Annotated[str | None, ASSEMBLED] = Field(
        None,
        min_length=1,
        description="end of an answer: eos, the end-of-text token, or a string; none = the foundation's",
    )
    max_text_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of text per sample, answer included; longer ones are cut; none = the foundation's, 512",
    )
    architectures: dict[Modality, tuple[str, ...]] = Field(
        {
            "image": ("tiny-resnet", "tiny-vit"),
            "text": ("tiny-bert", "tiny-distilbert"),
            "audio": ("tiny-ast",),
        },
        description="source labelled: the clients' own models by modality, dealt in turn; tiny-resnet, tiny-vit, tiny-bert, "
        "tiny-distilbert (pre-trained), tiny-ast (random), with -random behind the name random weights, or Hugging Face ids and "
        "folders",
    )
    width: int = Field(
        64,
        ge=2,
        description="source labelled: common width d of the clients' representations (256 at size paper)",
    )
    synthesis: SynthesisSettings = Field(
        SynthesisSettings(),
        description="the server's generator and captioner, for methods that exchange knowledge",
    )
    body_lora: ClassifierLoRA = Field(ClassifierLoRA(), description="the classifier's adapter")

    @model_validator(mode="after")
    def _one_model(self) -> "Foundation":
        """Refuse two models, from whatever layers of the settings they come."""
        fields = type(self).model_fields
        named = [n for n in ("native", "llm", "foundation") if getattr(self, n) != fields[n].default]
        if self.encoder is not None and named[:1] == ["native"]:
            named.append("encoder")
        if len(named) > 1:
            raise ValueError(
                f"model.{named[0]} and model.{named[1]} name two models, and a run has one; leave one of them out, or set it "
                f"to {fields[named[1]].default or 'null'}"
            )
        return self

    def with_square_adapters(self) -> "Foundation":
        """The same settings, whose LoRA adapters are square."""
        specs = {name: getattr(self, name) for name in ("llm_lora", "encoder_lora", "body_lora")}
        return self.model_copy(
            update={n: SquareLoRA(**s.model_dump()) for n, s in specs.items() if s is not None}
        )

    def located(self) -> "Foundation":
        """The same settings with the whole path of every file and folder in the working directory, for a run's record."""
        return self.model_copy(update={name: _located(getattr(self, name)) for name in PATHS})


def _located(value: Any) -> Any:
    """A relative path that exists as a whole one, in settings and mappings as well; anything else as it is."""
    if isinstance(value, BaseModel):
        return value.model_copy(update={n: _located(getattr(value, n)) for n in type(value).model_fields})
    if isinstance(value, dict):
        return {key: _located(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_located(inner) for inner in value)
    if not isinstance(value, str | Path) or str(value).startswith("tiny-") or not os.path.exists(value):
        return value
    return type(value)(Path(value).absolute())
