/// Groups of tile rows on their way into and out of the decoder: how many rows of memory they are,
/// and where each of these goes.
#pragma once
#include "decoders.hpp"
#include "units/packed.hpp"

namespace weft {

constexpr int kCodeRows = 8;     // tile rows whose codes lie together,
constexpr int kCodePlanes = 16;  // in so many memory rows at most: 16 bits
constexpr int kTrits = 5;        // or in base 3: 3^5 < 256
// A group is what the decoder takes and gives at once: for more rows a clock, several of these.
constexpr int kGroupRows = kStreamRows > kCodeRows ? kStreamRows : kCodeRows;
constexpr int kGroupParts = kGroupRows / kCodeRows;
constexpr int kPlanes = kGroupParts * kCodePlanes;
constexpr int kTileGroups = kRows / kGroupRows;
constexpr int kTileDepth = kWeightTiles * kRows;  // rows of the weight FIFO

using Planes = Int<8>[kPlanes][kRows];  // the memory rows of a group

/// Sizes of what a ReadWeights decodes; the checker and the decoder agree on them.
struct PackedShape {
  int rows, reads;  // of a group: tile rows, memory rows,
  int part;         // and those of each of its parts
  int codebook;     // memory rows in front of everything
  int span;         // groups that share a record; 0: no records
  int record;       // memory rows of a record

  void begin(const ReadWeights &f) {
    const int bits = code_bits(int(f.format));
    const bool trits = in_base_3(int(f.format));
    // Of digits in base 3 a group is as many bytes as make whole numbers of kStreamRows rows.
    rows = trits ? kTrits * kStreamRows : kGroupRows;
    part = trits ? kStreamRows : bits;
    reads = trits ? kStreamRows : bits * kGroupParts;
    codebook = has_codebook(int(f.format)) ? ((2 << bits) + kRows - 1) / kRows : 0;
    span = f.group != 0 ? (1 << int(f.group)) / kGroupRows : 0;
    record = span == 0 ? 0 : 1 + int(f.zeros);
  }
  /// Memory rows of the whole instruction.
  Int<64> memory_rows(const ReadWeights &f) const {
    const Int<64> run_groups = Int<64>(f.blocks) * kTileGroups;
    const Int<64> tiles = Int<64>(f.blocks) * Int<64>(f.runs), operands = tiles * kRows;
    const Int<64> packed = in_base_3(int(f.format))
                               ? Int<64>((operands + kTrits - 1) / kTrits)
                               : Int<64>(Int<64>(operands / kGroupRows) * reads);
    const Int<64> mask = span - 1;  // spans are powers of two: shifts, not dividers
    const Int<64> records = span == 0 ? Int<64>(0) : Int<64>((run_groups + mask) / span);
    return Int<64>(codebook + packed + Int<64>(f.runs) * records * record + tiles * int(f.index));
  }
};

/// The bytes of a group, per column.
struct Record {
  Word scale, zero;
};

/// Where the reader of packed rows stands: the records in front of a group, then its rows.
struct PackedReader {
  PackedShape shape;
  Int<64> left;  // memory rows to come
  int in_run;    // group within the run
  int run_groups;
  int record;             // rows of the group's record,
  int at;                 // and how many are there of these and of the group's own
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
    record = due_record();
    index = (in_run & (kTileGroups - 1)) == 0 ? index_rows : 0;
    in_run = in_run == run_groups - 1 ? 0 : in_run + 1;
  }
  /// Rows that the group still wants, and `most` at most; of digits in base 3 the last one may be
  /// short.
  int wanted(int most) const {
    const int rows = record + shape.reads - at;
    const int there = left < Int<64>(most) ? int(left) : most;
    return rows < there ? rows : there;
  }
  /// Rows of the next group that may come behind `first` ones, which complete this group.
  int wanted_next(int first, int most) const {
    if (at + first != record + shape.reads || index > 0) return 0;
    const int rows = due_record() + shape.reads;
    const Int<64> after = Int<64>(left - first);
    const int there = after < Int<64>(most - first) ? int(after) : most - first;
    return rows < there ? rows : there;
  }
  bool arrived() const { return at == record + shape.reads || (at > 0 && left == 0); }
  bool complete() const { return arrived() && index == 0; }
  /// The next row of positions.
  Word pass(const Word &row) {
    --index;
    left -= 1;
    return row;
  }
  /// Takes rows first..first+count-1 of a packet to their places.
  void take(const Packet &packet, int first, int count, Planes &planes, Record &next) {
    WEFT_INLINE
  rows:
    for (int i = 0; i < kWeightPorts; ++i) {
      WEFT_UNROLL
      if (i < first || i >= first + count) continue;
      const int place = at + i - first;
      if (place >= record) put(planes[plane_of(place - record)], packet.row[i]);
      if (place < record && place == 0) next.scale = packet.row[i];
      if (place < record && place == 1) next.zero = packet.row[i];
    }
    at += count;
    left -= count;
  }

 private:
  /// Where row `row` of a group waits: its parts begin kCodePlanes apart, whatever the format.
  int plane_of(int row) const {
    WEFT_INLINE
    int plane = row;
  parts:
    for (int part = 1; part < kGroupParts; ++part) {
      WEFT_UNROLL
      if (row >= part * shape.part) plane = part * (kCodePlanes - shape.part) + row;
    }
    return plane & (kPlanes - 1);
  }
  /// Rows of the record in front of group `in_run`.
  int due_record() const {
    return shape.span != 0 && (in_run & (shape.span - 1)) == 0 ? shape.record : 0;
  }
};

/// The group that leaves: its memory rows, its record, and the next of its tile rows.
struct Leaving {
  Planes planes;
  Record record;
  int row, rows;

  void begin(int group_rows) {
    row = rows = group_rows;  // past its end: none does
  }
  bool busy() const { return row < rows; }
  void swap(const Planes &arriving, const Record &next) {
    WEFT_INLINE
  swap:
    for (int i = 0; i < kPlanes; ++i) {
      WEFT_UNROLL
      put(planes[i], value_of(arriving[i]));
    }
    record = next;
    row = 0;
  }
};

}  // namespace weft
