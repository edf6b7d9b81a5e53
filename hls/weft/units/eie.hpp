/// EIE: sparse weights times sparse activations (Han et al., ISCA 2016).
///
/// Output i belongs to processing element (PE) i mod P, which keeps its part of every column of the
/// weights as entries (value, zero rows before it). A quadtree finds the next non-zero activation;
/// it is broadcast, and each PE adds its column's entries times the activation to its outputs, an
/// entry per clock. A queue of columns per PE evens out that columns differ in length.
///
/// Where the paper queues activations and reads pointers behind the queue, pointers are read on the
/// way in: all PEs then want the same address in the same clock, so the pointers of a group of PEs
/// share one wide memory, and columns follow each other without a bubble. Order, depth and stalls
/// are the same. host/weft/units/eie.py has the layout of the stream and the clocks.
#pragma once
#include "units/compressed.hpp"
#include "units/eie_pe.hpp"
#include "units/nonzero.hpp"

namespace weft {

/// All PEs behind their detector.
struct EieEngine {
  EiePe pe[kEiePes];
  NonzeroDetector detector;
  Nonzero broadcast;
  bool fetching;  // `fetched` are columns
  EieColumn fetched[kEiePes];

  void begin() {
  pes:
    for (int p = 0; p < kEiePes; ++p) {
      WEFT_UNROLL
      pe[p].begin();
    }
    broadcast.valid = fetching = false;
  }
  /// One clock without work: sums on their way move on.
  void flush(EieMemory &e) {
    WEFT_INLINE
  pes:
    for (int p = 0; p < kEiePes; ++p) {
      WEFT_UNROLL
      pe[p].accumulate(e.sums[p], false, 0, 0);
    }
  }
  /// Outputs of a PE.
  static int rows_of(int tiles, int p) {
    return (tiles - p / kCols + kEieGroups - 1) / kEieGroups;  // a constant divisor
  }
  /// One clock. Goes against the stream, so that each stage sees what the one before it had at the
  /// start of the clock. Returns whether the vector goes on.
  bool step(const MatMul &f, EieMemory &e, const Memories &m) {
    WEFT_INLINE
    const int coming = (fetching ? 1 : 0) + (broadcast.valid ? 1 : 0);
    bool room = true, idle = true;
  pes:
    for (int p = 0; p < kEiePes; ++p) {
      WEFT_UNROLL
      room = room && pe[p].waiting + coming < kEieQueue;
      pe[p].work(e, p, f.codes != 0, rows_of(int(f.tiles), p));
      if (fetching) pe[p].push(fetched[p]);
      idle = idle && pe[p].idle();
      if (broadcast.valid) e.read_pointers(int(broadcast.index), p, fetched[p]);
      fetched[p].value = broadcast.value;
    }
    fetching = broadcast.valid;
    broadcast = detector.next(m, f.pad, room);
    return fetching || broadcast.valid || !idle || detector.released < detector.words;
  }
};

/// Loads a layer into the PEs, a stream row per clock.
struct EieLoader {
  int inputs, entry_bytes;   // columns; bytes of an entry
  Int<64> entries;           // of a PE
  UInt<8> low[kEiePes];      // byte of the pointer that is on its way
  UInt<16> before[kEiePes];  // pointer

  void begin(const MatMul &f) {
    inputs = int(f.blocks) * kRows;
    entry_bytes = f.codes != 0 ? 1 : 2;
    const int row_bytes = kEieGroups * entry_bytes;  // of an entry
    const Int<64> rows = Int<64>(f.rows) - header(f);
    entries = rows > 0 ? Int<64>((rows + row_bytes - 1) / row_bytes) : Int<64>(0);
  }
  static int codebook_rows(const MatMul &f) {
    return f.codes != 0 ? (2 * kEieCodes + kCols - 1) / kCols : 0;
  }
  Int<64> header(const MatMul &f) const {
    return codebook_rows(f) + Int<64>(inputs + 1) * (2 * kEieGroups);
  }
  /// Clocks of all rows: a row takes `pace` to arrive, an entry of the codebook one to be copied.
  Int<64> clocks(const MatMul &f) const {
    const Int<64> pace = Int<64>(f.pace), book = codebook_rows(f) * pace;
    const Int<64> copies =
        f.codes != 0 && book < kEieCodes ? Int<64>(kEieCodes - book) : Int<64>(0);
    return Int<64>(f.rows) * pace + copies;
  }
  /// Entries of the codebook, one per clock.
  void take_codebook(StreamRows &rows, WeightStream &weights, EieMemory &e, Fault &fault) {
    WEFT_INLINE
    TileWord row = {};
  codebook:
    for (int i = 0; i < kEieCodes; ++i) {
      WEFT_PIPELINE
      const int lane = (2 * i) & (kCols - 1);
      const int number = rows.number();
      if (lane == 0) row = rows.next(weights, fault);
      const UInt<16> low = UInt<16>(UInt<16>(row[lane]) & 0xff);
      const Int<16> code = Int<16>(low | UInt<16>(UInt<16>(row[lane + 1]) << 8));
      if (i == 0 && code != 0) fault.raise(number);
    copies:
      for (int p = 0; p < kEiePes; ++p) {
        WEFT_UNROLL
        e.codebook[p][i] = code;
      }
    }
  }
  /// Low bytes of a pointer of all PEs, then the high ones. They ascend, and end with the entries.
  void take_pointers(StreamRows &rows, WeightStream &weights, EieMemory &e, Fault &fault) {
    WEFT_INLINE
    int pointer = 0, group = 0;
    bool high = false;
  pointers:
    for (int i = 0; i < (inputs + 1) * 2 * kEieGroups; ++i) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kEiePointers)
      const int number = rows.number();
      const TileWord row = rows.next(weights, fault);
      bool wrong = false;
    columns:
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        const int p = group * kCols + c;
        const UInt<8> byte = UInt<8>(row[c]);
        const UInt<16> found = UInt<16>(UInt<16>(UInt<16>(byte) << 8) | UInt<16>(low[p]));
        if (high) {
          const UInt<16> least = pointer == 0 ? UInt<16>(0) : before[p];
          wrong = wrong || found < least || Int<64>(found) > entries;
          before[p] = found;
          e.pointers[pointer & 1][group][pointer >> 1][c] = found;
        }
        low[p] = byte;
      }
      if (wrong) fault.raise(number);
      const bool last = group == kEieGroups - 1;
      group = last ? 0 : group + 1;
      if (last && high) ++pointer;
      if (last) high = !high;
    }
  }
  /// Bytes of entries, one of all PEs after another.
  void take_entries(StreamRows &rows, WeightStream &weights, EieMemory &e, Fault &fault) {
    WEFT_INLINE
    int byte = 0, group = 0;
  entries:
    for (Int<64> i = 0; i < entries * (entry_bytes * kEieGroups); ++i) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kEieEntries)
      const int number = rows.number();
      const TileWord row = rows.next(weights, fault);
      if (byte >= kEieEntries) fault.raise(number);
    columns:
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        if (byte < kEieEntries) e.entries[group * kCols + c][byte & 1][byte >> 1] = UInt<8>(row[c]);
      }
      const bool last = group == kEieGroups - 1;
      group = last ? 0 : group + 1;
      if (last && byte < kEieEntries) ++byte;
    }
  }
};

