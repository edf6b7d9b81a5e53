/// Streams of 32-bit words ↔ the types of the units: every HLS tool takes streams of words, some
/// mistranslate streams of structs.
#pragma once
#include "memories.hpp"

namespace weft {

using Port = hls::stream<ap_uint<32>>;
constexpr int kCodesPerWord = 4, kWordsPerRow = kRows / kCodesPerWord;

inline Int<32> take(Port &from) { return Int<32>(from.read()); }
inline void give(Port &to, Int<32> value) { to.write(ap_uint<32>(value)); }

/// int8 lanes, four to a word, the first in the low byte.
inline Word take_codes(Port &from) {
  Word codes;
take_words:
  for (int w = 0; w < kWordsPerRow; ++w) {
    const UInt<32> word = from.read();
    for (int i = 0; i < kCodesPerWord; ++i) codes[kCodesPerWord * w + i] = Int<8>(word >> (8 * i));
  }
  return codes;
}
inline void give_codes(Port &to, const Word &codes) {
give_words:
  for (int w = 0; w < kWordsPerRow; ++w) {
    UInt<32> word = 0;
    for (int i = 0; i < kCodesPerWord; ++i)
      word |= UInt<32>(UInt<8>(codes[kCodesPerWord * w + i])) << (8 * i);
    to.write(word);
  }
}

/// int32 lanes, one to a word.
inline SumWord take_sums(Port &from) {
  SumWord sums;
take_lanes:
  for (int c = 0; c < kCols; ++c) sums[c] = take(from);
  return sums;
}
inline void give_sums(Port &to, const SumWord &sums) {
give_lanes:
  for (int c = 0; c < kCols; ++c) give(to, sums[c]);
}

/// A count of clocks: the low word, then the high one.
inline void give_clocks(Port &to, Int<64> clocks) {
  give(to, Int<32>(clocks & 0xffffffffLL));
  give(to, Int<32>(clocks >> 32));
}

/// Rows of codes for a unit that reads them from a stream, or from one that writes them to it.
inline void take_rows(Port &from, int count, Stream<Word> &rows) {
  WEFT_FUNCTION
take_rows:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(kWordsPerRow)
    WEFT_TRIPCOUNT(kBufferWords)
    rows.write(take_codes(from));
  }
}
inline void take_tile_rows(Port &from, int count, WeightStream &rows) {
  WEFT_FUNCTION
take_tile_rows:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(kWordsPerRow)
    WEFT_TRIPCOUNT(kBufferWords)
    rows.write(widened(take_codes(from)));
  }
}
inline void give_rows(Port &to, int count, Stream<Word> &rows) {
  WEFT_FUNCTION
give_rows:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(kWordsPerRow)
    WEFT_TRIPCOUNT(kBufferWords)
    give_codes(to, rows.read());
  }
}

inline Command take_command(Port &from) {
  Command words;
take_fields:
  for (int i = 0; i < kInstructionWords; ++i) words[i] = take(from);
  return words;
}

}  // namespace weft
