"""TFLite files → plain records. Everything here expects a hostile file.

The flatbuffer is walked once, along the schema: offsets can make a file lie, but not loop. The
generated classes of the `tflite` package do the reading; what they raise becomes a ModelError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import MissingDependency, ModelError, UnsupportedError, WeftError
from weft.frontend.onnx_read import ELEMENT_LIMIT
from weft.graph import Array, Shape

IDENTIFIER = b"TFL3"
COUNT_LIMIT = 1 << 16  # tensors, operators, buffers of a model; published ones have a tenth
RANK_LIMIT = 8
PORT_LIMIT = 1 << 12  # inputs or outputs of an operator
DTYPES = {
    **{0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool"},
    **{7: "int16", 9: "int8", 10: "float64", 15: "uint32", 16: "uint16"},
}


@dataclass(frozen=True)
class TfTensor:
    """A tensor: `data` if constant; `scale` and `zero` (equally long, or empty) along `axis`."""

    index: int
    name: str
    shape: Shape | None
    signature: Shape
    dtype: str
    data: Array | None
    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int
    variable: bool

    def __str__(self) -> str:
        return f"tensor {self.index} {self.name!r}"


@dataclass(frozen=True)
class TfOp:
    """An operator; `options` is the table of its attributes, one of defaults where it has none."""

    index: int
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    table: Any = field(repr=False)
    kind: int = 0

    def options(self, name: str) -> Any:
        """The attributes as schema table `name`; raises ModelError if they are of another one."""
        tflite = import_tflite()
        if self.kind and self.kind != getattr(tflite.BuiltinOptions, name):
            raise ModelError(f"{self} has attributes of type {self.kind}, not {name}")
        made = getattr(tflite, name)()
        if self.table is None or not self.kind:
            made.Init(b"\x04\x00\x04\x00\x04\x00\x00\x00", 4)  # an empty table: all defaults
        else:
            made.Init(self.table.Bytes, self.table.Pos)
        return made

    def __str__(self) -> str:
        return f"operator {self.index} {self.op}"


@dataclass(frozen=True)
class TfModel:
    """The main graph of a file."""

    tensors: tuple[TfTensor, ...]
    ops: tuple[TfOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@cache
def import_tflite() -> ModuleType:
    """The tflite package; raises MissingDependency if it is not installed."""
    try:
        import tflite
    except ImportError as error:
        raise MissingDependency(
            "reading TFLite models needs the tflite package: pip install 'weft[compile]'"
        ) from error
    module: ModuleType = tflite
    return module


def is_tflite(source: str | Path | bytes) -> bool:
    """Whether a file, or its bytes, carries TFLite's identifier."""
    if isinstance(source, bytes):
        return source[4:8] == IDENTIFIER
    try:
        with Path(source).open("rb") as file:
            return file.read(8)[4:8] == IDENTIFIER
    except OSError:
        return False


def read_model(source: str | Path | bytes) -> TfModel:
    """The records of a file or its bytes. Raises ModelError for anything that is not TFLite."""
    tflite = import_tflite()
    if not isinstance(source, bytes):
        path = Path(source)
        try:
            source = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from None
    if not is_tflite(source):
        raise ModelError(
            f"not a TFLite model: bytes 4 to 7 are {source[4:8]!r}, not {IDENTIFIER!r}"
        )
    try:
        return _Reader(tflite, source).model()
    except WeftError:
        raise
    except Exception as error:  # offsets beyond the file, text that is none, ...
        raise ModelError(
            f"damaged TFLite file ({type(error).__name__}: {error}): copy it again, or convert the "
            "model anew"
        ) from None


