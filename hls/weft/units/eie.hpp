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
