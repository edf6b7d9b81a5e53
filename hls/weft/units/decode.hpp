/// Packed weights → rows of a tile: cuts codes out of memory rows, decodes them, applies the scale
/// of their group. Once per weight, at the edge of the array, so an element multiplies only.
///
/// Tile rows lie in a fixed number of memory rows by groups of 8, or of 5 in base 3
/// (host/weft/tiles.py). While one group leaves (of more, where kStreamRows are), row by row or
/// kStreamRows at a time for engine matvec, the rows of the next one arrive, up to kWeightPorts a
/// clock.
#pragma once
#include "scales.hpp"
#include "units/groups.hpp"
#include "units/packed_feed.hpp"

namespace weft {

/// Code of tile row `of_group` of a group in column `c`: planes of 4, 2 and 1 bits. Wires and a
/// multiplexer over the rows of the group.
inline UInt<16> code_at(const Planes &planes, int bits, int of_group, int c) {
  WEFT_INLINE
  const int row = of_group & (kCodeRows - 1), base = of_group / kCodeRows * kCodePlanes;
  if (bits == 16) {
    const UInt<16> low = UInt<16>(planes[base + 2 * row][c]) & 0xff;
    return UInt<16>(low | UInt<16>(UInt<16>(planes[base + 2 * row + 1][c]) << 8));
  }
  if (bits == 8) return UInt<16>(planes[base + row][c]) & 0xff;
  unsigned code = 0;
  int first = base, shift = 0;
  if ((bits & 4) != 0) {
    code = (unsigned(planes[base + (row >> 1)][c]) & 0xff) >> (4 * (row & 1)) & 15;
    first += 4;
    shift = 4;
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

/// Scales a decoded value with its group's byte.
inline Operand scaled_operand(const ReadWeights &f, Int<16> decoded, Int<8> scale, Int<8> zero) {
  WEFT_INLINE
  const int kind = record_kind(int(f.format));
  const UInt<8> byte = UInt<8>(scale);
  if (f.group == 0) return Operand(decoded);
  if (kind == kExponentRecord) return Operand(scaled_by_exponent(decoded, byte));
  if (kind == kE4M3Record) return Operand(scaled_by_e4m3(decoded, byte));
  const Int<16> offset = Int<16>(decoded - (f.zeros != 0 ? Int<16>(zero) : Int<16>(0)));
  const Int<32> product = Int<32>(Int<32>(offset) * Int<32>(byte));
  WEFT_HLS(BIND_OP variable = product op = mul impl = dsp)  // LUTs are what parts run out of
  return Operand(product);
}

using Codebook = Int<16>[kStreamRows][kCols][256];  // a copy per column: no crossing wires

/// Entries of the codebook, one per clock, from the rows in front of the weights.
inline void take_codebook(int rows, PackedFeed &feed, Codebook &codebook,
                          Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  Word row = filled(0);
entries:
  for (int i = 0; i < rows * kRows; i += 2) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(256)
    if ((i & (kRows - 1)) == 0) row = feed.next(1, packed WEFT_EACH_PORT(WEFT_PACKED)).row[0];
    const int lane = i & (kRows - 1);
    const Int<16> low = Int<16>(UInt<16>(row[lane]) & 0xff);
    const Int<16> entry = Int<16>(low | Int<16>(Int<16>(row[lane + 1]) << 8));
  copies:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      for (int i_row = 0; i_row < kStreamRows; ++i_row) codebook[i_row][c][(i >> 1) & 255] = entry;
    }
  }
}

/// One tile row of a group.
inline TileWord decoded_row(const ReadWeights &f, const Planes &planes, int row,
                            const Record &record, const Int<16> (&codebook)[kCols][256]) {
  WEFT_INLINE
  const int format = int(f.format), bits = code_bits(format);
  const int of_group = row & (kGroupRows - 1);
  const int byte = kStreamRows == 1 ? 0 : row / kTrits, digit = row - byte * kTrits;
  TileWord operands;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const UInt<16> code = in_base_3(format) ? trit_at(planes[byte & (kGroupRows - 1)][c], digit)
                                            : code_at(planes, bits, of_group, c);
    const UInt<8> partner = UInt<8>(code_at(planes, bits, of_group ^ 1, c));
    const Int<16> decoded = has_codebook(format)
                                ? codebook[c][int(code) & 255]
                                : decoded_value(format, code, partner, (row & 1) != 0);
    operands[c] = scaled_operand(f, decoded, record.scale[c], record.zero[c]);
  }
  return operands;
}

/// Tile rows of a group from `row` on: one, or as many as engine matvec takes, at wires of their
/// own.
inline StreamRow decoded_rows(const ReadWeights &f, const Planes &planes, int row,
                              const Record &record, const Codebook &codebook) {
  WEFT_INLINE
  StreamRow rows = decoded_row(f, planes, row, record, codebook[0]);
more_rows:
  for (int i = 1; i < kStreamRows; ++i) {
    WEFT_UNROLL
    const int at = (row & ~(kStreamRows - 1)) + i;
    if (f.matvec != 0) row_of(rows, i) = decoded_row(f, planes, at, record, codebook[i]);
  }
  return rows;
}

