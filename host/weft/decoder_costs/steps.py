"""What one run of a decoder's program does: its instructions' clocks and the bytes they move.

The clocks are those of the units' own formulas (weft.units), as estimate has them of a compiled
program; only the list of instructions is made here, layer by layer, without any weights. Nothing
overlaps but what the hardware lets: an instruction takes its clocks, one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from weft import isa, tiles
from weft.config import Overlay
from weft.decoder_costs import packed
from weft.decoder_costs.config import Decoder, Product
from weft.format import Format
from weft.lower import few_rows
from weft.lower.fields import even
from weft.state import ISSUE_CLOCKS, Clocks
from weft.storage import ceil_div
from weft.units import attention, matvec, normalize, systolic, transfer, vector
from weft.units import rotate as rotator

PRODUCTS, ATTENTION, ELEMENTWISE, TABLES, TRANSFERS = (
    "products", "attention", "elementwise", "tables", "transfers",
)  # fmt: skip
WEIGHTS, SCALES, PARAMETERS, CACHE, ACTIVATIONS, PROGRAM = (
    "weights", "scales of groups", "requantization", "keys and values", "activations", "program",
)  # fmt: skip
INSTRUCTION_BYTES = 4 * isa.WORDS
IMAGE = {WEIGHTS, SCALES, PARAMETERS}  # what lies in weight memory


@dataclass(frozen=True)
class Step:
    """Some instructions that do one thing; `times` they are done.

    `read` and `written` are bytes by kind of one time; `ports` bring what is read, in runs of
    `run` consecutive bytes; `pieces` is in how many places is written. `macs`: of the model.
    """

    name: str
    part: str
    clocks: Clocks
    instructions: int = 1
    read: dict[str, int] = field(default_factory=dict)
    written: int = 0
    ports: int = 1
    run: int = 1 << 20
    pieces: int = 0
    macs: int = 0
    times: int = 1


@dataclass(frozen=True)
class Machine:
    """An overlay, the format of weights, and ways to be faster than it is: no overlay has them yet.

    `ahead`: the next head's keys and values come while the present one is attended to;
    `table_ports`: ports that fill tables; `spread`: keys and values lie in the memories of all
    ports, as weights do, where ports have memories of their own. `cache_bits`: of keys and values
    in memory; `token_ranges`: they have ranges per token. `wide`: products read int16.
    """

    overlay: Overlay
    weights: Format
    ahead: bool = False
    table_ports: int = 1
    cache_bits: int = 8
    token_ranges: bool = False
    spread: bool = False
    wide: bool = False

    @property
    def packs(self) -> bool:
        """Whether the cache has codes of fewer bits."""
        return self.cache_bits < 8

    def table(self, target: int, count: int) -> Clocks:
        """Clocks of a SetTable."""
        found = transfer.clocks({"target": target, "count": count}, self.overlay, 1, {})
        return replace(found, table=int(ceil_div(found.table, self.table_ports)))

    def blocks(self, channels: int) -> int:
        """Words that hold so many channels."""
        return int(ceil_div(channels, self.overlay.lanes))

    def head_blocks(self, decoder: Decoder) -> int:
        """Words of a head: 1, 2, 4, ... (weft.passes.whole_heads)."""
        return 1 << (self.blocks(decoder.head_width) - 1).bit_length()

    def whole_heads(self, decoder: Decoder) -> Decoder:
        """The decoder with heads of whole words."""
        return replace(decoder, head_width=self.head_blocks(decoder) * self.overlay.lanes)


def total(clocks: Iterator[Clocks] | list[Clocks]) -> Clocks:
    """The sum, by cause."""
    found: Counter[str] = Counter()
    for one in clocks:
        found.update(vars(one))
    return Clocks(**found)


def times(clocks: Clocks, count: int) -> Clocks:
    """So many of the same."""
    return Clocks(**{name: count * value for name, value in vars(clocks).items()})


def stored(machine: Machine, p: Product) -> tuple[int, int]:
    """Bytes of the codes of one copy of a product, and of what its groups share."""
    fmt, lanes = machine.weights, machine.overlay.lanes
    shape = (p.outputs, 1, p.inputs)
    codes = tiles.stored_rows(shape, fmt, lanes) * lanes
    whole = tiles.stored_rows(shape, fmt, lanes, fmt.group, fmt.asymmetric) * lanes
    return codes, whole - codes


def product(
    machine: Machine, p: Product, m: int, count: int, lookup: bool = False, weights: int = 0
) -> Iterator[Step]:
    """The copies of a product with m rows, and the tables of its epilogue; `count` of them all.

    `lookup`: one of the copies has an activation function, whose table comes before it. `weights`
    of a copy are the model's, where heads are filled up (0: all).
    """
    o, folds = machine.overlay, machine.blocks(p.inputs)
    codes, scales = stored(machine, p)
    columns = machine.blocks(p.outputs)
    memory_rows = (codes + scales) // o.lanes
    found: list[Clocks] = []
    loads: list[Clocks] = []
    for first, last in even(0, columns, o.parameter_blocks):
        part = last - first
        arriving = int(ceil_div(memory_rows * part, columns))
        found.append(_matmul(machine, m, part, folds, arriving))
        loads.append(machine.table(transfer.PARAMETERS, part))
    reading = len(found) * ISSUE_CLOCKS  # of the Activate behind each; ReadWeights go elsewhere
    clocks = total([*found, Clocks(issue=reading)])
    yield Step(
        p.name, PRODUCTS, clocks, 3 * len(found), {WEIGHTS: codes, SCALES: scales},
        ports=o.weight_ports, macs=m * (weights or p.inputs * p.outputs), times=count * p.copies,
    )  # fmt: skip
    yield Step(
        f"{p.name}: requantization", TABLES, total(loads), 2 * len(loads),
        {PARAMETERS: columns * isa.PARAMETER_ROWS * o.lanes}, ports=o.weight_ports,
        times=count * p.copies,
    )  # fmt: skip
    if lookup:
        entries = isa.LOOKUP_ENTRIES
        clocks = times(machine.table(transfer.LOOKUP, entries), len(loads))
        read = {PARAMETERS: len(loads) * entries * o.lanes}
        yield Step(
            f"{p.name}: function", TABLES, clocks, 2, read, ports=o.weight_ports, times=count
        )


def gate(machine: Machine, channels: int, m: int, count: int) -> Iterator[Step]:
    """Products of two maps, element by element."""
    o = machine.overlay
    f = {"operation": vector.MUL, "out_h": 1, "out_w": m, "blocks": machine.blocks(channels)}
    clocks = total([vector.clocks(f, o, 1, {}), Clocks(issue=ISSUE_CLOCKS)])
    yield Step("gate", ELEMENTWISE, clocks, 2, times=count)
    yield from tables(machine, "gate: requantization", 1, count)


def tables(machine: Machine, name: str, blocks: int, count: int) -> Iterator[Step]:
    """Parameters of so many channel blocks."""
    o, clocks = machine.overlay, machine.table(transfer.PARAMETERS, blocks)
    read = {PARAMETERS: blocks * isa.PARAMETER_ROWS * o.lanes}
    yield Step(name, TABLES, clocks, 2, read, ports=o.weight_ports, times=count)


def _matmul(machine: Machine, m: int, tiles: int, blocks: int, memory_rows: int) -> Clocks:
    """Clocks of one MatMul of m rows, on the engine that compiled programs take for them."""
    o = machine.overlay
    pace = max(1, int(ceil_div(memory_rows * o.beats, o.weight_ports * tiles * blocks * o.lanes)))
    f = few_rows.product(tiles, blocks, max(m, matvec.ROWS), pace)
    if machine.wide:
        arriving = matvec.arrival(tiles * blocks * o.rows, memory_rows, o)
        own = {"engine": matvec.NUMBER, "activation_bits": 16, "out_h": m}
        return matvec.clocks({**f, **own, **arriving}, o, 1)
    few = m <= few_rows.most_rows(f, memory_rows, o)
    f["out_h"] = m
    if few:
        return matvec.clocks(f | few_rows.of_few_rows(f, memory_rows, o, 1), o, 1)
    return systolic.clocks(f, o, 1, {})


def norm(machine: Machine, rows: int, channels: int, count: int, heads: int = 1) -> Iterator[Step]:
    """Norms of `rows` rows, of each of some heads with the same parameters."""
    o, blocks = machine.overlay, machine.blocks(channels)
    found = normalize.clocks({"rows": rows, "blocks": blocks}, o, 1, {})
    yield Step("norm", ELEMENTWISE, found, times=count * heads)
    yield from tables(machine, "norm: parameters", blocks, count)


def rotate(
    machine: Machine, name: str, words: int, plain: bool, count: int, ranges: bool = False
) -> Step:
    """Words that get their position, or (plain) only new codes; `count` times. `ranges`: of each
    token, too.
    """
    f = {"rows": 1, "blocks": words, "plain": int(plain), "ranges": int(ranges)}
    return Step(name, ELEMENTWISE, rotator.clocks(f, machine.overlay, 1, {}), times=count)


def move(machine: Machine, name: str, words: int, wide: bool, count: int, kind: str) -> Step:
    """Words that are read from memory behind one another."""
    space = isa.WIDE if wide else isa.UNIFIED
    f = {"chunks": 1, "words": words, "space": space}
    o = machine.overlay
    rows = transfer.rows_moved(f, 1)
    return Step(
        name, TRANSFERS, transfer.clocks(f, o, 1, {}), read={kind: rows * o.lanes}, times=count
    )


def write(machine: Machine, name: str, words: int, pieces: int, count: int) -> Step:
    """Words that are written to memory, in `pieces` places."""
    f = {"chunks": pieces, "words": max(1, words // pieces), "space": isa.UNIFIED}
    clocks = transfer.clocks(f, machine.overlay, 1, {})
    written = transfer.rows_moved(f, 1) * machine.overlay.lanes
    return Step(name, TRANSFERS, clocks, written=written, pieces=pieces, times=count)


def around_attention(machine: Machine, d: Decoder, m: int, count: int) -> dict[str, list[Step]]:
    """Products around attention by name, with heads of whole words."""
    whole = machine.whole_heads(d).attention_products()
    return {
        p.name: list(product(machine, p, m, count, weights=true.inputs * true.outputs))
        for p, true in zip(whole, d.attention_products(), strict=True)
    }


def cached(machine: Machine, d: Decoder, m: int, past: int, count: int) -> Iterator[Step]:
    """Queries and keys of m tokens get their positions; keys and values go to the cache, behind
    `past` others.
    """
    head, ranged = m * machine.head_blocks(d), machine.token_ranges
    if d.head_norms:
        for heads in (d.heads, d.kv_heads):
            yield from norm(machine, m, d.head_width, count, heads)
    if d.rotary:
        yield rotate(machine, "queries", d.heads * head, False, count)
    heads = count * d.kv_heads
    # Once behind the cached ones for this run, once for the cache.
    yield rotate(machine, "keys", head, not d.rotary, 2 * heads, ranged)
    yield rotate(machine, "values", head, True, 2 * heads, ranged)
    for name in ("keys to the cache", "values to the cache"):
        # Each block of a head lies by itself, in the order of tokens.
        yield write(machine, name, head, machine.head_blocks(d), heads)
    if ranged:
        yield from _magnitudes(machine, m, past, 2 * heads)


def _magnitudes(machine: Machine, m: int, past: int, count: int) -> Iterator[Step]:
    """Magnitudes of `past` tokens from memory, those of m new ones back; of `count` heads."""
    o = machine.overlay
    kept = {"chunks": 1, "words": 1 + machine.blocks(m - 1), "space": isa.RANGES}
    if past:
        f = {**kept, "words": machine.blocks(past)}
        read = {CACHE: transfer.rows_moved(f, 1) * o.lanes}
        clocks = transfer.clocks(f, o, 1, {})
        yield Step("ranges of tokens", TRANSFERS, clocks, read=read, times=count)
    written = transfer.rows_moved(kept, 1) * o.lanes
    clocks = transfer.clocks(kept, o, 1, {})
    yield Step("ranges to the cache", TRANSFERS, clocks, written=written, pieces=1, times=count)


def kept(machine: Machine, d: Decoder, m: int, past: int, count: int) -> Iterator[Step]:
    """Codes of a group of a packed cache that ends with these m tokens, to memory."""
    if not machine.packs or (past + m) // packed.GROUP == past // packed.GROUP:
        return
    blocks, heads = machine.head_blocks(d), count * d.kv_heads
    for name, clocks, rows in packed.packs(machine.overlay, machine.cache_bits, blocks):
        yield Step(name, ELEMENTWISE, clocks, times=heads)
        yield write(machine, f"{name} to the cache", rows * blocks, blocks, heads)


def attend(
    machine: Machine, d: Decoder, m: int, past: int, keys: int, count: int, macs: int
) -> Iterator[Step]:
    """Attention of m tokens to `keys` keys, of which `past` come from memory; all heads.

    Heads of queries that share keys and values take turns on them. Where all keys come from memory,
    as those of a source do, all heads come at once.
    """
    blocks, o = machine.head_blocks(d), machine.overlay
    rows = past * blocks * o.lanes
    ranged = machine.token_ranges and past < keys  # each head has scales of its own
    own = d.kv_heads if ranged else 1
    yield from tables(machine, "attention: requantization", 1, 2 * count * own)
    ports = o.weight_ports if o.cached and past < keys else 1
    load, reads = _load(machine, past, blocks, o.cached and past < keys)
    read = 2 * rows
    if machine.packs:
        load, reads, groups = packed.loads(o, machine.cache_bits, past, blocks)
        read = groups * o.lanes
    calls = [min(o.accumulator_rows, m - i) for i in range(0, m, o.accumulator_rows)]
    busy = times(total([_attends(machine, n, keys, blocks) for n in calls]), d.group)
    clocks = times(total([load, busy]), d.kv_heads)
    if machine.ahead:  # all heads but the first arrive while the one before is attended to
        waits = max(0, load.transfer + load.table - busy.total)
        clocks = total([load, times(replace(busy, transfer=waits), d.kv_heads - 1), busy])
    spared = 2 * (d.kv_heads - 1) if past == keys and not machine.ahead else 0
    clocks = replace(clocks, issue=clocks.issue - spared * ISSUE_CLOCKS)
    yield Step(
        "attention", ATTENTION, clocks, d.kv_heads * (reads + 4 * d.group * len(calls)) - spared,
        {CACHE: read * d.kv_heads}, ports=ports, run=max(1, read // (2 * blocks)),
        times=count, macs=macs,
    )  # fmt: skip


def _load(machine: Machine, past: int, blocks: int, streams: bool) -> tuple[Clocks, int]:
    """Keys and values of `past` tokens into the operand buffer: clocks, and instructions."""
    o = machine.overlay
    if not past:
        return Clocks(), 2
    if not streams:
        f = {"chunks": blocks, "words": past, "space": isa.OPERAND}
        return times(transfer.clocks(f, o, 1, {}), 2), 2
    count = int(ceil_div(past, o.run_rows)) * o.run_rows
    f = {"target": transfer.OPERANDS, "count": count, "runs": blocks}
    return times(transfer.clocks(f, o, 1, {}), 2), 4  # a ReadWeights before each


def _attends(machine: Machine, rows: int, keys: int, blocks: int) -> Clocks:
    """Scores of some rows, and their exponentials times values."""
    o, key_blocks = machine.overlay, machine.blocks(keys)
    few = int(rows <= few_rows.most_attending(o))
    fields = {"rows": rows, "overlap": 1, "normalized": 0, "matvec": few}
    taken = [Clocks(issue=2 * ISSUE_CLOCKS)]
    for columns, folds in ((key_blocks, blocks), (blocks, key_blocks)):
        taken.append(attention.clocks({**fields, "tiles": columns, "blocks": folds}, o, 1, {}))
    return total(taken)
