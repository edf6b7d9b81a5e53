/// What a C simulation adds around the hardware source; never seen by a synthesis tool.
///
/// The fast simulation calls the processes of a segment one after another, so its streams grow as
/// needed; it finds reads of an empty stream and leftovers. The exact one runs each process as a
/// thread on streams of their real depth, so it also finds deadlocks.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace weft {
namespace sim {

/// Something that would hang or corrupt the hardware.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The run took longer than the host allows.
struct Timeout : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Clock = std::chrono::steady_clock;

/// Rows of memory that a segment touches; neighbouring transfers join.
struct Ranges {
  struct Range {
    std::int64_t first, last;
  };
  std::vector<Range> all;
  void add(std::int64_t row, std::int64_t rows) {
    if (!all.empty() && all.back().last + 1 == row)
      all.back().last += rows;
    else
      all.push_back({row, row + rows - 1});
  }
  /// In order, without overlaps.
  std::vector<Range> merged() const {
    std::vector<Range> sorted = all, result;
    std::sort(sorted.begin(), sorted.end(),
              [](const Range &a, const Range &b) { return a.first < b.first; });
    for (const Range &range : sorted)
      if (!result.empty() && range.first <= result.back().last + 1)
        result.back().last = std::max(result.back().last, range.last);
      else
        result.push_back(range);
    return result;
  }
};

/// Facts of the current run that the hardware does not know.
struct Run {
  bool limited = false;
  Clock::time_point deadline;
  Ranges reads, writes;            // of activation memory in this segment
  std::int64_t decode_clocks = 0;  // of the decoder in this run, memory never keeping it waiting

  void begin_segment() {
    reads.all.clear();
    writes.all.clear();
  }
  /// Loads and stores of one segment run at the same time: what one writes no other may read.
  void end_segment() const {
    const std::vector<Ranges::Range> read = reads.merged(), written = writes.merged();
    for (std::size_t r = 0, w = 0; r < read.size() && w < written.size();) {
      const std::int64_t first = std::max(read[r].first, written[w].first);
      const std::int64_t last = std::min(read[r].last, written[w].last);
      if (first <= last)
        throw Error("memory rows " + std::to_string(first) + ".." + std::to_string(last) +
                    " are read in the segment that writes them");
      read[r].last < written[w].last ? ++r : ++w;
    }
  }
  void poll() const {
    if (limited && Clock::now() > deadline) throw Timeout("the simulation ran out of time");
  }
};

// The fast simulation keeps one set of memories per host thread, so sessions run side by side. In
// the exact one the processes are threads that share them: one run at a time.
#ifdef WEFT_EXACT
#define WEFT_KEPT static
#else
#define WEFT_KEPT static thread_local
#endif

/// The T that the hardware keeps between calls; kLine tells several of a type apart. Not inlined:
/// else every access in a loop would look up the address of the thread's copy anew.
template <typename T, int kLine, typename... Arguments>
__attribute__((noinline)) T &kept(Arguments... arguments) {
  WEFT_KEPT T instance{arguments...};
  return instance;
}

inline Run &run() { return kept<Run, __LINE__>(); }

}  // namespace sim
}  // namespace weft

#ifdef WEFT_EXACT
#include "sim/threads.hpp"
#else
#include "sim/sequential.hpp"
#endif

namespace weft {
namespace sim {

template <typename... Streams> void begin_segment(Streams &...streams) {
  run().begin_segment();
  const int each[] = {(streams.begin(), 0)...};
  static_cast<void>(each);
}

/// `done` is false where a bad instruction ended the segment: then its status says why.
template <typename... Streams> void end_segment(bool done, Streams &...streams) {
  const int each[] = {(streams.end(), 0)...};
  static_cast<void>(each);
  if (done) run().end_segment();
}

}  // namespace sim
}  // namespace weft
