"""Stages to instructions: addresses, tables, splits, bands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.errors import CapacityError
from weft.isa import Words
from weft.lower.bands import bands
from weft.lower.context import Context
from weft.lower.eie import EieWeights
from weft.lower.fused import FusedWeights
from weft.lower.gather import GatherWeights
from weft.lower.nm import NmWeights
from weft.lower.schedule import Piece
from weft.lower.snap import SnapWeights
from weft.lower.sparse import compressed, row_limit, tile_step
from weft.lower.stage import (
    Epilogue,
    MatrixOp,
    Op,
    Pass,
    Place,
    Rect,
    Second,
    Stage,
    Target,
    VectorOp,
    Window,
)
from weft.lower.weights import Weights
from weft.program import Layer

PARAMETERS, TAPS, LOOKUP = range(3)
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
    _waiting: list[Words] = field(default_factory=list)
    _range: tuple[int, int] = (0, 0)
    _tables: list[dict[bytes, int]] = field(default_factory=lambda: [{}, {}, {}])
    _ends: list[int] = field(default_factory=lambda: [0, 0, 0])

    def segment(self, piece: Piece) -> tuple[Words, NDArray[np.int32]]:
        """Instructions of a segment and the layer of each, its Barrier included."""
        self.words, self.owners = [], []
        self._tables, self._ends = [{}, {}, {}], [0, 0, 0]
        seen: set[str] = set()
        for stage in piece.stages:
            self.layers.append(stage.layer)
            if piece.plan is None:
                for band in bands(self.context, stage):
                    self._band(piece, stage, band.places, band.rows, set())
            else:
                rows = (0, self.context.maps[stage.target].height)
                self._band(piece, stage, self._resident(piece), rows, seen)
        self._waiting.append(isa.BARRIER.encode())
        self._flush()
        return np.stack(self.words), np.asarray(self.owners, np.int32)

    def _resident(self, piece: Piece) -> Places:
        assert piece.plan is not None
        return {
            name: Place(
                offset * self.batch,
                self.context.maps[name].words,
                self.context.maps[name].height,
                self.context.maps[name].width,
                odd=self.context.maps[name].odd,
            )
            for name, offset in piece.plan.offsets.items()
        }

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
        if stage.target in piece.writes and stage is piece.last_writer(stage.target):
            self._transfer(isa.WRITE_HOST, stage.target, places[stage.target])
        self._flush()

    def _operations(self, stage: Stage, places: Places, rows: tuple[int, int]) -> None:
        for op in stage.ops:
            for rect in self._rects(op, rows):
                if isinstance(op, MatrixOp):
                    self._matrix(op, rect, places, places[stage.target])
                else:
                    self._vector(op, rect, places, places[stage.target])

    def _transfer(self, kind: isa.Instruction, name: str, place: Place) -> None:
        """Moves the rows of a place, of every channel block, from or to the map's region."""
        extent = self.context.maps[name]
        size = place.rows * extent.width  # of a block
        whole = place.rows == extent.height and place.block == size
        words = extent.rows if whole else size
        chunks = 1 if whole else extent.blocks
        first = self.regions[name] + place.origin * extent.width
        for start in range(0, words, LARGEST_COUNT):
            self._waiting.append(
                kind.encode(
                    memory=first + start,
                    buffer=place.base + start,
                    words=min(LARGEST_COUNT, words - start),
                    chunks=chunks,
                    memory_step=extent.height * extent.width,
                    buffer_step=place.block,
                    memory_sample=extent.rows,
                    buffer_sample=place.sample,
                )
            )

    def _rects(self, op: Op, rows: tuple[int, int]) -> Iterator[Rect]:
        """Output positions of `op` in target rows [low, high), in parts that the accumulators
        hold, as even as can be.
        """
        window = op.window
        low, high = op.output_rows(*rows)
        limit = max(1, row_limit(op, self.context.overlay) // self.batch)
        for y0, y1 in _even(low, high, max(1, limit // window.out_w)):
            for x0, x1 in _even(0, window.out_w, limit):
                yield Rect(y0, y1, x0, x1)

    def _matrix(self, op: MatrixOp, rect: Rect, places: Places, target: Place) -> None:
        overlay = self.context.overlay
        step = op.blocks if len(op.passes) > 1 else overlay.parameter_blocks
        own = compressed(op)
        if own is not None:
            count = self.batch * (rect.y1 - rect.y0) * (rect.x1 - rect.x0)
            step = min(step, tile_step(own, overlay, count))
        for tile, end in _even(0, op.blocks, step, 1 << op.epilogue.pack):
            parameter = self._epilogue(op.epilogue, tile, end)
            for number, part in enumerate(op.passes):
                place = places[part.source]
                window, source = _seen(part, rect, place)
                self._need_weights((id(op), number, tile), part.weights, tile, end)
                last = number == len(op.passes) - 1
                self._waiting.append(
                    isa.MAT_MUL.encode(
                        **vars(window),
                        **source,
                        blocks=part.weights.blocks,
                        tiles=end - tile,
                        rows=own.rows(tile, end) if own is not None else 0,
                        pad=part.pad,
                        first=int(number == 0),
                        last=int(last),
                        overlap=int(self.overlap),
                        **part.precision.fields(),
                        pace=part.precision.pace(self._pace(part.weights)),
                    )
                )
            if not op.byte_blocks:
                self._activate(op.epilogue, parameter, op.target, rect, tile, target)
            for byte in range(4 if op.byte_blocks else 0):
                raw = replace(op.epilogue, mode=isa.RAW_BYTE + byte)
                block = tile + byte * op.byte_blocks
                self._activate(raw, parameter, op.target, rect, block, target)

    def _vector(self, op: VectorOp, rect: Rect, places: Places, target: Place) -> None:
        overlay = self.context.overlay
        limit = overlay.parameter_blocks if op.epilogue.step else op.blocks
        if op.taps is not None:
            limit = min(limit, overlay.tap_words // op.window.taps)
        place = places[op.source]
        for block, end in _even(0, op.blocks, limit, 1 << op.epilogue.pack):
            parameter = self._epilogue(op.epilogue, block, end)
            tap = 0 if op.taps is None else self._table(TAPS, _joined(op.taps[block:end]))
            fields = _source(place, op.block0 + block)
            window = op.window.cut(rect, place.origin, place.rows)
            if op.second is not None:
                fields["source"] = place.at(op.block0 + block, rect.y0, rect.x0)
                window = replace(window, height=window.out_h, width=window.out_w, pad_y=0, pad_x=0)
                fields |= _second(op.second, places[op.second.source], rect, block)
            self._waiting.append(
                isa.VECTOR.encode(
                    **vars(window),
                    **fields,
                    operation=isa.OPERATIONS.index(op.operation),
                    blocks=end - block,
                    tap=tap,
                    zero=op.zero,
                    scale=op.scale if op.second is not None else 0,
                )
            )
            self._activate(op.epilogue, parameter, op.target, rect, block, target)

    def _activate(
        self, done: Epilogue, parameter: int, target: Target, rect: Rect, block: int, place: Place
    ) -> None:
        self._waiting.append(
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
                low=done.low,
                high=done.high,
                lookup=int(done.lookup is not None),
                pack=done.pack,
            )
        )

    def _epilogue(self, done: Epilogue, block: int, end: int) -> int:
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
        self._waiting.append(isa.SET_TABLE.encode(target=target, index=index, count=count))
        return index

    def _need(self, key: object, rows: NDArray[np.int8]) -> None:
        """The next instruction takes `rows` from the stream: stores them once, reads them now."""
        self._read(*self._store(key, lambda: rows))

    def _need_weights(self, key: object, weights: AnyWeights, tile: int, end: int) -> None:
        """The next instruction takes column tiles tile..end-1, which are decoded on their way."""
        start, count = self._store(key, lambda: weights.packed(tile, end))
        fields = weights.fields(tile, end)
        if fields["format"] == 0:
            self._read(start, count)
            return
        self._flush()
        self._waiting.append(isa.READ_WEIGHTS.encode(memory=start, memory_rows=count, **fields))

    def _read(self, start: int, count: int) -> None:
        """Rows for the next instruction; those that lie behind one another are read together."""
        if start != self._range[1] or self._range[0] == self._range[1]:
            self._flush()
            self._range = (start, start)
        self._range = (self._range[0], start + count)

    def _store(self, key: object, make: Callable[[], NDArray[np.int8]]) -> tuple[int, int]:
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

    def _flush(self) -> None:
        """Puts out what waits, behind the ReadWeights that feeds it."""
        low, high = self._range
        if low < high:
            read = isa.READ_WEIGHTS.encode(memory=low, rows=high - low, memory_rows=high - low)
            self._waiting.insert(0, read)
        self._range = (0, 0)
        self.words += self._waiting
        self.owners += [len(self.layers) - 1] * len(self._waiting)
        self._waiting = []


def _seen(part: Pass, rect: Rect, place: Place) -> tuple[Window, dict[str, int]]:
    """The window of an operation and where its input lies."""
    if not part.flat:
        return part.window.cut(rect, place.origin, place.rows), _source(place, part.block0)
    assert place.block == place.rows * place.width, "a map that is a vector has no gaps"
    source = {"source": place.base, "source_sample": place.sample, "source_block": 1}
    return Window(1, 1, 1, 1), source | {"source_row": 1, "source_col": 1}


def _source(place: Place, block: int) -> dict[str, int]:
    return {
        "source": place.at(block, place.origin),
        "source_sample": place.sample,
        "source_block": place.block,
        "source_row": place.width,
        "source_col": 1,
    }


def _second(second: Second, place: Place, rect: Rect, block: int) -> dict[str, int]:
    y = rect.y0 if second.per_row else place.origin
    x = rect.x0 if second.per_col else 0
    return {
        "second": place.at(block if second.per_block else 0, y, x),
        "second_sample": place.sample,
        "second_block": place.block if second.per_block else 0,
        "second_row": place.width if second.per_row else 0,
        "second_col": 1 if second.per_col else 0,
        "second_zero": second.zero,
        "second_scale": second.scale,
    }


def _joined(taps: NDArray[np.int8]) -> NDArray[np.int8]:
    return taps.reshape(-1, taps.shape[-1])


def _even(low: int, high: int, limit: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """low..high-1 in as few parts of at most `limit` as can be, of nearly equal size.

    Parts begin at multiples of `unit` from `low`, which is no more than the limit.
    """
    count = -(-max(high - low, 0) // unit)
    parts = -(-count // max(limit // unit, 1))
    for i in range(parts):
        first, last = (low + (i + j) * count // parts * unit for j in range(2))
        yield first, min(last, high)
