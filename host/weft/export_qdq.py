"""A quantized graph as standard ONNX with QuantizeLinear and DequantizeLinear, opset 21.

Every tensor that carries codes is written as a QuantizeLinear/DequantizeLinear pair, weights and
biases as the integers they are. The batch dimension is open. int8 codes are moved by 128 to uint8:
onnxruntime multiplies uint8 by uint8 exactly on every processor, but lets products of uint8 and
int8 weights saturate at 16 bits on those without VNNI.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weft import export_transformer
from weft.activation import INTEGERS, REAL, WIDE, limits
from weft.errors import ProgramError, UnsupportedError, WeftError
from weft.fallback import import_onnx, node_proto
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.program import Program
from weft.quant_ops import output_quant

SHIFT = 128
OPSET = 21  # the first whose DequantizeLinear takes int16
OWN = (
    *("ConvTranspose", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("GlobalMaxPool", "Concat", "DepthToSpace", "Transpose", "Gather", "Softmax", "LogSoftmax"),
)
PLAIN = ("elementwise", "binary")
NOT_ONNX = (
    *("activation", "requant", "notes", "weight_bits", "weight_factor", "exact_sums"),
    *("kernels", "quants", "multiplier", "roles"),
)


def export_qdq(model: Graph | Program | str | Path, path: str | Path) -> None:
    """Writes the quantized network of a graph, a program or a program's file to `path`.

    Raises UnsupportedError for an operator that ONNX has no form for, ProgramError for a program
    without its graph or with a damaged one, WeftError where `path` can't be written.
    """
    proto = to_onnx(model) if isinstance(model, Graph) else _of_program(model)
    from weft.program_file import replacing

    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def _of_program(program: Program | str | Path) -> Any:
    if not isinstance(program, Program):
        try:
            return _of_program(Program.load(program))
        except ProgramError as error:
            name = str(program)
            raise ProgramError(
                str(error) if str(error).startswith(name) else f"{name}: {error}"
            ) from None
    graph = program.graph()
    checker = import_onnx().checker.ValidationError
    try:
        return to_onnx(graph)
    except UnsupportedError:
        raise
    except (WeftError, ArithmeticError, AssertionError, AttributeError, LookupError) as error:
        raise ProgramError(f"damaged graph ({type(error).__name__}: {error})") from None
    except (TypeError, ValueError, checker) as error:
        raise ProgramError(f"damaged graph ({type(error).__name__}: {error})") from None


def to_onnx(graph: Graph) -> Any:
    """The ModelProto of a quantized graph."""
    onnx = import_onnx()
    writer = _Writer(graph, onnx)
    for name in graph.inputs:
        writer.round(name, name)
    for node in graph:
        writer.add(node)
    infos = [writer.info(name) for name in graph.inputs]
    outputs = [writer.info(name) for name in graph.outputs]
    for name in graph.outputs:
        if writer.real[name] != name:
            writer.node("Identity", [writer.real[name]], name)
    proto = onnx.helper.make_graph(writer.nodes, graph.name, infos, outputs, writer.constants)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(proto, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


class _Writer:
    """ONNX nodes as they come; `real` maps a tensor to the name of its real values."""

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.onnx = graph, onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.real: dict[str, str] = {}
        self._count = 0

    def info(self, name: str) -> Any:
        """Name, type and shape, the batch open."""
        tensor = self.graph[name]
        shape = ["N" if i == 0 else d for i, d in enumerate(tensor.shape)]
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def fresh(self) -> str:
        """A name that the graph does not have."""
        while True:
            self._count += 1
            if f"qdq.{self._count}" not in self.graph.tensors:
                return f"qdq.{self._count}"

    def constant(self, value: Any, dtype: Any) -> str:
        """Adds an initializer."""
        name = self.fresh()
        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attrs: Any) -> str:
        """Adds an ONNX node; its output."""
        output = output or self.fresh()
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], output, **attrs))
        return output

    def round(self, name: str, value: str) -> None:
        """`value` are the real values of tensor `name`: to its codes and back, if it has some."""
        quant = self.graph[name].quant
        self.real[name] = value
        if quant is None:
            return
        output = name if name in self.graph.outputs and value != name else ""
        if quant.rows:
            raise UnsupportedError(
                f"tensor {name!r} has ranges per row, which standard ONNX has no form for: leave "
                "row_ranges out"
            )
        if quant.heads:
            raise UnsupportedError(
                f"tensor {name!r} has ranges per token, which standard ONNX has no form for: leave "
                "token_ranges out"
            )
        if quant.format == REAL:
            half = self.node("Cast", [value], to=int(self.onnx.TensorProto.BFLOAT16))
            self.real[name] = self.node("Cast", [half], output, to=int(self.onnx.TensorProto.FLOAT))
            return
        if quant.format not in (*INTEGERS, WIDE):
            raise UnsupportedError(
                f"tensor {name!r} has codes of {quant.format}, which standard ONNX has no form "
                "for; quantize activations to int8 or intN"
            )
        low, high = limits(quant.format)
        if high - low < 255:  # saturates earlier than the byte does
            bounds = quant.dequantize(np.array([low, high]))
            value = self.clip(value, float(bounds[0]), float(bounds[1]))
        scale = self.constant(np.asarray(quant.scale), np.float32)
        wide = quant.format == WIDE
        moved = quant.zero_point + (0 if wide else SHIFT)
        zero = self.constant(np.asarray(moved), np.int16 if wide else np.uint8)
        codes = self.node("QuantizeLinear", [value, scale, zero])
        self.real[name] = self.node("DequantizeLinear", [codes, scale, zero], output)

    def operand(self, name: str) -> str:
        """The name of a tensor's real values; constants are written when they are first read."""
        if not name or name in self.real:
            return self.real.get(name, "")
        tensor = self.graph[name]
        assert tensor.data is not None, f"{name} is written before it is read"
        if tensor.quant is None:
            self.real[name] = self.constant(tensor.data, tensor.data.dtype)
        else:
            self.real[name] = self._integers(tensor, tensor.data, tensor.quant)
        return self.real[name]

    def _integers(self, tensor: Tensor, data: Array, quant: Quant) -> str:
        if data.dtype.kind == "f":  # bf16, MX: what the array multiplies are real numbers
            # onnxruntime makes int8 of constant float weights between quantizers, not of products
            real = self.constant(quant.dequantize(data), np.float32)
            one = [self.constant(1, np.uint8), self.constant(1, np.float32)]
            return self.node("Mul", [real, self.node("DequantizeLinear", one)])
        zero = quant.zero_point
        if data.dtype == np.int8:
            data, zero = (data.astype(np.int16) + SHIFT).astype(np.uint8), zero + SHIFT
        codes = self.constant(data, data.dtype)
        scale = self.constant(np.asarray(quant.scale), np.float32)
        axis: dict[str, Any] = {}
        if quant.axis is not None and np.ndim(quant.scale):
            axis = {"axis": quant.axis}
        inputs = [codes, scale]
        if zero:
            shape = np.shape(quant.scale) if axis else ()
            inputs.append(self.constant(np.full(shape, zero), data.dtype))
        return self.node("DequantizeLinear", inputs, **axis)

    def add(self, node: Node) -> None:
        """Writes one node of the graph, its activation and its rounding."""
        if "opset" in node.attrs:
            self._foreign(node)
            return
        y = self._operator(node)
        activation = node.attrs.get("activation")
        if activation:
            y = self._activation(node, y, activation)
        self.round(node.outputs[0], y)

    def _foreign(self, node: Node) -> None:
        proto = node_proto(node, [self.operand(n) for n in node.inputs])
        proto.name = node.name
        names = [self.fresh() if n else "" for n in node.outputs]
        del proto.output[:]
        proto.output.extend(names)
        self.nodes.append(proto)
        for name, value in zip(node.outputs, names, strict=True):
            if name:
                self.round(name, value)

    def _operator(self, node: Node) -> str:
        from weft.ops import spec_of

        inputs = [self.operand(n) for n in node.inputs]
        attrs = {k: v for k, v in node.attrs.items() if k not in NOT_ONNX and v is not None}
        if len([n for n in node.outputs if n]) > 1:
            raise self.unsupported(node)
        special = _SPECIAL.get(node.op)
        if special is not None:
            return special(self, node, inputs, attrs)
        if node.op in OWN:
            if node.op == "MaxPool":
                attrs.pop("count_include_pad", None)
            if set(attrs.get("dilations", (0,))) == {1}:  # QLinearAveragePool has none
                del attrs["dilations"]
            return self.node(node.op, inputs, **{k: v for k, v in attrs.items() if v != ()})
        if spec_of(node).category in PLAIN and node.op not in ("Cast", "Where"):
            return self.node(node.op, inputs, **attrs)
        raise self.unsupported(node)

    def unsupported(self, node: Node) -> UnsupportedError:
        """The error for a node that ONNX has no form for."""
        return UnsupportedError(
            f"{node.op} {node.name!r} can't be written as standard ONNX; compile the model and "
            "run the program instead"
        )

    def _activation(self, node: Node, y: str, activation: tuple[Any, ...]) -> str:
        kind = activation[0]
        if kind == "Relu":
            return self.node("Relu", [y])
        if kind == "LeakyRelu":
            return self.node("LeakyRelu", [y], alpha=float(activation[1]))
        if kind == "PRelu":
            slopes = np.asarray(activation[1], np.float32)
            rank = len(self.graph[node.outputs[0]].shape)
            after = 0 if node.op in ("Linear", "MatMul") else rank - 2
            slope = self.constant(slopes.reshape(-1, *[1] * after), np.float32)
            return self.node("PRelu", [y, slope])
        if kind == "Clip":
            return self.clip(y, activation[1], activation[2])
        raise self.unsupported(node)

    def clip(self, y: str, low: float | None, high: float | None) -> str:
        """A Clip; bounds of None or infinity are left out."""
        names = [
            "" if v is None or not np.isfinite(v) else self.constant(np.asarray(v), np.float32)
            for v in (low, high)
        ]
        return self.node("Clip", [y, *names])


