/// EIE's compressed columns (Han et al., ISCA 2016): PE by PE and column by column the weights that
/// are not 0, each with the zeros in front of it. host/weft/lower/eie.py has the layout of the
/// stream: a codebook, pointers, entries.
#pragma once
#include "sparse/rows.hpp"

namespace weft {

constexpr int kEieGroups = kEiePes / kCols;  // stream rows of a byte of all PEs
constexpr int kEieCodes = 16;                // entries of the codebook
constexpr int kEieTiles = kEieGroups * kEieOutputs;
static_assert(kEiePes % kCols == 0, "PEs take the bytes of whole stream rows");
static_assert(kEieEntries % 2 == 0 && kEieEntries < 65536, "pointers have 16 bits");
static_assert(kEiePointers % 2 == 0 && kEiePointers <= 65536, "even and odd pointers; 16 bits");

/// A column of the weights, as a PE has it, and its activation.
struct EieColumn {
  UInt<16> first, entries;
  Int<9> value;
};

/// A weight, and the zeros in front of it.
struct EieEntry {
  Int<16> value;
  int zeros;
};

/// What PEs keep of a layer, and their sums. Entries lie in an even and an odd bank of bytes, so
/// that the two bytes of an int8 entry are read at once.
struct EieMemory {
  UInt<8> entries[kEiePes][2][kEieEntries / 2];
  UInt<16> pointers[2][kEieGroups][kEiePointers / 2][kCols];
  Int<16> codebook[kEiePes][kEieCodes];  // a copy per PE: no crossing wires
  Int<32> sums[kEiePes][kEieOutputs];    // 0 between MatMuls

  void read_pointers(int column, int p, EieColumn &found) const {
    WEFT_INLINE
    const int g = p / kCols, c = p % kCols;
    const UInt<16> even = pointers[0][g][(column + 1) >> 1][c],
                   odd = pointers[1][g][column >> 1][c];
    found.first = (column & 1) != 0 ? odd : even;
    found.entries = UInt<16>((column & 1) != 0 ? even - odd : odd - even);
  }
  /// Entry number `place` of PE p.
  EieEntry entry(int p, int place, bool coded) const {
    WEFT_INLINE
    const int line = coded ? place >> 1 : place;
    const UInt<8> even = entries[p][0][line], odd = entries[p][1][line];
    const UInt<8> byte = coded && (place & 1) != 0 ? odd : even;
    EieEntry found;
    found.value = coded ? codebook[p][int(byte) & 15] : Int<16>(Int<8>(byte));
    found.zeros = coded ? int(byte) >> 4 : int(odd);
    return found;
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

}  // namespace weft
