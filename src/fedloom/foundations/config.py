"""The `model` part of an experiment: which frozen foundation, and what is trained on it."""

from pydantic import BaseModel, ConfigDict, Field

from fedloom.adapters.lora import LoRA


class Foundation(BaseModel):
    """A frozen multimodal LLM, a text classifier or a CLIP, and the shapes of LoRA adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foundation: str = Field(
        "tiny-mllm", description="tiny-mllm (shipped), or a folder that MLLM.save_pretrained wrote"
    )
    encoder: str | None = Field(
        None,
        description="instead of a foundation: folder with an ImageBind checkpoint (config.json, model.safetensors)",
    )
    llm: str | None = Field(
        None, description="instead of a foundation: Hugging Face id or folder of a causal LM"
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
    llm_lora: LoRA = Field(LoRA(), description="the LLM's adapter")
    encoder_lora: LoRA = Field(LoRA(), description="the adapter of every modality's trunk")
    body_lora: LoRA = Field(
        LoRA(alpha=16.0, targets=("query", "value")), description="the classifier's adapter"
    )
