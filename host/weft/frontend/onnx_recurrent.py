"""ONNX's GRU, LSTM and RNN as the nodes of their steps (`weft.frontend.recurrent`).

Their batch is the second dimension of inputs. An input of the model that they read so has its
samples first in weft: time-major X [T, N, I] is taken as [n, T, I], states [D, N, H] as [n, D, H].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler, given
from weft.frontend.recurrent import (
    STEPS_LIMIT,
    Cell,
    Gru,
    Layer,
    Lstm,
    Parameters,
    Rnn,
    State,
    stacked,
    unrolled,
)
from weft.graph import Array

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode

GATES = {
    "GRU": ("update", "reset", "new"),
    "LSTM": ("input", "output", "forget", "new"),
    "RNN": ("new",),
}
FUNCTIONS = {
    "GRU": ("sigmoid", "tanh"),
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "RNN": ("tanh",),
}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
MOVES = ("Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose")
BATCH_SECOND = (0, 5, 6)  # X and the states: inputs with the batch as dimension 1 (layout 0)


def batch_second(nodes: Sequence[Any]) -> set[str]:
    """Names of the tensors that recurrent nodes of a file read with the batch as dimension 1; also
    through what leaves that as it is.
    """
    read: set[str] = set()
    for node in nodes:
        if _is_batch_second(node):
            read.update(node.input[i] for i in BATCH_SECOND if i < len(node.input))
    for node in reversed(nodes):
        if node.op_type in ("Cast", "Identity", "Slice", "Split") and read & set(node.output):
            read.add(node.input[0])
    return read - {""}


def batch_not_first(nodes: Sequence[Any]) -> set[str]:
    """Names of what recurrent nodes write, and of what is made of that by moves."""
    written: set[str] = set()
    for node in nodes:
        moved = node.op_type in MOVES and bool(written & set(node.input))
        if moved or _is_batch_second(node):
            written.update(node.output)
    return written


def _is_batch_second(node: Any) -> bool:
    layout = next((a.i for a in node.attribute if a.name == "layout"), 0)
    return node.op_type in GATES and node.domain in ("", "ai.onnx") and not layout


def recurrent(b: Builder, n: OnnxNode) -> bool:
    """GRU, LSTM and RNN of a static number of steps, with constant weights.

    Raises UnsupportedError, by name, for what they have besides: peepholes, clipping, coupled
    gates, other functions, samples of different lengths.
    """
    directions = DIRECTIONS.get(str(n.attrs.get("direction", "forward")))
    if directions is None:
        raise ModelError(f"{n.op} {n.name!r}: direction {n.attrs['direction']!r}")
    _refuse(b, n, len(directions))
    first = bool(n.attrs.get("layout", 0))
    x = n.inputs[0] if first else _swapped(b, n.inputs[0])
    shape = b.shape(x)
    if len(shape) != 3:
        raise ShapeError(f"{n.op} {n.name!r}: input {n.inputs[0]!r} of {len(shape)} dimensions")
    if shape[1] > STEPS_LIMIT:
        raise UnsupportedError(
            f"{n.op} {n.name!r} has {shape[1]} steps, each of which becomes nodes of its own; at "
            f"most {STEPS_LIMIT}: run a step at a time instead (weft.recurrent)"
        )
    weights = [_constant(b, n, i) for i in (1, 2)]
    if any(v.ndim != 3 or len(v) != len(directions) for v in weights):
        shapes = " and ".join(str(v.shape) for v in weights)
        raise ShapeError(f"{n.op} {n.name!r}: weights {shapes} for {len(directions)} directions")
    states = _states(b, n, len(directions), first)
    done: list[tuple[Cell, list[tuple[str, ...]]]] = []
    for d, reverse in enumerate(directions):
        cell = _cell(b, n, d, weights, shape[2], bool(d))
        own = tuple(state[d] for state in states)
        for state, part in zip(own, ("h", "c"), strict=False):
            if isinstance(state, str):
                cell.w.is_part(state, part)
        done.append((cell, unrolled(cell, x, own, reverse=reverse)))
    _finish(b, n, done, directions, first)
    return True


def _refuse(b: Builder, n: OnnxNode, directions: int) -> None:
    """Raises UnsupportedError for attributes and inputs beyond the cells of `recurrent`."""
    a = n.attrs
    wanted = [name.lower() for name in a.get("activations", [])]
    if wanted and wanted not in (list(FUNCTIONS[n.op]) * directions, ["relu"] * directions):
        usual = ", ".join(FUNCTIONS[n.op])
        raise UnsupportedError(f"{n.op} {n.name!r} has activations {wanted}; weft runs {usual}")
    if wanted and wanted[0] == "relu" and n.op != "RNN":
        raise UnsupportedError(f"{n.op} {n.name!r} has relu as the function of its gates")
    if float(a.get("clip", 0.0)):
        raise UnsupportedError(f"{n.op} {n.name!r} clips what enters its gates at {a['clip']}")
    if a.get("input_forget", 0):
        raise UnsupportedError(f"{n.op} {n.name!r} couples input and forget gates (input_forget)")
    if given(n, 7) and np.any(_constant(b, n, 7)):
        raise UnsupportedError(f"{n.op} {n.name!r} has peepholes (input P)")
    if given(n, 4):
        lengths = b.value(n.inputs[4])
        steps = b.shape(n.inputs[0])[1 if a.get("layout", 0) else 0]
        if lengths is None or np.any(lengths != steps):
            raise UnsupportedError(
                f"{n.op} {n.name!r} reads how long each sequence is (sequence_lens): export the "
                "model for one length, or run it a step at a time (weft.recurrent)"
            )


def _constant(b: Builder, n: OnnxNode, index: int) -> Array:
    value = b.value(n.inputs[index])
    if value is None:
        raise UnsupportedError(f"{n.op} {n.name!r}: {n.inputs[index]!r} is computed at run time")
    return value


def _swapped(b: Builder, name: str) -> str:
    """A tensor with its first two dimensions exchanged."""
    rank = len(b.shape(name))
    if rank < 2:
        raise ShapeError(f"{name!r} of shape {b.shape(name)} has no batch")
    if b.tensors[name].data is not None:
        return b.constant(b.fresh(name), b.tensors[name].real().swapaxes(0, 1))
    return b.emit("Transpose", [name], {"perm": (1, 0, *range(2, rank))})


def _states(b: Builder, n: OnnxNode, directions: int, first: bool) -> list[list[State]]:
    """Per kind of state (h, and c of an LSTM), that of each direction before the first step."""
    hidden = b.shape(n.inputs[2])[-1]
    found: list[list[State]] = []
    for index in (5, 6) if n.op == "LSTM" else (5,):
        name = given(n, index)
        if not name:
            found.append([np.zeros(hidden, np.float32)] * directions)
            continue
        name = name if first else _swapped(b, name)
        expected = (b.shape(name)[0], directions, hidden)
        if b.shape(name) != expected:
            raise ShapeError(
                f"{n.op} {n.name!r}: initial state {n.inputs[index]!r} has shape "
                f"{b.shape(n.inputs[index])}; {directions} directions of {hidden} expected"
            )
        found.append([_of_direction(b, name, d) for d in range(directions)])
    return found


def _of_direction(b: Builder, name: str, d: int) -> State:
    """The state [1, 1, H] of a direction, or [H] where it is constant and alike for all samples."""
    value = b.value(name)
    if value is not None:
        if np.any(value != value[:1]):
            raise UnsupportedError(f"{name!r}: constant states that differ between samples")
        return np.asarray(value[0, d])
    if b.shape(name)[1] == 1:
        return name
    attrs = {"starts": (d,), "ends": (d + 1,), "axes": (1,), "steps": (1,)}
    return b.emit("Slice", [name], attrs)


def _cell(
    b: Builder, n: OnnxNode, d: int, weights: list[Array], size: int, backwards: bool
) -> Cell:
    """The cell of direction number `d`."""
    (w, r), count = weights, len(GATES[n.op])
    hidden = r.shape[-1]
    rows = count * hidden
    if (w.shape[1:], r.shape[1:]) != ((rows, size), (rows, hidden)):
        raise ShapeError(
            f"{n.op} {n.name!r}: weights {w.shape} and {r.shape} do not fit an input of {size}"
        )
    bias = _constant(b, n, 3) if given(n, 3) else np.zeros((len(w), 2 * rows), np.float32)
    sizes = (bias.shape, n.attrs.get("hidden_size", hidden))
    if sizes != ((len(w), 2 * rows), hidden):
        raise ShapeError(f"{n.op} {n.name!r}: hidden_size or bias {bias.shape} do not fit {hidden}")
    p = Parameters.stacked(GATES[n.op], w[d], r[d], *np.split(bias[d], 2))
    name = f"{n.name}/reverse" if backwards else n.name
    if n.op == "GRU":
        return Gru.of(b, name, p, not n.attrs.get("linear_before_reset", 0), n.name)
    layer = Layer(b, name, p.one_bias(), n.name)
    if n.op == "LSTM":
        return Lstm(layer)
    relu = [f.lower() for f in n.attrs.get("activations", [])][:1] == ["relu"]
    return Rnn(layer, "Relu" if relu else "Tanh")


def _finish(
    b: Builder,
    n: OnnxNode,
    done: list[tuple[Cell, list[tuple[str, ...]]]],
    directions: tuple[bool, ...],
    first: bool,
) -> None:
    """Writes the outputs of the node that something reads."""
    outputs = dict(enumerate(n.outputs))
    if outputs.get(0):
        every = [stacked(cell, [s[0] for s in states]) for cell, states in done]
        y = every[0] if len(every) == 1 else b.emit("Concat", every, {"axis": 2})
        steps, width = b.shape(y)[1], b.shape(every[0])[2]
        y = b.emit("Reshape", [y], {"shape": (1, steps, len(every), width)})
        order = (0, 1, 2, 3) if first else (1, 2, 0, 3)
        b.emit("Transpose", [y], {"perm": order}, outputs=(outputs[0],))
    for index, kind in ((1, 0), (2, 1)):
        if not outputs.get(index):
            continue
        last = [s[0 if r else -1][kind] for (_, s), r in zip(done, directions, strict=True)]
        y = last[0] if len(last) == 1 else b.emit("Concat", last, {"axis": 1})
        perm = (0, 1, 2) if first else (1, 0, 2)
        b.emit("Transpose", [y], {"perm": perm}, outputs=(outputs[index],))


HANDLERS: dict[tuple[str, str], Handler] = {("", op): recurrent for op in GATES}
