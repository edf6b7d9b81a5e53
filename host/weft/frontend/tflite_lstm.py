"""TFLite's UNIDIRECTIONAL_SEQUENCE_LSTM: of floats the nodes of its steps, of integers one node.

The integers are those of TFLite's kernels, which the accelerator does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.frontend.recurrent import STEPS_LIMIT, Layer, Lstm, Parameters, stacked, unrolled
from weft.frontend.tflite_build import Importer, needs
from weft.frontend.tflite_read import TfOp
from weft.graph import Array
from weft.tflite_kernels import MODE
from weft.units.requant import encode

GATES = ("input", "forget", "cell", "output")
FUNCTIONS = {0: "None", 1: "Relu", 3: "Relu6", 4: "Tanh", 6: "Sigmoid"}
GATE_SCALE = np.float32(2.0**-12)  # of a gate before its nonlinearity
STATE, CELL = 18, 19  # inputs that are the state
SQUARED = np.float32(2.0**-15)


def sequence_lstm(m: Importer, op: TfOp) -> None:
    """Inputs: x; W and R per gate; peepholes; biases; projection; state; normalization."""
    needs(op, 20)
    o = op.options("UnidirectionalSequenceLSTMOptions")
    _refuse(m, op, o)
    coupled = op.inputs[1] < 0
    gates = (1, 2, 3) if coupled else (0, 1, 2, 3)
    x, out = op.inputs[0], op.outputs[0]
    name = m.plain(x)
    attrs: dict[str, Any] = {"coupled": int(coupled), "cell_clip": float(o.CellClip())}
    if not math.isfinite(attrs["cell_clip"]) or attrs["cell_clip"] < 0:
        raise ModelError(f"{op}: cells are clipped at {attrs['cell_clip']}")
    if o.TimeMajor():
        name = m.between("Transpose", [name], {"perm": (1, 0, 2)}, x)
    if m.quant(x) is None:
        attrs["function"] = FUNCTIONS[o.FusedActivationFunction()]
        kind, values = "SequenceLstm", _float(m, op, gates)
        shape = m.b.shape(name)
        if attrs["function"] == "Tanh" and len(shape) == 3 and shape[1] <= STEPS_LIMIT:
            made = _steps(m, name, values, attrs, m.name(out).split(";")[-1])
            perm = (1, 0, 2) if o.TimeMajor() else (0, 1, 2)
            m.put(out, "Transpose", [made], {"perm": perm})
            return
    else:
        kind, values = "SequenceLstm8", _integer(m, op, gates, attrs)
    inputs = [m.b.constant(m.b.fresh(f"{m.name(out)}.{k}"), data) for k, data in values.items()]
    if not o.TimeMajor():
        m.put(out, kind, [name, *inputs], attrs)
        return
    made = m.between(kind, [name, *inputs], attrs, out)
    m.put(out, "Transpose", [made], {"perm": (1, 0, 2)})


def _steps(m: Importer, x: str, values: Mapping[str, Array], attrs: Any, name: str) -> str:
    """The hidden states [1, T, H] of a float LSTM over [1, T, I], which starts from zeros."""
    gates = GATES[1:] if attrs["coupled"] else GATES
    w, r, bias = values["w"], values["r"], values["bias"]
    if m.b.shape(x)[2] != w.shape[1] or len(r) != len(w) or bias.shape != w.shape[:1]:
        raise ShapeError(
            f"{name!r}: input {m.b.shape(x)}, weights {w.shape} and {r.shape}, bias {bias.shape}"
        )
    names = ["new" if gate == "cell" else gate for gate in gates]
    p = Parameters.stacked(names, w, r, bias, np.zeros_like(bias))
    cell = Lstm(Layer(m.b, name, p), attrs["cell_clip"], values.get("projection"))
    zeros = np.zeros(r.shape[1], np.float32), np.zeros(len(w) // len(gates), np.float32)
    return stacked(cell, [states[0] for states in unrolled(cell, x, zeros)])


def _refuse(m: Importer, op: TfOp, o: Any) -> None:
    """Raises UnsupportedError for forms that Keras does not export."""
    names = {9: "peepholes", 10: "peepholes", 11: "peepholes", 17: "a bias of its projection"}
    names |= dict.fromkeys(range(20, 24), "layer normalization")
    if m.quant(op.inputs[0]) is not None:
        names[16] = "a projection in int8"
    for index, what in names.items():
        if len(op.inputs) > index and op.inputs[index] >= 0:
            raise UnsupportedError(f"{op} has {what}; weft runs LSTMs as Keras makes them")
    if o.ProjClip():
        raise UnsupportedError(f"{op} clips its projection at {o.ProjClip()}; weft does not")
    if o.FusedActivationFunction() not in FUNCTIONS:
        raise UnsupportedError(f"{op} has activation number {o.FusedActivationFunction()}")
    if m.quant(op.inputs[0]) is not None and o.FusedActivationFunction() != 4:
        raise UnsupportedError(f"{op}: an int8 LSTM with another activation than tanh")
    for index in (STATE, CELL):
        if op.inputs[index] < 0 or not m.tensor(op.inputs[index]).variable:
            raise UnsupportedError(f"{op} takes its state from outside; weft starts from zeros")


def _stacked(m: Importer, op: TfOp, indices: list[int], real: bool, rank: int) -> Array:
    """Constants of the gates, one below the other."""
    parts = []
    for i in indices:
        data = m.codes(i)
        if data is None:
            raise UnsupportedError(f"{op}: {m.tensor(i)} is computed at run time")
        parts.append(m.real(i) if real else data)
        if parts[-1].ndim != rank or parts[-1].shape != parts[0].shape:
            raise ShapeError(f"{op}: {m.tensor(i)} has shape {data.shape}")
    return np.concatenate(parts)


def _float(m: Importer, op: TfOp, gates: tuple[int, ...]) -> dict[str, Array]:
    groups = [("w", 1, 2), ("r", 5, 2), ("bias", 12, 1)]
    made = {
        label: _stacked(m, op, [op.inputs[first + g] for g in gates], True, rank)
        for label, first, rank in groups
    }
    if op.inputs[16] >= 0:
        made["projection"] = _stacked(m, op, [op.inputs[16]], True, 2)
    return made


def _integer(
    m: Importer, op: TfOp, gates: tuple[int, ...], attrs: dict[str, Any]
) -> dict[str, Array]:
    """Constants of the integer form; adds its scales to `attrs`."""
    x, y = m.quant(op.inputs[0]), m.quant(op.outputs[0])
    state = m.quant(op.inputs[STATE])
    if x is None or y is None or state is None:
        raise ModelError(f"{op}: int8 and float tensors mixed; convert the model again")
    if state.scale != y.scale or state.zero_point != y.zero_point:
        raise ModelError(f"{op}: its state and {m.tensor(op.outputs[0])} have different scales")
    attrs["input"] = (float(x.scale), x.zero_point)
    attrs["output"] = (float(y.scale), y.zero_point)
    attrs["cell_bits"] = bits = _cell_bits(m, op)
    clip = min(attrs["cell_clip"] * 2.0**bits, 32767)
    attrs["cell_clip"] = int(np.rint(clip))
    hidden = m.tensor(op.intermediates[4]) if len(op.intermediates) > 4 else None
    if hidden is None or hidden.scale.size != 1 or not hidden.scale[0] > 0:
        raise ModelError(f"{op}: the scale of its hidden state (intermediate 4) is missing")
    factor = SQUARED / np.float32(hidden.scale[0]) * SQUARED
    attrs["hidden"] = (*_encoded(factor), int(hidden.zero[0]))
    w = _stacked(m, op, [op.inputs[1 + g] for g in gates], False, 2)
    r = _stacked(m, op, [op.inputs[5 + g] for g in gates], False, 2)
    bias = _stacked(m, op, [op.inputs[12 + g] for g in gates], False, 1)
    if w.dtype != np.int8 or r.dtype != np.int8 or bias.dtype != np.int32 or len(bias) != len(w):
        raise ModelError(f"{op}: weights {w.dtype}, {r.dtype}, bias {bias.dtype}: int8, int32 due")
    attrs["multipliers"] = _multipliers(m, op, [op.inputs[1 + g] for g in gates], x.scale)
    states = [op.inputs[5 + g] for g in gates]
    attrs["state_multipliers"] = _multipliers(m, op, states, state.scale)
    given = bias.astype(np.int64) - x.zero_point * w.sum(axis=1, dtype=np.int64)
    kept = -state.zero_point * r.sum(axis=1, dtype=np.int64)
    return {"w": w, "r": r, "bias": given.astype(np.int32), "state": kept.astype(np.int32)}


def _multipliers(m: Importer, op: TfOp, indices: list[int], scale: Array) -> tuple[Any, ...]:
    """(multiplier, shift) per gate."""
    found = []
    for i in indices:
        t = m.tensor(i)
        if t.scale.size != 1 or not t.scale[0] > 0 or np.any(t.zero):
            raise ModelError(f"{op}: {t} must have one positive scale and zero point 0")
        found.append(_encoded(np.float32(t.scale[0]) * np.float32(scale) / GATE_SCALE))
    return tuple(found)


def _encoded(scale: Any) -> tuple[int, int]:
    multiplier, shift = encode(float(np.float32(scale)), MODE)
    return int(multiplier), int(shift)


def _cell_bits(m: Importer, op: TfOp) -> int:
    """Fraction bits of the cell, 9 to 15. Raises ModelError if its scale is no power of two."""
    t = m.tensor(op.inputs[CELL])
    scale = float(t.scale[0]) if t.scale.size == 1 else 0.0
    bits = -math.log2(scale) if scale > 0 and math.isfinite(scale) else 0.5
    if not bits.is_integer() or not 9 <= bits <= 15:
        raise ModelError(f"{op}: {t} has scale {scale:g}, expected 2^-15 to 2^-9")
    return int(bits)


HANDLERS = {"UNIDIRECTIONAL_SEQUENCE_LSTM": sequence_lstm}
