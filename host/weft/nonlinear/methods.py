"""The registry: every function by every method that applies, and why the others do not."""

from __future__ import annotations

from weft.errors import UsageError, unknown
from weft.nonlinear import build
from weft.nonlinear.functions import FUNCTIONS
from weft.nonlinear.spec import Host, Method
from weft.units import cordic, ibert, norm, polynomial, softmax, wang
from weft.units.fixed import Unit

METHOD_NAMES: dict[str, str] = {
    "lut": "table of 1,024 entries, each the value in the middle of its bin",
    "pwl": "64 lines over equal bins",
    "pwl2": "16 lines with power-of-two slopes",
    "nnlut": "16 lines of a trained ReLU network",
    "ibert": "integer polynomials, integer Newton root",
    "shift": "2^(u+v) ~ (v + d) << u, logarithm by the leading one",
    "softermax": "base 2, running maximum rounded up",
    "dlc": "range reduction, then a polynomial",
    "cordic": "rotations by shifts and additions",
    "host": "float64, rounded: the reference",
}

_GUO = "Guo et al., ICCAD 2024 (indexing)"
_PLAN = "after Amin, Curtis, Hayes-Gill, IEE Proc. 1997"
_YU = "Yu et al., DAC 2022, section 3"
_KIM = "Kim et al., ICML 2021, section 3"
_WANG = "Wang et al., APCCAS 2018"
_STEVENS = "Stevens et al., DAC 2021"
_CHENG = "Cheng et al., DAC 2017 (the name)"
_WALTHER = "Walther, AFIPS 1971"
_FLOAT = "float64"

_GATED = ("gelu", "gelu_tanh", "silu", "tanh", "sigmoid")
_ROWS = ("softmax", "layernorm", "rmsnorm")


def _parts(name: str, element: build.Build) -> build.Build:
    """The element's own unit, or a row's from that of its parts."""
    if name == "softmax":
        direct = element in (build.lut, build.pwl)
        return build.softmax_of(element if direct else build.line_exp(element), element)
    return build.norm_of(element) if name in _ROWS else element


def _fixed(unit: Unit) -> build.Build:
    return lambda _: unit


def _shift_softmax(_: str) -> Unit:
    d1, d2, c = map(wang.offset, build.CENTRED)
    return softmax.ShiftSoftmax(build.SCORE_FRACTION, d1, d2, c)


_MAKE: dict[str, dict[str, build.Build]] = {
    "lut": {name: _parts(name, build.lut) for name in FUNCTIONS},
    "pwl": {name: _parts(name, build.pwl) for name in FUNCTIONS},
    "pwl2": {name: _parts(name, build.pwl2) for name in FUNCTIONS},
    "nnlut": {name: _parts(name, build.trained) for name in FUNCTIONS},
    "ibert": {
        "softmax": lambda _: softmax.Softmax(build.i_exp("exp"), softmax.ByQuotient()),
        "layernorm": _fixed(norm.INorm()),
        "rmsnorm": build.norm_of(_fixed(ibert.IRsqrt())),
        "gelu": build.i_gelu,
        "exp": build.i_exp,
        "rsqrt": _fixed(ibert.IRsqrt()),
        "reciprocal": _fixed(ibert.IReciprocal()),
    },
    "shift": {
        "softmax": _shift_softmax,
        "layernorm": build.norm_of(lambda _: build.shift_rsqrt()),
        "rmsnorm": build.norm_of(lambda _: build.shift_rsqrt()),
        "exp": lambda _: build.shift_exp(build.SCORE_FRACTION),
        "rsqrt": lambda _: build.shift_rsqrt(),
        "reciprocal": lambda _: build.shift_reciprocal(),
        "tanh": build.shift_gated,
        "sigmoid": build.shift_gated,
    },
    "softermax": {
        "softmax": build.softermax_of(build.lines),
        "exp": build.line_exp(build.lines),
        "exp2": build.lines,
        "reciprocal": build.lines,
    },
    "dlc": {
        **dict.fromkeys(_GATED, build.dlc_gated),
        "softmax": build.softmax_of(
            lambda _: build.polynomial_exp(build.SCORE_FRACTION),
            _fixed(polynomial.NewtonReciprocal()),
        ),
        "layernorm": build.norm_of(lambda _: build.polynomial_rsqrt()),
        "rmsnorm": build.norm_of(lambda _: build.polynomial_rsqrt()),
        "exp": lambda _: build.polynomial_exp(build.SCORE_FRACTION),
        "rsqrt": lambda _: build.polynomial_rsqrt(),
        "reciprocal": _fixed(polynomial.NewtonReciprocal()),
    },
    "cordic": {
        **dict.fromkeys(_GATED, build.cordic_gated),
        "softmax": build.softmax_of(
            _fixed(cordic.CordicExp(build.SCORE_FRACTION, build.CORDIC_STEPS)),
            _fixed(cordic.CordicReciprocal()),
        ),
        "exp": _fixed(cordic.CordicExp(build.SCORE_FRACTION, build.CORDIC_STEPS)),
        "reciprocal": _fixed(cordic.CordicReciprocal()),
    },
    "host": {name: _fixed(Host(f)) for name, f in FUNCTIONS.items()},
}

