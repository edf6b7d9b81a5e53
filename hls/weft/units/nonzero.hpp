/// Leading non-zero detection over the words of a vector (Han et al., EIE, ISCA 2016, figure 4).
#pragma once
#include "memories.hpp"
#include "units/window.hpp"

namespace weft {

constexpr int kWordsAhead = 4;  // that are read ahead of the broadcast

struct Nonzero {
  bool valid;
  UInt<16> index;  // within the vector
  Int<9> value;    // code − pad
};

/// The first number that is not −1: a tree whose nodes take the first of four.
template <int kInputs> struct FirstOf {
  static int found(const int (&in)[kInputs]) {
    WEFT_INLINE
    constexpr int kNodes = (kInputs + 3) / 4;
    int node[kNodes];
  nodes:
    for (int n = 0; n < kNodes; ++n) {
      WEFT_UNROLL
      node[n] = -1;
    inputs:
      for (int i = 3; i >= 0; --i) {
        WEFT_UNROLL
        if (4 * n + i < kInputs && in[4 * n + i] >= 0) node[n] = in[4 * n + i];
      }
    }
    return FirstOf<kNodes>::found(node);
  }
};
template <> struct FirstOf<1> {
  static int found(const int (&in)[1]) { return in[0]; }
};

/// Leading non-zero detection: a ring of words that are read ahead, and a tree over all of their
/// lanes whose nodes take the first of four (at the top, words in the order of the ring). Zeros
/// cost nothing as long as a word per clock keeps up.
struct NonzeroDetector {
  Word word[kWordsAhead];
  bool nonzero[kWordsAhead][kRows];
  int words;                     // of a vector,
  int asked, arrived, released;  // and how many of them are ...
  int address, step;             // of the next one
  bool inside, arriving;
  Word from_buffer;

  void begin(const MatMul &f, const Walk<MatMul> &walk) {
    words = int(f.blocks);
    asked = arrived = released = 0;
    address = walk.address();
    step = int(f.source_block);
    inside = walk.inside();
    arriving = false;
  }
  /// The first non-zero lane of a slot, or −1.
  int leading(int slot) const {
    WEFT_INLINE
    int lanes[kRows];
  leaves:
    for (int i = 0; i < kRows; ++i) {
      WEFT_UNROLL
      lanes[i] = nonzero[slot][i] ? i : -1;
    }
    return FirstOf<kRows>::found(lanes);
  }
  /// One clock: the next non-zero, if there is one and `room` for it.
  Nonzero next(const Memories &m, Int<8> pad, bool room) {
    WEFT_INLINE
    int lane = -1, slot = 0, ahead = 0, zeros = 0;
  ring:
    for (int i = kWordsAhead - 1; i >= 0; --i) {
      WEFT_UNROLL
      const int at = (released + i) & (kWordsAhead - 1);
      const int found = leading(at);
      const bool there = released + i < arrived;
      zeros = there && found < 0 ? zeros + 1 : 0;  // words in front without a non-zero
      if (there && found >= 0) lane = found, slot = at, ahead = i;
    }
    const Nonzero none = {false, 0, 0};
    Nonzero out = none;
    if (lane >= 0 && room) {
      out.valid = true;
      out.index = UInt<16>((released + ahead) * kRows + lane);
      out.value = Int<9>(Int<16>(word[slot][lane]) - Int<16>(pad));
      nonzero[slot][lane] = false;
    }
    read_ahead(m, pad);
    released += zeros;
    return out;
  }
  /// A word arrives a clock after it was asked for.
  void read_ahead(const Memories &m, Int<8> pad) {
    WEFT_INLINE
    if (arriving) {
      const int slot = arrived & (kWordsAhead - 1);
      word[slot] = from_buffer;
    lanes:
      for (int i = 0; i < kRows; ++i) {
        WEFT_UNROLL
        nonzero[slot][i] = inside && from_buffer[i] != pad;
      }
      ++arrived;
    }
    arriving = asked < words && asked - released < kWordsAhead;
    if (arriving) {
      if (inside) from_buffer = m.buffer.read(address);
      address += step;
      ++asked;
    }
  }
};

}  // namespace weft
