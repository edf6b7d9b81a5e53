"""TFLite's functions of single elements, additions and the like, reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weft import tflite_kernels
from weft.errors import ModelError, UnsupportedError
from weft.frontend.tflite_build import Importer, needs
from weft.frontend.tflite_nodes import Handler, activation
from weft.frontend.tflite_read import TfOp
from weft.graph import Array, Quant
from weft.tflite_kernels import Kernel

ARITHMETIC = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul"}
OTHERS = {
    **{"DIV": "Div", "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow", "EQUAL": "Equal"},
    **{"GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less"},
    **{"LESS_EQUAL": "LessOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or"},
}
OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "ABS": ("Abs", {}),
    "CEIL": ("Ceil", {}),
    "COS": ("Cos", {}),
    "ELU": ("Elu", {}),
    "EXP": ("Exp", {}),
    "FLOOR": ("Floor", {}),
    "HARD_SWISH": ("HardSwish", {}),
    "LOG": ("Log", {}),
    "LOGICAL_NOT": ("Not", {}),
    "LOGISTIC": ("Sigmoid", {}),
    "NEG": ("Neg", {}),
    "RELU": ("Relu", {}),
    "RELU6": ("Clip", {"min": 0.0, "max": 6.0}),
    "RELU_0_TO_1": ("Clip", {"min": 0.0, "max": 1.0}),
    "RELU_N1_TO_1": ("Clip", {"min": -1.0, "max": 1.0}),
    "ROUND": ("Round", {}),
    "SIN": ("Sin", {}),
    "SQRT": ("Sqrt", {}),
    "TANH": ("Tanh", {}),
}
REDUCTIONS = {
    "MEAN": "ReduceMean",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
    "SUM": "ReduceSum",
}


def lookup(m: Importer, i: int, out: int, function: str, table: Array) -> None:
    """Writes tensor `out`: a table of codes applied to tensor `i`."""
    x = m.quant(i)
    assert x is not None, "the caller has checked it"
    first = m.has_first(i)
    name = m.first(i) if first else m.plain(i)
    y = m.quant(out)
    assert y is not None, "the caller has checked it"
    m.put(out, "Lookup", [name], _lookup_attrs(function, table, x, y), first=first)


def _lookup_attrs(function: str, table: Array, x: Quant, y: Quant) -> dict[str, Any]:
    return {
        "function": function,
        "table": np.asarray(table, np.int8),
        "input": (float(x.scale), x.zero_point),
        "output": (float(y.scale), y.zero_point),
    }


def unary(m: Importer, op: TfOp) -> None:
    """A function of one element: TFLite's table of it for codes, where its kernel is known."""
    needs(op, 1)
    x, out = op.inputs[0], op.outputs[0]
    found, target = m.quant(x), m.quant(out)
    kind, attrs = UNARY.get(op.op, ("LeakyRelu", {}))
    alpha = 0.0
    if op.op == "LEAKY_RELU":
        alpha = float(op.options("LeakyReluOptions").Alpha())
        attrs = {"alpha": alpha}
    elif op.op == "GELU":
        approximate = bool(op.options("GeluOptions").Approximate())
        kind, attrs = "Gelu", {"approximate": "tanh" if approximate else "none"}
    if found is not None and target is not None and op.op in tflite_kernels.FUNCTIONS:
        table = tflite_kernels.table(op.op, Kernel(m.kernels, found, target, alpha))
        lookup(m, x, out, op.op.lower(), table)
        return
    first = m.has_first(x)
    m.put(out, kind, [m.first(x) if first else m.plain(x)], dict(attrs), first=first)


def _chain(*steps: tuple[str, str]) -> Handler:
    """A function made of several: ("Mul", "x") squares, ("Reciprocal", "") follows."""

    def handler(m: Importer, op: TfOp) -> None:
        needs(op, 1)
        name = m.plain(op.inputs[0])
        for number, (kind, twice) in enumerate(steps):
            inputs = [name, name] if twice else [name]
            if number == len(steps) - 1:
                m.put(op.outputs[0], kind, inputs)
            else:
                name = m.b.emit(kind, inputs, name=m.name(op.outputs[0]))

    return handler


