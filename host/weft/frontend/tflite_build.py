"""Tensors of a TFLite model as tensors of a graph, in both orders of their dimensions.

TFLite's images are [N, H, W, C], the graph's operators want [N, C, H, W]. Each tensor of four
dimensions is kept in the order in which it was made, and gets a Transpose to the other one when
somebody asks for it; fusing and the compiler make nearly all of them disappear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.fallback import plain_dtype
from weft.frontend.build import Builder
from weft.frontend.tflite_read import TfModel, TfOp, TfTensor
from weft.graph import Array, Quant, Shape
from weft.tflite_kernels import KERNELS

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # perms to channels first, to channels last
QUANTIZED = ("int8", "uint8")


class Importer:
    """The graph under construction, and where each of the file's tensors is in it."""

    def __init__(self, model: TfModel, name: str, kernels: str, check: bool) -> None:
        self.model, self.kernels, self.requant = model, kernels, KERNELS[kernels]
        self.b = Builder(name)
        self.check = check  # shapes against the file's; not where the caller gave others
        self.values: dict[int, Array] = {}
        self.values.update((t.index, t.data) for t in model.tensors if t.data is not None)
        self.images: set[int] = set()  # inputs whose readers shall have channels first
        self._plain: dict[int, str] = {}
        self._first: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()

    def tensor(self, i: int) -> TfTensor:
        """The file's record; raises ModelError for an absent one."""
        if i < 0:
            raise ModelError("an input is absent that must be there")
        return self.model.tensors[i]

    def name(self, i: int) -> str:
        """The tensor's name, made unique."""
        if i not in self._names:
            base = self.model.tensors[i].name or f"tensor_{i}"
            name = base if base not in self._taken else f"{base}.{i}"
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self._names[i] = name
        return self._names[i]

    # What tensors hold

    def quant(self, i: int) -> Quant | None:
        """What the codes of an activation mean; None if it holds numbers.

        Raises ModelError for codes without a scale, UnsupportedError for 16-bit ones.
        """
        t = self.tensor(i)
        if t.dtype == "int16" and t.scale.size:
            raise UnsupportedError(
                f"{t} is quantized to int16; weft runs int8: convert with "
                "tf.lite.OpsSet.TFLITE_BUILTINS_INT8"
            )
        if t.dtype not in QUANTIZED:
            return None
        if t.scale.size != 1:
            kind = "no scale" if not t.scale.size else f"{t.scale.size} scales"
            raise ModelError(
                f"{t} is {t.dtype} and has {kind}: convert the model again with full-integer "
                "quantization and a representative data set"
            )
        scale, zero = self._checked(t)
        return Quant(scale.reshape(()), int(zero[0]) - (128 if t.dtype == "uint8" else 0))

    def _checked(self, t: TfTensor) -> tuple[Array, Array]:
        if not np.all(np.isfinite(t.scale)) or not np.all(t.scale > 0):
            raise ModelError(f"{t} has a scale of {t.scale.min()}; it must be a positive number")
        info = np.iinfo(t.dtype)
        if np.any(t.zero < info.min) or np.any(t.zero > info.max):
            raise ModelError(f"{t} has zero point {t.zero.max()}, outside {t.dtype}")
        return t.scale, t.zero

    def codes(self, i: int) -> Array | None:
        """A constant as the file has it; None for an activation."""
        return self.values.get(i) if i >= 0 else None

    def ints(self, i: int, what: str) -> tuple[int, ...]:
        """A constant of integers. Raises UnsupportedError for one computed at run time."""
        data = self.codes(i)
        if data is None or data.dtype.kind not in "iu" or data.size > 1 << 12:
            raise UnsupportedError(
                f"{what} is {self.tensor(i)}, which is computed at run time: convert the model "
                "with fixed shapes, or pass shapes={...}"
            )
        return tuple(int(v) for v in data.reshape(-1))

    def real(self, i: int) -> Array:
        """Real values of a constant, float32 for floats and codes."""
        t, data = self.tensor(i), self.values[i]
        if data.dtype.kind == "f":
            return data.astype(np.float32, copy=False)
        if t.dtype in (*QUANTIZED, "int16", "int32") and t.scale.size:
            scale, zero = self._checked(t)
            shape = [1] * data.ndim
            if scale.size > 1:
                shape[self.channel_axis(t)] = -1
            wide = [v.reshape(shape if v.size > 1 else ()) for v in (scale, zero)]
            return ((data.astype(np.int32) - wide[1]) * wide[0]).astype(np.float32)
        return data

    def channel_axis(self, t: TfTensor) -> int:
        """The axis of per-channel scales; raises ModelError if they don't fit it."""
        shape = t.shape or ()
        if not 0 <= t.axis < len(shape) or shape[t.axis] != t.scale.size:
            raise ModelError(f"{t} has {t.scale.size} scales on axis {t.axis} of {shape}")
        return t.axis

    def weights(self, i: int, perm: Sequence[int], quantized: bool) -> tuple[str, Quant | None]:
        """A constant with its axes permuted: codes for a quantized operator, else real values."""
        t = self.tensor(i)
        data = self.codes(i)
        if data is None:
            raise UnsupportedError(f"{t}: weights that are computed at run time")
        if data.ndim != len(perm):
            raise ShapeError(f"{t} has shape {data.shape}, expected {len(perm)} dimensions")
        if not quantized:
            real = np.ascontiguousarray(self.real(i).transpose(perm))
            return self.b.constant(self.b.fresh(self.name(i)), real), None
        if t.dtype not in QUANTIZED or not t.scale.size:
            raise ModelError(
                f"{t} holds {t.dtype}{' without a scale' * (not t.scale.size)} where the "
                "operator's activations are int8: mixed quantization; convert the model again"
            )
        scale, zero = self._checked(t)
        axis = list(perm).index(self.channel_axis(t)) if scale.size > 1 else None
        moved = data.transpose(perm)
        if np.any(zero):
            along = [1] * data.ndim
            along[axis or 0] = -1 if axis is not None else 1
            moved = moved.astype(np.int16) - zero.astype(np.int16).reshape(along)
        quant = Quant(scale if axis is not None else scale[:1].reshape(()), 0, axis)
        name = self.b.fresh(self.name(i))
        return self.b.constant(name, np.ascontiguousarray(moved), quant), quant

    # Where tensors are

    def rank(self, i: int) -> int:
        """Number of dimensions."""
        return len(self.shape(i))

    def shape(self, i: int) -> Shape:
        """The file's order of dimensions, the graph's sizes."""
        if i in self._plain:
            return self.b.shape(self._plain[i])
        if i in self._first:
            shape = self.b.shape(self._first[i])
            return tuple(shape[p] for p in LAST)
        data = self.codes(i)
        if data is None:
            self._missing(i)
        assert data is not None
        return data.shape

    def has_first(self, *indices: int) -> bool:
        """Whether one of the tensors lies channels first, or shall."""
        return any(i in self.images or (i in self._first and i not in self._plain) for i in indices)

    def _missing(self, i: int) -> None:
        t = self.tensor(i)
        if t.variable:
            raise UnsupportedError(f"{t} is a variable; weft keeps no state between samples")
        raise ModelError(f"{t} is read before any operator writes it (a cycle, or a missing input)")

    def plain(self, i: int) -> str:
        """The graph's name of a tensor in the file's order."""
        return self._get(i, self._plain, self._first, LAST)

    def first(self, i: int) -> str:
        """The graph's name of a tensor with channels first, if it has four dimensions."""
        if self.rank(i) != 4:
            raise ShapeError(f"{self.tensor(i)} has shape {self.shape(i)}, expected 4 dimensions")
        return self._get(i, self._first, self._plain, FIRST)

    def operand(self, i: int, first: bool) -> str:
        """`first` or `plain`; a constant of fewer dimensions is one of the last ones."""
        if not first:
            return self.plain(i)
        if self.rank(i) == 4:
            return self.first(i)
        data = self.codes(i)
        if data is None:
            raise UnsupportedError(f"{self.tensor(i)} broadcasts against an image")
        wide = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(FIRST)
        return self._constant(i, np.ascontiguousarray(wide))

    def _get(
        self, i: int, wanted: dict[int, str], other: dict[int, str], perm: tuple[int, ...]
    ) -> str:
        if i in wanted:
            return wanted[i]
        if i not in other:
            data = self.codes(i)
            if data is None:
                self._missing(i)
            assert data is not None
            wanted[i] = self._constant(
                i, np.ascontiguousarray(data.transpose(FIRST)) if perm == FIRST else data
            )
            return wanted[i]
        name = self.b.emit("Transpose", [other[i]], {"perm": perm}, name=f"{other[i]}.order")
        self.mark(name, self.b.tensors[other[i]].quant)
        wanted[i] = name
        return name

    def _constant(self, i: int, data: Array) -> str:
        t = self.tensor(i)
        name = self.b.fresh(self.name(i))
        if t.dtype in QUANTIZED and t.scale.size == 1:
            quant = self.quant(i)
            moved = data.astype(np.int16) - 128 if t.dtype == "uint8" else data
            return self.b.constant(name, moved.astype(np.int8), quant)
        if t.dtype == "int8" and t.scale.size:
            return self.b.constant(name, self.real(i).reshape(data.shape))
        return self.b.constant(name, data)

    def mark(self, name: str, quant: Quant | None) -> None:
        """Gives a tensor of the graph its codes."""
        if quant is not None:
            self.b.tensors[name] = replace(self.b.tensors[name], quant=quant)

    # Making tensors

    def put(
        self,
        i: int,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping[str, Any] | None = None,
        *,
        first: bool = False,
    ) -> None:
        """Adds the node that writes tensor `i`; raises ShapeError if the file says otherwise."""
        quant = self.quant(i)
        facts = dict(attrs or {})
        if quant is not None:
            facts.setdefault("requant", self.requant)
        name = self.name(i) if i not in self.model.outputs else self.b.fresh(self.name(i))
        self.b.emit(op, inputs, facts, name=self.name(i).split(";")[-1], outputs=(name,))
        self.mark(name, quant)
        self.keep(i, name, first=first)

    def keep(self, i: int, name: str, *, first: bool = False) -> None:
        """Says which tensor of the graph is tensor `i`."""
        if i in self._plain or i in self._first or i in self.values:
            raise ModelError(f"{self.tensor(i)} is written a second time")
        (self._first if first else self._plain)[i] = name
        t, shape = self.tensor(i), self.shape(i)
        declared = t.shape is not None and (t.shape or not shape)
        dynamic = -1 in t.signature[1:]
        if self.check and declared and not dynamic and t.shape != shape:
            raise ShapeError(f"{t} comes out as {shape}, the file says {t.shape}")

    def fold(self, i: int, value: Array) -> None:
        """Makes tensor `i` a constant."""
        if i in self._plain or i in self._first or i in self.values:
            raise ModelError(f"{self.tensor(i)} is written a second time")
        kind = np.dtype(plain_dtype(np.dtype(self.tensor(i).dtype), self.name(i)))
        self.values[i] = np.asarray(value).astype(kind)

    def between(self, op: str, inputs: Sequence[str], attrs: dict[str, Any], like: int) -> str:
        """Adds a node that writes a tensor of the graph's own, with the codes of tensor `like`."""
        name = self.b.emit(op, inputs, attrs, name=self.name(like))
        self.mark(name, self.quant(like))
        return name


def needs(op: TfOp, inputs: int, outputs: int = 1) -> None:
    """Raises ModelError if an operator lacks inputs or outputs."""
    if len(op.inputs) < inputs or len(op.outputs) < outputs or -1 in op.outputs:
        raise ModelError(
            f"{op} has {len(op.inputs)} inputs and {len(op.outputs)} outputs, expected at least "
            f"{inputs} and {outputs}"
        )
