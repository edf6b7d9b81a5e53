/// The SNAP engine: weights and activations without their zeros, paired by index (Zhang et al.,
/// SNAP: sparse neural acceleration processor, VLSI 2019, JSSC 2021).
///
/// Channels come in bundles 1 × 1 × C. Each row of PEs of each core has an output channel; its
/// columns share the output's bundles, number k going to column k mod columns. Under a window
/// three taps wide with a bundle per tap that is a tap each, so PEs on a diagonal see the same
/// activations at neighbouring positions; under a 1 × 1 window or a matrix the columns share the
/// channels. All rows see the same activations, each position's once for a block of outputs.
///
/// Level 1 of the reduction is inside a PE: its products of a clock, and all its bundles of an
/// output. Level 2 adds the PEs of a row where a sum is written back, so that each output is
/// written once. A block's weights stay in the PEs while positions pass, stage by stage; the next
/// stage's activations and the next block's weights are loaded, the last stage's sums written
/// meanwhile.
#pragma once
#include "units/snap_load.hpp"

namespace weft {

/// Adds the sums of a stage along the rows of PEs and writes them, up to a word per clock.
struct SnapWriter {
  int block, row, rows, position, slot, slots, first;  // rows: positions of the stage
  bool busy;

  void start(const SnapPlan &plan, int of_block, int stage) {
    block = of_block;
    row = stage * plan.group;
    rows = plan.positions_of(stage);
    position = slot = first = 0;
    slots = plan.slots_of(block, 0);
    busy = true;
  }
  void step(const SnapPlan &plan, int bank, const SnapRowMemory &m, Memories &out) {
    WEFT_INLINE
    const int base = plan.first_output(block) + slot * kSnapUnits + first;
  lanes:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const int ahead = (c - base) & (kCols - 1);
      const int unit = first + ahead, output = base + ahead;
      if (unit < kSnapUnits && output < plan.outputs) {
        UInt<32> sum = 0;
      level2:
        for (int j = 0; j < kSnapCols; ++j) {
          WEFT_UNROLL
          const SnapMemory &pe = m[unit][j];
          sum += UInt<32>(pe.sums[bank][position * plan.slots + slot]);
        }
        out.finished[output / kCols * plan.positions + row + position][c] = Int<32>(sum);
      }
    }
    next();
  }

 private:
  void next() {
    first = first + kCols < kSnapUnits ? first + kCols : 0;
    if (first != 0) return;
    slot = slot == slots - 1 ? 0 : slot + 1;
    if (slot != 0) return;
    ++position;
    busy = position < rows;
  }
};

/// All of the engine.
struct SnapEngine {
  SnapRowMemory memory;
  SnapPe pe[kSnapUnits][kSnapCols];
  SnapPlan plan;
  SnapWeightLoader weights;
  SnapActivationLoader activations;
  SnapWriter writer;
  Int<16> book[kSnapCodes];
  bool coded, computing, done;
  int block, stage, bank;  // of the PEs; `bank` of their activations and sums

