/// What a C simulation adds around the hardware source; never seen by a synthesis tool.
///
/// The fast simulation calls the processes of a segment one after another, so its streams grow as
/// needed; it finds reads of an empty stream and leftovers. The exact one runs each process as a
/// thread on streams of their real depth, so it also finds deadlocks.
#pragma once
#include "sim/trace.hpp"
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <set>
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

/// Rows of memory that a segment touches, by the instruction that does; neighbours join.
struct Ranges {
  struct Range {
    std::int64_t first, last;
    int instruction;
  };
  std::vector<Range> all;
  int instruction = 0;  // the one that the process carries out
  void add(std::int64_t row, std::int64_t rows) {
    const bool same = !all.empty() && all.back().instruction == instruction;
    if (same && all.back().last + 1 == row)
      all.back().last += rows;
    else
      all.push_back({row, row + rows - 1, instruction});
  }
};

/// Where reads and writes of memory begin and end, to be walked row by row.
struct Edges {
  struct Edge {
    std::int64_t row;
    bool opens, write;
    int instruction;
    bool operator<(const Edge &other) const { return row < other.row; }
  };
  std::vector<Edge> all;
  std::multiset<int> reads, writes;  // instructions that touch the row where the walk is
  void add(const Ranges &ranges, bool write) {
    for (const Ranges::Range &r : ranges.all) {
      all.push_back({r.first, true, write, r.instruction});
      all.push_back({r.last + 1, false, write, r.instruction});
    }
  }
  void pass(const Edge &edge) {
    std::multiset<int> &open = edge.write ? writes : reads;
    if (edge.opens)
      open.insert(edge.instruction);
    else
      open.erase(open.find(edge.instruction));
  }
  /// Whether a row is read by an instruction behind one that writes it.
  bool late() const {
    return !reads.empty() && !writes.empty() && *writes.begin() < *reads.rbegin();
  }
};

/// Facts of the current run that the hardware does not know.
struct Run {
  bool limited = false;
  Clock::time_point deadline;
  Ranges reads, writes;            // of activation memory in this segment
  Ranges cached;                   // rows of it that came through the weight ports
  std::int64_t decode_clocks = 0;  // of the decoder in this run, memory never keeping it waiting
  Trace trace;

  void load(std::int64_t row, std::int64_t rows) {
    reads.add(row, rows);
    trace.begin(kLoadPort, reads.instruction, row);
  }
  /// Ports of weights run ahead of everything: no instruction of the segment may write these rows.
  void cache(std::int64_t row, std::int64_t rows) {
    cached.instruction = std::numeric_limits<int>::max();
    cached.add(row, rows);
  }
  void store(std::int64_t row, std::int64_t rows) {
    writes.add(row, rows);
    trace.begin(kStorePort, writes.instruction, row);
  }

  void begin_segment() {
    reads.all.clear();
    writes.all.clear();
    cached.all.clear();
  }
  /// Loads run ahead of stores: what an instruction writes none behind it may read. What was read
  /// before has arrived, since `compute` takes one instruction after another.
  void end_segment() const {
    Edges edges;
    edges.add(reads, false);
    edges.add(cached, false);
    edges.add(writes, true);
    std::sort(edges.all.begin(), edges.all.end());
    std::int64_t first = -1;
    for (std::size_t i = 0; i < edges.all.size();) {
      const std::int64_t row = edges.all[i].row;
      for (; i < edges.all.size() && edges.all[i].row == row; ++i) edges.pass(edges.all[i]);
      if (edges.late() && first < 0) first = row;
      if (!edges.late() && first >= 0)
        throw Error("memory rows " + std::to_string(first) + ".." + std::to_string(row - 1) +
                    " are read in the segment that has written them");
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
