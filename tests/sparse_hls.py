"""Calls the decoders of hls/weft/sparse: each reads packed arrays and gives a dense matrix back."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernel
from weft.config import Overlay, load_overlay

FORMS = ("cycle", "exact")  # native integers, ap_int

SOURCE = r"""
// What the hardware keeps between calls is of one form only: both live in one process.
#ifdef WEFT_EXACT
#define weft weft_sparse_exact
#else
#define weft weft_sparse_native
#endif
#include <vector>

#include "sparse/bitmask.hpp"
#include "sparse/coo.hpp"
#include "sparse/csc.hpp"
#include "sparse/csr.hpp"
#include "sparse/eie.hpp"
#include "sparse/nm.hpp"
#include "sparse/venom.hpp"
using namespace weft;

struct Matrix {
  int rows, cols, *dense;
  void put(int row, int column, Int<16> value) {
    if (row < 0 || row >= rows || column < 0 || column >= cols) __builtin_trap();
    dense[row * cols + column] += int(value);
  }
};
struct Arrays {  // one behind the other, words of 32 bits; then the values
  std::vector<UInt<32>> words;
  std::vector<Int<16>> values;
  Arrays(int n, const unsigned *w, int count, const int *v) {
    for (int i = 0; i < n; ++i) words.push_back(UInt<32>(w[i]));
    for (int i = 0; i < count; ++i) values.push_back(Int<16>(v[i]));
  }
  const UInt<32> *at(int i) const { return words.data() + i; }
  std::vector<ValuePair> pairs() const {
    std::vector<ValuePair> found(values.size() / 2 + 1);
    for (std::size_t i = 0; i < values.size(); ++i) found[i / 2][i % 2] = values[i];
    return found;
  }
  std::vector<VenomColumns> lists(int count) const {
    std::vector<VenomColumns> found(count + 1);
    for (int i = 0; i < 4 * count; ++i) found[i / 4][i % 4] = UInt<8>(words[i]);
    return found;
  }
};
#define FORMAT(name)                                                                      \
  extern "C" int name(int rows, int cols, int n, const unsigned *w, int count, const int *v, \
                      int a, int b, int *dense, int *row) {                               \
    const Arrays in(n, w, count, v);                                                      \
    Matrix out = {rows, cols, dense};                                                     \
    Fault fault;                                                                          \
    fault.begin();                                                                        \
    const Int<16> *values = in.values.data();                                             \
    name##_of(rows, cols, count, a, b, in, values, out, fault);                           \
    *row = fault.row;                                                                     \
    return fault.status;                                                                  \
  }
#define BODY(name)                                                                        \
  static void name##_of(int rows, int cols, int count, int a, int b, const Arrays &in,    \
                        const Int<16> *values, Matrix &out, Fault &fault)
BODY(coo) { decode_coo(rows, cols, count, in.at(0), in.at(count), values, out, fault); }
BODY(csr) { decode_csr(rows, cols, count, in.at(0), in.at(rows + 1), values, out, fault); }
BODY(csc) { decode_csc(rows, cols, count, in.at(0), in.at(cols + 1), values, out, fault); }
BODY(two_four) {
  const std::vector<ValuePair> pairs = in.pairs();
  if (a == 8) return decode_two_four<8>(rows, cols, in.at(0), pairs.data(), out, fault);
  decode_two_four<4>(rows, cols, in.at(0), pairs.data(), out, fault);
}
BODY(venom) {  // a: V · 100 + M, b: nibbles in a word
  const int v = a / 100, m = a % 100, blocks = (rows + v - 1) / v * ((cols + m - 1) / m);
  const UInt<32> *metadata = in.at(4 * blocks);
  const std::vector<VenomColumns> lists = in.lists(blocks);
  const std::vector<ValuePair> kept = in.pairs();
  const ValuePair *pairs = kept.data();
  if (b == 8)
    decode_venom<8>(rows, cols, v, m, lists.data(), metadata, pairs, out, fault);
  else
    decode_venom<4>(rows, cols, v, m, lists.data(), metadata, pairs, out, fault);
}
FORMAT(coo)
FORMAT(csr)
FORMAT(csc)
FORMAT(two_four)
FORMAT(venom)