  /// Starts to load what the first stage needs.
  void begin(const MatMul &f, int batch, const StreamRows &rows) {
    plan.begin(f, batch);
    weights.begin();
    activations.begin(f, batch);
    writer.busy = computing = done = false;
    block = bank = 1;  // loaders fill the other one
    stage = -1;
    weights.start(plan.present(0), rows);
    activations.start(plan.positions_of(0));
  }
  /// Takes the codebook; returns the clocks.
  int take_book(const MatMul &f, StreamRows &rows, WeightStream &stream, Fault &fault) {
    WEFT_INLINE
    coded = (f.codes & 1) != 0;
    if (!coded) return 0;
    UInt<8> bytes[kSnapBookRows * kCols];
  book_rows:
    for (int r = 0; r < kSnapBookRows; ++r) {
      WEFT_PIPELINE
      const TileWord row = rows.next(stream, fault);
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        bytes[r * kCols + c] = UInt<8>(int(row[c]) & 0xff);
      }
    }
  entries:
    for (int i = 0; i < kSnapCodes; ++i) {
      WEFT_UNROLL
      book[i] = Int<16>(int(bytes[2 * i]) | int(bytes[2 * i + 1]) << 8);
    }
    return kSnapBookRows;
  }
  bool over() const { return done && !writer.busy; }
  /// A clock. First turns to the next stage, where that is possible.
  void step(const MatMul &f, StreamRows &rows, WeightStream &stream, Memories &m,
            Counters &counters, Fault &fault) {
    WEFT_INLINE
    if (ready()) turn(rows);
    if (computing) {
      ++counters.matrix;
    } else if (done) {
      ++counters.drain;
    } else {
      ++counters.weight_shift;
    }
    if (weights.busy)
      weights.step(plan, coded, stage < 0 ? 0 : (block + 1) & 1, rows, stream, memory, fault);
    if (activations.busy) activations.step(f, plan, bank ^ 1, m.buffer, memory);
    if (computing) compute();
    if (writer.busy) writer.step(plan, bank ^ 1, memory, m);
  }

 private:
  bool last_stage() const { return stage < 0 || stage == plan.groups - 1; }
  /// Whether the PEs are done, and all that the next stage needs is there.
  bool ready() const {
    return !done && !computing && !activations.busy && !writer.busy &&
           !(last_stage() && weights.busy);
  }
  /// The sums leave, the next stage begins; what the one behind it needs is loaded.
  void turn(const StreamRows &rows) {
    WEFT_INLINE
    if (stage >= 0) writer.start(plan, block, stage);
    bank ^= 1;
    if (stage < 0) {
      block = stage = 0;
    } else if (!last_stage()) {
      ++stage;
    } else {
      stage = 0;
      done = ++block == plan.blocks;
    }
    if (done) return;
    start_pes();
    const bool more = block < plan.blocks - 1;
    if (stage == 0 && more) weights.start(plan.present(block + 1), rows);
    if (!last_stage() || more) activations.start(plan.positions_of(last_stage() ? 0 : stage + 1));
  }
  void start_pes() {
    WEFT_INLINE
    computing = true;
  start:
    for (int u = 0; u < kSnapUnits; ++u) {
      WEFT_UNROLL
      for (int j = 0; j < kSnapCols; ++j) {
        WEFT_UNROLL
        pe[u][j].begin();
      }
    }
  }
  void compute() {
    WEFT_INLINE
    bool busy = false;
  units:
    for (int u = 0; u < kSnapUnits; ++u) {
      WEFT_UNROLL
      const SnapStage s = {plan.positions_of(stage),
                           plan.slots_of(block, u),
                           plan.slots,
                           plan.column,
                           block & 1,
                           bank};
    columns:
      for (int j = 0; j < kSnapCols; ++j) {
        WEFT_UNROLL
        if (pe[u][j].busy(s)) pe[u][j].step(s, coded, book, memory[u][j]);
        busy = busy || pe[u][j].busy(s);
      }
    }
    computing = busy;
  }
};

// A bundle is read and written whole: its lanes lie side by side in one wide RAM.
#define WEFT_PARTITION_SNAP(e)                                                               \
  WEFT_HLS(ARRAY_PARTITION variable = e.memory type = complete dim = 1)                      \
  WEFT_HLS(ARRAY_PARTITION variable = e.memory type = complete dim = 2)                      \
  WEFT_HLS(ARRAY_RESHAPE variable = e.memory.weights.value.lane type = complete dim = 1)     \
  WEFT_HLS(ARRAY_RESHAPE variable = e.memory.weights.index.lane type = complete dim = 1)     \
  WEFT_HLS(ARRAY_RESHAPE variable = e.memory.activations.value.lane type = complete dim = 1) \
  WEFT_HLS(ARRAY_RESHAPE variable = e.memory.activations.index.lane type = complete dim = 1) \
  WEFT_HLS(ARRAY_PARTITION variable = e.pe type = complete dim = 0)                          \
  WEFT_HLS(ARRAY_PARTITION variable = e.pe.present.pair.lane type = complete dim = 1)        \
  WEFT_HLS(ARRAY_PARTITION variable = e.pe.next.pair.lane type = complete dim = 1)           \
  WEFT_HLS(ARRAY_PARTITION variable = e.book type = complete dim = 0)                        \
  WEFT_HLS(ARRAY_PARTITION variable = e.weights.filled type = complete dim = 0)              \
  WEFT_HLS(ARRAY_PARTITION variable = e.weights.window.byte type = complete)

/// Runs one MatMul; leaves the sums in the finished bank (units/compressed.hpp).
inline void snap(const MatMul &f, int batch, Memories &m, WeightStream &weights, Counters &counters,
                 Fault &fault) {
  WEFT_INLINE
  WEFT_STATIC(SnapEngine, engine);
  WEFT_PARTITION_SNAP(engine)
  const int before = fault.status;
  Fault own = fault;
  own.status = kDone;
  StreamRows rows;
  rows.begin(f);
  counters.weight_shift += engine.take_book(f, rows, weights, own);
  engine.begin(f, batch, rows);
clock:
  while (!engine.over() && own.status == kDone) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    engine.step(f, rows, weights, m, counters, own);
  }
  if (own.status == kDone && rows.more()) own.raise(rows.number());
  rows.discard(weights);
  if (before == kDone) fault = own;
}

}  // namespace weft