# Largest error over the whole domain, then DSPs and LUTs per lane (norms and softmax: without what
# runs once per row), by count of operators.
_FACTS: dict[tuple[str, str], tuple[float, int, int]] = {
    ("softmax", "lut"): (0.0046, 1, 100),
    ("softmax", "pwl"): (0.0023, 2, 190),
    ("softmax", "pwl2"): (0.0039, 2, 260),
    ("softmax", "nnlut"): (0.0003, 3, 290),
    ("softmax", "ibert"): (0.001, 7, 210),
    ("softmax", "shift"): (0.055, 0, 170),
    ("softmax", "softermax"): (0.0006, 3, 260),
    ("softmax", "dlc"): (0.0001, 5, 180),
    ("softmax", "cordic"): (0.0001, 2, 1160),
    ("softmax", "host"): (1e-5, 0, 0),
    ("layernorm", "lut"): (0.0087, 4, 170),
    ("layernorm", "pwl"): (0.0024, 4, 170),
    ("layernorm", "pwl2"): (0.039, 4, 170),
    ("layernorm", "nnlut"): (0.0049, 4, 170),
    ("layernorm", "ibert"): (0.015, 5, 190),
    ("layernorm", "shift"): (0.43, 4, 170),
    ("layernorm", "dlc"): (0.0053, 4, 170),
    ("layernorm", "host"): (0.00013, 0, 0),
    ("rmsnorm", "lut"): (0.0087, 4, 150),
    ("rmsnorm", "pwl"): (0.0024, 4, 150),
    ("rmsnorm", "pwl2"): (0.039, 4, 150),
    ("rmsnorm", "nnlut"): (0.0049, 4, 150),
    ("rmsnorm", "ibert"): (0.0014, 4, 150),
    ("rmsnorm", "shift"): (0.43, 4, 150),
    ("rmsnorm", "dlc"): (0.0053, 4, 150),
    ("rmsnorm", "host"): (0.00013, 0, 0),
    ("gelu", "lut"): (0.0089, 0, 40),
    ("gelu", "pwl"): (0.0033, 1, 130),
    ("gelu", "pwl2"): (0.012, 0, 200),
    ("gelu", "nnlut"): (0.0036, 1, 180),
    ("gelu", "ibert"): (0.019, 6, 150),
    ("gelu", "dlc"): (0.00026, 14, 340),
    ("gelu", "cordic"): (0.00037, 5, 1900),
    ("gelu", "host"): (0.00013, 0, 0),
    ("gelu_tanh", "lut"): (0.0089, 0, 40),
    ("gelu_tanh", "pwl"): (0.0033, 1, 130),
    ("gelu_tanh", "pwl2"): (0.012, 0, 200),
    ("gelu_tanh", "nnlut"): (0.0037, 1, 180),
    ("gelu_tanh", "dlc"): (0.00026, 13, 330),
    ("gelu_tanh", "cordic"): (0.00034, 4, 1890),
    ("gelu_tanh", "host"): (0.00013, 0, 0),
    ("silu", "lut"): (0.0087, 0, 40),
    ("silu", "pwl"): (0.0021, 1, 130),
    ("silu", "pwl2"): (0.019, 0, 200),
    ("silu", "nnlut"): (0.0048, 1, 180),
    ("silu", "dlc"): (0.00043, 10, 270),
    ("silu", "cordic"): (0.0007, 2, 1830),
    ("silu", "host"): (0.00013, 0, 0),
    ("exp", "lut"): (0.0074, 0, 40),
    ("exp", "pwl"): (0.0035, 1, 130),
    ("exp", "pwl2"): (0.0056, 0, 200),
    ("exp", "nnlut"): (0.0012, 1, 180),
    ("exp", "ibert"): (0.002, 5, 150),
    ("exp", "shift"): (0.044, 0, 110),
    ("exp", "softermax"): (0.00041, 2, 200),
    ("exp", "dlc"): (0.00013, 4, 120),
    ("exp", "cordic"): (6.4e-5, 1, 1100),
    ("exp", "host"): (1.6e-5, 0, 0),
    ("exp2", "lut"): (0.00065, 0, 40),
    ("exp2", "pwl"): (2.3e-5, 1, 130),
    ("exp2", "pwl2"): (0.0051, 0, 200),
    ("exp2", "nnlut"): (0.00019, 1, 180),
    ("exp2", "softermax"): (0.00024, 1, 100),
    ("exp2", "host"): (7.8e-6, 0, 0),
    ("rsqrt", "lut"): (0.00099, 0, 40),
    ("rsqrt", "pwl"): (0.00019, 1, 130),
    ("rsqrt", "pwl2"): (0.0026, 0, 200),
    ("rsqrt", "nnlut"): (0.0003, 1, 180),
    ("rsqrt", "ibert"): (3.2e-5, 0, 1800),
    ("rsqrt", "shift"): (0.033, 0, 120),
    ("rsqrt", "dlc"): (0.00056, 3, 110),
    ("rsqrt", "host"): (1.6e-5, 0, 0),
    ("reciprocal", "lut"): (0.0005, 0, 40),
    ("reciprocal", "pwl"): (4.5e-5, 1, 130),
    ("reciprocal", "pwl2"): (0.0026, 0, 200),
    ("reciprocal", "nnlut"): (0.00022, 1, 180),
    ("reciprocal", "ibert"): (3.2e-5, 0, 900),
    ("reciprocal", "shift"): (0.044, 0, 100),
    ("reciprocal", "softermax"): (0.00047, 1, 100),
    ("reciprocal", "dlc"): (3.8e-5, 5, 60),
    ("reciprocal", "cordic"): (7.1e-5, 0, 620),
    ("reciprocal", "host"): (1.6e-5, 0, 0),
    ("tanh", "lut"): (0.0078, 0, 40),
    ("tanh", "pwl"): (0.0031, 1, 130),
    ("tanh", "pwl2"): (0.0096, 0, 200),
    ("tanh", "nnlut"): (0.0049, 1, 180),
    ("tanh", "shift"): (0.17, 0, 270),
    ("tanh", "dlc"): (0.00012, 9, 230),
    ("tanh", "cordic"): (0.00017, 1, 1790),
    ("tanh", "host"): (3.1e-5, 0, 0),
    ("sigmoid", "lut"): (0.002, 0, 40),
    ("sigmoid", "pwl"): (0.00042, 1, 130),
    ("sigmoid", "pwl2"): (0.0047, 0, 200),
    ("sigmoid", "nnlut"): (0.0021, 1, 180),
    ("sigmoid", "shift"): (0.084, 0, 270),
    ("sigmoid", "dlc"): (8.4e-5, 9, 230),
    ("sigmoid", "cordic"): (0.00011, 1, 1790),
    ("sigmoid", "host"): (3.1e-5, 0, 0),
}

