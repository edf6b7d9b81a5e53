"""Activation functions of hls4ml on int64 codes, with its tables (nnet_activation.h)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import UnsupportedError, unknown
from weft.fixed import Codes, FixedType, cast, from_real
from weft.fixed_kernels import divided

Real = NDArray[np.float32]


@dataclass(frozen=True)
class Function:
    """One activation: `name` of FUNCTIONS, from type `x` to type `result`.

    `table` is the type of the entries of a table of `size`; `params` hold (code, fractional bits)
    of constants: alpha of a leaky ReLU, theta, slope and shift of the hard functions; `entries`
    the codes of a table given whole, at each code of `x` without its sign.
    """

    name: str
    x: FixedType
    result: FixedType
    table: FixedType | None = None
    size: int = 0
    params: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    entries: tuple[int, ...] = ()

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> Function:
        """The function of a node's attributes, the inverse of `attributes`."""
        table = attrs["table"]
        params = {name: (int(q), int(f)) for name, q, f in attrs["params"]}
        return cls(
            str(attrs["function"]),
            FixedType.of(attrs["x"]),
            FixedType.of(attrs["result"]),
            FixedType.of(table) if table else None,
            int(attrs["size"]),
            params,
            tuple(attrs.get("entries", ())),
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """As attributes of a node."""
        return {
            "function": self.name,
            "x": self.x.attribute,
            "result": self.result.attribute,
            "table": self.table.attribute if self.table else (),
            "size": self.size,
            "params": tuple((name, q, f) for name, (q, f) in self.params.items()),
            "entries": self.entries,
        }

    def __call__(self, codes: Codes) -> Codes:
        """Codes of `result` for codes of `x`. Raises UnsupportedError for an unknown name."""
        if self.name not in FUNCTIONS:
            raise UnsupportedError(unknown("fixed-point activation", self.name, FUNCTIONS))
        return FUNCTIONS[self.name](self, np.asarray(codes, np.int64))


def _clipped(low: int, high: int | None) -> Callable[[Function, Codes], Codes]:
    def run(f: Function, q: Codes) -> Codes:
        if high is None:
            return cast(np.maximum(q, low), f.x.frac, f.result)
        frac = max(f.x.frac, 0)
        return cast(np.clip(q << (frac - f.x.frac), low, high << frac), frac, f.result)

    return run


def _leaky(f: Function, q: Codes) -> Codes:
    alpha, frac = f.params["alpha"]
    negative = cast(q * alpha, f.x.frac + frac, f.result)
    return np.where(q > 0, cast(q, f.x.frac, f.result), negative)


def _thresholded(f: Function, q: Codes) -> Codes:
    theta, frac = f.params["theta"]
    common = max(frac, f.x.frac)
    above = (q << (common - f.x.frac)) > (theta << (common - frac))
    return np.where(above, cast(q, f.x.frac, f.result), 0)


def _lookup(f: Function, q: Codes) -> Codes:
    assert f.table is not None, "a lookup needs its table's type"
    entries = np.asarray(f.entries, np.int64)
    return cast(entries[q & ((1 << f.x.width) - 1)], f.table.frac, f.result)


def _hard(gain: int, offset: int) -> Callable[[Function, Codes], Codes]:
    def run(f: Function, q: Codes) -> Codes:
        (slope, a), (shift, b) = f.params["slope"], f.params["shift"]
        frac = max(a + f.x.frac, b, 0)
        y = ((q * slope) << (frac - a - f.x.frac)) + (shift << (frac - b))
        y = np.clip(y, 0, 1 << frac)
        return cast(gain * y + (offset << frac), frac, f.result)

    return run


def _index(f: Function, q: Codes, span: int) -> Codes:
    """x · size / span as hls4ml converts it to int: both steps toward zero."""
    whole = divided(q * f.size, span)
    return divided(whole, 1 << f.x.frac) if f.x.frac > 0 else whole << -f.x.frac


def _tabled(function: Callable[[Real], Any], half: int) -> Callable[[Function, Codes], Codes]:
    """A function by its table over -half..half."""

    def run(f: Function, q: Codes) -> Codes:
        assert f.table is not None, f"{f.name} needs a table's type"
        at = np.arange(f.size)
        x = (2.0 * half * (at - f.size / 2) / f.size).astype(np.float32)
        table = from_real(function(x), f.table)
        index = _index(f, q, 2 * half) + half * f.size // (2 * half)
        return cast(table[np.clip(index, 0, f.size - 1)], f.table.frac, f.result)

    return run


def _elu(f: Function, q: Codes) -> Codes:
    assert f.table is not None, "elu needs a table's type"
    x = (-8.0 * np.arange(f.size) / f.size).astype(np.float32)
    table = from_real((_exp(x) - 1.0).astype(np.float32), f.table)
    alpha, frac = f.params["alpha"]
    index = np.clip(_index(f, -q, 8), 0, f.size - 1)
    negative = cast(table[index] * alpha, f.table.frac + frac, f.result)
    return np.where(q >= 0, cast(q, f.x.frac, f.result), negative)


def _exp(x: Real) -> Any:
    return np.exp(x.astype(np.float64)).astype(np.float32).astype(np.float64)


def _sigmoid(x: Real) -> Any:
    return (1.0 / (np.float32(1) + _exp(-x).astype(np.float32))).astype(np.float32)


def _softplus(x: Real) -> Any:
    return np.log(_exp(x) + 1.0).astype(np.float32)


def _softsign(x: Real) -> Any:
    return (x / (np.abs(x).astype(np.float64) + 1.0)).astype(np.float32)


FUNCTIONS: dict[str, Callable[[Function, Codes], Codes]] = {
    "linear": lambda f, q: cast(q, f.x.frac, f.result),
    "relu": _clipped(0, None),
    "relu6": _clipped(0, 6),
    "relu1": _clipped(0, 1),
    "leaky_relu": _leaky,
    "thresholded_relu": _thresholded,
    "hard_sigmoid": _hard(1, 0),
    "hard_tanh": _hard(2, -1),
    "sigmoid": _tabled(_sigmoid, 8),
    "tanh": _tabled(lambda x: np.tanh(x.astype(np.float64)), 4),
    "softplus": _tabled(_softplus, 8),
    "softsign": _tabled(_softsign, 8),
    "elu": _elu,
    "unary_lut": _lookup,
}
TABLED = ("sigmoid", "tanh", "softplus", "softsign", "elu")
