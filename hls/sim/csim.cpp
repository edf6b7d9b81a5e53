/// The C simulation as a shared library: the top function behind a plain C interface.
#ifdef WEFT_FUNCTIONAL
#include "sim/functional.hpp"
#endif
#include "top.cpp"

#include <cstring>

namespace {

thread_local std::string message;

constexpr int kSimulationError = 100;  // beyond every status of the hardware
constexpr int kSimulationTimeout = 101;

}  // namespace

// All weight ports lead to one memory; to their own ones, which lie behind one another, where they
// have any and the form reads through ports at all.
#ifdef WEFT_FUNCTIONAL
#define WEFT_WEIGHTS_OF(p) , reinterpret_cast<const Beat *>(weights)
#else
#define WEFT_WEIGHTS_OF(p)                    \
  , reinterpret_cast<const Beat *>(weights) + \
        (kOwnMemories ? p * own_rows(weight_rows) * kBeats : 0)
#endif
#define WEFT_SAME_MEMORY(p, bundle, packed) , reinterpret_cast<const Beat *>(memory)

// Everything else is hidden: the libraries of several overlays live in one process.
#define WEFT_EXPORT __attribute__((visibility("default")))

static_assert(sizeof(weft::Beat) == weft::kBusBytes, "beats are bytes");
static_assert(sizeof(weft::Int<32>) == 4, "words are 32 bits");

static_assert(sizeof(weft::sim::Access) == 24, "as the host reads them");

extern "C" {

/// Begins (1) or ends (0) a record of this thread's accesses to memory.
WEFT_EXPORT void weft_trace(int on) {
  weft::sim::run().trace.on = on != 0;
  weft::sim::run().trace.all.clear();
}

/// The record's accesses: how many, and where they are until the next call.
WEFT_EXPORT std::int64_t weft_accesses(const void **first) {
  const std::vector<weft::sim::Access> &all = weft::sim::run().trace.all;
  *first = all.data();
  return std::int64_t(all.size());
}

/// Text of the last simulation error of this thread.
WEFT_EXPORT const char *weft_message() { return message.c_str(); }

/// Runs segments; returns the hardware's status, or 100 for what would hang or corrupt it, 101
/// where `timeout_s` (if not negative) has passed. `memory` is activation memory, read and written.
WEFT_EXPORT int weft_run(const std::int32_t *program, const std::int8_t *weights,
                         std::int8_t *memory, int code, int first, int segments, int batch,
                         int tokens, int position, int origin, int source, unsigned memory_rows,
                         unsigned weight_rows, double timeout_s, std::int32_t *report) {
  using namespace weft;
  sim::Run &run = sim::run();
  run.limited = timeout_s >= 0;
  if (run.limited)
    run.deadline = sim::Clock::now() + std::chrono::duration_cast<sim::Clock::duration>(
                                           std::chrono::duration<double>(timeout_s));
  Int<32> words[kReportWords] = {};
  try {
    weft_kernel(reinterpret_cast<const Int<32> *>(program), reinterpret_cast<const Beat *>(weights),
                reinterpret_cast<const Beat *>(memory), reinterpret_cast<Beat *>(memory), code,
                first, segments, batch, tokens, position, origin, source, memory_rows, weight_rows,
                words WEFT_EACH_PORT(WEFT_WEIGHTS_OF) WEFT_EACH_CACHE(WEFT_SAME_MEMORY));
  } catch (const sim::Timeout &error) {
    message = error.what();
    return kSimulationTimeout;
  } catch (const std::exception &error) {
    message = error.what();
    return kSimulationError;
  }
  for (int i = 0; i < kReportWords; ++i) report[i] = std::int32_t(words[i]);
  return int(report[kStatusWord]);
}
}