_SOURCES = {
    "lut": _GUO,
    "pwl": _GUO,
    "pwl2": _PLAN,
    "nnlut": _YU,
    "ibert": _KIM,
    "shift": _WANG,
    "softermax": _STEVENS,
    "dlc": _CHENG,
    "cordic": _WALTHER,
    "host": _FLOAT,
}
_ROW_SUMS = {
    "lut": 0.0006,
    "pwl": 0.0002,
    "pwl2": 0.0055,
    "nnlut": 0.0004,
    "ibert": 0.0001,
    "shift": 0.075,
    "softermax": 0.0006,
    "dlc": 0.0002,
    "cordic": 0.0002,
    "host": 1e-4,
}
_NOTES = {
    (
        "softmax",
        "shift",
    ): "its power falls where an octave ends: close scores may change places",
    ("layernorm", "ibert"): "for a deviation of 100 input steps and 32 elements or more",
    ("rmsnorm", "ibert"): "I-BERT has LayerNorm only; this is its integer root",
}


def _method(function: str, name: str) -> Method:
    error, dsps, luts = _FACTS[function, name]
    made = _MAKE[name][function]
    return Method(
        function,
        name,
        lambda: made(function),
        error,
        dsps,
        luts,
        _SOURCES[name],
        row_sum=_ROW_SUMS[name] if function == "softmax" else None,
        keeps_argmax=(function, name) != ("softmax", "shift"),
        note=_NOTES.get((function, name), ""),
    )