def binary(m: Importer, op: TfOp) -> None:
    """ADD, SUB, MUL and other operators of two tensors, with broadcasting."""
    needs(op, 2)
    a, b = op.inputs[:2]
    out = op.outputs[0]
    kind = ARITHMETIC.get(op.op) or OTHERS[op.op]
    attrs: dict[str, Any] = {}
    if op.op in OPTIONS:
        attrs = activation(op, op.options(OPTIONS[op.op]).FusedActivationFunction())
    if _with_number(m, op, attrs):
        return
    first = m.has_first(a, b) and all(m.rank(i) == 4 or m.codes(i) is not None for i in (a, b))
    names = [m.operand(i, first) for i in (a, b)]
    quants = [m.quant(i) for i in (a, b, out)]
    if op.op in ARITHMETIC and all(q is not None for q in quants):
        attrs["kernels"] = m.kernels
        attrs["quants"] = tuple((float(q.scale), q.zero_point) for q in quants if q is not None)
    fused = attrs.pop("activation", None) if kind not in ARITHMETIC.values() else None
    if fused is None:
        m.put(out, kind, names, attrs, first=first)
        return
    between = m.b.emit(kind, names, attrs, name=m.name(out))
    clip = {"min": fused[1], "max": fused[2]} if fused[0] == "Clip" else {}
    m.put(out, fused[0], [between], clip, first=first)


def _with_number(m: Importer, op: TfOp, attrs: dict[str, Any]) -> bool:
    """ADD, SUB, MUL of an int8 tensor and one constant number: a table; True if it was that."""
    a, b, out = *op.inputs[:2], op.outputs[0]
    quants = [m.quant(i) for i in (a, b, out)]
    if op.op not in ARITHMETIC or any(q is None for q in quants):
        return False
    constants = [m.codes(i) for i in (a, b)]
    numbers = [c is not None and c.size == 1 for c in constants]
    if numbers.count(True) != 1 or sum(c is not None for c in constants) != 1:
        return False
    at = numbers.index(True)
    i, number = op.inputs[1 - at], constants[at]
    if m.tensor(op.inputs[at]).dtype != "int8" or m.rank(op.inputs[at]) > m.rank(i):
        return False
    assert number is not None
    codes = [tflite_kernels.CODES, np.full(256, int(number.reshape(-1)[0]))]
    p, q = codes if at == 1 else codes[::-1]
    triple: Any = tuple(quants)
    if op.op == "MUL":
        table = tflite_kernels.multiply(m.kernels, p, q, triple)
    else:
        table = tflite_kernels.add(m.kernels, p, q, triple, 1 if op.op == "ADD" else -1)
    low, high = clamped(attrs.get("activation"), triple[2])
    lookup(m, i, out, f"{op.op.lower()} {number.reshape(-1)[0]}", np.clip(table, low, high))
    return True


def clamped(fused: Any, y: Quant) -> tuple[int, int]:
    """The codes that a fused activation leaves."""
    from weft.lower.epilogue import clamp

    return clamp(fused, y)


def prelu(m: Importer, op: TfOp) -> None:
    """PRELU with constant slopes."""
    needs(op, 2)
    x, slopes = op.inputs[:2]
    if m.codes(slopes) is None:
        raise UnsupportedError(f"{op}: slopes {m.tensor(slopes)} are computed at run time")
    first = m.has_first(x)
    wide = m.real(slopes)
    if first:
        wide = wide.reshape((1,) * (4 - wide.ndim) + wide.shape).transpose(0, 3, 1, 2)[0]
    name = m.b.constant(m.b.fresh(m.name(slopes)), np.ascontiguousarray(wide))
    m.put(op.outputs[0], "PRelu", [m.first(x) if first else m.plain(x), name], first=first)


def reduction(m: Importer, op: TfOp) -> None:
    """MEAN, SUM and the like over constant axes; a mean over a map is a global pool."""
    needs(op, 2)
    x, out, rank = op.inputs[0], op.outputs[0], m.rank(op.inputs[0])
    given = m.ints(op.inputs[1], f"the axes of {op}")
    if any(not -rank <= a < rank for a in given):
        raise ModelError(f"{op}: axes {given} of {rank} dimensions")
    axes = tuple(sorted({a % rank for a in given}))
    keep = bool(op.options("ReducerOptions").KeepDims())
    attrs: dict[str, Any] = {}
    found, target = m.quant(x), m.quant(out)
    codes = op.op == "MEAN" and found is not None and target is not None
    if op.op != "MEAN" or rank != 4 or axes != (1, 2):
        facts: dict[str, Any] = {"axes": axes, "keepdims": int(keep)}
        if codes:
            facts["quants"] = tuple((float(q.scale), q.zero_point) for q in (found, target) if q)
            facts["kernels"] = m.kernels
        m.put(out, "Mean8" if codes else REDUCTIONS[op.op], [m.plain(x)], facts)
        return
    if found is not None and target is not None:
        attrs["kernels"] = m.kernels
        if m.kernels == "reference":
            count = int(np.prod([m.shape(x)[a] for a in axes]))
            attrs["multiplier"] = tflite_kernels.mean_multiplier(found, target, count)
    if keep:
        m.put(out, "GlobalAveragePool", [m.first(x)], attrs, first=True)
        return
    pooled = {**attrs, **({"requant": m.requant} if target is not None else {})}
    name = m.between("GlobalAveragePool", [m.first(x)], pooled, out)
    m.put(out, "Reshape", [name], {"shape": m.b.shape(name)[:2]})


