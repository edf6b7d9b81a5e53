/// Packed weights → rows of a tile: cuts codes out of memory rows, decodes them, applies the scale
/// of their group. Once per weight, at the edge of the array, so an element multiplies only.
///
/// A group of tile rows (8, or 5 in base 3) lies in a fixed number of memory rows
/// (host/weft/tiles.py); while one group leaves, row by row, the rows of the next one arrive.
#pragma once
#include "decoders.hpp"
#include "memories.hpp"
#include "scales.hpp"

namespace weft {

constexpr int kPlanes = 16;    // memory rows of a group at most: 8 rows of 16 bits
constexpr int kGroupRows = 8;  // tile rows of a group
constexpr int kTrits = 5;      // or in base 3: 3^5 < 256
constexpr int kTileGroups = kRows / kGroupRows;
constexpr int kTileDepth = kWeightTiles * kRows;  // rows of the weight FIFO

using Planes = Int<8>[kPlanes][kRows];  // the memory rows of a group

/// Sizes of what a ReadWeights decodes; the checker and the decoder agree on them.
struct PackedShape {
  int rows, reads;  // of a group: tile rows, memory rows
  int codebook;     // memory rows in front of everything
  int span;         // groups that share a record; 0: no records
  int record;       // memory rows of a record

  void begin(const ReadWeights &f) {
    const int bits = code_bits(int(f.format));
    const bool trits = in_base_3(int(f.format));
    rows = trits ? kTrits : kGroupRows;
    reads = trits ? 1 : bits;
    codebook = has_codebook(int(f.format)) ? ((2 << bits) + kRows - 1) / kRows : 0;
    span = f.group != 0 ? (1 << int(f.group)) / kGroupRows : 0;
    record = span == 0 ? 0 : 1 + int(f.zeros);
  }
  /// Memory rows of the whole instruction.
  Int<64> memory_rows(const ReadWeights &f) const {
    const Int<64> run_groups = Int<64>(f.blocks) * kTileGroups;
    const Int<64> tiles = Int<64>(f.blocks) * Int<64>(f.runs), operands = tiles * kRows;
    const Int<64> groups =
        rows == kTrits ? Int<64>((operands + kTrits - 1) / kTrits) : Int<64>(operands / kGroupRows);
    const Int<64> mask = span - 1;  // spans are powers of two: shifts, not dividers
    const Int<64> records = span == 0 ? Int<64>(0) : Int<64>((run_groups + mask) / span);
    return Int<64>(codebook + groups * reads + Int<64>(f.runs) * records * record +
                   tiles * int(f.index));
  }
};

/// Code of tile row `row` of a group in column `c`: planes of 4, 2 and 1 bits. Wires and a
/// multiplexer over the rows of the group.
inline UInt<16> code_at(const Planes &planes, int bits, int row, int c) {
  WEFT_INLINE
  if (bits == 16) {
    const UInt<16> low = UInt<16>(planes[2 * row][c]) & 0xff;
    return UInt<16>(low | UInt<16>(UInt<16>(planes[2 * row + 1][c]) << 8));
  }
  if (bits == 8) return UInt<16>(planes[row][c]) & 0xff;
  unsigned code = 0;
  int first = 0, shift = 0;
  if ((bits & 4) != 0) {
    code = (unsigned(planes[row >> 1][c]) & 0xff) >> (4 * (row & 1)) & 15;
    first = shift = 4;
  }
  if ((bits & 2) != 0) {
    code |= ((unsigned(planes[first + (row >> 2)][c]) & 0xff) >> (2 * (row & 3)) & 3) << shift;
    first += 2;
    shift += 2;
  }
  if ((bits & 1) != 0) code |= ((unsigned(planes[first][c]) & 0xff) >> row & 1) << shift;
  return UInt<16>(code);
}

/// Digit `row` of a byte in base 3. Divisions by constants: a ROM of 256 × 10 bits per column.
inline UInt<16> trit_at(Int<8> byte, int row) {
  WEFT_INLINE
  unsigned rest = unsigned(byte) & 0xff;
trits:
  for (int i = 0; i < kTrits - 1; ++i) {
    WEFT_UNROLL
    if (i < row) rest /= 3;
  }
  return UInt<16>(rest % 3);
}

/// The bytes of a group, per column.
struct Record {
  Word scale, zero;
};

/// Scales a decoded value with its group's byte.
inline Operand scaled_operand(const ReadWeights &f, Int<16> decoded, Int<8> scale, Int<8> zero) {
  WEFT_INLINE
  const int kind = record_kind(int(f.format));
  const UInt<8> byte = UInt<8>(scale);
  if (f.group == 0) return Operand(decoded);
  if (kind == kExponentRecord) return Operand(scaled_by_exponent(decoded, byte));
  if (kind == kE4M3Record) return Operand(scaled_by_e4m3(decoded, byte));
  // 8 × 8 bits, signed by unsigned: half a DSP or 40 LUTs per column.
  const Int<16> offset = Int<16>(decoded - (f.zeros != 0 ? Int<16>(zero) : Int<16>(0)));
  return Operand(Int<32>(offset) * Int<32>(byte));
}

using Codebook = Int<16>[kCols][256];  // a copy per column: no crossing wires

/// Entries of the codebook, one per clock, from the rows in front of the weights.
inline void take_codebook(int rows, Stream<Word> &packed, Codebook &codebook) {
  WEFT_INLINE
  Word row = filled(0);
entries:
  for (int i = 0; i < rows * kRows; i += 2) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(256)
    if ((i & (kRows - 1)) == 0) row = packed.read();
    const int lane = i & (kRows - 1);
    const Int<16> low = Int<16>(UInt<16>(row[lane]) & 0xff);
    const Int<16> entry = Int<16>(low | Int<16>(Int<16>(row[lane + 1]) << 8));
  copies:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      codebook[c][(i >> 1) & 255] = entry;
    }
  }
}

