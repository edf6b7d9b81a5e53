/// Test bench for C simulation and co-simulation: runs a small program segment by segment and
/// compares activation memory and counters with the golden model, bit for bit.
///
/// `loads` and `stores` are one memory on a board. In co-simulation each port has a memory of its
/// own, so what a segment stored is copied to where the next one loads.
#include "kernel.hpp"
#include "vectors.hpp"
#include <cstdio>

#define WEFT_PORT_PARAMETER(p) , const weft::Beat *weight_port_##p
#define WEFT_PORT(p) , weight_memory[weft::kOwnMemories ? p : 0]
#define WEFT_CACHE_PORT_PARAMETER(p, bundle, packed) , const weft::Beat *cache_port_##p
#define WEFT_CACHE_PORT(p, bundle, packed) , loads

extern "C" void weft_kernel(
    const weft::Int<32> *program, const weft::Beat *weights, const weft::Beat *loads,
    weft::Beat *stores, int code, int first, int segments, int batch, int tokens, int position,
    int origin, int source, unsigned memory_rows, unsigned weight_rows,
    weft::Int<32> report[weft::kReportWords] WEFT_EACH_PORT(WEFT_PORT_PARAMETER)
        WEFT_EACH_CACHE(WEFT_CACHE_PORT_PARAMETER));

namespace {

using weft::kBusBytes;

// As many elements as the `depth` of the ports says: co-simulation copies them all.
weft::Int<32> program[vectors::kDepth];
weft::Beat weight_memory[weft::kOwnMemories ? weft::kWeightPorts : 1][vectors::kDepth];
weft::Beat loads[vectors::kDepth], stores[vectors::kDepth];
weft::Int<32> report[weft::kReportWords];

int failures = 0;

/// Prints the first few failures and counts all.
void expect_equal(const char *what, int index, long long found, long long expected) {
  if (found == expected) return;
  if (++failures <= 10)
    std::printf("FAIL %s[%d]: %lld, expected %lld\n", what, index, found, expected);
}

void fill(weft::Beat *memory, const signed char *bytes, int count) {
  for (int i = 0; i < count; ++i) memory[i / kBusBytes][i % kBusBytes] = bytes[i];
}

/// The image of weight memory; where ports have memories of their own, dealt out packet by packet.
void fill_weights(const signed char *bytes, int count) {
  using weft::kRows;
  using weft::kWeightPorts;
  for (int i = 0; i < count; ++i) {
    const int row = i / kRows, packet = row / kWeightPorts;
    const int port = weft::kOwnMemories ? packet % kWeightPorts : 0;
    const int local = packet / kWeightPorts * kWeightPorts + row % kWeightPorts;
    const int at = (weft::kOwnMemories ? local : row) * kRows + i % kRows;
    weight_memory[port][at / kBusBytes][at % kBusBytes] = bytes[i];
  }
}

void run(int first, int segments) {
  weft_kernel(program, weight_memory[0], loads, stores, vectors::kCode, first, segments,
              vectors::kBatch, 0, 0, 0, 0, vectors::kMemoryRows, vectors::kWeightRows,
              report WEFT_EACH_PORT(WEFT_PORT) WEFT_EACH_CACHE(WEFT_CACHE_PORT));
}

void check_segment(int segment) {
  expect_equal("status", segment, int(report[weft::kStatusWord]), weft::kDone);
  for (int i = 0; i < vectors::kMemoryBytes; ++i)
    expect_equal("memory", i, int(stores[i / kBusBytes][i % kBusBytes]),
                 vectors::kExpected[segment][i]);
  for (int i = 0; i < vectors::kCounters; ++i) {
    const weft::Int<32> *word = report + weft::kCountersWord + 2 * i;
    const long long low = static_cast<long long>(word[0]) & 0xffffffffLL;
    const long long high = static_cast<long long>(word[1]) << 32;
    expect_equal("counter", i, high | low, vectors::kClocks[segment][i]);
  }
}

}  // namespace

int main() {
  for (int i = 0; i < vectors::kProgramWords; ++i) program[i] = vectors::kProgram[i];
  fill_weights(vectors::kWeights, vectors::kWeightBytes);
  fill(stores, vectors::kMemory, vectors::kMemoryBytes);
  run(0, 0);  // reads the design id only
  const unsigned design[2] = {weft::kDesignLow, weft::kDesignHigh};
  for (int i = 0; i < 2; ++i)
    expect_equal("design id", i, static_cast<unsigned>(int(report[weft::kDesignWord + i])),
                 design[i]);
  for (int segment = 0; segment < vectors::kSegments; ++segment) {
    for (int i = 0; i < vectors::kDepth; ++i) loads[i] = stores[i];
    run(segment, 1);
    check_segment(segment);
  }
  std::printf(failures ? "FAIL: %d differences\n" : "PASS: %d differences\n", failures);
  return failures ? 1 : 0;
}
