/// Lines between freely placed breakpoints: NN-LUT (Yu et al., DAC 2022), whose segments are those
/// of a trained one-hidden-layer ReLU network, and lines with power-of-two slopes, of which PLAN
/// (Amin, Curtis, Hayes-Gill, IEE Proc. 1997) is the classic one. Golden model: segments.py.
///
/// Cost per lane, by count: 15 comparators of 17 bits and a count of ones, 150 LUTs; then Segments
/// 1 DSP (18×18), ShiftSegments a shifter of 18 places instead, 90 LUTs.
#pragma once
#include "units/table.hpp"
#ifdef WEFT_AP_INT
#define WEFT_LINES(statement)
#else
#include "sim/lines.hpp"  // what native integers do in place of index and multiplexers
#define WEFT_LINES(statement) statement
#endif

namespace weft {

/// Which segment holds x: start[i] <= x < start[i + 1]; what lies outside the domain is moved
/// inside.
template <int kSegments> struct Breakpoints {
  Int<18> start[kSegments], last;

  Int<32> inside(Int<32> x) const { return clamped(x, Int<32>(start[0]), Int<32>(last)); }
  /// As many as begin at or left of x, less one: a comparator each but for the first.
  int find(Int<32> x) const {
    WEFT_INLINE
    int found = 0;
  comparators:
    for (int i = 1; i < kSegments; ++i) {
      WEFT_UNROLL
      found += x >= Int<32>(start[i]) ? 1 : 0;
    }
    return found;
  }
};

template <int kSegments> struct Segments {
  Breakpoints<kSegments> at;
  OutputLimits limits;
  Int<32> value[kSegments];  // at the start, kGuard more fraction bits, half a step included
  Int<18> slope[kSegments];
  WEFT_LINES(sim::Lines<kSegments> lines;)

  template <typename Source> void load(Source &from) {
    limits.load(from);
    at.last = Int<18>(from.next());
  segments:
    for (int i = 0; i < kSegments; ++i) {
      at.start[i] = Int<18>(from.next());
      value[i] = from.next();
      slope[i] = Int<18>(from.next());
      WEFT_LINES(lines.set(i, at.start[i], value[i], slope[i]);)
    }
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> inside = at.inside(x);
    return limits.of(Int<32>(line(inside) >> kGuard));
  }
  Int<32> line(Int<32> inside) const {
    WEFT_INLINE
#ifdef WEFT_AP_INT
    const int i = at.find(inside);
    const Int<18> right = Int<18>(inside - Int<32>(at.start[i]));
    return Int<32>(value[i] + Int<32>(slope[i] * right));
#else
    return lines.of(inside);
#endif
  }
};

/// Slope ±2^(shift − kGuard), or 0 with shift = kFlat.
template <int kSegments> struct ShiftSegments {
  static constexpr int kFlat = 31;
  Breakpoints<kSegments> at;
  OutputLimits limits;
  Int<32> value[kSegments];
  Int<8> shift[kSegments];
  Int<2> sign[kSegments];
  WEFT_LINES(sim::Lines<kSegments> lines;)

  template <typename Source> void load(Source &from) {
    limits.load(from);
    at.last = Int<18>(from.next());
  segments:
    for (int i = 0; i < kSegments; ++i) {
      at.start[i] = Int<18>(from.next());
      value[i] = from.next();
      shift[i] = Int<8>(from.next());
      sign[i] = Int<2>(from.next());
      WEFT_LINES(const int slope = shift[i] == kFlat ? 0 : 1 << shift[i];)
      WEFT_LINES(lines.set(i, at.start[i], value[i], sign[i] < 0 ? -slope : slope);)
    }
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> inside = at.inside(x);
    return limits.of(Int<32>(line(inside) >> kGuard));
  }
  Int<32> line(Int<32> inside) const {
    WEFT_INLINE
#ifdef WEFT_AP_INT
    const int i = at.find(inside);
    const bool flat = int(shift[i]) == kFlat;
    const Int<32> right = flat ? Int<32>(0) : Int<32>(inside - Int<32>(at.start[i]));
    const Int<32> rise = Int<32>(right << (flat ? 0 : int(shift[i])));
    return sign[i] < 0 ? Int<32>(value[i] - rise) : Int<32>(value[i] + rise);
#else
    return lines.of(inside);
#endif
  }
};

// All of a unit's segments are read at once, by every lane: registers, one set for all lanes.
#define WEFT_PARTITION_BREAKPOINTS(unit)                                     \
  WEFT_HLS(ARRAY_PARTITION variable = unit.at.start type = complete dim = 1) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.value type = complete dim = 1)
#define WEFT_PARTITION_SEGMENTS(unit) \
  WEFT_PARTITION_BREAKPOINTS(unit)    \
  WEFT_HLS(ARRAY_PARTITION variable = unit.slope type = complete dim = 1)
#define WEFT_PARTITION_SHIFT_SEGMENTS(unit)                               \
  WEFT_PARTITION_BREAKPOINTS(unit)                                        \
  WEFT_HLS(ARRAY_PARTITION variable = unit.shift type = complete dim = 1) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.sign type = complete dim = 1)

}  // namespace weft
