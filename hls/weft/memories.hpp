/// The on-chip memories, all owned by the compute process.
#pragma once
#include "norm_methods.hpp"
#include "operand_buffer.hpp"
#include "softmax_methods.hpp"

namespace weft {

/// Requantization parameters of one channel block, lane by lane (see units/activate.hpp).
struct ParameterWord {
  Vec<Int<32>, kCols> bias, multiplier, negative_multiplier;
  Vec<Int<32>, kCols> shift, negative_shift;  // of 8 bits, extended
};

struct ParameterTable {
  Int<32> bias[kParameterBlocks][kCols], multiplier[kParameterBlocks][kCols];
  Int<32> negative_multiplier[kParameterBlocks][kCols];
  Int<8> shift[kParameterBlocks][kCols], negative_shift[kParameterBlocks][kCols];

  ParameterWord read(int block) const {
    WEFT_INLINE
    return {value_of(bias[block]), value_of(multiplier[block]),
            value_of(negative_multiplier[block]), extended(shift[block]),
            extended(negative_shift[block])};
  }
  void write(int block, const ParameterWord &p) {
    WEFT_INLINE
    put(bias[block], p.bias);
    put(multiplier[block], p.multiplier);
    put(negative_multiplier[block], p.negative_multiplier);
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      shift[block][c] = Int<8>(p.shift[c]);
      negative_shift[block][c] = Int<8>(p.negative_shift[c]);
    }
  }

 private:
  static Vec<Int<32>, kCols> extended(const Int<8> (&row)[kCols]) {
    WEFT_INLINE
    Vec<Int<32>, kCols> wide;
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      wide[c] = Int<32>(row[c]);
    }
    return wide;
  }
};

using Lookup = Int<8>[kCols][kLookupEntries];  // a table per lane: no crossing wires

/// The unified buffer. Banks follow one another word by word, so words whose addresses differ in
/// the low bits are read in the same clock; parts of a word are memories of their own where codes
/// of fewer bits share bytes, because a memory with enables per bit is none.
struct Buffer {
  static constexpr int kDepth = kBufferWords / kBanks, kPartLanes = kRows / kParts;
  Int<8> bank[kBanks][kDepth][kParts][kPartLanes];

  Word read(int address) const {
    WEFT_INLINE
    return line(address & (kBanks - 1), address / kBanks);
  }
  void write(int address, const Word &word) {
    WEFT_INLINE
    write_parts(address, word, 0, kParts);
  }
  /// Parts first..first+count−1 of a word; the others stay.
  void write_parts(int address, const Word &word, int first, int count) {
    WEFT_INLINE
    Int<8>(&to)[kParts][kPartLanes] = bank[address & (kBanks - 1)][address / kBanks];
  parts:
    for (int p = 0; p < kParts; ++p) {
      WEFT_UNROLL
      if (p < first || p >= first + count) continue;
      for (int i = 0; i < kPartLanes; ++i) {
        WEFT_UNROLL
        to[p][i] = word[p * kPartLanes + i];
      }
    }
  }
  /// `count` words `step` apart, an odd number: no two of them share a bank, so each bank is read
  /// once and a crossbar puts the words in order. The rest of `words` is 0.
  template <int kWords>
  void read_group(int address, int step, int count, Word (&words)[kWords]) const {
    WEFT_INLINE
    Word found[kBanks];
    WEFT_HLS(ARRAY_PARTITION variable = found type = complete)
  banks:
    for (int b = 0; b < kBanks; ++b) {
      WEFT_UNROLL
      int row = 0;
      for (int q = 0; q < kBanks; ++q) {
        WEFT_UNROLL
        const int at = address + q * step;
        if (q < count && (at & (kBanks - 1)) == b) row = at / kBanks;
      }
      found[b] = line(b, row);
    }
  in_order:
    for (int q = 0; q < kWords; ++q) {
      WEFT_UNROLL
      const int at = address + q * step;
      words[q] = q < count ? found[at & (kBanks - 1)] : filled(0);
    }
  }

 private:
  Word line(int b, int row) const {
    WEFT_INLINE
    Word word;
  parts:
    for (int p = 0; p < kParts; ++p) {
      WEFT_UNROLL
      for (int i = 0; i < kPartLanes; ++i) {
        WEFT_UNROLL
        word[p * kPartLanes + i] = bank[b][row][p][i];
      }
    }
    return word;
  }
};

/// What attention knows of each row of scores: twice, as the array's input reads it in the same
/// clock as the epilogue does, and a third access of a memory does not fit its two ports.
constexpr int kAttentionRows = kHasAttention ? kAccumulatorRows : 1;
struct RowTable {
  Int<16> maximum[2][kAttentionRows];  // of the scores
  Int<32> sum[2][kAttentionRows];      // of the exponentials

