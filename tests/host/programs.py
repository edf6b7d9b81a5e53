"""Programs of a few instructions, written by hand: what the runtime needs to be tested with."""

from __future__ import annotations

import numpy as np

from weft import isa
from weft.config import load_overlay
from weft.graph import Graph, Node, Quant, Tensor
from weft.program import (
    AcceleratorSegment,
    HostSegment,
    Layer,
    Layout,
    Program,
    Region,
    Segment,
    TensorInfo,
)
from weft.units.requant import encode, pack_parameters

VECTOR = Layout(channels=5, height=1, width=1, dims=((), ("c",)))
MAP = Layout(channels=5, height=2, width=3, dims=((), ("c",), ("h",), ("w",)))
QUANT = Quant(np.float32(0.5), zero_point=3)


def scaling(
    factor: float = 0.5, layers: int = 2, batch: int = 4, layout: Layout = VECTOR
) -> Program:
    """x → y = x·factor**layers, each layer one Vector and its Activate, on overlay tiny."""
    overlay = load_overlay("tiny")
    multiplier, shift = encode(np.full(5, factor), "single_round")
    rows = pack_parameters(0, multiplier, shift, multiplier, shift, lanes=overlay.lanes)
    size = layout.height * layout.width
    move = {"chunks": 1, "words": size, "memory_sample": size, "buffer_sample": size}
    code = [
        isa.READ_WEIGHTS.encode(memory=0, rows=len(rows), memory_rows=len(rows)),
        isa.SET_TABLE.encode(target=0, index=0, count=1),
        isa.READ_HOST.encode(memory=0, buffer=0, **move),
    ]
    index = [0, 0, 0]
    for layer in range(layers):
        code += _layer(layer * size * batch, (layer + 1) * size * batch, layout)
        index += [layer, layer]
    code += [
        isa.WRITE_HOST.encode(memory=size * batch, buffer=layers * size * batch, **move),
        isa.BARRIER.encode(),
    ]
    index += [layers - 1] * 2
    segment = AcceleratorSegment(np.stack(code), np.asarray(index, np.int32), ("x",), ("y",))
    shape = (1, 5, 2, 3) if layout is MAP else (1, 5)
    return Program(
        name="scaling",
        overlay=overlay,
        batch=batch,
        segments=(segment,),
        layers=tuple(Layer(f"scale_{i}", "Mul", "vector", 5 * size) for i in range(layers)),
        weights=rows,
        regions={"x": Region(0, layout, QUANT), "y": Region(size * batch, layout, QUANT)},
        memory_rows=2 * size * batch,
        inputs=(TensorInfo("x", shape, "float32"),),
        outputs=(TensorInfo("y", shape, "float32"),),
        notes={},
    ).verify()


def _layer(source: int, target: int, layout: Layout) -> list[isa.Words]:
    height, width = layout.height, layout.width
    size = height * width
    return [
        isa.VECTOR.encode(
            operation=isa.OPERATIONS.index("sum"),
            source=source,
            source_sample=size,
            source_row=width,
            source_col=1,
            height=height,
            width=width,
            kernel_h=1,
            kernel_w=1,
            stride_y=1,
            stride_x=1,
            dilation_y=1,
            dilation_x=1,
            out_h=height,
            out_w=width,
            blocks=1,
            zero=QUANT.zero_point,
        ),
        isa.ACTIVATE.encode(
            target=target,
            target_sample=size,
            target_row=width,
            target_col=1,
            mode=isa.MODES.index("single_round"),
            zero_point=QUANT.zero_point,
            low=-128,
            high=127,
        ),
    ]


def with_host_tail(program: Program) -> Program:
    """The program, then z = −y on the host; outputs y and z."""
    info = program.outputs[0]
    tensors = {name: Tensor(name, info.shape) for name in ("y", "z")}
    graph = Graph("tail", tensors, (Node("Neg", "neg", ("y",), ("z",)),), ("y",), ("z",))
    segments: tuple[Segment, ...] = (*program.segments, HostSegment(graph, "Neg has no engine"))
    outputs = (info, TensorInfo("z", info.shape, "float32"))
    return Program(**{**vars(program), "segments": segments, "outputs": outputs}).verify()
