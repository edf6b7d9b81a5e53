"""Models for onnxruntime as an oracle: int8 weights as uint8, moved by 128.

Its kernels for uint8 × int8 add pairs of products in 16 bits where the CPU has no VNNI, and they
saturate; those for uint8 × uint8 do not. The zero point moves along, so the integers are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Operator → places of its weights, of their zero point, and of that of its activations.
PLACES = {
    "QLinearConv": (3, 5, 2),
    "QLinearMatMul": (3, 5, 2),
    "QGemm": (3, 5, 2),
    "MatMulInteger": (1, 3, 2),
    "ConvInteger": (1, 3, 2),
    "DynamicQuantizeMatMul": (1, 3, -1),
    "MatMulIntegerToFloat": (1, 5, 4),
}


def without_saturation(model: Any) -> Any:
    """A copy of `model` whose constant int8 weights are uint8, where its activations are that."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {t.name: t for t in copy.graph.initializer}
    made: dict[str, str] = {}

    def moved(name: str, scalar_like: str = "") -> str:
        """The name of a constant plus 128; of 128 where there is none."""
        key = name or f"zero of {scalar_like}"
        if key not in made:
            codes = numpy_helper.to_array(known[name]).astype(np.int16) if name else np.int16(0)
            tensor = numpy_helper.from_array(np.asarray(codes + 128, np.uint8), f"{key} as uint8")
            copy.graph.initializer.append(tensor)
            made[key] = tensor.name
        return made[key]

    for node in copy.graph.node:
        weights, zero, other = PLACES.get(node.op_type, (0, 0, -1))
        name = node.input[weights] if weights < len(node.input) else ""
        if not zero or name not in known or known[name].data_type != onnx.TensorProto.INT8:
            continue
        activations = known.get(node.input[other]) if 0 <= other < len(node.input) else None
        if activations is not None and activations.data_type == onnx.TensorProto.INT8:
            continue
        while len(node.input) <= zero:
            node.input.append("")
        node.input[zero] = moved(node.input[zero], name)
        node.input[weights] = moved(name)
    return copy
