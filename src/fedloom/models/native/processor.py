"""The processor of a native checkpoint; without torchvision, its video part is left out."""

from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.native.families import Family

FAULTS = (
    OSError,
    SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    RuntimeError,
)
"""Errors of transformers for files that are missing, broken, or of another kind."""


def load_processor(source: str, config: Any, family: Family | None) -> Any:
    """The processor of a folder or Hugging Face id. Raises ExperimentError in one sentence."""
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        with quiet_hf():
            kind = _kind(source, config)
            if "video_processor" in kind.get_attributes() and not is_torchvision_available():
                return _still(kind, source, family)
            return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except FAULTS as error:
        raise ExperimentError(
            f"model.native: the processor of {source} cannot be loaded: {reason(error)}"
        ) from error


def _kind(source: str, config: Any) -> Any:
    """The processor's class: the checkpoint's own word for it, else that of the model's family."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.processing_utils import ProcessorMixin

    described, _ = ProcessorMixin.get_processor_dict(source)
    name = described.get("processor_class")
    kind = getattr(transformers, name, None) if name else None
    if kind is None and type(config) in PROCESSOR_MAPPING:
        kind = PROCESSOR_MAPPING[type(config)]
    if kind is None:
        raise ValueError("it has no processor_config.json, and its family no processor")
    return kind


def _still(kind: Any, source: str, family: Family | None) -> Any:
    """The processor for pictures and sounds: image processor on Pillow, feature extractor and tokenizer, no video."""
    import transformers
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    if family is not None and family.stand_in is not None:
        kind = getattr(transformers, family.stand_in)
    load: dict[str, Callable[[], Any]] = {
        "image_processor": lambda: AutoImageProcessor.from_pretrained(
            source, backend="pil", trust_remote_code=False
        ),
        "feature_extractor": lambda: AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False),
        "video_processor": lambda: None,
    }
    names = kind.get_attributes()
    if other := [n for n in names if n not in load]:
        raise ValueError(f"its part {other[0]} needs torchvision; pip install torchvision")
    described, _ = kind.get_processor_dict(source)
    check = kind.check_argument_for_proper_class

    def lenient(self: Any, name: str, part: Any) -> Any:
        return None if name == "video_processor" else check(self, name, part)

    own: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lenient})
    made = own.from_args_and_dict([load[n]() for n in names], described)
    made.__class__ = kind  # checked by now; a worker process knows this class
    return made