METHODS: dict[tuple[str, str], Method] = {
    (function, name): _method(function, name)
    for function in FUNCTIONS
    for name in METHOD_NAMES
    if function in _MAKE[name]
}

_NO_SIGMOID = "the paper has no {}: its polynomials are those of exp and erf"
_NOT_SOFTMAX = "a softmax scheme: it has a power, a reciprocal and their row, nothing else"
_CORDIC_ROOT = "CORDIC gives the root; its reciprocal would need a second one, for the division"
_PART_OF_EXP = "part of its exp, not a unit by itself"
_PRODUCT = "x·s(x) needs a multiplier, which the method is there to avoid"

NOT_APPLICABLE: dict[tuple[str, str], str] = {
    **{(f, "ibert"): _NO_SIGMOID.format(f) for f in ("silu", "tanh", "sigmoid")},
    ("gelu_tanh", "ibert"): "its GELU approximates the erf form: use function gelu",
    **{(f, "shift"): _PRODUCT for f in ("gelu", "gelu_tanh", "silu")},
    **{(f, "softermax"): _NOT_SOFTMAX for f in (*_GATED, "layernorm", "rmsnorm", "rsqrt")},
    **{(f, "cordic"): _CORDIC_ROOT for f in ("layernorm", "rmsnorm", "rsqrt")},
    **{("exp2", m): _PART_OF_EXP for m in ("ibert", "shift", "dlc", "cordic")},
}


def method(function: str, name: str) -> Method:
    """A function by a method. Raises UsageError: unknown names, or why it does not apply."""
    if function not in FUNCTIONS:
        raise UsageError(unknown("nonlinear function", function, FUNCTIONS))
    if name not in METHOD_NAMES:
        raise UsageError(unknown("method", name, METHOD_NAMES))
    if (function, name) in NOT_APPLICABLE:
        names = ", ".join(n for f, n in METHODS if f == function)
        reason = NOT_APPLICABLE[function, name]
        raise UsageError(f"{function} by {name}: {reason}. Methods of {function}: {names}")
    return METHODS[function, name]


def methods_of(function: str) -> list[Method]:
    """All methods of a function, the host's last. Raises UsageError for an unknown function."""
    if function not in FUNCTIONS:
        raise UsageError(unknown("nonlinear function", function, FUNCTIONS))
    return [m for (f, _), m in METHODS.items() if f == function]