/// One tile row of a group.
inline TileWord decoded_row(const ReadWeights &f, const Planes &planes, int row,
                            const Record &record, const Codebook &codebook) {
  WEFT_INLINE
  const int format = int(f.format), bits = code_bits(format);
  TileWord operands;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const UInt<16> code =
        in_base_3(format) ? trit_at(planes[0][c], row) : code_at(planes, bits, row, c);
    const UInt<8> partner = UInt<8>(code_at(planes, bits, row ^ 1, c));
    const Int<16> decoded = has_codebook(format)
                                ? codebook[c][int(code) & 255]
                                : decoded_value(format, code, partner, (row & 1) != 0);
    operands[c] = scaled_operand(f, decoded, record.scale[c], record.zero[c]);
  }
  return operands;
}

/// Where the reader of packed rows stands: the records in front of a group, then its rows.
struct PackedReader {
  PackedShape shape;
  Int<64> left;  // memory rows to come
  int in_run;    // group within the run
  int run_groups;
  int record;             // rows of the record still to come
  int at;                 // rows of the group that are there
  int index, index_rows;  // rows of positions still to come, behind a tile's first group

  void begin(const ReadWeights &f) {
    shape.begin(f);
    left = shape.memory_rows(f) - shape.codebook;
    run_groups = int(f.blocks) * kTileGroups;
    in_run = 0;
    index_rows = int(f.index);
    start_group();
  }
  void start_group() {
    at = 0;
    const bool due = shape.span != 0 && (in_run & (shape.span - 1)) == 0;
    record = due ? shape.record : 0;
    index = (in_run & (kTileGroups - 1)) == 0 ? index_rows : 0;
    in_run = in_run == run_groups - 1 ? 0 : in_run + 1;
  }
  bool arrived() const { return record == 0 && at == shape.reads; }
  bool complete() const { return arrived() && index == 0; }
  /// The next row of positions.
  Word pass(const Word &row) {
    --index;
    left -= 1;
    return row;
  }
  /// Takes the next row to its place.
  void take(const Word &row, Planes &planes, Record &next) {
    WEFT_INLINE
    if (record > 0) {
      if (record == shape.record) next.scale = row;
      if (record != shape.record) next.zero = row;
      --record;
    } else {
      put(planes[at], row);
      ++at;
    }
    left -= 1;
  }
};

/// Decodes all rows of a ReadWeights, one per clock where memory keeps up.
inline void decode_rows(const ReadWeights &f, Stream<Word> &packed, Stream<TileWord> &tiles,
                        Codebook &codebook) {
  WEFT_INLINE
  PackedReader reader;
  reader.begin(f);
  take_codebook(reader.shape.codebook, packed, codebook);
  Planes arriving, leaving;
  WEFT_HLS(ARRAY_PARTITION variable = arriving type = complete dim = 0)
  WEFT_HLS(ARRAY_PARTITION variable = leaving type = complete dim = 0)
  Record next = {filled(0), filled(0)}, record = next;
  UInt<32> written = 0;
  int row = reader.shape.rows;  // of the group that leaves; past its end: none does
steps:
  for (bool open = true; open;) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kTileDepth)
    const bool leaves = row < reader.shape.rows;
    if (leaves && written < f.rows) {
      tiles.write(decoded_row(f, leaving, row, record, codebook));
      written += 1;
    }
    if (leaves) ++row;
    if (reader.left > 0 && !reader.arrived()) {
      reader.take(packed.read(), arriving, next);
    } else if (reader.left > 0 && reader.index > 0 && !leaves) {
      // Positions go in front of their tile, whose first group waits meanwhile.
      tiles.write(widened(reader.pass(packed.read())));
      written += 1;
    }
    if (row == reader.shape.rows && reader.complete()) {
    swap:
      for (int i = 0; i < kPlanes; ++i) {
        WEFT_UNROLL
        put(leaving[i], value_of(arriving[i]));
      }
      record = next;
      row = 0;
      reader.start_group();
    }
    open = written < f.rows;
  }
}

/// The decode process: rows that are no tiles, and int8, pass as they are.
inline void decode(Stream<Command> &commands, Stream<Word> &packed, Stream<TileWord> &tiles) {
  WEFT_FUNCTION
  WEFT_STATIC(Codebook, codebook);
  WEFT_HLS(ARRAY_PARTITION variable = codebook type = complete dim = 1)
decode:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    const Command words = commands.read();
    open = words[0] != kBarrier;
    const ReadWeights f = ReadWeights::decode(words);
    const UInt<32> rows = open && f.format == 0 ? f.rows : UInt<32>(0);
  plain:
    for (UInt<32> row = 0; row < rows; ++row) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kTileDepth)
      tiles.write(widened(packed.read()));
    }
    if (open && f.format != 0) decode_rows(f, packed, tiles, codebook);
  }
}

}  // namespace weft
