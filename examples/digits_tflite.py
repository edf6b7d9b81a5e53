"""Writes the demonstration's network as an int8 TFLite file, host/weft/models/digits_int8.tflite.

weft quantizes the ONNX model; the codes and scales go into a TFLite file, channels last, through
the schema that comes with LiteRT (pip install ai-edge-litert).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from weft.compiler import calibration_arrays, load_model
from weft.demo import MODELS, load_data
from weft.passes.quantize import quantize

INT32, INT8 = 2, 9
RELU = 1


class Writer:
    """A TFLite graph of one chain of operators."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(self, name: str, shape: Any, quant: Any = None, data: Any = None, axis=0) -> int:
        """Adds a tensor, a constant if it has data; its number."""
        t = schema.TensorT()
        t.name, t.shape = name, [int(d) for d in shape]
        t.type = INT32 if data is not None and data.dtype == np.int32 else INT8
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            t.buffer = len(self.buffers) - 1
        if quant is not None:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale = np.atleast_1d(np.asarray(quant.scale, np.float32))
            t.quantization.zeroPoint = np.full(np.size(quant.scale), quant.zero_point, np.int64)
            t.quantization.quantizedDimension = axis
        self.tensors.append(t)
        return len(self.tensors) - 1

    def op(self, name: str, inputs: list[int], output: int, kind: str, **fields: Any) -> None:
        """Adds an operator with its options."""
        code, o = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = {"CONV_2D": 3, "FULLY_CONNECTED": 4, "MAX_POOL_2D": 2}.get(name, 1)
        self.codes.append(code)
        o.opcodeIndex, o.inputs, o.outputs = len(self.codes) - 1, inputs, [output]
        o.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        o.builtinOptions = getattr(schema, f"{kind}T")()
        for key, value in fields.items():
            setattr(o.builtinOptions, key, value)
        self.operators.append(o)

    def file(self, first: int, last: int) -> bytes:
        """The bytes of the file."""
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "digits"
        graph.inputs, graph.outputs = [first], [last]
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = self.codes
        builder = flatbuffers.Builder(1 << 14)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def digits() -> bytes:
    """The file of the digits network."""
    graph = load_model(MODELS / "digits.onnx")
    graph = quantize(graph, calibration_arrays(graph, load_data().calibration))
    w = Writer()
    first = head = w.tensor("image", (1, 8, 8, 1), graph["image"].quant)
    stride = {"strideW": 1, "strideH": 1, "padding": 0}
    for node in graph:
        out = graph[node.outputs[0]]
        shape = (1, *out.shape[2:], out.shape[1]) if len(out.shape) == 4 else out.shape
        made = w.tensor(out.name, shape, out.quant)
        if node.op == "MaxPool":
            sizes = {"filterWidth": 2, "filterHeight": 2, "strideW": 2, "strideH": 2, "padding": 1}
            w.op("MAX_POOL_2D", [head], made, "Pool2DOptions", **sizes)
        elif node.op == "Reshape":
            target = w.tensor("shape", (2,), None, np.array([-1, 64], np.int32))
            w.op("RESHAPE", [head, target], made, "ReshapeOptions")
        else:
            weights, bias = (graph[n] for n in node.inputs[1:])
            b = w.tensor(bias.name, bias.shape, bias.quant, bias.data)
            if node.op == "Conv":
                data = weights.data.transpose(0, 2, 3, 1)
                options = {**stride, "dilationWFactor": 1, "dilationHFactor": 1}
                kind, operator = "Conv2DOptions", "CONV_2D"
                options["fusedActivationFunction"] = RELU
            else:  # rows of a flattened map, channels last now
                data = weights.data.T.reshape(10, 16, 2, 2).transpose(0, 2, 3, 1).reshape(10, 64)
                kind, operator, options = "FullyConnectedOptions", "FULLY_CONNECTED", {}
            k = w.tensor(weights.name, data.shape, weights.quant, data)
            w.op(operator, [head, k, b], made, kind, **options)
        head = made
    return w.file(first, head)


def main(arguments: list[str]) -> None:
    """Writes the file to the given path, or where weft keeps its models."""
    path = Path(arguments[0]) if arguments else MODELS / "digits_int8.tflite"
    path.write_bytes(digits())
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
