"""The `model` part of an experiment: which frozen foundation, and what is trained on it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedloom.core.settings_tree import ReadWith
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.models.lora.layers import LoRA

Modality = Literal["image", "text", "audio"]


class ClassifierLoRA(LoRA):
    """A text classifier's adapter: LoRA with its own defaults."""

    alpha: Annotated[float, ReadWith(".kind", ("lora",))] = Field(
        16.0, gt=0, description="scale numerator: s = alpha / r; VeRA has none"
    )
    targets: tuple[str, ...] = Field(
        ("query", "value"), min_length=1, description="names of the Linear modules that are adapted"
    )


class Foundation(BaseModel):
    """A frozen multimodal LLM, a text classifier or a CLIP, and the shapes of LoRA adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foundation: Annotated[str, ReadWith(".llm", (None,))] = Field(
        "tiny-mllm", description="tiny-mllm (shipped), or a folder that MLLM.save_pretrained wrote"
    )
    encoder: str | None = Field(
        None,
        description="instead of a foundation: folder with an ImageBind checkpoint (config.json, model.safetensors)",
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
        description="source text: Hugging Face id or folder of a sequence classifier or masked LM, such as "
        "FacebookAI/roberta-large; none = tiny-roberta (shipped)",
    )
    clip: str | None = Field(
        None,
        description="source classes: Hugging Face id or folder of a CLIPModel, such as openai/clip-vit-base-patch16; "
        "none = tiny-clip (shipped)",
    )
    llm_lora: LoRA | None = Field(LoRA(), description="the LLM's adapter; null = none, the LLM is frozen")
    encoder_lora: LoRA | None = Field(
        LoRA(), description="the adapter of every modality's trunk; null = none, the encoder is frozen"
    )
    projector: Literal["own", "linear", "mlp2x"] = Field(
        "own",
        description="own: the foundation's; linear: a random linear layer; mlp2x: two random layers with a GELU between",
    )
    projector_from: Path | None = Field(
        None, description="folder of a finished run whose projector this run starts from"
    )
    tokens: int | None = Field(
        None,
        ge=1,
        description="soft tokens per picture: means over so many groups of patches; none = the foundation's number",
    )
    frame: Literal["conversation", "bare"] | None = Field(
        None,
        description="what stands around the soft tokens: a conversation, or nothing; none = the foundation's",
    )
    architectures: dict[Modality, tuple[str, ...]] = Field(
        {
            "image": ("tiny-resnet", "tiny-vit"),
            "text": ("tiny-bert", "tiny-distilbert"),
            "audio": ("tiny-ast",),
        },
        description="source labelled: the clients' own models by modality, dealt in turn; tiny-resnet, tiny-vit, tiny-bert, "
        "tiny-distilbert, tiny-ast, or Hugging Face ids and folders",
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
