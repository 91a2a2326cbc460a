"""Reading frozen weights: in the dtype in which they are then used, on their device, quantised where a run asks for it.

A checkpoint is memory-mapped. Weights that keep their dtype are used where they lie in the file; others are cast one by one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.load import choose_device
from fedloom.models.precision import DTYPES, Precision, settle
from fedloom.models.quantize import Quantization, is_quantised, make_repeatable
from fedloom.models.settings import Foundation

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]


def nothing(model: Any) -> Collection[nn.Module]:
    """No trained modules."""
    return ()


@dataclass
class Weights:
    """The dtype and place of a run's frozen weights; `notes` says what was done with them.

    `device_map`: how accelerate spreads the LLM over several GPUs.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    precision: Precision = "float32"
    quantization: Quantization | None = None
    device_map: DeviceMap | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        settings: Foundation,
        device: str,
        precision: Precision = "float32",
        device_map: DeviceMap | None = None,
    ) -> "Weights":
        """The settings of a run. Raises ExperimentError for a device or a library that this machine lacks."""
        if device_map is not None:
            _check_devices(device, device_map)
        where = choose_device(device)
        bits = settings.quantize
        quantization = None if bits is None else Quantization.chosen(bits, settings.quantizer, where)
        return cls(where, precision, quantization, device_map)

    def read(
        self,
        kind: Any,
        source: str | Path,
        name: str,
        *,
        llm: bool = False,
        whole: Sequence[str] | None = None,
        trained: Callable[[Any], Collection[nn.Module]] = nothing,
        **options: Any,
    ) -> tuple[Any, Mapping[str, Any]]:
        """(model of class `kind`, transformers' loading report); reads no pickle and runs no remote code.

        `name`: the setting, for notes and errors. `llm`: whether the model is, or holds, the LLM that is quantised and spread;
        `whole` names modules that are not quantised. `trained` gives the modules that become float32.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        stored = getattr(config, "quantization_config", None)
        quantization = self.quantization if llm else None
        if stored is not None and quantization is not None:
            raise ExperimentError(
                f"{name}: {source} is quantised already ({_method(stored)}); leave model.quantize out"
            )
        # Without a change of dtype a tensor is a view of the file; a float32 run takes every digit that the file has.
        options["dtype"] = "auto" if self.precision != "float32" or stored is not None else torch.float32
        own = config.dtype or config.get_text_config().dtype
        if quantization is not None:
            options["dtype"] = self.dtype_of(own)
            options["quantization_config"] = quantization.config(options["dtype"], whole)
        placed = self._place(options, llm=llm, quantised=stored is not None or quantization is not None)
        with quiet_hf():
            model, report = kind.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
            )
        if llm and self.device_map is not None:
            self._note_devices(name, model.hf_device_map)
        dtype = self.dtype_of(model.dtype)
        settle(
            model,
            dtype,
            None if placed else self.device,
            {id(p) for m in trained(model) for p in m.parameters()},
        )
        make_repeatable(model, dtype)
        self._note_dtype(name, own or model.dtype, dtype)
        self._note_quantised(name, source, model, quantization)
        return model, report

    def take(self, module: nn.Module, name: str) -> None:
        """Cast and move a module of another format, in whose dtype its first parameter is."""
        own = next(module.parameters()).dtype
        settle(module, self.dtype_of(own), self.device)
        self._note_dtype(name, own, self.dtype_of(own))

    def dtype_of(self, own: torch.dtype | None) -> torch.dtype:
        """The dtype of weights that a checkpoint keeps in `own`."""
        half = own in (torch.bfloat16, torch.float16)
        return DTYPES.get(self.precision, torch.bfloat16 if half else torch.float32)

    def _place(self, options: dict[str, Any], *, llm: bool, quantised: bool) -> bool:
        """Let transformers place the weights where it can; returns whether it does."""
        if llm and self.device_map is not None:
            options["device_map"] = self.device_map
        elif quantised or (self.device.type != "cpu" and find_spec("accelerate") is not None):
            options["device_map"] = {"": self.device}
        return "device_map" in options

    def _note_devices(self, name: str, devices: Mapping[str, Any]) -> None:
        """Say how many devices hold a model. Raises ExperimentError where some of it did not fit on a GPU."""
        if left := sorted({str(d) for d in devices.values()} & {"cpu", "disk"}):
            raise ExperimentError(
                f"engine.device_map: {name} does not fit on the GPUs, and a part of it would lie on {' and '.join(left)}; "
                "take more GPUs, or model.quantize"
            )
        count = len(set(devices.values()))
        self.notes.append(f"{name} is spread over {count} devices; clients train one after another")

    def _note_quantised(
        self, name: str, source: str | Path, model: nn.Module, quantization: Quantization | None
    ) -> None:
        """Say what is quantised. Raises ExperimentError where nothing is and something should be."""
        count = sum(map(is_quantised, model.modules()))
        if quantization is not None and not count:
            raise ExperimentError(
                f"model.quantize: {quantization.library} finds no layer of {name} {source} that it could quantise; leave it out"
            )
        if quantization is not None:
            self.notes.append(f"{name}: {count} layers with {quantization.described(self.device)}")
        elif count:
            self.notes.append(f"{name}: {count} layers are quantised in the checkpoint")

    def _note_dtype(self, name: str, own: torch.dtype, dtype: torch.dtype) -> None:
        """Say what `auto` means for a checkpoint."""
        if self.precision != "auto":
            return
        text = f"{name} is kept and computed in {str(dtype).removeprefix('torch.')}"
        if own == torch.float16:
            text += ", which keeps 8 of the 11 binary digits of its float16 weights"
        self.notes.append(text)


def check_complete(report: Mapping[str, Any], name: str, source: str | Path) -> None:
    """Raise ExperimentError for a checkpoint that lacks tensors: transformers would draw them at random."""
    if missing := sorted(map(str, report["missing_keys"])):
        raise ExperimentError(
            f"{name}: {source} lacks {len(missing)} of its model's tensors, such as {missing[0]}"
        )


def _method(stored: Any) -> str:
    method = (
        stored.get("quant_method") if isinstance(stored, Mapping) else getattr(stored, "quant_method", None)
    )
    return str(getattr(method, "value", method) or "by an unknown method")


def _check_devices(device: str, device_map: str) -> None:
    """Raise ExperimentError where there are not several GPUs to spread a model over."""
    count = torch.cuda.device_count()
    if count < 2 or device not in ("auto", "cuda"):
        here = f"this machine has {count or 'none'}" if count < 2 else f"engine.device is {device}"
        raise ExperimentError(
            f"engine.device_map: {device_map} spreads the LLM over several GPUs, and {here}; leave it out"
        )
    if find_spec("accelerate") is None:
        raise ExperimentError(
            "engine.device_map needs accelerate, which is not installed: pip install 'fedloom[quantize]'"
        )
