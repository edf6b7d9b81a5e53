/// SNAP's bundles of channels (Zhang et al., JSSC 2021): weights without their zeros, with a mask
/// (host/weft/units/snap_stream.py).
///
/// A MatMul's rows of the stream: a codebook of 16 int16 if MatMul.codes has bit 0, then blocks of
/// outputs, each a whole number of rows: their number in 4 bytes, then records, byte after byte.
/// A record is a bundle of an output: a byte, of which bits 0..6 are the bundles passed over since
/// the output's record before and bit 7 says that it is the output's last; a mask of the channels,
/// low bits first; and a byte for each bit that is set, or half a one, low half first, for codes.
#pragma once
#include "memories.hpp"

namespace weft {

constexpr int kSnapMaskBytes = kSnapBundle / 8;
constexpr int kSnapHeader = 1 + kSnapMaskBytes;                  // of a record of the weight stream
constexpr int kSnapRecord = kSnapHeader + kSnapBundle;           // bytes of the longest one
constexpr int kSnapBlockHeader = 4;                              // rows of a block, low byte first
constexpr int kSnapCodes = 16;                                   // entries of a codebook
constexpr int kSnapBookRows = (2 * kSnapCodes - 1) / kCols + 1;  // stream rows of one
static_assert(!kHasSnap || (kSnapBundle >= 8 && kSnapBundle <= 128),
              "masks are bytes, indices 7 bits");

using SnapIndex = UInt<8>;

/// Weights of a bundle that are not 0: their channels and codes in ascending order.
struct SnapWeights {
  Vec<Int<8>, kSnapBundle> value;
  Vec<SnapIndex, kSnapBundle> index;
  Int<16> count, bundle;  // items; which of its column's bundles
};

/// Bytes of the stream on their way; a row enters, a record leaves per clock.
struct SnapWindow {
  // A row waits outside only while the longest record is inside.
  static constexpr int kBytes = kSnapRecord + kCols;
  UInt<8> byte[kBytes];
  int fill;

  bool room() const { return fill + kCols < kBytes; }
  void append(const TileWord &row) {
    WEFT_INLINE
  append:
    for (int i = 0; i < kCols; ++i) {
      WEFT_UNROLL
      byte[fill + i] = UInt<8>(int(row[i]) & 0xff);
    }
    fill += kCols;
  }
  void drop(int count) {
    WEFT_INLINE
  drop:
    for (int i = 0; i < kBytes; ++i) {
      WEFT_UNROLL
      byte[i] = i + count < kBytes ? byte[i + count] : UInt<8>(0);
    }
    fill -= count;
  }
  int rows() const {
    return int(UInt<32>(byte[0]) | UInt<32>(byte[1]) << 8 | UInt<32>(byte[2]) << 16 |
               UInt<32>(byte[3] & 0x7f) << 24);
  }
  bool last() const { return (byte[0] & 0x80) != 0; }
  int skipped() const { return int(byte[0] & 0x7f); }
  /// The items of the record in front.
  void items(bool coded, SnapWeights &w) const {
    WEFT_INLINE
    int count = 0;
  mask:
    for (int i = 0; i < kSnapBundle; ++i) {
      WEFT_UNROLL
      if ((byte[1 + i / 8] >> (i & 7) & 1) != 0) {
        const unsigned whole = unsigned(byte[kSnapHeader + (coded ? count >> 1 : count)]);
        w.value[count] = coded ? Int<8>(whole >> (4 * (count & 1)) & 15) : Int<8>(whole);
        w.index[count] = SnapIndex(i);
        ++count;
      }
    }
    w.count = Int<16>(count);
  }
};

}  // namespace weft
