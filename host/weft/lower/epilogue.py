"""From scales, bias and activation to the parameters of Activate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft import activation as formats
from weft import isa
from weft.errors import ModelError, UsageError, WeftError, unknown
from weft.graph import Node, Quant
from weft.lower.activations import intermediate
from weft.lower.stage import Epilogue, HostOnlyError
from weft.units import requant

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu")


@dataclass(frozen=True)
class Scaling:
    """Real scale of the accumulators over that of the output, () or (channels,), and the bias."""

    scale: NDArray[np.float64]
    bias: NDArray[Any]  # int64; float64 where sums are real


def requant_mode(node: Node) -> str:
    """The node's rounding. Raises UsageError for one that does not exist."""
    mode = str(node.attrs.get("requant", "single_round"))
    if mode not in isa.MODES:
        raise UsageError(unknown(f"requantization mode of {node.name!r}:", mode, isa.MODES))
    return mode


def scaling(
    node: Node,
    x_scale: ArrayLike,
    w_scale: ArrayLike,
    y: Quant,
    bias: ArrayLike = 0,
    *,
    real: bool = False,
) -> Scaling:
    """x_scale · w_scale / y.scale, rounded as the node's mode wants it; `real`: for float sums.

    The node's attribute "offset", if any, is added to the bias: it turns half up into down.
    """
    scale = requant.combined_scale(x_scale, w_scale, y.scale, requant_mode(node))
    offset = int(node.attrs.get("offset", 0))
    return Scaling(scale, np.asarray(bias, np.float64 if real else np.int64) + offset)


def epilogue(
    node: Node, values: Scaling, y: Quant, lanes: int, *, activation: Any = None, step: int = 1
) -> Epilogue:
    """Parameters of the epilogue of `node`, which writes codes of `y`.

    `values` holds one scale and bias per channel, or (with `step` 0) one for all lanes.
    The node's attribute `multiplier`, (multiplier, shift), takes the place of the scales.
    `activation` is ("Relu",) and so on (ARCHITECTURE.md); the node's attribute if None.
    Raises ModelError for scales that can't be encoded.
    """
    kind = activation or node.attrs.get("activation") or ()
    if kind and y.format == formats.WIDE:
        raise HostOnlyError(f"{kind[0]} fused with a layer that gives int16")
    mode = requant_mode(node)
    fine, table = intermediate(y)
    if table is not None:
        values = Scaling(values.scale * float(y.scale) / float(fine.scale), values.bias)
    scale, bias = np.broadcast_arrays(np.atleast_1d(values.scale), values.bias)
    scale, bias = scale.reshape(-1), bias.reshape(-1)
    negative = scale * _slope(kind, len(scale))
    if step == 0:
        scale, bias, negative = (np.full(lanes, v[0]) for v in (scale, bias, negative))
    try:
        positive_code = requant.encode(scale, mode)
        negative_code = requant.encode(negative, mode)
        if "multiplier" in node.attrs:  # not normalized, so that it rounds where another one does
            q, shift = node.attrs["multiplier"]
            code = np.full(scale.shape, q, np.int32), np.full(scale.shape, shift, np.int8)
            positive_code = negative_code = code
    except WeftError as error:
        raise ModelError(f"{node.op} {node.name!r}: {error}") from error
    wrapped = bias.astype(np.int64).astype(np.uint32).view(np.int32)
    rows = requant.pack_parameters(wrapped, *positive_code, *negative_code, lanes)
    low, high = clamp(kind, fine)
    return Epilogue(rows, isa.MODES.index(mode), y.zero_point, low, high, step, table)


def float_epilogue(node: Node, values: Scaling, y: Quant, lanes: int) -> Epilogue:
    """Parameters for sums that are float32: bias in their units, then the scale, as bit patterns.

    Raises ModelError for a scale or bias that float32 does not hold.
    """
    kind = node.attrs.get("activation") or ()
    if y.format == formats.WIDE:
        raise HostOnlyError("sums of bf16 that become int16")
    fine, table = intermediate(y)
    channels = len(values.bias)
    scale = np.broadcast_to(values.scale * float(y.scale) / float(fine.scale), (channels,))
    with np.errstate(over="ignore"):
        numbers = [
            v.astype(np.float32) for v in (values.bias, scale, scale * _slope(kind, channels))
        ]
    if not all(np.isfinite(v).all() for v in numbers):
        raise ModelError(f"{node.op} {node.name!r}: a scale or bias is beyond float32")
    bias, above, below = (np.ascontiguousarray(v).view(np.int32) for v in numbers)
    none = np.zeros(channels, np.int8)
    rows = requant.pack_parameters(bias, above, none, below, none, lanes)
    low, high = clamp(kind, fine)
    return Epilogue(rows, isa.FLOAT_CODE, y.zero_point, low, high, 1, table)


def clamp(activation: Any, y: Quant) -> tuple[int, int]:
    """Smallest and largest code that the activation leaves."""
    least, most = formats.limits(y.format)
    if not activation or activation[0] not in ("Relu", "Clip"):
        return least, most
    low, high = (0.0, np.inf) if activation[0] == "Relu" else activation[1:3]
    bounds = _bound(low, y, least), _bound(high, y, most)
    return min(max(bounds[0], least), most), min(max(bounds[1], least), most)


def _bound(value: float | None, y: Quant, default: int) -> int:
    if value is None or not np.isfinite(value):
        return default
    return int(y.quantize(np.asarray(value)))


def _slope(activation: Any, channels: int) -> NDArray[np.float64]:
    """Factor of the negative side, per channel."""
    if not activation or activation[0] in ("Relu", "Clip"):
        return np.ones(channels)
    if activation[0] == "LeakyRelu":
        return np.full(channels, float(activation[1]))
    if activation[0] == "PRelu":
        slopes = np.asarray(activation[1], np.float64).reshape(-1)
        if slopes.size not in (1, channels):
            raise HostOnlyError(f"PRelu with {slopes.size} slopes for {channels} channels")
        return np.broadcast_to(slopes, (channels,)).copy()
    raise HostOnlyError(f"the fused activation {activation[0]!r}")


def check_activation(activation: Any) -> None:
    """Raises HostOnlyError if a fused activation is none that the epilogue has."""
    if activation and activation[0] not in ACTIVATIONS:
        raise HostOnlyError(f"the fused activation {activation[0]!r}")
