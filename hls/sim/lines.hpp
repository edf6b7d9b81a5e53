/// Lines between breakpoints for the simulations in native integers: as the index and multiplexers
/// of units/segments.hpp, by selections alone. Compilers make vectors of those; a gather in their
/// place takes more clocks than eight of them.
#pragma once
#include <cstdint>

namespace weft {
namespace sim {

/// value + slope·(x − start) of the last line that starts at or left of x, modulo 2^32 as in the
/// hardware. Kept as slope·x plus a constant, so that nobody needs the start.
template <int kLines> struct Lines {
  static_assert(kLines % 4 == 0, "lines come in fours");
  std::int32_t start[kLines];
  std::uint32_t constant[kLines], slope[kLines];

  void set(int i, std::int32_t at, std::int32_t value, std::int32_t rise) {
    start[i] = at;
    slope[i] = std::uint32_t(rise);
    constant[i] = std::uint32_t(value) - std::uint32_t(at) * slope[i];
  }
  /// For x >= start[0]. In fours, as compilers unroll only short loops, and make vectors of the
  /// lanes only around unrolled ones.
  std::int32_t of(std::int32_t x) const {
    std::uint32_t c = constant[0], s = slope[0];
    for (int i = 0; i < kLines; i += 4) {
      for (int j = i; j < i + 4; ++j) {
        const bool right = start[j] > x;
        c = right ? c : constant[j];
        s = right ? s : slope[j];
      }
    }
    return std::int32_t(c + s * std::uint32_t(x));
  }
};

}  // namespace sim
}  // namespace weft
