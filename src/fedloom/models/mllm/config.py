"""The settings of a multimodal LLM's assembly."""

from typing import Literal

from pydantic import BaseModel, Field

from fedloom.models.encoders.encoder import Pool, ScaleMode
from fedloom.models.mllm.prompt import PromptConfig


class MLLMConfig(BaseModel, extra="forbid"):
    """Encoder output, soft tokens, projector and prompt of a multimodal LLM."""

    pool: Pool = Field(
        "head", description="projected vector: published output, the same before its norm, token mean"
    )
    scale: ScaleMode = Field("unit", description="length of the encoder's output: 1, native, or pandagpt's")
    tokens: int = Field(1, ge=1, description="soft tokens per modality; more than one needs pool: mean")
    combine: Literal["concat", "sum"] = Field(
        "concat", description="several modalities: side by side or summed"
    )
    projector: Literal["shared", "per_modality"] = Field("shared", description="one projector, or one each")
    layers: Literal["linear", "mlp2x"] = Field(
        "linear", description="the projector: one linear layer, or two with a GELU between"
    )
    prompt: PromptConfig = PromptConfig()
    max_text_tokens: int = Field(512, ge=1, description="token ids per sample, answer included")
