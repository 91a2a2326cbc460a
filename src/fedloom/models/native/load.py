"""Loading a native multimodal model from a folder or Hugging Face id."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.native.families import FAMILIES
from fedloom.models.native.find import family_of
from fedloom.models.native.processor import FAULTS, load_processor
from fedloom.models.native.prompt import MAX_TEXT_TOKENS, Reader
from fedloom.models.native.trainable import NativeMLLM
from fedloom.models.precision import Precision
from fedloom.models.quantize import outside
from fedloom.models.settings import Foundation
from fedloom.models.weights import DeviceMap, Weights, check_complete


def load_native(
    settings: Foundation,
    modalities: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
    device_map: DeviceMap | None = None,
) -> NativeMLLM:
    """The frozen model with fresh adapters on the encoders of `modalities` and on the LLM. Raises ExperimentError.

    `second` adds a personal adapter to every layer. `precision` is that of the frozen weights and of the products; trained
    tensors are float32. `device_map` spreads the model over several GPUs.
    """
    source, weights = str(settings.native), Weights.of(settings, device, precision, device_map)
    config = _config(source)
    kind = _model_class(config, source)
    processor = load_processor(source, config, FAMILIES.get(config.model_type))
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights that are replaced at once
        try:
            with quiet_hf():
                loaded, info = weights.read(
                    kind,
                    source,
                    "model.native",
                    llm=True,
                    whole=_beside_llm(kind, config, source) if weights.quantization else None,
                    trained=lambda model: _projectors(model, source, modalities),
                )
        except FAULTS as error:
            raise ExperimentError(f"model.native: {source} cannot be loaded: {reason(error)}") from error
        check_complete(info, "model.native", source)
        family = family_of(loaded, source)
        eos = loaded.generation_config.eos_token_id
        stops = eos if isinstance(eos, list) else [] if eos is None else [eos]
        limit = settings.max_text_tokens or MAX_TEXT_TOKENS
        reader = Reader(processor, loaded.config, family, source, stops, limit)
        dtype = loaded.get_input_embeddings().weight.dtype
        model = NativeMLLM(
            loaded,
            reader,
            modalities,
            settings.llm_lora,
            settings.encoder_lora,
            seed=seed,
            second=second,
            precision=dtype,
        )
    model.precision = dtype
    model.notes = weights.notes + model.notes
    model.stackable &= device_map is None
    return model


def _beside_llm(kind: Any, config: Any, source: str) -> list[str]:
    """The modules outside the LLM: encoders, projectors and the output layer."""
    with torch.device("meta"):
        shape = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    family = family_of(shape, source)
    parts = [path for tower in family.towers.values() for path in (tower.path, *tower.projector)]
    return outside(shape, family.llm, parts)


def _projectors(model: Any, source: str, modalities: Sequence[str]) -> list[nn.Module]:
    """The projectors of these modalities, which are trained."""
    towers = family_of(model, source).towers
    return [model.get_submodule(path) for m in modalities if m in towers for path in towers[m].projector]


def _config(source: str) -> Any:
    from transformers import AutoConfig

    try:
        with quiet_hf():
            return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except FAULTS as error:
        raise ExperimentError(
            f"model.native: {source} is neither a folder nor a Hugging Face id of a model that transformers knows: "
            f"{reason(error)}"
        ) from error


def _model_class(config: Any, source: str) -> Any:
    """The class of the whole model. Raises ExperimentError for a model without an encoder."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    family = FAMILIES.get(config.model_type)
    if family is not None and family.model_class is not None:
        return getattr(transformers, family.model_class)
    heard = getattr(config, "audio_config", None) is not None
    known = auto.MODEL_FOR_MULTIMODAL_LM_MAPPING
    if type(config) in known and not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForMultimodalLM
    if heard and type(config) in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)]
    if type(config) in auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ExperimentError(
            f"model.native: {source} is a language model of the family {config.model_type}, which reads text only; "
            "name it as model.llm, beside a model.encoder"
        )
    raise ExperimentError(
        f"model.native: {source} is of the family {config.model_type}, which is no multimodal language model; "
        f"families with a table row: {', '.join(FAMILIES)}"
    )
