/// Integers, vectors, streams and pragmas: the only header that knows which compiler reads it.
///
/// Readers: Vitis HLS (__SYNTHESIS__, and WEFT_VENDOR for its C simulation), Bambu, the exact
/// simulation (WEFT_EXACT: ap_int arithmetic, processes as threads with bounded streams) and the
/// fast one (native integers, processes one after another). The units are the same source for all.
#pragma once

#if (defined(__SYNTHESIS__) || defined(__BAMBU__)) && !defined(WEFT_VENDOR)
#define WEFT_VENDOR
#endif
#if defined(WEFT_VENDOR) || defined(WEFT_EXACT)
#define WEFT_AP_INT
#endif

#ifdef WEFT_AP_INT
#include <ap_int.h>
#else
#include <cstdint>
#include <type_traits>
#endif

#ifdef WEFT_VENDOR
#include <hls_stream.h>
#else
#include "sim/simulation.hpp"
#endif

#if defined(__GNUC__) && !defined(__SYNTHESIS__)  // labels and pragmas are for the HLS tools
#pragma GCC diagnostic ignored "-Wunused-label"
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

#define WEFT_TEXT(x) #x
#ifdef __BAMBU__  // fails on some of these pragmas, wants others elsewhere, and does without
#define WEFT_HLS(x)
#else
#define WEFT_HLS(x) _Pragma(WEFT_TEXT(HLS x))
#endif
#define WEFT_PIPELINE WEFT_HLS(PIPELINE II = 1)
#define WEFT_PIPELINE_EVERY(clocks) WEFT_HLS(PIPELINE II = clocks)
#define WEFT_UNROLL WEFT_HLS(UNROLL)
#define WEFT_TRIPCOUNT(most) WEFT_HLS(LOOP_TRIPCOUNT min = 1 max = most)
#define WEFT_FUNCTION WEFT_HLS(INLINE off)  // a process or unit of its own: keeps its pragmas
#define WEFT_INLINE WEFT_HLS(INLINE)
#ifdef __SYNTHESIS__
#define WEFT_SHARED inline
#else
#define WEFT_SHARED inline __attribute__((noinline))  // compiled once for all that call it
#endif

namespace weft {

#ifdef WEFT_AP_INT
template <int kBits> using Int = ap_int<kBits>;
template <int kBits> using UInt = ap_uint<kBits>;
#else
/// The smallest native integer with at least kBits: same values, fast. The exact simulation proves
/// that no unit depends on the difference.
template <int kBits>
using Int = std::conditional_t<
    (kBits <= 8), std::int8_t,
    std::conditional_t<(kBits <= 16), std::int16_t,
                       std::conditional_t<(kBits <= 32), std::int32_t, std::int64_t>>>;
template <int kBits> using UInt = std::make_unsigned_t<Int<kBits>>;
#endif

/// A fixed number of lanes: a memory word, a row of the array, a beat of a port.
template <typename T, int kLanes> struct Vec {
  T lane[kLanes];
  T &operator[](int i) { return lane[i]; }
  const T &operator[](int i) const { return lane[i]; }
};

/// A row of a memory as a value.
template <typename T, int kLanes> inline Vec<T, kLanes> value_of(const T (&row)[kLanes]) {
  WEFT_INLINE
  Vec<T, kLanes> value;
  for (int i = 0; i < kLanes; ++i) {
    WEFT_UNROLL
    value[i] = row[i];
  }
  return value;
}

/// Writes a value to a row of a memory.
template <typename T, int kLanes> inline void put(T (&row)[kLanes], const Vec<T, kLanes> &value) {
  WEFT_INLINE
  for (int i = 0; i < kLanes; ++i) {
    WEFT_UNROLL
    row[i] = value[i];
  }
}

/// A shift register: `in` enters at lane 0, the last lane falls out.
template <typename T, int kLanes> inline void shift_in(T (&line)[kLanes], T in) {
  WEFT_INLINE
  const Vec<T, kLanes> before = value_of(line);
  line[0] = in;
  for (int i = 1; i < kLanes; ++i) {
    WEFT_UNROLL
    line[i] = before[i - 1];
  }
}

#ifdef WEFT_VENDOR
template <typename T> using Stream = hls::stream<T>;
#else
template <typename T> using Stream = sim::Stream<T>;
#endif

}  // namespace weft

// A process of a DATAFLOW region is a plain call for the vendor tool. Simulations also check there
// what sequential C++ hides: leftovers in a stream, memory read in the segment that wrote it.
// WEFT_STATIC declares what the hardware keeps in registers and memories between calls.
#ifdef WEFT_VENDOR
#define WEFT_CHANNEL(type, name, fifo_depth) \
  weft::Stream<type> name;                   \
  WEFT_HLS(STREAM variable = name depth = fifo_depth)
#define WEFT_STATIC(type, name) static type name
#define WEFT_PROCESS(call) call
#define WEFT_JOIN
#define WEFT_SIM(statement)
#else
#define WEFT_CHANNEL(type, name, fifo_depth) \
  weft::Stream<type> &name = weft::sim::kept<weft::Stream<type>, __LINE__>(#name, fifo_depth);
#define WEFT_STATIC(type, name) type &name = weft::sim::kept<type, __LINE__>()
#define WEFT_PROCESS(call) weft::sim::process([&] { call; })
#define WEFT_JOIN weft::sim::join()
#define WEFT_SIM(statement) statement
#endif
