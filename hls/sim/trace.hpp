/// A record of what the ports read and write, in the order of each process.
#pragma once
#include <cstdint>
#include <vector>

namespace weft {
namespace sim {

/// Consecutive rows that a port moves without a break: one burst, or several of the longest kind.
struct Access {
  std::int32_t port, instruction;
  std::int64_t first, rows;
};

/// Ports of activation memory, and the first of the weights; its others follow. What these bring of
/// the cache is counted from kCachePort on.
enum Port { kLoadPort, kStorePort, kWeightPort, kCachePort = 64 };

/// Kept only where somebody asked for it, and where processes take turns: not in the exact form.
struct Trace {
  bool on = false;
  std::vector<Access> all;

  /// What comes next is a burst of its own.
  void begin(int port, int instruction, std::int64_t first) {
    if (on) all.push_back({port, instruction, first, 0});
  }
  void row(std::int64_t at) {
    if (!on || all.empty()) return;
    Access &last = all.back();
    if (at == last.first + last.rows)
      ++last.rows;
    else
      all.push_back({last.port, last.instruction, at, 1});
  }
};

}  // namespace sim
}  // namespace weft
