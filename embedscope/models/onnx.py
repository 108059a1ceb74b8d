"""ONNX models through onnxruntime: `model.onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedscope.errors import InputError, explained
from embedscope.models._opening import sole_input
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.plugins import imported, recognises
from embedscope.store.limits import check_not_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

# Types of inputs as onnxruntime words them, as torch has them.
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@recognises(lambda path: path.suffix.lower() == ".onnx")
def onnx(location: str, /) -> Encoder:
    """Open an ONNX model; only its outputs can be read, not its inner layers.

    It runs on the CPU, and where the batch lies on a CUDA device and onnxruntime can, there. The file says nothing of
    preprocessing: images become float32 in [0, 1], --size, --mean and --std change that; a model that takes uint8 gets whole
    numbers 0 to 255. A model with a batch size of its own keeps it.

    Raises:
        InputError: the file is not there, onnxruntime cannot read it, it takes other than one input, or gives no numbers.
        MissingExtraError: onnxruntime is not installed.
    """
    library = imported("onnxruntime", extra="onnx")
    if not Path(location).is_file():
        raise InputError(f"no such file: {location}")
    check_not_empty(location)
    module = _Program(location)
    return Encoder(
        module=module.eval(),
        prepare=_Bytes(Pixels()) if module.dtype == torch.uint8 else Pixels(),
        spec=location,
        weights=Weights(origin="the ONNX model's own"),
        embedding="output",
        outputs=tuple(module.outputs),
        outputs_only=(
            "only the outputs of an ONNX model can be read; export it with the layer as an output, or give the Python model"
        ),
        batch_size=module.batch_size,
        device=None if _PROVIDERS["cuda"] in library.get_available_providers() else "cpu",
    )


@dataclass(frozen=True)
class _Bytes:
    """Images and arrays as uint8, 0 to 255, for a model that scales them itself."""

    pixels: Pixels

    @property
    def text(self) -> str:
        return f"{self.pixels.text}; times 255, rounded, as uint8"

    def __call__(self, items: Sequence[Any] | Tensor) -> Tensor:
        return (self.pixels(items) * 255).round().clamp(0, 255).to(torch.uint8)


class _Program(nn.Module):
    """An ONNX model as a module: (B, ...) -> its output, or name -> output where it has several.

    Sessions are made once a kind of device and process; a copy in another process makes its own.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._sessions: dict[str, Any] = {}
        session = self._session("cpu")
        inputs = {given.name: given for given in session.get_inputs()}
        self.input = sole_input(path, list(inputs))
        kind, shape = inputs[self.input].type, inputs[self.input].shape
        if kind not in _DTYPES:
            raise InputError(f"{path} takes {kind}, which no data source provides; expected one of {', '.join(_DTYPES)}")
        self.dtype = _DTYPES[kind]
        self.batch_size = shape[0] if shape and isinstance(shape[0], int) else None
        self.outputs = [given.name for given in session.get_outputs() if given.type in _DTYPES]
        if not self.outputs:
            raise InputError(
                f"{path} does not output a numeric tensor, but {', '.join(given.type for given in session.get_outputs())}"
            )

    def forward(self, batch: Tensor) -> Tensor | dict[str, Tensor]:
        if not self.dtype.is_floating_point and batch.is_floating_point():
            raise InputError(f"{self.path} takes whole numbers ({self.dtype}), but got {batch.dtype}".replace("torch.", ""))
        session = self._session(batch.device.type)
        values = batch.detach().to("cpu", self.dtype).numpy()
        with explained(
            f"{self.path} cannot be run on inputs {tuple(batch.shape)}", "`size=` resizes images to the size that it takes"
        ):
            found = session.run(self.outputs, {self.input: values})
        tensors = [torch.from_numpy(value).to(batch.device) for value in found]
        return tensors[0] if len(tensors) == 1 else dict(zip(self.outputs, tensors, strict=True))

    def _session(self, device: str) -> Any:
        """Return the session of a kind of device, made on first use."""
        if device not in self._sessions:
            library = imported("onnxruntime", extra="onnx")
            options = library.SessionOptions()
            options.log_severity_level = 3  # errors only
            options.intra_op_num_threads = torch.get_num_threads()
            providers = [_PROVIDERS[kind] for kind in dict.fromkeys((device, "cpu")) if kind in _PROVIDERS]
            with explained(
                f"{self.path} cannot be read as an ONNX model",
                "expected a complete .onnx file, with its .data file in the same folder",
            ):
                self._sessions[device] = library.InferenceSession(self.path, options, providers=providers)
        return self._sessions[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}
