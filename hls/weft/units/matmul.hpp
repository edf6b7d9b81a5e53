/// MatMul with its Activate: feeds the systolic array fold by fold and drains it, a clock per turn.
#pragma once
#include "units/activate.hpp"
#include "units/systolic.hpp"

namespace weft {

constexpr int kDrainLag = 3;  // clocks from writing a finished sum to reading it back
static_assert(kDrainLag < kRows, "a tile's sums are read before the next tile's take their place");
using Clock = Int<64>;  // folds × rows of a large layer leave 32 bits

/// Where a stage stands: which fold, and the clock within it. A fold has `rows` busy clocks from
/// `start` on, and the next one begins after `period` clocks (the first after `first_period`).
struct Schedule {
  int wait, start, rows, period, first_period, folds;
  int fold, clock;

  bool busy() const { return wait == 0 && fold < folds && clock >= start && clock - start < rows; }
  int row() const { return clock - start; }
  bool last_row() const { return busy() && row() == rows - 1; }
  void tick() {
    if (wait > 0) {
      --wait;
    } else if (++clock == (fold == 0 ? first_period : period)) {
      clock = 0;
      ++fold;
    }
  }
};

/// The clocks of one MatMul: weights in, activations in, sums out, finished sums to the epilogue.
struct MatMulClocks {
  Schedule weights, input, output;
  int rows, folds;
  Clock total;

  void begin(const MatMul &f, int batch, int taps) {
    rows = batch * int(f.out_h) * int(f.out_w);
    folds = int(f.tiles) * int(f.blocks) * taps;
    const int load = kRows * kBeats;
    const bool overlap = f.overlap != 0;
    const int period = overlap ? (rows > load ? rows : load) : load + rows + kFlushClocks;
    const int wait = overlap ? load : 0, start = overlap ? 0 : load;
    weights = {0, 0, load, period, overlap ? load : period, folds, 0, 0};
    input = {wait, start, rows, period, period, folds, 0, 0};
    output = {wait + kFlushClocks, start, rows, period, period, folds, 0, 0};
    total = Clock(folds - 1) * period + (wait + start + rows + kFlushClocks);
  }
};

/// Accumulators: sums of fold after fold meet in `partial`; those of a tile's last fold go to
/// `finished`, so that no memory is read twice in a clock while the epilogue drains.
struct Accumulator {
  int folds_per_tile, fold;  // fold within the tile

  void add(const MatMul &f, int row, const SumWord &sums, Memories &m) {
    WEFT_INLINE
    const bool fresh = fold == 0 && f.first != 0;
    const SumWord before = value_of(m.partial[row]);
    SumWord total;
  lanes:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      total[c] = Int<32>(UInt<32>(fresh ? Int<32>(0) : before[c]) + UInt<32>(sums[c]));
    }
    if (finishes(f)) {
      put(m.finished[row], total);
    } else {
      put(m.partial[row], total);
    }
  }
  bool finishes(const MatMul &f) const { return f.last != 0 && fold == folds_per_tile - 1; }
  void next_fold() { fold = fold == folds_per_tile - 1 ? 0 : fold + 1; }
};

/// Follows the accumulators kDrainLag clocks behind and writes codes to the unified buffer.
struct Drain {
  Writer out;
  UInt<8> ready;  // bit i: a row was finished i + 1 clocks ago
  int row, rows;

  void begin(const Activate &a, int batch, const MatMul &f) {
    out.begin(a, batch, int(f.out_h), int(f.out_w));
    rows = out.at.count();
    ready = 0;
    row = 0;
  }
  void step(const Activate &a, bool finished, Memories &m) {
    WEFT_INLINE
    if (((ready >> (kDrainLag - 1)) & 1) != 0) {
      put(m.buffer[out.address()],
          activate(value_of(m.finished[row]), m.parameters.read(out.parameter()), a, m.lookup));
      out.next();
      row = row == rows - 1 ? 0 : row + 1;
    }
    ready = UInt<8>((ready << 1) | (finished ? 1 : 0));
  }
};

inline void count_clock(const MatMulClocks &c, const MatMul &f, Counters &counters) {
  if (c.input.busy()) {
    ++counters.matrix;
  } else if (f.overlap != 0 ? c.input.fold < c.folds - 1 || c.input.wait > 0
                            : c.input.clock < c.input.start) {
    ++counters.weight_shift;
  } else {
    ++counters.drain;
  }
}

/// The clocks of one MatMul, all stages at once.
inline void run_folds(const MatMul &f, const Activate &a, int batch, SystolicArray &array,
                      Memories &m, Stream<Word> &weights, Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Walk<MatMul>
          walk;
  walk.begin(f, batch);
  MatMulClocks clocks;
  clocks.begin(f, batch, walk.taps());
  Accumulator accumulator = {int(f.blocks) * walk.taps(), 0};
  Drain drain;
  drain.begin(a, batch, f);
  const Word pad = filled(f.pad), none = filled(0);
  SumWord sums;
clock:
  for (Clock t = 0; t < clocks.total + kDrainLag; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    ArrayInput in = {none, false, none, -1};
    if (clocks.weights.busy() && clocks.weights.row() % kBeats == 0) {
      in.weights = weights.read();
      in.weight_row = clocks.weights.row() / kBeats;
    }
    if (clocks.input.busy()) {
      in.activations = walk.inside() ? value_of(m.buffer[walk.address()]) : pad;
      in.swap = clocks.input.row() == 0;
      walk.next_position();
      if (clocks.input.last_row()) walk.next_fold();
    }
    array.step(in, sums);
    bool finished = false;
    if (clocks.output.busy()) {
      accumulator.add(f, clocks.output.row(), sums, m);
      finished = accumulator.finishes(f);
      if (clocks.output.last_row()) accumulator.next_fold();
    }
    drain.step(a, finished, m);
    if (t < clocks.total) count_clock(clocks, f, counters);
    clocks.weights.tick();
    clocks.input.tick();
    clocks.output.tick();
  }
}

/// Runs one MatMul; `a` is its Activate where f.last is set.
inline void matmul(const MatMul &f, const Activate &a, int batch, Memories &m,
                   Stream<Word> &weights, Counters &counters) {
  WEFT_INLINE
  WEFT_STATIC(SystolicArray, array);
  WEFT_PARTITION_ARRAY(array)
  run_folds(f, a, batch, array, m, weights, counters);
}

}  // namespace weft
