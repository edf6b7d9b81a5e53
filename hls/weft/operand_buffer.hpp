/// The operand buffer: keys and values, for the array's tiles and for engine matvec.
#pragma once
#include "word.hpp"

namespace weft {

static_assert(kOperandWords % kOperandGroup == 0, "banks are equally deep");

/// What attention keeps of keys and values: each word is written once, in the order of the tokens,
/// and read as it is or transposed. Lane l of word w lies in bank (l + w) mod lanes, so that a
/// word, and the same lane of `lanes` words in a row, both have an element in every bank (as the
/// skewed storage of Lawrie, IEEE Trans. Computers 1975; on chip: TranCIM, ISSCC 2022). A bank is
/// kOperandGroup memories of a byte, which take turns word by word: so many words, from a multiple
/// of it on, are read or written in a clock.
struct OperandBuffer {
  static constexpr int kDepth = kOperandWords / kOperandGroup;
  Int<8> bank[kRows][kOperandGroup][kDepth];

  void write(int address, const Word &word) {
    WEFT_INLINE
    Int<8> lanes[kRows];
    WEFT_HLS(ARRAY_PARTITION variable = lanes type = complete)
    put(lanes, word);
  banks:
    for (int b = 0; b < kRows; ++b) {
      WEFT_UNROLL
      bank[b][part_of(address)][address / kOperandGroup] = lanes[(b - address) & (kRows - 1)];
    }
  }
  /// Words from `address` on, a multiple of kOperandGroup.
  void write_group(int address, const Word (&words)[kOperandGroup]) {
    WEFT_INLINE
    Int<8> lanes[kOperandGroup][kRows];
    WEFT_HLS(ARRAY_PARTITION variable = lanes type = complete dim = 0)
    const int row = address / kOperandGroup;
  parts:
    for (int p = 0; p < kOperandGroup; ++p) {
      WEFT_UNROLL
      put(lanes[p], words[p]);
      for (int b = 0; b < kRows; ++b) {
        WEFT_UNROLL
        bank[b][p][row] = lanes[p][(b - p - row * kOperandGroup) & (kRows - 1)];
      }
    }
  }
  /// Word `address`; or, `turned`, lane `lane` of the words from there on. One element of each
  /// bank.
  Word read(int address, bool turned, int lane) const {
    WEFT_INLINE
    Int<8> found[kRows];
    WEFT_HLS(ARRAY_PARTITION variable = found type = complete)
    const int turn = address + (turned ? lane : 0);
  banks:
    for (int b = 0; b < kRows; ++b) {
      WEFT_UNROLL
      const int words_on = (b - turn) & (kRows - 1);
      const int at = address + (turned ? words_on : 0);
      found[b] = bank[b][part_of(at)][at / kOperandGroup];
    }
    return in_order(found, turn);
  }
  /// Words from `address` on, a multiple of kOperandGroup.
  void read_group(int address, Word (&words)[kOperandGroup]) const {
    WEFT_INLINE
    Int<8> found[kOperandGroup][kRows];
    WEFT_HLS(ARRAY_PARTITION variable = found type = complete dim = 0)
    const int row = address / kOperandGroup;
  parts:
    for (int p = 0; p < kOperandGroup; ++p) {
      WEFT_UNROLL
      for (int b = 0; b < kRows; ++b) {
        WEFT_UNROLL
        found[p][b] = bank[b][p][row];
      }
      words[p] = in_order(found[p], row * kOperandGroup + p);
    }
  }

 private:
  static int part_of(int address) { return address & (kOperandGroup - 1); }
  /// What each bank had, from bank `turn` on.
  static Word in_order(const Int<8> (&found)[kRows], int turn) {
    WEFT_INLINE
    Word word;
  in_order:
    for (int i = 0; i < kRows; ++i) {
      WEFT_UNROLL
      word[i] = found[(i + turn) & (kRows - 1)];
    }
    return word;
  }
};

}  // namespace weft
