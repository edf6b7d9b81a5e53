"""What the lowering of an hls4ml model is written in: values as int8 or wide codes, emitted once.

A tensor of the accelerator is float32 with a power-of-two scale, channels first; one of the host
is int64 codes, channels last as in hls4ml.
Conversions between both are exact and are emitted where a reader needs the other form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.errors import ModelError
from weft.fixed import Codes, FixedType, cast
from weft.fixed_functions import Function
from weft.frontend.build import Builder
from weft.frontend.hls4ml_sums import NotExactError, Plan, Sum, plan
from weft.frontend.hls4ml_values import Value, fits, is_narrow, quant_of
from weft.graph import Array, Quant


@dataclass(frozen=True)
class Note:
    """Where a layer runs: `where` is "accelerator", "host" or "moved"; `why` if not the first."""

    layer: str
    where: str
    why: str = ""


def first(rank: int) -> tuple[int, ...]:
    """Permutation that moves the channels, last in hls4ml, in front of the positions."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))


def last(rank: int) -> tuple[int, ...]:
    """The inverse of `first`."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


class Lowering:
    """A graph under construction and the values that hls4ml's tensors became."""

    def __init__(self, name: str, hosted: Mapping[str, str]) -> None:
        self.b = Builder(name)
        self.hosted = hosted  # layers that the overlay can't run, and why
        self.values: dict[str, Value] = {}
        self.readers: dict[str, int] = {}
        self.notes: list[Note] = []

    def tell(self, layer: str, where: str, why: str = "") -> None:
        """Adds a note."""
        self.notes.append(Note(layer, where, why))

    def value(self, layer: Any, index: int = 0) -> Value:
        """The value of a layer's input."""
        name = layer.inputs[index]
        if name not in self.values:
            raise ModelError(f"{layer.class_name} {layer.name!r} reads {name!r}, which is missing")
        return self.values[name]

    def alone(self, layer: Any, index: int = 0) -> bool:
        """Whether a layer is the only reader of its input."""
        return self.readers.get(layer.inputs[index], 0) == 1

    def new(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: dict[str, Any],
        name: str = "",
        quant: Quant | None = None,
    ) -> str:
        """Emits a node; `quant` says what the output's codes are."""
        out = self.b.emit(op, inputs, attrs, name=name)
        if quant is not None:
            self.b.tensors[out] = replace(self.b.tensors[out], quant=quant)
        return out

    def constant(self, base: str, data: Array, quant: Quant | None = None) -> str:
        """Adds a constant."""
        return self.b.constant(self.b.fresh(base), data, quant)

    def of_codes(self, kind: FixedType, name: str, low: int | None = None) -> Value:
        """The value of an int64 tensor, which may hold every code of its type."""
        least = kind.low if low is None else low
        return Value(kind, self.b.shape(name), least, kind.high, codes=name)

    def of_real(self, kind: FixedType, name: str) -> Value:
        """The value of a float32 tensor, channels first, with the quantization of `kind`."""
        found = self.b.shape(name)
        shape = tuple(found[axis] for axis in last(len(found)))
        return Value(kind, shape, kind.low, kind.high, real=name)

    def turned(self, name: str, perm: tuple[int, ...]) -> str:
        """A tensor transposed, with its quantization; itself where nothing moves."""
        if perm == tuple(range(len(perm))):
            return name
        quant = self.b.tensors[name].quant
        return self.new("Transpose", [name], {"perm": perm}, quant=quant)

    def real_last(self, value: Value) -> str:
        """`value.real` with the channels last."""
        return self.turned(value.real, last(len(value.shape)))

    def codes(self, value: Value, kind: FixedType | None = None) -> str:
        """An int64 tensor with the value's codes, in the type `kind` if given (it must fit)."""
        if value.pending is not None:
            name = self.host_sum(value.pending, value.type, value.shape)
        elif value.codes:
            name = value.codes
        else:
            codes = self.new("FixedQuantize", [value.real], {"result": value.type.attribute})
            name = self.turned(codes, last(len(value.shape)))
        if kind is None or kind.frac == value.type.frac:
            return name
        attrs = {"frac": value.type.frac, "result": kind.attribute}
        return self.new("FixedCast", [name], attrs)

    def real(self, value: Value) -> str:
        """A float32 tensor with int8 codes, channels first; "" if the codes are too wide."""
        if value.real or not is_narrow(value.type):
            return value.real
        name = self.turned(self.codes(value), first(len(value.shape)))
        quant = quant_of(value.type)
        return self.new("FixedDequantize", [name], {"frac": value.type.frac}, quant=quant)

    def converted(self, value: Value, to: FixedType, name: str) -> Value:
        """The value after a conversion to `to`: itself where that changes nothing."""
        if value.pending is None and fits(value, to):
            return value
        return self.function(value, Function("linear", value.type, to), name)

    def function(self, value: Value, function: Function, name: str) -> Value:
        """An element-wise function: a lookup table from 8 bits to 8 bits, the host otherwise."""
        result = function.result
        narrow = is_narrow(value.type) and is_narrow(result) and value.pending is None
        if not narrow:
            codes = self.codes(value, function.x)
            out = self.new("FixedActivation", [codes], function.attributes, name)
            self.tell(name, "host", f"{function.name} from {value.type} to {result}")
            return self.of_codes(result, out)
        inputs = np.arange(value.type.low, value.type.high + 1)
        codes_of = cast(inputs, value.type.frac, function.x) if fits(value, function.x) else inputs
        outputs = function(codes_of)
        attrs = {
            "low": value.type.low,
            "step": value.type.step,
            "table": tuple((outputs * result.step).tolist()),
        }
        out = self.new("FixedTable", [self.real(value)], attrs, name, quant_of(result))
        self.tell(name, "accelerator")
        used = outputs[value.low - value.type.low : value.high + 1 - value.type.low]
        return self.of_real(result, out).within(int(used.min()), int(used.max()))

    def sum(
        self, sum_: Sum, through: FixedType | None, result: FixedType, relu: bool, name: str
    ) -> Value:
        """A sum on the accelerator; raises NotExactError if it has no exact form there."""
        if sum_.name in self.hosted:
            raise NotExactError(self.hosted[sum_.name])
        found = plan(sum_, through, result, relu)
        emit = self._matrix if sum_.window is None else self._conv
        out = emit(sum_, found, result, name)
        self.tell(sum_.name, "accelerator")
        return self.of_real(result, out).within(found.low, found.high)

    def _epilogue(self, layer: str, found: Plan, result: FixedType) -> dict[str, Any]:
        attrs: dict[str, Any] = {"requant": found.requant, "exact": True, "layer": layer}
        zero = quant_of(result).zero_point
        if (found.low + zero, found.high + zero) != (-128, 127):
            step = result.step
            attrs["activation"] = ("Clip", found.low * step, found.high * step)
        return attrs

    def _parameters(self, sum_: Sum, found: Plan, w: Codes) -> list[str]:
        scale = np.asarray(2.0**-found.w_frac, np.float32)
        unit = np.asarray(2.0 ** -(found.w_frac + sum_.x.type.frac), np.float32)
        bias = found.bias.astype(np.int32)
        return [
            self.constant(f"{sum_.name}.weight", w.astype(np.int8), Quant(scale)),
            self.constant(f"{sum_.name}.bias", bias, Quant(unit)),
        ]

    def _matrix(self, sum_: Sum, found: Plan, result: FixedType, name: str) -> str:
        rank = len(sum_.x.shape)
        x = self.turned(self.real(sum_.x), last(rank))
        inputs = [x, *self._parameters(sum_, found, found.w)]
        attrs = self._epilogue(sum_.name, found, result)
        out = self.new("Linear", inputs, attrs, name, quant_of(result))
        return self.turned(out, first(rank))

    def _conv(self, sum_: Sum, found: Plan, result: FixedType, name: str) -> str:
        assert sum_.window is not None, "the caller has checked it"
        rank = len(sum_.window.kernel)
        if sum_.depthwise:
            w = np.moveaxis(found.w, -1, 0)[:, None]
        else:
            w = found.w.transpose(rank + 1, rank, *range(rank))
        attrs = {
            "strides": sum_.window.strides,
            "pads": sum_.window.pads,
            "dilations": (1,) * rank,
            "group": w.shape[0] if sum_.depthwise else 1,
            **self._epilogue(sum_.name, found, result),
        }
        weights = self._parameters(sum_, found, np.ascontiguousarray(w))
        quant = quant_of(result)
        return self.new("Conv", [self.real(sum_.x), *weights], attrs, name, quant)

    def host_sum(self, sum_: Sum, result: FixedType, shape: tuple[int, ...]) -> str:
        """A sum on the host, as int64 codes of `result`."""
        x = self.codes(sum_.x)
        w = self.constant(f"{sum_.name}.weight", sum_.w)
        bias = self.constant(f"{sum_.name}.bias", sum_.bias)
        attrs: dict[str, Any] = {
            "frac": sum_.frac,
            "accum": sum_.accum.attribute,
            "result": result.attribute,
        }
        if sum_.window is None:
            return self.new("FixedMatMul", [x, w, bias], attrs)
        attrs |= {"strides": sum_.window.strides, "pads": sum_.window.pads}
        return self.new("FixedConv", [x, w, bias], attrs)

    def rounded_sum(
        self, sum_: Sum, result: FixedType, shape: tuple[int, ...], alone: bool
    ) -> Value:
        """A layer's result: on the accelerator, left for an activation, or on the host."""
        try:
            return self.sum(sum_, None, result, False, sum_.name)
        except NotExactError as error:
            why = str(error)
        if alone and is_narrow(sum_.x.type) and not is_narrow(result):
            return Value(result, shape, result.low, result.high, pending=sum_)
        self.tell(sum_.name, "host", why)
        return self.of_codes(result, self.host_sum(sum_, result, shape))
