"""What runs take beside that where products read int16: copies for norms, functions of int16."""

from __future__ import annotations

from collections.abc import Iterator

from weft import isa
from weft.decoder_costs.config import Decoder
from weft.decoder_costs.steps import (
    ELEMENTWISE,
    PARAMETERS,
    TABLES,
    Machine,
    Step,
    rotate,
    total,
)
from weft.lower.wide_function import BLOCKS, COPIES, LOOKUPS
from weft.state import ISSUE_CLOCKS, Clocks
from weft.units import transfer, vector


def copies(machine: Machine, d: Decoder, m: int, count: int) -> Iterator[Step]:
    """The residual stream for `count` norms, which take the place of what they read."""
    if machine.wide:
        words = m * machine.blocks(d.width)
        yield rotate(machine, "copies for norms", words, True, count)


def function(machine: Machine, d: Decoder, m: int, count: int) -> Iterator[Step]:
    """A function of each int16 of the inner layer, in straight lines (weft.lower.wide_function)."""
    o, blocks = machine.overlay, machine.blocks(d.inner)
    yield rotate(machine, "function: cells", m * blocks, True, count)
    f = {"operation": 0, "kernel_h": 1, "kernel_w": 1, "out_h": 1, "out_w": m, "blocks": blocks}
    each = total([vector.clocks(f, o, 1, {}), Clocks(issue=ISSUE_CLOCKS)])
    yield Step("function", ELEMENTWISE, each, 2, times=count * COPIES)
    entries = isa.LOOKUP_ENTRIES
    clocks = machine.table(transfer.LOOKUP, entries)
    read = {PARAMETERS: entries * o.lanes}
    yield Step(
        "function: lookups", TABLES, clocks, 2, read, ports=o.weight_ports, times=count * LOOKUPS
    )
    kept = loaded(machine, d) <= o.parameter_blocks  # else those of other layers take their place
    clocks = machine.table(transfer.PARAMETERS, 1)
    read = {PARAMETERS: isa.PARAMETER_ROWS * o.lanes}
    times = BLOCKS * (1 if kept else count)
    yield Step(
        "function: requantization", TABLES, clocks, 2, read, ports=o.weight_ports, times=times
    )


def loaded(machine: Machine, d: Decoder) -> int:
    """Parameter blocks of all of a run."""
    blocks = sum(
        machine.blocks(p.outputs) * p.copies * count
        for p, count in machine.whole_heads(d).products()
    )
    norms = (2 * d.layers + 1) * machine.blocks(d.width)
    own = d.layers * (2 + 2 * d.head_norms * machine.head_blocks(d))
    return blocks + norms + own + BLOCKS
