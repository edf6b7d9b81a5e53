/// The loaders of the SNAP engine: weight records of the stream, activations of the buffer.
/// sparse/bundles.hpp has the records.
#pragma once
#include "units/compressed.hpp"
#include "units/snap_pe.hpp"

namespace weft {

using SnapRowMemory = SnapMemory[kSnapUnits][kSnapCols];

/// Takes the outputs of a block into the bank that is not in use.
struct SnapWeightLoader {
  SnapWindow window;
  int first, rows, taken;  // of the block: its first row, how many, and those in the window
  int at;                  // bytes of the block that are used
  int output, outputs, unit, slot;
  int bundle;  // of the output's last record
  Int<16> filled[kSnapCols];
  bool busy, failed;

  void begin() {
    busy = failed = false;
    window.fill = 0;
  }
  void start(int present, const StreamRows &stream) {
    first = stream.number();
    rows = 1;  // until it says how many
    taken = at = output = unit = slot = 0;
    window.fill = 0;
    outputs = present;
    begin_output();
    busy = true;
  }
  /// A clock: a record out of the window, a row into it.
  void step(const SnapPlan &plan, bool coded, int bank, StreamRows &stream, WeightStream &weights,
            SnapRowMemory &m, Fault &fault) {
    WEFT_INLINE
    SnapWeights record;
    window.items(coded, record);
    const int bytes = coded ? (int(record.count) + 1) >> 1 : int(record.count);
    const bool header = at == 0;
    const int length = header ? kSnapBlockHeader : kSnapHeader + bytes;
    const bool whole =
        window.fill >= (header ? kSnapBlockHeader : kSnapHeader) && window.fill >= length;
    if (whole && header) begin_block(stream, fault);
    if (whole && !header) put_record(plan, bank, record, m, fault);
    if (whole) {
      at += length;
      window.drop(length);
    } else if (taken == rows) {
      fail(first + rows, fault);  // the record goes on behind its block
    }
    if (whole && !header && output == outputs) finish(fault);
    if (busy && !failed && taken < rows && window.room()) {
      window.append(stream.next(weights, fault));
      ++taken;
      if (fault.status != kDone) failed = true;
    }
  }

 private:
  void fail(int row, Fault &fault) {
    fault.raise(row);
    failed = true;
  }
  void begin_output() {
    bundle = -1;
  columns:
    for (int j = 0; j < kSnapCols; ++j) {
      WEFT_UNROLL
      filled[j] = 0;
    }
  }
  void begin_block(const StreamRows &stream, Fault &fault) {
    const int left = int(stream.all - UInt<32>(first));
    rows = window.rows();
    if (rows == 0 || rows > left) fail(first, fault);
  }
  void put_record(const SnapPlan &plan, int bank, SnapWeights &record, SnapRowMemory &m,
                  Fault &fault) {
    WEFT_INLINE
    bundle += window.skipped() + 1;
    if (bundle >= plan.bundles) return fail(first + at / kCols, fault);
    const int j = bundle % kSnapCols;
    record.bundle = Int<16>(bundle / kSnapCols);
    const int place = bank * kSnapDepth + slot * plan.column + int(filled[j]);
    if (record.count != 0) {
      m[unit][j].weights[place] = record;
      filled[j] += 1;
    }
    if (window.last()) end_output(bank, m);
  }
  void end_output(int bank, SnapRowMemory &m) {
    WEFT_INLINE
  columns:
    for (int j = 0; j < kSnapCols; ++j) {
      WEFT_UNROLL
      m[unit][j].filled[bank][slot] = filled[j];
    }
    begin_output();
    ++output;
    unit = unit == kSnapUnits - 1 ? 0 : unit + 1;
    if (unit == 0) ++slot;
  }
  /// All outputs are there: so must be all rows of the block.
  void finish(Fault &fault) {
    busy = false;
    const int used = (at + kCols - 1) / kCols;
    if (used != rows) fail(first + used, fault);
  }
};

/// Compresses the activations of a group of positions, word by word of their windows.
struct SnapActivationLoader {
  Positions position;
  int ky, kx, block;
  int in_bundle, bundle, column;  // words of the bundle so far; its place in its column of PEs
  int row, rows;                  // of the group
  SnapActivations line;
  bool busy;

  void begin(const MatMul &f, int batch) {
    position.begin(batch, int(f.out_h), int(f.out_w));
    busy = false;
  }
  void start(int positions) {
    ky = kx = block = in_bundle = bundle = column = row = 0;
    rows = positions;
    line.count = 0;
    busy = true;
  }
  /// A clock: a word of the buffer, items into the bundle, a whole bundle into the PEs.
  void step(const MatMul &f, const SnapPlan &plan, int bank, const Buffer &buffer,
            SnapRowMemory &m) {
    WEFT_INLINE
    const int iy = position.y * int(f.stride_y) + ky * int(f.dilation_y) - int(f.pad_y);
    const int ix = position.x * int(f.stride_x) + kx * int(f.dilation_x) - int(f.pad_x);
    if (iy >= 0 && iy < int(f.height) && ix >= 0 && ix < int(f.width)) {
      const unsigned at =
          unsigned(f.source) + unsigned(position.sample) * unsigned(f.source_sample) +
          unsigned(block) * unsigned(f.source_block) + unsigned(iy) * unsigned(f.source_row) +
          unsigned(ix) * unsigned(f.source_col);
      compress(buffer.read(int(at)), Int<16>(f.pad));
    }
    const bool last_block = block == int(f.blocks) - 1;
    if (last_block || in_bundle == kSnapWords - 1) {
      put_bundle(bank * kSnapDepth + row * plan.column + bundle, m);
    } else {
      ++in_bundle;
    }
    next(f, last_block);
  }

 private:
  void compress(const Word &word, Int<16> zero) {
    WEFT_INLINE
    int count = int(line.count);
  lanes:
    for (int i = 0; i < kRows; ++i) {
      WEFT_UNROLL
      const Int<16> value = Int<16>(Int<16>(word[i]) - zero);
      if (value != 0) {
        line.value[count] = value;
        line.index[count] = SnapIndex(in_bundle * kRows + i);
        ++count;
      }
    }
    line.count = Int<16>(count);
  }
  /// Every row of PEs has its own copy, as each reads at its own pace.
  void put_bundle(int place, SnapRowMemory &m) {
    WEFT_INLINE
  rows_of_pes:
    for (int u = 0; u < kSnapUnits; ++u) {
      WEFT_UNROLL
      m[u][column].activations[place] = line;
    }
    line.count = 0;
    in_bundle = 0;
    column = column == kSnapCols - 1 ? 0 : column + 1;
    if (column == 0) ++bundle;
  }
  /// The next word: blocks, then taps, then positions.
  void next(const MatMul &f, bool last_block) {
    block = last_block ? 0 : block + 1;
    if (!last_block) return;
    const bool last_kx = kx == int(f.kernel_w) - 1, last_ky = ky == int(f.kernel_h) - 1;
    kx = last_kx ? 0 : kx + 1;
    if (last_kx) ky = last_ky ? 0 : ky + 1;
    if (!last_kx || !last_ky) return;
    position.next();
    bundle = column = 0;
    ++row;
    busy = row < rows;
  }
};

}  // namespace weft
