"""The two quantizers of QKeras that its files need to be read, where TensorFlow is not installed.

hls4ml asks `qkeras.quantizers.get_quantizer` to round the weights. These follow QKeras' definition:
codes of 2**(integer - bits + 1), the nearest, half to even, clipped.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np


class _Tensor:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


class quantized_bits:  # noqa: N801  the name is in the files
    """Signed codes of `bits` bits, `integer` of them before the point, beside the sign."""

    def __init__(self, bits: int, integer: int = 0, **others: Any) -> None:
        self.bits, self.integer, self.others = bits, integer, others

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits, "integer": self.integer, **self.others}

    def __call__(self, x: np.ndarray) -> _Tensor:
        scale = 2.0 ** (self.bits - 1 - self.integer)
        half = 2.0 ** (self.bits - 1)
        return _Tensor((np.clip(np.rint(x * scale), -half, half - 1) / scale).astype(np.float32))


class quantized_relu(quantized_bits):  # noqa: N801
    """Unsigned codes; hls4ml reads only what it is called and its bits."""


def get_quantizer(config: dict[str, Any]) -> quantized_bits:
    """The quantizer of a configuration as it stands in a file."""
    known = {"quantized_bits": quantized_bits, "quantized_relu": quantized_relu}
    return known[config["class_name"]](**config["config"])


def modules() -> dict[str, types.ModuleType]:
    """What `import qkeras.quantizers` then finds."""
    package, quantizers = types.ModuleType("qkeras"), types.ModuleType("qkeras.quantizers")
    quantizers.get_quantizer = get_quantizer  # type: ignore[attr-defined]
    package.quantizers = quantizers  # type: ignore[attr-defined]
    return {"qkeras": package, "qkeras.quantizers": quantizers}