class _Reader:
    """Walks one file."""

    def __init__(self, tflite: ModuleType, data: bytes) -> None:
        self.tflite, self.data = tflite, data
        self.root = tflite.Model.GetRootAs(data, 0)
        self.names = {
            value: name
            for name, value in vars(tflite.BuiltinOperator).items()
            if isinstance(value, int)
        }

    def model(self) -> TfModel:
        root = self.root
        if root.Version() != 3:
            raise UnsupportedError(
                f"the file has schema version {root.Version()}, weft reads 3: convert the model "
                "with a newer TensorFlow"
            )
        graphs = self.count(root.SubgraphsLength(), "subgraphs")
        if graphs == 0:
            raise ModelError("the file has no graph")
        graph = root.Subgraphs(0)
        self.count(root.BuffersLength(), "buffers")
        self.codes = [
            self.code(root.OperatorCodes(i))
            for i in range(self.count(root.OperatorCodesLength(), "operator codes"))
        ]
        number = self.count(graph.TensorsLength(), "tensors")
        tensors = tuple(self.tensor(i, graph.Tensors(i)) for i in range(number))
        ops = tuple(
            self.op(i, graph.Operators(i), number)
            for i in range(self.count(graph.OperatorsLength(), "operators"))
        )
        inputs = self.ports(graph.InputsLength(), graph.InputsAsNumpy, number, "the graph's inputs")
        outputs = self.ports(
            graph.OutputsLength(), graph.OutputsAsNumpy, number, "the graph's outputs"
        )
        if -1 in (*inputs, *outputs):
            raise ModelError("an input or output of the graph is no tensor")
        return TfModel(tensors, ops, inputs, outputs)

    def count(self, length: int, what: str) -> int:
        """`length`; raises ModelError if it is absurd."""
        if length > COUNT_LIMIT or length * 4 > len(self.data):
            raise ModelError(
                f"the file of {len(self.data)} bytes claims {length} {what}; the limit is "
                f"{min(COUNT_LIMIT, len(self.data) // 4)}"
            )
        return length

    def code(self, code: Any) -> str:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self.names.get(number, f"number {number}")
        if name == "CUSTOM":
            custom = (code.CustomCode() or b"").decode("utf-8", "replace")
            return f"custom operator {custom!r}"
        return str(name)

    def tensor(self, index: int, t: Any) -> TfTensor:
        name = (t.Name() or b"").decode("utf-8", "replace")
        what = f"tensor {index} {name!r}"
        shape = self.numbers(t.ShapeLength(), t.ShapeAsNumpy, RANK_LIMIT, f"{what}: dimensions")
        signature = self.numbers(
            t.ShapeSignatureLength(), t.ShapeSignatureAsNumpy, RANK_LIMIT, f"{what}: dimensions"
        )
        if t.Type() not in DTYPES:
            raise UnsupportedError(
                f"{what} has element type {t.Type()}; weft reads {', '.join(DTYPES.values())}"
            )
        if any(d < 0 for d in shape) or math.prod(shape) > ELEMENT_LIMIT:
            raise ModelError(
                f"{what} has shape {shape}; dimensions must be positive and their product at most "
                f"{ELEMENT_LIMIT}"
            )
        if t.Sparsity() is not None:
            raise UnsupportedError(f"{what} is stored sparse; convert the model without sparsity")
        dtype = DTYPES[t.Type()]
        data = self.content(t.Buffer(), shape, dtype, what)
        if data is not None and t.IsVariable():
            raise UnsupportedError(f"{what} is a variable that starts with values")
        scale, zero, axis = self.quantization(t.Quantization(), what)
        known = None if data is None and not shape and not t.HasRank() else shape
        return TfTensor(
            index, name, known, signature, dtype, data, scale, zero, axis, bool(t.IsVariable())
        )

    def content(self, number: int, shape: Shape, dtype: str, what: str) -> Array | None:
        """The constant in a buffer, without a copy; None for an empty one."""
        if number >= self.root.BuffersLength():
            raise ModelError(
                f"{what} lies in buffer {number}, the file has {self.root.BuffersLength()}"
            )
        buffer = self.root.Buffers(number)
        start, size = buffer.Offset(), buffer.Size()
        if start > 1:  # large files keep their weights behind the flatbuffer
            if start + size > len(self.data):
                raise ModelError(
                    f"{what}: bytes {start}..{start + size} of a file of {len(self.data)}"
                )
            raw = np.frombuffer(self.data, np.uint8, size, start)
        elif not buffer.DataLength():
            return None
        else:
            raw = buffer.DataAsNumpy()
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        if raw.size != expected:
            raise ModelError(
                f"{what} of shape {shape}, {dtype}, needs {expected} bytes, the file has {raw.size}"
            )
        return np.asarray(raw.view(np.dtype(dtype).newbyteorder("<"))).reshape(shape)

    def quantization(self, q: Any, what: str) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        none = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        if q is None or not q.ScaleLength():
            return none
        if q.DetailsType():
            raise UnsupportedError(f"{what} has a quantization of its own kind; weft reads affine")
        scale = np.asarray(q.ScaleAsNumpy(), np.float32)
        zero = np.zeros(scale.shape, np.int64)
        if q.ZeroPointLength():
            zero = np.asarray(q.ZeroPointAsNumpy(), np.int64)
        if zero.size == 1:
            zero = np.broadcast_to(zero, scale.shape)
        if zero.shape != scale.shape:
            raise ModelError(f"{what} has {scale.size} scales and {zero.size} zero points")
        return scale, zero, int(q.QuantizedDimension())

    def op(self, index: int, o: Any, tensors: int) -> TfOp:
        if o.OpcodeIndex() >= len(self.codes):
            raise ModelError(f"operator {index} is of kind {o.OpcodeIndex()} of {len(self.codes)}")
        name = self.codes[o.OpcodeIndex()]
        what = f"operator {index} {name}"
        inputs = self.ports(o.InputsLength(), o.InputsAsNumpy, tensors, f"{what}: inputs")
        outputs = self.ports(o.OutputsLength(), o.OutputsAsNumpy, tensors, f"{what}: outputs")
        between = self.ports(
            o.IntermediatesLength(), o.IntermediatesAsNumpy, tensors, f"{what}: intermediates"
        )
        table = o.BuiltinOptions()
        return TfOp(index, name, inputs, outputs, between, table, int(o.BuiltinOptionsType()))

    def ports(self, length: int, values: Any, tensors: int, what: str) -> tuple[int, ...]:
        """Tensor indices; -1 is an absent optional one."""
        found = self.numbers(length, values, PORT_LIMIT, what)
        wrong = [i for i in found if not -1 <= i < tensors]
        if wrong:
            raise ModelError(f"{what} name tensor {wrong[0]}; the file has {tensors}")
        return found

    def numbers(self, length: int, values: Any, limit: int, what: str) -> tuple[int, ...]:
        if length > limit:
            raise ModelError(f"{what}: {length} of them, the limit is {limit}")
        return tuple(int(v) for v in values()) if length else ()
