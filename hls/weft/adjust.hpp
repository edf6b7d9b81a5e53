/// Adjust: fields of the next instruction follow the registers of a run (tokens, position,
/// origin, source), so that one program serves every length. Golden model: host/weft/adjust.py.
#pragma once
#include "check_ranges.hpp"
#include "status.hpp"

namespace weft {

constexpr int kPackedGroupLog2 = 5;
static_assert(1 << kPackedGroupLog2 == kPackedGroup, "groups are counted by shifts");

/// One adjustment of an Adjust.
struct Adjustment {
  UInt<5> word;
  UInt<4> from;  // which register
  UInt<1> drop;
  UInt<5> unit;
  Int<32> offset, most, scale, base;
};

/// What the Adjusts in front of an instruction do to it. Their values are made as they are read:
/// a multiplication per clock; the instruction then takes a word per clock.
class Adjuster {
  static constexpr int kMost = kMostAdjusts * kAdjustments;
  static constexpr int kRegisters = kRingRegister + 1;
  Int<32> registers_[kRegisters];
  int word_[kMost];
  Int<32> value_[kMost];
  int adjusts_;
  bool drops_;

  /// min(most, register − offset).
  Int<32> left(const Adjustment &a) const {
    WEFT_INLINE
    const Int<32> offset = a.offset, from = registers_[a.from < kRegisters ? int(a.from) : 0];
    const Int<32> difference = Int<32>(UInt<32>(from) - UInt<32>(offset));  // wraps
    return difference < a.most ? difference : a.most;
  }
  /// base + scale · ⌈left / 2^unit⌉; wraps.
  static Int<32> value(const Adjustment &a, Int<32> left) {
    WEFT_INLINE
    const int unit = int(a.unit);
    const UInt<32> rest = UInt<32>(left) & UInt<32>((UInt<32>(1) << unit) - 1);
    const Int<32> units = Int<32>((left >> unit) + (rest != 0 ? 1 : 0));
    return Int<32>(UInt<32>(a.base) + UInt<32>(UInt<32>(a.scale) * UInt<32>(units)));
  }

 public:
  void begin(const Limits &limits) {
    registers_[kTokensRegister] = limits.tokens;
    registers_[kPositionRegister] = limits.position;
    registers_[kOriginRegister] = limits.origin;
    registers_[kSourceRegister] = limits.source;
    registers_[kTotalRegister] = Int<32>(UInt<32>(limits.tokens) + UInt<32>(limits.position));
    registers_[kPlaceRegister] = Int<32>(UInt<32>(limits.origin) + UInt<32>(limits.position));
    // Of a packed cache: groups that end in this run, and where the newest tokens go in memory.
    const Int<32> total = registers_[kTotalRegister];
    const Int<32> offset = limits.position & (kPackedGroup - 1);
    registers_[kCompletedRegister] =
        Int<32>((total >> kPackedGroupLog2) - (limits.position >> kPackedGroupLog2));
    registers_[kOffsetRegister] = offset;
    registers_[kRingRegister] = Int<32>(UInt<32>(limits.source) + UInt<32>(offset));
    clear();
  }
  /// Forgets the Adjusts of the instruction before.
  void clear() {
    adjusts_ = 0;
    drops_ = false;
  }
  /// Whether the instruction that comes now is left out.
  bool drops() const { return drops_; }

  /// An Adjust; kDone if it is one, and not one too many.
  Status take(const Command &words) {
    WEFT_FUNCTION
    if (adjusts_ == kMostAdjusts) return kBadOrder;
    if (!Adjust::legal(words)) return kBadField;
    const Adjust f = Adjust::decode(words);
    const Adjustment each[kAdjustments] = {
        {f.field_0, f.register_0, f.drop_0, f.unit_0, f.offset_0, f.most_0, f.scale_0, f.base_0},
        {f.field_1, f.register_1, f.drop_1, f.unit_1, f.offset_1, f.most_1, f.scale_1, f.base_1},
        {f.field_2, f.register_2, f.drop_2, f.unit_2, f.offset_2, f.most_2, f.scale_2, f.base_2},
    };
    WEFT_HLS(ARRAY_PARTITION variable = each type = complete)
    bool legal = true;
  adjustments:
    for (int i = 0; i < kAdjustments; ++i) {
      WEFT_PIPELINE
      const Adjustment &a = each[i];
      const Int<32> counted = left(a);
      const int at = adjusts_ * kAdjustments + i;
      word_[at] = int(a.word);
      value_[at] = value(a, counted);
      drops_ |= a.drop != 0 && counted < 1;
      legal &= a.from < kRegisters;
    }
    ++adjusts_;
    return legal ? kDone : kBadField;
  }
  /// Puts the values into the words of the instruction behind the Adjusts.
  Status apply(Command &words) const {
    WEFT_FUNCTION
    if (adjusts_ != 0 && words[0] == kBarrier) return kBadOrder;
    if (drops_) return kDone;
    const int values = adjusts_ * kAdjustments, fields = fields_of(int(words[0]));
    bool legal = true;
  values:
    for (int i = 0; i < kMost; ++i) {
      WEFT_PIPELINE
      if (i >= values) break;
      const bool there = word_[i] <= fields;
      if (there && word_[i] != 0) words[word_[i]] = value_[i];
      legal &= there;
    }
    return legal ? kDone : kBadField;
  }
};

}  // namespace weft
