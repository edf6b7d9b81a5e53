"""Small TFLite models, written with the schema that LiteRT comes with, and LiteRT to run them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7}
TYPES |= {"int8": 9}


@dataclass
class Model:
    """A TFLite model under construction; tensors are known by the index that `tensor` returns."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._buffer(None)

    def _buffer(self, data: bytes | None) -> int:
        from ai_edge_litert import schema_py_generated as schema

        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(data, np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def tensor(
        self,
        shape: Any,
        dtype: str = "float32",
        *,
        scale: Any = None,
        zero: int = 0,
        axis: int = 0,
        data: Array | None = None,
        name: str = "",
        signature: Any = None,
        variable: bool = False,
    ) -> int:
        """Adds a tensor, a constant if it has `data`."""
        from ai_edge_litert import schema_py_generated as schema

        t = schema.TensorT()
        t.name = name or f"t{len(self.tensors)}"
        t.shape = [int(d) for d in shape]
        t.shapeSignature = signature
        t.type = TYPES[dtype]
        t.isVariable = variable
        t.buffer = 0 if data is None else self._buffer(np.ascontiguousarray(data).tobytes())
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.full(q.scale.shape, zero, np.int64)
            q.quantizedDimension = axis
            t.quantization = q
        self.tensors.append(t)
        return len(self.tensors) - 1

    def input(self, shape: Any, dtype: str = "float32", **options: Any) -> int:
        """Adds an input."""
        index = self.tensor(shape, dtype, **options)
        self.inputs.append(index)
        return index

    def constant(self, data: Array, **options: Any) -> int:
        """Adds a constant."""
        data = np.asarray(data)
        return self.tensor(data.shape, data.dtype.name, data=data, **options)

    def op(
        self,
        name: str,
        inputs: Any,
        outputs: Any,
        options: str = "",
        *,
        custom: str = "",
        intermediates: Any = None,
        **fields: Any,
    ) -> None:
        """Adds an operator; `options` is the schema's table, `fields` its fields."""
        from ai_edge_litert import schema_py_generated as schema

        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.customCode = custom or None
        code.version = 1
        self.codes.append(code)
        o = schema.OperatorT()
        o.opcodeIndex = len(self.codes) - 1
        o.inputs, o.outputs, o.intermediates = list(inputs), list(outputs), intermediates
        if options:
            o.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            o.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in fields.items():
                assert hasattr(o.builtinOptions, key), key
                setattr(o.builtinOptions, key, value)
        self.operators.append(o)

    def bytes(self, *outputs: int) -> bytes:
        """The file."""
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs, graph.outputs = self.inputs, list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = self.codes
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def litert(model: bytes, *inputs: Array, reference: bool = False) -> list[Array]:
    """Outputs of LiteRT for samples stacked in dimension 0, by its default or reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = OpResolverType
    kind = kinds.BUILTIN_REF if reference else kinds.AUTO
    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=kind, num_threads=1
    )
    interpreter.allocate_tensors()
    places, results = interpreter.get_input_details(), interpreter.get_output_details()
    found: list[list[Array]] = [[] for _ in results]
    for sample in zip(*inputs, strict=True):
        interpreter.reset_all_variables()
        for place, value in zip(places, sample, strict=True):
            interpreter.set_tensor(place["index"], value.reshape(place["shape"]))
        interpreter.invoke()
        for made, place in zip(found, results, strict=True):
            made.append(interpreter.get_tensor(place["index"]).copy())
    return [np.concatenate(made) for made in found]
