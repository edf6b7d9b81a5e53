"""Values and precisions while an hls4ml model is lowered: types, constants, int8 or wide codes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.fixed import Codes, FixedType, from_real
from weft.graph import Quant

if TYPE_CHECKING:
    from weft.frontend.hls4ml_sums import Sum

_KINDS = {
    f"{kind}PrecisionType"
    for kind in ("Integer", "Fixed", "Unspecified", "Xnor", "Exponent", "Float", "StandardFloat")
}
NARROW = 8  # bits of a code on the accelerator
INT64 = 64  # bits of a code on the host


@dataclass(frozen=True)
class Value:
    """An activation: real numbers q · 2**-F, with q of `type` and within low..high.

    `real` names a float32 tensor whose codes the accelerator holds, `codes` an int64 tensor of
    the host; either, both, or none while a sum is `pending` (not rounded yet).
    """

    type: FixedType
    shape: tuple[int, ...]
    low: int
    high: int
    real: str = ""
    codes: str = ""
    pending: Sum | None = None

    @property
    def largest(self) -> int:
        """The largest absolute code."""
        return max(abs(self.low), abs(self.high))

    def within(self, low: int, high: int) -> Value:
        """The same with narrower bounds."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def fits(value: Value, to: FixedType) -> bool:
    """Whether a conversion to `to` changes none of the values."""
    shift = to.frac - value.type.frac
    if shift < 0:
        return False
    low = -to.high if to.overflow == "SAT_SYM" and to.signed else to.low
    return low <= value.low << shift and value.high << shift <= to.high


def is_narrow(kind: FixedType) -> bool:
    """Whether int8, with a zero point if need be, holds all codes of a type."""
    return kind.width <= NARROW and -100 <= kind.frac <= 100


def quant_of(kind: FixedType) -> Quant:
    """How the accelerator holds a narrow type: its own codes, or 128 less where unsigned."""
    zero = -128 if kind.high > 127 else 0
    return Quant(np.asarray(kind.step, np.float32), zero)


def type_of(precision: Any, where: str) -> FixedType:
    """The FixedType of an hls4ml precision (a PrecisionType or NamedType).

    Raises UnsupportedError for floating point, exponents, binary and unresolved ones.
    """
    precision = getattr(precision, "precision", precision)
    # Backends derive their own types from hls4ml's; these bases say what a type is.
    names = [base.__name__ for base in type(precision).__mro__]
    kind = next((n for n in names if n.endswith("PrecisionType") and n in _KINDS), names[0])
    if kind == "IntegerPrecisionType":
        return _checked(where, precision.width, precision.width, precision.signed, "TRN", "WRAP")
    if kind != "FixedPrecisionType":
        hint = {
            "UnspecifiedPrecisionType": "give it a precision in the hls4ml configuration",
            "XnorPrecisionType": "weft has no binary products; use fixed<2,2> or wider",
            "ExponentPrecisionType": "weft has no power-of-two products; use a fixed<W,I> type",
        }.get(kind, "choose a fixed<W,I> type in the hls4ml configuration")
        raise UnsupportedError(
            f"{where}: precision {precision} ({kind}) is not fixed point; {hint}"
        )
    if precision.saturation_bits:
        raise UnsupportedError(
            f"{where}: {precision.saturation_bits} saturation bits; weft knows 0 of them"
        )
    rounding, overflow = precision.rounding_mode, precision.saturation_mode
    return _checked(
        where,
        precision.width,
        precision.integer,
        precision.signed,
        getattr(rounding, "name", None) or "TRN",
        getattr(overflow, "name", None) or "WRAP",
    )


def _checked(where: str, width: int, integer: int, signed: bool, *modes: str) -> FixedType:
    try:
        return FixedType(int(width), int(integer), bool(signed), *modes)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{where}: {error}, or max_precision='fixed<32,12>' in hls4ml.utils.config_from_*"
        ) from None


def check_int64(layer: Any, largest: int, frac: int, to: FixedType) -> None:
    """Raises UnsupportedError if numbers up to `largest`, before they become `to`, exceed int64.

    They have `frac` fractional bits. Where the result wraps around, bits above it may be lost.
    """
    wraps = to.overflow == "WRAP" and to.rounding in ("TRN", "RND", "RND_MIN_INF")
    if wraps and to.width + max(frac - to.frac, 0) <= INT64:
        return
    bits = largest.bit_length() + 1
    if bits >= INT64:
        raise UnsupportedError(
            f"{layer_name(layer)}: numbers of {bits} bits, to become {to}; the host computes in "
            f"{INT64}: choose narrower precisions, or a type that wraps around"
        )


def layer_name(layer: Any) -> str:
    """How messages call a layer."""
    return f"{layer.class_name} {layer.name!r}"


def result_type(layer: Any) -> FixedType:
    """The type of a layer's output."""
    return type_of(layer.get_output_variable().type, f"{layer_name(layer)}, result")


def named_type(layer: Any, name: str, default: FixedType | None = None) -> FixedType:
    """A type of a layer by the name of its attribute, such as accum_t."""
    found = layer.get_attr(name)
    if found is None and default is not None:
        return default
    if found is None:
        raise ModelError(f"{layer_name(layer)} has no {name}: convert the model with a backend")
    return type_of(found, f"{layer_name(layer)}, {name}")


def weights(layer: Any, name: str) -> tuple[Codes, FixedType]:
    """Codes and type of a weight, as the generated C++ reads it; ModelError if not finite."""
    if name not in layer.weights:
        raise ModelError(f"{layer_name(layer)} has no weights {name!r}")
    variable = layer.weights[name]
    data = np.asarray(variable.data, np.float64)
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ModelError(
            f"{layer_name(layer)}: {bad} of {data.size} values of {name!r} are NaN or infinite"
        )
    kind = type_of(variable.type, f"{layer_name(layer)}, {name}")
    return from_real(data, kind), kind
