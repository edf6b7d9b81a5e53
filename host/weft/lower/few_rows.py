"""Products of a few rows: engine matvec takes from the array what it does faster.

Both read the same weights, keys and values, so a program with a cache, whose runs have any number
of tokens, changes the engine of its MatMuls and Attends by Adjust.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay, load_overlay, overlay_names
from weft.errors import CapacityError
from weft.graph import Graph, Node
from weft.lower.fields import Rules, ifs
from weft.lower.registers import TOKENS, Follow, follow
from weft.lower.stage import HostOnlyError
from weft.lower.weights import Weights
from weft.passes.wide_sums import INT32, largest_sums
from weft.units import matvec, systolic, window

if TYPE_CHECKING:
    from weft.lower.emit import AnyWeights, Emitter

Fields = dict[str, int]


def check_rows(overlay: Overlay, node: Node, rows: int) -> None:
    """Raises CapacityError for a product of more int16 rows than the engine takes at once,
    HostOnlyError for an overlay without it.
    """
    if "matvec" not in overlay.engines:
        every = (load_overlay(name) for name in overlay_names())
        having = [o.name for o in every if "matvec" in o.engines and o.wide_words]
        raise HostOnlyError(
            f"no engine of overlay {overlay.name!r} ({', '.join(overlay.engines)}) multiplies "
            f"int16; matvec does, of overlays {', '.join(having)}: take one of them, or "
            "activations int8"
        )
    if rows > matvec.ROWS:
        raise CapacityError(
            f"{node.op} {node.name!r} reads int16 of {rows} tokens at a time, of which engine "
            f"matvec takes {matvec.ROWS}: compile with --tokens {matvec.ROWS}, or leave "
            "activations at int8"
        )


def check_wide_sums(graph: Graph, node: Node, w: NDArray[np.int64]) -> None:
    """Raises CapacityError where sums of int16 times weights [N, K] could leave int32."""
    sums = largest_sums(graph, node, w)
    if sums.max() > INT32:
        raise CapacityError(
            f"{node.op} {node.name!r}: {w.shape[1]} products of int16 with weights up to "
            f"{np.abs(w).max():,} could make sums of {sums.max():.3g}, beyond int32: take a larger "
            "scale of its input, weights of a format with smaller values, or activations int8"
        )


def product(tiles: int, blocks: int, rows: int, pace: int) -> dict[str, int]:
    """Fields of a MatMul of `rows` tokens on the array that clocks are counted from."""
    ones = dict.fromkeys(("kernel_h", "kernel_w", "out_w", "words", "first", "last", "overlap"), 1)
    f = {**ones, "engine": 0, "activation_bits": 8, "shift": 0, "codes": 0}
    return f | {"tiles": tiles, "blocks": blocks, "pace": pace, "out_h": rows}


def of_few_rows(
    fields: Mapping[str, int], memory_rows: int, overlay: Overlay, batch: int
) -> dict[str, int]:
    """What puts a MatMul of the array, given by its fields, on engine matvec; {} where it stays.

    It goes where it takes fewer clocks there, with the same weights, `memory_rows` rows of memory.
    """
    rows = window.positions(fields, batch)
    if "matvec" not in overlay.engines or window.taps(fields) != 1 or rows > matvec.ROWS:
        return {}
    if isa.ENGINES[fields["engine"]] != "systolic" or fields["shift"]:
        return {}
    taken = fields["tiles"] * fields["blocks"] * overlay.rows
    more = {"engine": matvec.NUMBER, **matvec.arrival(taken, memory_rows, overlay)}
    there = matvec.clocks({**fields, **more}, overlay, batch).total
    return more if there < systolic.clocks(fields, overlay, batch, {}).total else {}


def most_rows(fields: Mapping[str, int], memory_rows: int, overlay: Overlay) -> int:
    """Up to how many rows, one per token of a run, engine matvec is faster; 0: never."""
    found = 0
    for rows in range(1, min(matvec.ROWS, fields["out_h"]) + 1):
        if not of_few_rows({**fields, "out_h": rows}, memory_rows, overlay, 1):
            break
        found = rows
    return found


def by_tokens(fields: Mapping[str, int], memory_rows: int, overlay: Overlay, first: int) -> Rules:
    """Rules of a MatMul of tokens `first`, `first` + 1, ...: matvec for those it is faster for.

    ⌈min(1, left − most) / 8⌉ is 0 for left = 1..most tokens, 1 for more; most is at most 8.
    """
    most = most_rows(fields, memory_rows, overlay)
    if not most:
        return ()
    few = of_few_rows({**fields, "out_h": most}, memory_rows, overlay, 1)
    return tuple(_either(name, few[name], fields.get(name, 0), first + most) for name in few)


def most_attending(overlay: Overlay) -> int:
    """Up to how many rows an Attend is as fast on engine matvec; 0: never.

    A tile takes lanes / operand_group clocks per row there, and on the array as many as there are
    lanes, until there are more rows. What does not depend on tiles is less than the array's.
    """
    return min(matvec.ROWS, overlay.operand_group) if "matvec" in overlay.engines else 0


def attend(emitter: Emitter, fields: Mapping[str, int], rules: Rules) -> None:
    """Puts an Attend; `rules` are those of its rows. It goes to the engine that is faster for as
    many rows, if need be by the number of tokens.
    """
    f, context = dict(fields), emitter.context
    overlay = context.overlay
    aligned = all(f[name] % overlay.operand_group == 0 for name in ("operand", "operand_block"))
    most = most_attending(overlay) if aligned else 0
    few = f["rows"] <= most
    if most and not few and context.cached and rules:
        rules = (*rules, _either("matvec", 1, 0, rules[0].offset + most))
    emitter.engines.add(isa.ENGINES[matvec.NUMBER if few else 0])
    emitter.put(isa.ATTEND.encode(**f, matvec=int(few)), rules)


def _either(name: str, few: int, many: int, last: int) -> Follow:
    """`few` for a run of up to `last` tokens, `many` for a longer one."""
    return follow(name, TOKENS, few, offset=last, most=1, unit=matvec.ROWS, scale=many - few)


def read_weights(
    emitter: Emitter,
    key: object,
    weights: AnyWeights,
    fields: Mapping[str, int],
    tile: int,
    rules: Rules,
    first: int,
) -> tuple[Fields, Rules]:
    """Reads column tiles from `tile` on for the MatMul that follows, given by its fields; they are
    decoded on their way.

    `rules` are those of its tokens from `first` on: where it may have none (first > 0), weights
    come for it alone. Returns what its number of rows changes: fields, and rules of fields.
    """
    end, overlay = tile + fields["tiles"], emitter.context.overlay
    start, count = emitter.store(key, lambda: weights.packed(tile, end))
    reads, changed = weights.fields(tile, end), Fields()
    followed: Rules = ()
    if fields["engine"] == matvec.NUMBER:  # whose int16 the array does not take
        taken = fields["tiles"] * fields["blocks"] * overlay.rows
        changed = matvec.arrival(taken, count, overlay)
    elif isinstance(weights, Weights) and emitter.context.cached and rules:
        followed = by_tokens(fields, count, overlay, first)
    elif isinstance(weights, Weights):
        changed = of_few_rows(fields, count, overlay, emitter.batch)
    emitter.engines.add(isa.ENGINES[{**fields, **changed}["engine"]])
    skipped = ifs(rules) if first else ()
    if reads["format"] == 0 and not (skipped or changed or followed):
        emitter.read(start, count)
        return changed, followed
    emitter.flush()
    if followed:
        last = followed[0].offset
        skipped = (*skipped, _either("matvec", 1, 0, last))
    read = isa.READ_WEIGHTS.encode(
        memory=start, memory_rows=count, matvec=int(bool(changed)), **reads
    )
    emitter.put(read, skipped)
    return changed, followed