/// Loads the layer and takes all its rows. Returns how many of them stand before the entries.
inline int load_eie(const MatMul &f, EieMemory &e, WeightStream &weights, Counters &counters,
                    Fault &fault) {
  WEFT_INLINE
  WEFT_STATIC(EieLoader, loader);
  WEFT_HLS(ARRAY_PARTITION variable = loader.low type = complete)
  WEFT_HLS(ARRAY_PARTITION variable = loader.before type = complete)
  StreamRows rows;
  rows.begin(f);
  loader.begin(f);
  if (f.codes != 0) loader.take_codebook(rows, weights, e, fault);
  loader.take_pointers(rows, weights, e, fault);
  loader.take_entries(rows, weights, e, fault);
  counters.weight_shift += loader.clocks(f);
  return int(loader.header(f));
}

/// Raises a fault for the first entry, in the order of the stream, that left the outputs of its PE.
inline void check_outputs(const MatMul &f, const EieEngine &engine, int header, Fault &fault) {
  WEFT_INLINE
  const int bytes = f.codes != 0 ? 1 : 2;
  bool any = false;
pes:
  for (int p = 0; p < kEiePes; ++p) {
    WEFT_UNROLL
    any = any || engine.pe[p].bad >= 0;
  }
  if (!any) return;
  int first = -1;
rows:
  for (int p = 0; p < kEiePes; ++p) {
    WEFT_PIPELINE
    const int last_byte = (engine.pe[p].bad + 1) * bytes - 1;
    const int row = header + last_byte * kEieGroups + p / kCols;
    if (engine.pe[p].bad >= 0 && (first < 0 || row < first)) first = row;
  }
  fault.raise(first);
}

/// Moves the sums of a vector to the finished bank, a tile per clock, and clears them; before that
/// those on their way to memory arrive.
inline void drain_eie(const MatMul &f, int vector, int vectors, EieMemory &e, EieEngine &engine,
                      Memories &m) {
  WEFT_INLINE
  int group = 0, line = 0, target = vector;
drain:
  for (int t = -kEieBypass; t < int(f.tiles); ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kEieTiles)
    if (t < 0) {
      engine.flush(e);
      continue;
    }
    SumWord total;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const int p = group * kCols + c;
      total[c] = e.sums[p][line];
      e.sums[p][line] = 0;
    }
    put(m.finished[target], total);
    target += vectors;
    line += group == kEieGroups - 1 ? 1 : 0;
    group = group == kEieGroups - 1 ? 0 : group + 1;
  }
}

/// Runs one MatMul; leaves its sums in the finished bank.
inline void eie(const MatMul &f, int batch, Memories &m, WeightStream &weights, Counters &counters,
                Fault &fault) {
  WEFT_INLINE
  WEFT_STATIC(EieMemory, e);
  WEFT_STATIC(EieEngine, engine);
  WEFT_PARTITION_EIE(e, engine)
  const int header = load_eie(f, e, weights, counters, fault);
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int vectors = fault.status == kDone ? walk.at.count() : 0;
  engine.begin();
vectors:
  for (int v = 0; v < vectors; ++v) {
    WEFT_TRIPCOUNT(kAccumulatorRows)
    engine.detector.begin(f, walk);
    walk.next_position();
  clock:
    for (bool open = true; open;) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(65536)
      open = engine.step(f, e, m);
      ++counters.matrix;
    }
    drain_eie(f, v, vectors, e, engine, m);
    counters.drain += kEieBypass + int(f.tiles);
  }
  if (vectors > 0) check_outputs(f, engine, header, fault);
}

}  // namespace weft