def _linear(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    if len(w.graph[node.inputs[0]].shape) == 2:
        return w.node("Gemm", inputs)
    y = w.node("MatMul", inputs[:2])
    return w.node("Add", [y, inputs[2]]) if len(inputs) > 2 and inputs[2] else y


def _clip(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    return w.clip(inputs[0], attrs.get("min"), attrs.get("max"))


def _reshape(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    shape = [-1 if i == 0 and d == 1 else d for i, d in enumerate(attrs["shape"])]
    return w.node("Reshape", [inputs[0], w.constant(np.asarray(shape), np.int64)])


def _slice(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    parts = [
        w.constant(np.asarray(attrs[k]), np.int64) for k in ("starts", "ends", "axes", "steps")
    ]
    return w.node("Slice", [inputs[0], *parts])


def _pad(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    pads = w.constant(np.asarray(attrs["pads"]), np.int64)
    value = w.constant(np.asarray(attrs.get("value", 0.0)), np.float32)
    return w.node("Pad", [inputs[0], pads, value], mode=attrs.get("mode", "constant"))


def _resize(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    scales = w.constant(np.asarray(attrs["scales"]), np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.node("Resize", [inputs[0], "", scales], mode="nearest", **how)


def _reduce(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    axes = w.constant(np.asarray(attrs["axes"]), np.int64)
    return w.node(node.op, [inputs[0], axes], keepdims=int(attrs["keepdims"]))


def _softmax8(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    if attrs["beta"] != 1:
        inputs = [w.node("Mul", [inputs[0], w.constant(np.asarray(attrs["beta"]), np.float32)])]
    return w.node("Softmax", inputs[:1], axis=-1)


def _mean8(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    axes = w.constant(np.asarray(attrs["axes"]), np.int64)
    return w.node("ReduceMean", [inputs[0], axes], keepdims=int(attrs["keepdims"]))


def _average_pool(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """Means of TFLite round halves away from the code 0, QuantizeLinear to even: a nudge away.

    A mean of n codes that is no half lies at least 1/2n from one.
    """
    if set(attrs.get("dilations", (0,))) == {1}:  # QLinearAveragePool has none
        del attrs["dilations"]
    y = w.node("AveragePool", inputs, **attrs)
    quant = w.graph[node.outputs[0]].quant
    if "kernels" not in node.attrs or quant is None:
        return y
    step, count = float(quant.scale), int(np.prod(attrs["kernel_shape"]))
    zero = w.constant(np.asarray(-step * float(quant.zero_point)), np.float32)
    side = w.node("Sign", [w.node("Sub", [y, zero])])
    nudge = w.constant(np.asarray(step / (4 * count)), np.float32)
    return w.node("Add", [y, w.node("Mul", [side, nudge])])


def _lookup(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """Codes moved by 128 are places in the table."""
    scale, zero = attrs["input"]
    quant = [w.constant(np.asarray(scale), np.float32), w.constant(zero + SHIFT, np.uint8)]
    codes = w.node("QuantizeLinear", [inputs[0], *quant])
    places = w.node("Cast", [codes], to=int(w.onnx.TensorProto.INT32))
    scale, zero = attrs["output"]
    table = Quant(np.asarray(scale, np.float32), zero).dequantize(attrs["table"])
    return w.node("Gather", [w.constant(table, np.float32), places], axis=0)


def _arg(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    return w.node(node.op, inputs, axis=int(attrs["axes"][0]), keepdims=int(attrs["keepdims"]))


def _bipolar(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    zero = w.constant(np.asarray(0), np.float32)
    above = w.node("GreaterOrEqual", [inputs[0], zero])
    scale = np.asarray(attrs["scale"])
    return w.node("Where", [above, w.constant(scale, np.float32), w.constant(-scale, np.float32)])


def _quant(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """A quantizer that rounds to even is a Clip; the rounding follows, as for every tensor."""
    found = output_quant(node)
    if found is None or attrs["rounding"] not in ("ROUND", "HALF_EVEN") or attrs["bipolar"]:
        raise w.unsupported(node)
    quant, low, high = found
    bounds = quant.dequantize(np.array([low, high]))
    return w.clip(inputs[0], float(bounds[0]), float(bounds[1]))


def _refused(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    raise w.unsupported(node)


_SPECIAL = {
    **export_transformer.SPECIAL,
    "Linear": _linear,
    "Clip": _clip,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    **{f"Reduce{k}": _reduce for k in ("Max", "Mean", "Min", "Prod", "Sum")},
    "AveragePool": _average_pool,
    "Lookup": _lookup,
    "Mean8": _mean8,
    "Softmax8": _softmax8,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "BipolarQuant": _bipolar,
    "Quant": _quant,
    **dict.fromkeys(("Trunc", "FloatQuant", "MultiThreshold"), _refused),
}