  void put_maximum(int row, Int<16> value) {
    WEFT_INLINE
    maximum[kByInput][row] = maximum[kByEpilogue][row] = value;
  }
  void put_sum(int row, Int<32> value) {
    WEFT_INLINE
    sum[kByInput][row] = sum[kByEpilogue][row] = value;
  }
  enum Reader { kByInput, kByEpilogue };
};

/// Rows of a norm between its two passes.
constexpr int kNormRows = kHasNorm ? kAccumulatorRows : 1;

/// Rows whose magnitude is known, from a Norm to the products that read its codes.
constexpr int kRangeRows = kHasRanges ? kAccumulatorRows : 1;

/// Magnitudes of keys and values, a lane per token: words of these.
using TokenRanges = Int<16>[kRangeWords][kCols];

/// One read and one write port each is all that the II=1 loops need:
/// - `buffer` is read by the window walk and written by the epilogue;
/// - `partial` is read and written by the accumulators, one row per clock;
/// - `finished` takes the sums of a tile's last fold, the epilogue reads it a few clocks behind, so
///   a tile drains while the next one accumulates;
/// - `wide` is read by residuals, scores, norms and rotations, written by the epilogue and norms;
/// - `token_ranges` is read by the epilogue (of scores) and by the input (of values), which an
///   instruction never wants both; rotations and transfers write it in loops of their own;
/// - `operands` is written by the epilogue and transfers, read by the array's tiles and engine
/// matvec.
struct Memories {
  Buffer buffer;
  Int<32> partial[kAccumulatorRows][kCols];
  Int<32> finished[kAccumulatorRows][kCols];
  ParameterTable parameters;
  Int<8> taps[kTapWords][kRows];
  Lookup lookup;
  Int<16> wide[kWideWords][kCols];
  OperandBuffer operands;
  RowTable rows;
  SoftmaxMethods softmax;
  NormMethods norms;
  NormRow norm_rows[kNormRows];
  Int<16> magnitudes[kRangeRows];
  TokenRanges token_ranges;
};

// Words that are read whole become one wide RAM (RESHAPE packs the lanes of a row side by side);
// the accumulators stay a RAM per column, as each column has its own adder.
#define WEFT_PARTITION_MEMORIES(m)                                                            \
  WEFT_HLS(ARRAY_PARTITION variable = m.buffer.bank type = complete dim = 1)                  \
  WEFT_HLS(ARRAY_PARTITION variable = m.buffer.bank type = complete dim = 3)                  \
  WEFT_HLS(ARRAY_RESHAPE variable = m.buffer.bank type = complete dim = 4)                    \
  WEFT_HLS(BIND_STORAGE variable = m.buffer.bank type = ram_s2p)                              \
  WEFT_HLS(ARRAY_PARTITION variable = m.partial type = complete dim = 2)                      \
  WEFT_HLS(ARRAY_PARTITION variable = m.finished type = complete dim = 2)                     \
  WEFT_HLS(ARRAY_RESHAPE variable = m.parameters.bias type = complete dim = 2)                \
  WEFT_HLS(ARRAY_RESHAPE variable = m.parameters.multiplier type = complete dim = 2)          \
  WEFT_HLS(ARRAY_RESHAPE variable = m.parameters.negative_multiplier type = complete dim = 2) \
  WEFT_HLS(ARRAY_RESHAPE variable = m.parameters.shift type = complete dim = 2)               \
  WEFT_HLS(ARRAY_RESHAPE variable = m.parameters.negative_shift type = complete dim = 2)      \
  WEFT_HLS(ARRAY_RESHAPE variable = m.taps type = complete dim = 2)                           \
  WEFT_HLS(ARRAY_PARTITION variable = m.lookup type = complete dim = 1)                       \
  WEFT_HLS(ARRAY_RESHAPE variable = m.wide type = complete dim = 2)                           \
  WEFT_HLS(BIND_STORAGE variable = m.wide type = ram_s2p)                                     \
  WEFT_HLS(ARRAY_RESHAPE variable = m.token_ranges type = complete dim = 2)                   \
  WEFT_HLS(BIND_STORAGE variable = m.token_ranges type = ram_t2p)                             \
  WEFT_HLS(ARRAY_PARTITION variable = m.operands.bank type = complete dim = 1)                \
  WEFT_HLS(ARRAY_PARTITION variable = m.operands.bank type = complete dim = 2)                \
  WEFT_HLS(BIND_STORAGE variable = m.operands.bank type = ram_s2p)                            \
  WEFT_HLS(ARRAY_PARTITION variable = m.rows.maximum type = complete dim = 1)                 \
  WEFT_HLS(ARRAY_PARTITION variable = m.rows.sum type = complete dim = 1)                     \
  WEFT_PARTITION_SOFTMAX(m.softmax)                                                           \
  WEFT_PARTITION_NORMS(m.norms)

/// Clocks by cause (weft.state.Clocks), counted where the loops run.
struct Counters {
  Int<64> issue, matrix, weight_shift, drain, vector, table, transfer;
  void clear() { issue = matrix = weight_shift = drain = vector = table = transfer = 0; }
};

}  // namespace weft
