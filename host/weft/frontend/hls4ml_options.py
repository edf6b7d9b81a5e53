"""weft's own options per layer in an hls4ml configuration: formats, rounding, zeros.

cfg["LayerName"]["fc1"]["WeightFormat"] = "flint4"; the names are those of weft's plans
(weft/plan.py). They belong to `exact=False`, where weft quantizes: fixed-point weights are int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.errors import UsageError
from weft.plan import LayerPlan, Plan, check

# Key of the configuration → attribute of hls4ml's layer, key of a plan.
OPTIONS: Mapping[str, tuple[str, str]] = {
    "WeightFormat": ("weight_format", "weights"),
    "ActivationFormat": ("activation_format", "activations"),
    "WeightMethod": ("weight_method", "method"),
    "Sparsity": ("sparsity", "sparsity"),
}


def plan_of(model: Any) -> Plan:
    """The plan of a ModelGraph's layers; raises UsageError for values that no plan takes."""
    layers: dict[str, LayerPlan] = {}
    for layer in model.get_layers():
        values: dict[str, str] = {}
        for option, (attribute, key) in OPTIONS.items():
            value = str(layer.get_attr(attribute) or "")
            if not value:
                continue
            try:
                check(key, value)
            except UsageError as error:
                raise UsageError(f"layer {layer.name!r}, {option}: {error}") from None
            values[key] = value
        if values:
            layers[str(layer.name)] = LayerPlan(**values)
    return Plan(layers=layers)


def check_exact(model: Any) -> None:
    """Raises UsageError for options that fixed-point arithmetic has no room for."""
    for name, layer in plan_of(model).layers.items():
        for option, (_, key) in OPTIONS.items():
            value = getattr(layer, key)
            if value is not None and (option, value) != ("WeightFormat", "int8"):
                raise UsageError(
                    f"layer {name!r}, {option}: {value!r} does not keep hls4ml's numbers; "
                    "convert with exact=False and calibration=x to let weft quantize"
                )