/// Decodes all rows of a ReadWeights, as many per clock as leave where memory keeps up.
inline void decode_rows(const ReadWeights &f, Codebook &codebook, WeightStream &tiles,
                        Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  PackedReader reader;
  reader.begin(f);
  PackedFeed feed;
  feed.begin(f);
  take_codebook(reader.shape.codebook, feed, codebook, packed WEFT_EACH_PORT(WEFT_PACKED));
  Planes arriving;
  Leaving leaving;
  WEFT_HLS(ARRAY_PARTITION variable = arriving type = complete dim = 0)
  WEFT_HLS(ARRAY_PARTITION variable = leaving.planes type = complete dim = 0)
  WEFT_HLS(ARRAY_PARTITION variable = feed.window type = complete dim = 0)
  Record next = {filled(0), filled(0)};
  leaving.begin(reader.shape.rows);
  const int step = f.matvec != 0 ? kStreamRows : 1;
  UInt<32> written = 0;
steps:
  for (bool open = true; open;) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kTileDepth)
    WEFT_SIM(++sim::run().decode_clocks);
    const bool leaves = leaving.busy();
    if (leaves && written < f.rows) {
      tiles.write(decoded_rows(f, leaving.planes, leaving.row, leaving.record, codebook));
      written += UInt<32>(step);
    }
    if (leaves) leaving.row += step;
    // Of several ports, what is beyond a group that is complete begins the next one.
    const bool fills = feed.fills();
    const int first = fills ? 0 : reader.wanted(kWeightPorts);
    const bool passes = !fills && first == 0 && reader.arrived() && reader.index > 0 && !leaves;
    const bool free = kWeightPorts > 1 && !fills && !leaving.busy();
    const int second = free ? reader.wanted_next(first, kWeightPorts) : 0;
    const Packet rows = feed.next(passes ? 1 : first + second, packed WEFT_EACH_PORT(WEFT_PACKED));
    reader.take(rows, 0, first, arriving, next);
    // Positions go in front of their tile, whose first group waits meanwhile.
    if (passes) {
      tiles.write(widened(reader.pass(rows.row[0])));
      written += 1;
    }
    if (!leaving.busy() && reader.complete()) {
      leaving.swap(arriving, next);
      reader.start_group();
      reader.take(rows, first, second, arriving, next);
    }
    open = written < f.rows;
  }
}
/// Rows that are no tiles, and int8, pass as they are; of the cache run by run.
inline void pass_rows(const ReadWeights &f, WeightStream &tiles,
                      Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  constexpr int kAtOnce = kStreamRows < kWeightPorts ? kStreamRows : kWeightPorts;
  PackedFeed feed;
  WEFT_HLS(ARRAY_PARTITION variable = feed.window type = complete dim = 0)
  const int count = f.matvec != 0 ? kAtOnce : 1, rows = f.matvec != 0 ? kStreamRows : 1;
  const UInt<32> runs = reads_cache(f) ? UInt<32>(f.runs) : UInt<32>(1);
  const UInt<32> each = reads_cache(f) ? run_rows(f) : f.rows;
  StreamRow group = widened(filled(0));
  int gathered = 0;
runs:
  for (UInt<32> run = 0; run < runs; ++run) {
    WEFT_TRIPCOUNT(kTileDepth)
    feed.begin(f);
  plain:
    for (UInt<32> row = 0; row < each;) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kTileDepth)
      WEFT_SIM(++sim::run().decode_clocks);
      const int taken = feed.fills() ? 0 : count;
      const Packet packet = feed.next(taken, packed WEFT_EACH_PORT(WEFT_PACKED));
    gather:
      for (int i = 0; i < kAtOnce; ++i) {
        WEFT_UNROLL
        row_of(group, (gathered + i) & (kStreamRows - 1)) = widened(packet.row[i]);
      }
      row += UInt<32>(taken);
      gathered += taken;
      if (gathered == rows) {
        tiles.write(group);
        gathered = 0;
      }
    }
  }
}

/// The decode process.
inline void decode(Stream<Command> &commands, WeightStream &tiles,
                   Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_FUNCTION
  WEFT_STATIC(Codebook, codebook);
  WEFT_HLS(ARRAY_PARTITION variable = codebook type = complete dim = 1)
  WEFT_HLS(ARRAY_PARTITION variable = codebook type = complete dim = 2)
decode:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    const Command words = commands.read();
    open = words[0] != kBarrier;
    const ReadWeights f = ReadWeights::decode(words);
    if (open && f.format == 0) pass_rows(f, tiles, packed WEFT_EACH_PORT(WEFT_PACKED));
    if (open && f.format != 0) decode_rows(f, codebook, tiles, packed WEFT_EACH_PORT(WEFT_PACKED));
  }
}

}  // namespace weft
