"""Stages to instructions: addresses, tables, splits, bands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.errors import CapacityError
from weft.isa import Words
from weft.lower.bands import bands
from weft.lower.cache_rows import cached_attention, positions, rotate
from weft.lower.cache_tiles import tiled_attention
from weft.lower.context import Context
from weft.lower.eie import EieWeights
from weft.lower.engines import FEW_ROWS
from weft.lower.few_rows import read_weights
from weft.lower.fields import Rules, added, even, ifs, joined, moved, second, seen, source
from weft.lower.fused import FusedWeights
from weft.lower.gather import GatherWeights
from weft.lower.geometry import WIDE, Place, Rect, Target
from weft.lower.nm import NmWeights
from weft.lower.registers import adjusts
from weft.lower.row_ranges import check_order
from weft.lower.rows import attention, layer_tokens
from weft.lower.schedule import Piece
from weft.lower.snap import SnapWeights
from weft.lower.sparse import compressed, row_limit, tile_step
from weft.lower.stage import (
    AttentionOp,
    CachedOp,
    Epilogue,
    FunctionOp,
    MatrixOp,
    MergeOp,
    NormOp,
    RotateOp,
    Stage,
    VectorOp,
)
from weft.lower.weights import Weights
from weft.lower.wide_function import wide_function
from weft.lower.wide_rows import merge, norm
from weft.pack import split
from weft.program import Layer, Rule

PARAMETERS, TAPS, LOOKUP, _, _, WIDE_TABLE, _ = range(len(isa.TABLES))
LARGEST_COUNT = (1 << isa.COUNT) - 1


Places = Mapping[str, Place]
AnyWeights = Weights | FusedWeights | NmWeights | GatherWeights | EieWeights | SnapWeights


@dataclass
class Emitter:
    """Collects instructions and weight memory; tables remember what they hold."""

    context: Context
    batch: int
    overlap: bool
    regions: Mapping[str, int]
    layers: list[Layer] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)
    _weight_rows: int = 0
    _stored: dict[object, tuple[int, int]] = field(default_factory=dict)
    _paces: dict[int, int] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    _waiting: list[tuple[Words, Rules]] = field(default_factory=list)
    _range: tuple[int, int] = (0, 0)
    _segment: int = 0
    engines: set[str] = field(default_factory=set)  # of the present layer's products
    _tables: list[dict[bytes, int]] = field(default_factory=lambda: [{}, {}, {}])
    _ends: list[int] = field(default_factory=lambda: [0, 0, 0])
    _tabled: set[str] = field(default_factory=set)

    def segment(self, piece: Piece, number: int) -> tuple[Words, NDArray[np.int32]]:
        """Instructions of segment `number` and the layer of each, its Barrier included."""
        self.words, self.owners, self._segment = [], [], number
        self._tables, self._ends, self._tabled = [{}, {}, {}], [0, 0, 0], set()
        known: set[str] = set()
        for stage in piece.stages:
            self.layers.append(replace(stage.layer, tokens=layer_tokens(self.context, stage)))
            self.engines = set()
            if piece.plan is None:
                for band in bands(self.context, stage):
                    self._band(piece, stage, band.places, band.rows, set())
            else:
                rows = (0, self.context.maps[stage.target].height)
                self._band(piece, stage, piece.plan.of(self.batch), rows, known)
            if self.engines == {FEW_ROWS}:
                self.layers[-1] = replace(self.layers[-1], engine=FEW_ROWS)
        self.put(isa.BARRIER.encode())
        self.flush()
        check_order(self.context.graph, self.words)
        return np.stack(self.words), np.asarray(self.owners, np.int32)

    def put(self, words: Words, rules: Rules = ()) -> None:
        """An instruction behind those that wait, and what a run with fewer tokens changes in it."""
        self._waiting.append((words, rules))

    def _band(
        self, piece: Piece, stage: Stage, places: Places, rows: tuple[int, int], seen: set[str]
    ) -> None:
        """Target rows [low, high) of a stage, with what it reads from memory and writes there."""
        for name in stage.sources:
            if name in places and name in piece.reads and name not in seen:
                seen.add(name)
                self._transfer(isa.READ_HOST, name, places[name])
        try:
            self._operations(stage, places, rows)
        except CapacityError as error:
            raise CapacityError(f"layer {stage.layer.name!r}: {error}") from error
        for name in stage.targets:
            if name in piece.writes and stage is piece.last_writer(name):
                self._transfer(isa.WRITE_HOST, name, places[name])
        self.flush()

    def _operations(self, stage: Stage, places: Places, rows: tuple[int, int]) -> None:
        target = places[stage.target]
        for name in stage.scratch:
            if name in self.context.constants:
                self._constant(name, places[name])
            if name in self.context.tables and name not in self._tabled:
                self._tabled.add(name)
                positions(self, name, places[name])
        for op in stage.ops:
            if isinstance(op, NormOp):
                norm(self, op, rows, places, target)
            elif isinstance(op, RotateOp):
                rotate(self, op, rows, places, target)
            elif isinstance(op, FunctionOp):
                wide_function(self, op, rows, places, target)
            elif isinstance(op, MergeOp):
                merge(self, op, rows, places, target)
            elif isinstance(op, CachedOp):
                attend = tiled_attention if op.fresh else cached_attention
                attend(self, op, rows, places, target)
            elif isinstance(op, AttentionOp):
                attention(self, op, rows, places, target)
            else:
                for rect in self._rects(op, rows):
                    rules = self._counted(op, stage.target, rect)
                    if isinstance(op, MatrixOp):
                        self._matrix(op, rect, places, target, rules)
                    else:
                        self._vector(op, rect, places, target, rules)

    def _counted(self, op: MatrixOp | VectorOp, target: str, rect: Rect) -> Rules:
        """The rule of an operation's rows where they are tokens."""
        if not self.symbol(target):
            return ()
        return (Rule(0, 0, "out_h", self.symbol(target), rect.y0, rect.y1 - rect.y0),)

    def symbol(self, name: str) -> str:
        """The input whose tokens the rows of a map are, where a run may have fewer; else ""."""
        tokens = self.context.maps[name].tokens
        return "" if tokens in self.context.fixed else tokens

    @property
    def token_symbol(self) -> str:
        """What a program with a cache counts: the only input."""
        return self.context.graph.inputs[0]

    def _constant(self, name: str, place: Place) -> None:
        """Loads a constant map into the wide buffer."""
        words = self.context.constants[name]
        for start in range(0, len(words), LARGEST_COUNT):
            part = words[start : start + LARGEST_COUNT]
            self._need((name, start), split(part))
            count, index = len(part), place.base + start
            self.put(isa.SET_TABLE.encode(target=WIDE_TABLE, index=index, count=count))

    def _transfer(self, kind: isa.Instruction, name: str, place: Place) -> None:
        """Moves the rows of a place, of every channel block, from or to the map's region."""
        extent, symbol = self.context.maps[name], self.symbol(name)
        size = place.rows * extent.width  # of a block
        whole = place.rows == extent.height and place.block == size and not symbol
        words = extent.blocks * size if whole else size
        chunks, each = 1 if whole else extent.blocks, extent.per_word
        first = self.regions[name] + place.origin * extent.width * each
        rules: Rules = moved(symbol, place, each, extent.blocks) if symbol else ()
        if name in self.context.recalled:
            rules = rules[:1]  # heads of keys lie where they do with all tokens
        kept = self.context.kept.get(name)
        for start in range(0, words, LARGEST_COUNT):
            self.put(
                kind.encode(
                    memory=first + start * each,
                    buffer=place.base + start,
                    words=min(LARGEST_COUNT, words - start),
                    chunks=chunks,
                    memory_step=extent.height * extent.width * each,
                    buffer_step=place.block,
                    memory_sample=extent.rows,
                    buffer_sample=place.sample,
                    space=place.space,
                ),
                (*rules, kept.at(first + start * each)) if kept else rules,
            )

    def _rects(self, op: MatrixOp | VectorOp, rows: tuple[int, int]) -> Iterator[Rect]:
        """Output positions of `op` in target rows [low, high), in parts that the accumulators
        hold, as even as can be.
        """
        window = op.window
        low, high = op.output_rows(*rows)
        limit = max(1, row_limit(op, self.context.overlay) // self.batch)
        for y0, y1 in even(low, high, max(1, limit // window.out_w)):
            for x0, x1 in even(0, window.out_w, limit):
                yield Rect(y0, y1, x0, x1)

    def _matrix(
        self, op: MatrixOp, rect: Rect, places: Places, target: Place, rules: Rules
    ) -> None:
        overlay = self.context.overlay
        step = op.blocks if len(op.passes) > 1 else overlay.parameter_blocks
        own = compressed(op)
        if own is not None:
            count = self.batch * (rect.y1 - rect.y0) * (rect.x1 - rect.x0)
            step = min(step, tile_step(own, overlay, count))
        for tile, end in even(0, op.blocks, step, 1 << op.epilogue.pack):
            parameter = self.epilogue(op.epilogue, tile, end)
            for number, part in enumerate(op.passes):
                place = places[part.source]
                window, fields = seen(part, rect, place)
                whole = {
                    **vars(window),
                    **fields,
                    "blocks": part.weights.blocks,
                    "tiles": end - tile,
                    "rows": own.rows(tile, end) if own is not None else 0,
                    "pad": part.pad,
                    "first": int(number == 0),
                    "last": int(number == len(op.passes) - 1),
                    "overlap": int(self.overlap),
                    **part.precision.fields(),
                    "pace": part.precision.pace(self._pace(part.weights)),
                }
                key = (id(part.weights), tile, end)
                changed, more = read_weights(self, key, part.weights, whole, tile, rules, rect.y0)
                self.put(isa.MAT_MUL.encode(**{**whole, **changed}), (*rules, *more))
            if not op.byte_blocks:
                to = op.target
                extra = added(op.residual, places, rect, to.block0 + tile, to)
                self._activate(op.epilogue, parameter, to, rect, tile, target, rules, extra)
            for byte in range(4 if op.byte_blocks else 0):
                raw = replace(op.epilogue, mode=isa.RAW_BYTE + byte)
                block = tile + byte * op.byte_blocks
                self._activate(raw, parameter, op.target, rect, block, target, rules)
            if rules and rect.y0:  # the first rows are always there
                self.flush()

    def _vector(
        self, op: VectorOp, rect: Rect, places: Places, target: Place, rules: Rules
    ) -> None:
        overlay = self.context.overlay
        limit = overlay.parameter_blocks if op.epilogue.step else op.blocks
        if op.taps is not None:
            limit = min(limit, overlay.tap_words // op.window.taps)
        place = places[op.source]
        for block, end in even(0, op.blocks, limit, 1 << op.epilogue.pack):
            parameter = self.epilogue(op.epilogue, block, end)
            tap = 0 if op.taps is None else self._table(TAPS, joined(op.taps[block:end]))
            fields = source(place, op.block0 + block)
            window = op.window.cut(rect, place.origin, place.rows)
            if op.second is not None:
                fields["source"] = place.at(op.block0 + block, rect.y0, rect.x0)
                window = replace(window, height=window.out_h, width=window.out_w, pad_y=0, pad_x=0)
                fields |= second(op.second, places[op.second.source], rect, block)
            more = tuple(replace(r, field="height") for r in rules if op.second is not None)
            self.put(
                isa.VECTOR.encode(
                    **vars(window),
                    **fields,
                    operation=isa.OPERATIONS.index(op.operation),
                    blocks=end - block,
                    tap=tap,
                    zero=op.zero,
                    scale=op.scale if op.second is not None else 0,
                ),
                (*rules, *more),
            )
            self._activate(op.epilogue, parameter, op.target, rect, block, target, rules)

    def _activate(
        self,
        done: Epilogue,
        parameter: int,
        target: Target,
        rect: Rect,
        block: int,
        place: Place,
        rules: Rules = (),
        extra: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        wide = place.space == WIDE  # which has no zero point and is clamped to its own ends
        self.put(
            isa.ACTIVATE.encode(
                target=place.at(
                    (target.block0 + block) >> done.pack,
                    target.y0 + rect.y0 * target.step_y,
                    target.x0 + rect.x0 * target.step_x,
                ),
                target_sample=place.sample,
                target_block=place.block,
                target_row=place.width * target.step_y,
                target_col=target.step_x,
                parameter=parameter,
                parameter_step=done.step,
                mode=done.mode,
                zero_point=done.zero_point,
                low=0 if wide else done.low,
                high=0 if wide else done.high,
                lookup=int(done.lookup is not None),
                pack=done.pack,
                space=place.space,
                normalize=done.normalize,
                **extra,
            ),
            ifs(rules),
        )

    def epilogue(self, done: Epilogue, block: int, end: int) -> int:
        """Loads parameters (of blocks block..end-1) and lookup; returns the first block's index."""
        rows = done.rows
        if done.step:
            rows = rows[block * isa.PARAMETER_ROWS : end * isa.PARAMETER_ROWS]
        parameter = self._table(PARAMETERS, rows)
        if done.lookup is not None:
            entries = np.repeat(done.lookup.reshape(-1, 1), self.context.lanes, axis=1)
            self._table(LOOKUP, entries)
        return parameter

    def _table(self, target: int, rows: NDArray[np.int8]) -> int:
        """Index of `rows` in a table; takes them from the stream unless they are there already."""
        key = rows.tobytes()
        if key in self._tables[target]:
            return self._tables[target][key]
        overlay = self.context.overlay
        capacity = (overlay.parameter_blocks, overlay.tap_words, isa.LOOKUP_ENTRIES)[target]
        count = len(rows) // (isa.PARAMETER_ROWS if target == PARAMETERS else 1)
        if self._ends[target] + count > capacity:
            self._tables[target], self._ends[target] = {}, 0
        index = self._ends[target]
        self._tables[target][key], self._ends[target] = index, index + count
        self._need((target, key), rows)
        self.put(isa.SET_TABLE.encode(target=target, index=index, count=count))
        return index

    def _need(self, key: object, rows: NDArray[np.int8]) -> None:
        """The next instruction takes `rows` from the stream: stores them once, reads them now."""
        self.read(*self.store(key, lambda: rows))

    def read(self, start: int, count: int) -> None:
        """Rows for the next instruction; those that lie behind one another are read together."""
        if start != self._range[1] or self._range[0] == self._range[1]:
            self.flush()
            self._range = (start, start)
        self._range = (self._range[0], start + count)

    def store(self, key: object, make: Callable[[], NDArray[np.int8]]) -> tuple[int, int]:
        """First row and number of rows of what is stored under `key`."""
        if key not in self._stored:
            rows = make()
            self._stored[key] = (self._weight_rows, len(rows))
            self.weights.append(rows)
            self._weight_rows += len(rows)
        return self._stored[key]

    def _pace(self, weights: AnyWeights) -> int:
        if id(weights) not in self._paces:
            self._paces[id(weights)] = weights.pace(self.context.overlay)
        return self._paces[id(weights)]

    def flush(self) -> None:
        """Puts out what waits, behind the ReadWeights that feeds it."""
        low, high = self._range
        if low < high:
            read = isa.READ_WEIGHTS.encode(memory=low, rows=high - low, memory_rows=high - low)
            self._waiting.insert(0, (read, ()))
        self._range = (0, 0)
        before = len(self.words)
        for words, rules in self._waiting:
            segment, number = self._segment, len(self.words)
            if self.context.cached:
                self.words += adjusts(words, rules, self.context.sources)
            else:
                self.rules += [replace(r, segment=segment, instruction=number) for r in rules]
            self.words.append(words)
        self.owners += [len(self.layers) - 1] * (len(self.words) - before)
        self._waiting = []
