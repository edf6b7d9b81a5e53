/// Functions as tables: a direct one (`lut`) and one of lines (`pwl`), both indexed by
/// clamp((x + bias) >> shift, 0, bound), as HG-PIPE does (Guo et al., ICCAD 2024). The content is
/// loaded, so one unit serves every function. Golden model: host/weft/units/table.py.
///
/// Cost per lane, by count: Lut<1024> one RAMB18 (two lanes share its ports) and 40 LUTs;
/// Pwl<64> 50 LUTs of distributed RAM, 1 DSP (18×17) and 80 LUTs. No divider.
#pragma once
#include "units/fixed.hpp"

namespace weft {

constexpr int kGuard = 12;  // fraction bits of a line's value below its output's

struct TableIndex {
  Int<32> bias, last;  // last: the largest offset, ((bound + 1) << shift) − 1
  Int<8> shift;

  template <typename Source> void load(Source &from) {
    bias = from.next();
    const Int<32> bound = from.next();
    shift = Int<8>(from.next());
    last = Int<32>(Int<32>((bound + 1) << int(shift)) - 1);
  }
  /// As `load`, but of words that a program brings: whatever they say, no index leaves `entries`.
  template <typename Source> void load_within(Source &from, int entries) {
    bias = clamped(from.next(), -(1 << 29), 1 << 29);
    const Int<32> bound = clamped(from.next(), 0, entries - 1);
    shift = Int<8>(clamped(from.next(), 0, 23));
    last = Int<32>(Int<32>((bound + 1) << int(shift)) - 1);
  }
  /// Distance from the table's first input, inside the table.
  Int<32> offset(Int<32> x) const { return clamped(Int<32>(x + bias), 0, last); }
  int of(Int<32> x) const { return int(offset(x) >> int(shift)); }
};

template <int kEntries> struct Lut {
  static_assert(kEntries >= 2, "a table of one entry is a constant");
  TableIndex index;
  Int<18> value[kEntries];  // 18: the width of a RAMB18

  template <typename Source> void load(Source &from) {
    index.load(from);
  entries:
    for (int i = 0; i < kEntries; ++i) value[i] = Int<18>(from.next());
  }
  template <typename Source> void load_within(Source &from, Int<32> least, Int<32> most) {
    index.load_within(from, kEntries);
  entries_within:
    for (int i = 0; i < kEntries; ++i) value[i] = Int<18>(clamped(from.next(), least, most));
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    return Int<32>(value[index.of(x)]);
  }
};

/// The output's limits: a line that fits best may leave the range of its function at the ends.
struct OutputLimits {
  Int<18> low, high;
  template <typename Source> void load(Source &from) {
    low = Int<18>(from.next());
    high = Int<18>(from.next());
  }
  Int<32> of(Int<32> y) const { return clamped(y, Int<32>(low), Int<32>(high)); }
};

template <int kSegments> struct Pwl {
  static_assert(kSegments >= 2, "a table of one line is a multiplier");
  TableIndex index;
  OutputLimits limits;
  Int<32> value[kSegments];  // at the left end, kGuard more fraction bits, half a step included
  Int<18> slope[kSegments];

  template <typename Source> void load(Source &from) {
    index.load(from);
    limits.load(from);
  segments:
    for (int i = 0; i < kSegments; ++i) {
      value[i] = from.next();
      slope[i] = Int<18>(from.next());
    }
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> offset = index.offset(x);
    const int i = int(offset >> int(index.shift));
    const Int<17> right = Int<17>(offset - Int<32>(Int<32>(i) << int(index.shift)));
    const Int<32> y = Int<32>(value[i] + Int<32>(slope[i] * right));
    return limits.of(Int<32>(y >> kGuard));
  }
};

}  // namespace weft
