/// Rounding shifts of products for the simulations in native integers, in float64: it holds
/// integers below 2^53, and its lanes become vectors, which 64-bit products and arithmetic shifts
/// don't on most CPUs.
#pragma once
#include <cmath>
#include <cstdint>

namespace weft {
namespace sim {

/// (x·y + z) / 2^shift, ties up, moved inside kBits bits; |x·y + z| is below 2^52, so that a shift
/// of more than 62 gives 0 as 62 does.
template <int kBits>
inline std::int32_t rounded_product(std::int32_t x, std::int32_t y, std::int32_t z, int shift) {
  const double down = 1.0 / double(std::int64_t(1) << (shift > 62 ? 62 : shift));
  const double found = std::floor((double(x) * y + z) * down + 0.5);
  const double high = double((std::int64_t(1) << (kBits - 1)) - 1), low = -high - 1;
  const double above = found < low ? low : found;
  return std::int32_t(above > high ? high : above);
}

}  // namespace sim
}  // namespace weft