def arg(m: Importer, op: TfOp) -> None:
    """ARG_MAX, ARG_MIN."""
    needs(op, 2)
    (axis,) = m.ints(op.inputs[1], f"the axis of {op}")
    axis %= max(m.rank(op.inputs[0]), 1)
    kind = "ArgMax" if op.op == "ARG_MAX" else "ArgMin"
    name = m.b.emit(kind, [m.plain(op.inputs[0])], {"axes": (axis,), "keepdims": 0})
    m.put(op.outputs[0], "Cast", [name], {"to": m.tensor(op.outputs[0]).dtype})


def softmax(m: Importer, op: TfOp) -> None:
    """SOFTMAX along the last axis; for codes TFLite's integer kernel, on the host."""
    needs(op, 1)
    x, out = op.inputs[0], op.outputs[0]
    beta = float(op.options("SoftmaxOptions").Beta())
    name, rank, found, y = m.plain(x), m.rank(x), m.quant(x), m.quant(out)
    if found is not None and y is not None:
        if float(y.scale) != 1 / 256 or y.zero_point != -128:
            raise ModelError(
                f"{op}: {m.tensor(out)} has scale {float(y.scale):g} and zero point "
                f"{y.zero_point}; TFLite's softmax has 1/256 and -128"
            )
        attrs = {"input": (float(found.scale), found.zero_point), "beta": beta}
        m.put(out, "Softmax8", [name], {**attrs, "kernels": m.kernels})
        return
    if beta != 1:
        factor = m.b.constant(m.b.fresh(f"{m.name(out)}.beta"), np.asarray(beta, np.float32))
        name = m.b.emit("Mul", [name, factor], name=m.name(out))
    m.put(out, "Softmax", [name], {"axis": rank - 1})


def log_softmax(m: Importer, op: TfOp) -> None:
    """LOG_SOFTMAX along the last axis."""
    needs(op, 1)
    m.put(op.outputs[0], "LogSoftmax", [m.plain(op.inputs[0])], {"axis": m.rank(op.inputs[0]) - 1})


def quantize(m: Importer, op: TfOp) -> None:
    """QUANTIZE: of real values, or from one scale to another."""
    needs(op, 1)
    x, out = op.inputs[0], op.outputs[0]
    found, y = m.quant(x), m.quant(out)
    if y is None:
        raise ModelError(f"{op}: {m.tensor(out)} holds {m.tensor(out).dtype}, not codes")
    if m.codes(x) is not None:
        code = y.quantize(m.real(x)).astype(np.int16)
        m.fold(out, code + (128 if m.tensor(out).dtype == "uint8" else 0))
        return
    same = found is not None and found.scale == y.scale and found.zero_point == y.zero_point
    if found is not None and not same:
        lookup(m, x, out, "quantize", tflite_kernels.table("QUANTIZE", Kernel(m.kernels, found, y)))
        return
    first = m.has_first(x)
    m.put(out, "Identity", [m.first(x) if first else m.plain(x)], first=first)


def dequantize(m: Importer, op: TfOp) -> None:
    """DEQUANTIZE: the same tensor, from now on as real values."""
    needs(op, 1)
    x, out = op.inputs[0], op.outputs[0]
    if m.codes(x) is not None:
        m.fold(out, m.real(x))
        return
    if m.quant(x) is None and m.tensor(x).dtype != "float16":
        raise ModelError(f"{op}: {m.tensor(x)} holds {m.tensor(x).dtype}, not codes")
    first = m.has_first(x)
    m.keep(out, m.first(x) if first else m.plain(x), first=first)


HANDLERS: dict[str, Callable[[Importer, TfOp], None]] = {
    **dict.fromkeys((*UNARY, "LEAKY_RELU", "GELU"), unary),
    **dict.fromkeys((*ARITHMETIC, *OTHERS), binary),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), arg),
    "DEQUANTIZE": dequantize,
    "LOG_SOFTMAX": log_softmax,
    "PRELU": prelu,
    "QUANTIZE": quantize,
    "RSQRT": _chain(("Sqrt", ""), ("Reciprocal", "")),
    "SOFTMAX": softmax,
    "SQUARE": _chain(("Mul", "twice")),
}
