"""The `model.synthesis` part of an experiment: the server's generator and captioner and their settings."""

from pydantic import BaseModel, ConfigDict, Field


class SynthesisSettings(BaseModel):
    """Generator, captioner and their settings. Defaults: specification fedmmkt 6."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str = Field(
        "tiny-t2i", description="tiny-t2i (shipped), or a Stable Diffusion id or folder that diffusers loads"
    )
    captioner: str = Field("tiny-captioner", description="tiny-captioner (shipped), or a BLIP id or folder")
    matcher: str | None = Field(
        None,
        description="BLIP for retrieval, such as Salesforce/blip-itm-base-coco, for fusion.anchor blip where the captioner "
        "has none of its own",
    )
    template: str = Field(
        "a picture of a {}", pattern=r"\{\}", description="the prompt of a class, {} stands for its name"
    )
    per_class: int = Field(10, ge=1, description="public items per class (n_syn)")
    every: int = Field(1, ge=1, description="rounds for which the same items serve (E_gen)")
    guidance: float = Field(3.0, ge=0, description="classifier-free guidance")
    steps: int = Field(20, ge=1, description="sampling steps")
    caption_tokens: int = Field(48, ge=1, description="length limit of a caption")
    confuse: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the items that show another class than their prompt names: a weak generator",
    )
    lr: float = Field(1e-5, gt=0, description="AdamW's learning rate for the denoiser")
    batch_size: int = Field(16, ge=1, description="items in one step of the denoiser")
    passes: int = Field(1, ge=1, description="passes over the kept items in one round")
    drop: float = Field(0.2, ge=0, le=1, description="share of emptied prompts, which guidance needs")
    anchor_weight: float = Field(
        0.0, ge=0, description="weight of the squared distance to the untrained denoiser's prediction"
    )
