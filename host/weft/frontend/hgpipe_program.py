"""HG-PIPE's network as a program: blocks on the accelerator, logits put together by the host."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from weft import isa
from weft.config import Overlay
from weft.errors import UsageError
from weft.frontend.hgpipe import Network
from weft.frontend.hgpipe_code import WIDE, Assembler, Places, check_overlay
from weft.graph import Quant
from weft.lower.dynamic import CODES, byte_sums
from weft.program import AcceleratorSegment, HostSegment, Layout, Program, Region, TensorInfo

INT16 = Quant(np.asarray(1, np.float32), format="int16")
TOKENS, LOGITS, BYTES = "tokens", "logits", "logits/bytes"


def compile_network(
    network: Network, overlay: Overlay, tokens: int, *, kept: Collection[int] = ()
) -> Program:
    """The program that takes the residual stream [1, tokens, channels] and gives 1,000 logits.

    `kept` are blocks whose results (`block_0` and so on, [1, tokens, channels]) are outputs, too.
    All numbers are the network's integers. Raises UsageError for blocks that are not there,
    CapacityError for an overlay that has not what the network needs.
    """
    beyond = [i for i in kept if not 0 <= i < len(network.blocks)]
    if beyond:
        raise UsageError(f"block {beyond[0]}: the network has 0 to {len(network.blocks) - 1}")
    at = Places(tokens, overlay.lanes, network.channels, len(network.blocks[0].up.bias))
    check_overlay(network, overlay, at)
    code, regions = Assembler(overlay, at, network.heads), dict[str, Region]()
    stream = Layout(network.channels, tokens, 1, ((), ("h",), ("c",)), 16)
    end = _move(code, regions, isa.READ_HOST, TOKENS, stream, 0)
    for i, block in enumerate(network.blocks):
        code.block(f"block_{i}", block)
        if i in kept:
            end = _move(code, regions, isa.WRITE_HOST, f"block_{i}", stream, end)
    classes = len(network.head.bias)
    wide = -(-classes // overlay.lanes) * overlay.lanes
    code.logits(network.head, network.norm, at.map)
    planes = Layout(4 * wide, 1, 1, ((), ("c",)))
    move = {"memory": end, "buffer": at.map, "words": planes.words(overlay.lanes), "chunks": 1}
    code.add(isa.WRITE_HOST, **move)
    regions[BYTES] = Region(end, planes, CODES)
    code.add(isa.BARRIER)
    names = tuple(name for name in regions if name != TOKENS)
    blocks = tuple(TensorInfo(n, (1, tokens, network.channels), "float32") for n in names[:-1])
    return Program(
        name="hgpipe",
        overlay=overlay,
        batch=1,
        segments=(
            AcceleratorSegment(
                np.stack(code.words), np.asarray(code.owners, np.int32), (TOKENS,), names
            ),
            HostSegment(byte_sums(LOGITS, BYTES, classes, wide), "sums of 32 bits"),
        ),
        layers=tuple(code.layers),
        weights=np.concatenate(code.weights),
        regions=regions,
        memory_rows=end + planes.words(overlay.lanes),
        inputs=(TensorInfo(TOKENS, (1, tokens, network.channels), "float32"),),
        outputs=(*blocks, TensorInfo(LOGITS, (1, classes), "float32")),
        notes={},
    ).verify()


def _move(
    code: Assembler,
    regions: dict[str, Region],
    kind: isa.Instruction,
    name: str,
    layout: Layout,
    row: int,
) -> int:
    """The residual stream from or to memory row `row`; returns the row behind it."""
    rows = layout.words(code.lanes)
    if not code.layers:
        code.layer("input", "Input", "transfer")
    code.add(kind, memory=row, words=rows // 2, chunks=1, space=WIDE)
    regions[name] = Region(row, layout, INT16)
    return row + rows