static void fill(WeightStream &stream, int rows, const signed char *bytes) {
  for (int r = 0; r < rows; ++r) {
    Word word;
    for (int c = 0; c < kRows; ++c) word[c] = Int<8>(bytes[r * kRows + c]);
    stream.write(widened(word));
  }
}
/// Rows of the stream of a MatMul of engine eie → dense [tiles · kCols, blocks · kRows].
extern "C" int eie(int blocks, int tiles, int rows, const signed char *bytes, int codes, int *dense,
                   int *row) {
  static EieMemory e;
  WeightStream stream("rows", 1 << 20);
  stream.begin();
  fill(stream, rows, bytes);
  MatMul f = {};
  f.blocks = blocks, f.tiles = tiles, f.rows = rows, f.codes = codes, f.pace = 1;
  Counters counters;
  counters.clear();
  Fault fault;
  fault.begin();
  load_eie(f, e, stream, counters, fault);
  stream.end();
  *row = fault.row;
  const int inputs = blocks * kRows;
  for (int p = 0; p < kEiePes && fault.status == kDone; ++p)
    for (int k = 0; k < inputs; ++k) {
      EieColumn column;
      e.read_pointers(k, p, column);
      int at = -1;
      for (int i = 0; i < int(column.entries); ++i) {
        const EieEntry found = e.entry(p, int(column.first) + i, codes != 0);
        at += 1 + found.zeros;
        if (at * kEiePes + p >= tiles * kCols) return -1;
        dense[(at * kEiePes + p) * inputs + k] += int(found.value);
      }
    }
  return fault.status;
}
/// Rows of the stream of engine gather → dense [tiles · kCols, blocks · kRows].
extern "C" int bitmask(int blocks, int tiles, int rows, const signed char *bytes, int codes,
                       int *dense, int *row) {
  WeightStream stream("rows", 1 << 20);
  stream.begin();
  fill(stream, rows, bytes);
  MatMul f = {};
  f.blocks = blocks, f.tiles = tiles, f.rows = rows, f.codes = codes;
  Counters counters;
  counters.clear();
  Fault fault;
  fault.begin();
  MaskRows masks;
  ValueRing ring;
  Book book;
  GatherFeed feed;
  feed.begin(f);
  if (feed.nibbles) take_book(feed, stream, book, counters, fault);
  Int<64> taken = 0;
  int block = 0;  // of all outputs
  for (int used = 0; used < feed.packets && fault.status == kDone; ++used)
    for (int b = 0; b < feed.blocks_of(used) && fault.status == kDone; ++b, ++block) {
      int count = kRows;  // until the packet and all its values are there
      for (bool there = false; !there && fault.status == kDone;) {
        there = feed.opened > used;
        if (there && !feed.dense) count = masks.weights(used, b);
        there = there && feed.rows_of(Int<64>(taken + count)) <= feed.value_rows;
        if (!there) feed.step(used, masks, ring, stream, fault);
      }
      if (fault.status != kDone) break;
      Int<8> values[kGatherLanes];
      ring.read(taken, feed.nibbles, values);
      for (int lane = 0, n = 0; lane < kRows; ++lane)
        if (feed.dense || masks.bit(used, b, lane)) {
          const int value = feed.nibbles ? int(book[int(values[n]) & 15]) : int(values[n]);
          dense[block * kRows + lane] += value;
          ++n;
        }
      taken += count;
    }
  if (fault.status == kDone && feed.rows.more()) fault.raise(feed.rows.number());
  feed.rows.discard(stream);
  stream.end();
  *row = fault.row;
  return fault.status;
}
/// Positions of a tile [kRows, kCols] as the array of engine nm takes them, or −1 where they don't
/// ascend.
extern "C" void nm(int kept, int log_group, int words, const signed char *bytes, int *positions) {
  Pattern p = {kept, log_group, words};
  TilePositions index = {};
  for (int r = 0; r < p.index_rows(); ++r)
    for (int c = 0; c < kCols; ++c) index[r][c] = Int<8>(bytes[r * kCols + c]);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c)
      positions[r * kCols + c] =
          positions_ascend(p, index, r, c) ? int(position_at(index, log_group, r, c)) : -1;
}
"""


@cache
def overlay() -> Overlay:
    """The one with all four engines."""
    return load_overlay("lab")


@cache
def library(form: str) -> ctypes.CDLL:
    """The decoders in one form of the simulation."""
    return kernel.unit_library(SOURCE, overlay(), form)


def pointer(array: NDArray[Any]) -> Any:
    """Of the first element."""
    return array.ctypes.data_as(ctypes.c_void_p)


def decode(
    form: str, name: str, shape: tuple[int, int], arrays: list[Any], values: Any,
    options: tuple[int, int] = (0, 0),
) -> tuple[int, int, NDArray[np.int64]]:  # fmt: skip
    """Status, word of the fault and matrix that a decoder makes of arrays, one behind the other."""
    parts = [np.asarray(a).reshape(-1).astype(np.int64) & 0xFFFFFFFF for a in arrays]
    words = np.concatenate([*parts, np.zeros(1, np.int64)]).astype(np.uint32)
    kept = np.append(np.asarray(values).reshape(-1), 0).astype(np.int32)
    dense, row = np.zeros(shape, np.int32), ctypes.c_int()
    status = getattr(library(form), name)(
        *shape, len(words), pointer(words), len(kept) - 1, pointer(kept), *options, pointer(dense),
        ctypes.byref(row),
    )  # fmt: skip
    return status, row.value, dense.astype(np.int64)


def stream(
    form: str, name: str, shape: tuple[int, int], rows: NDArray[np.uint8], codes: int
) -> tuple[int, int, NDArray[np.int64]]:
    """The same of the rows of an engine's weight stream."""
    lanes = overlay().lanes
    dense, row = np.zeros(shape, np.int32), ctypes.c_int()
    flat = np.ascontiguousarray(rows, np.uint8)
    status = getattr(library(form), name)(
        shape[1] // lanes, shape[0] // lanes, len(flat), pointer(flat), codes, pointer(dense),
        ctypes.byref(row),
    )  # fmt: skip
    return status, row.value, dense.astype(np.int64)


def nm_positions(form: str, n: int, log_m: int, words: int, rows: NDArray[np.uint8]) -> Any:
    """Positions [lanes, lanes] of a tile; −1 where they don't ascend."""
    lanes = overlay().lanes
    found = np.zeros((lanes, lanes), np.int32)
    flat = np.ascontiguousarray(rows, np.uint8)
    library(form).nm(n, log_m, words, pointer(flat), pointer(found))
    return found
