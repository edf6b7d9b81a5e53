/// The kernel: fetch → load, and weights → decode → compute → store, for one segment of a program.
///
/// Segments run one after another (run_segment is not inlined, so their dataflow regions never
/// overlap): a segment may read what the one before wrote, and nothing that it has written itself.
#pragma once
#include "adjust.hpp"
#include "check.hpp"
#include "units/decode.hpp"
#include "units/normalize.hpp"
#include "units/rotate.hpp"
#include "units/set_table.hpp"
#ifndef WEFT_MATMUL
#define WEFT_WEIGHTS weights
#define WEFT_DECODE decode
#include "units/matmul.hpp"
#define WEFT_MATMUL matmul  // the functional simulation puts its own here (sim/functional.hpp)
#define WEFT_VECTOR vector
#define WEFT_NORM normalize
#endif

namespace weft {

constexpr int kCommandDepth = 16;   // more than kMaxQueued
constexpr int kTransferDepth = 64;  // rows on the way from and to memory

constexpr int kReportWords = 32;
enum ReportWord {
  kStatusWord,
  kInstructionWord,
  kSegmentWord,
  kDesignWord,
  kProgressWord = 5,  // commands that `compute` has taken: where a run that hangs stands
  kCountersWord,
  kRowWord = 20  // of kBadSparse: the row of the instruction's weight stream
};

/// A Barrier that carries why the segment ends, and what of the weight stream nobody will use.
inline Command barrier(Status status, int instruction, Int<64> unused) {
  Command words;
clear:
  for (int i = 0; i <= kInstructionWords; ++i) {
    WEFT_UNROLL
    words[i] = 0;
  }
  words[0] = kBarrier;
  words[1] = int(status);
  words[2] = instruction;
  words[3] = Int<32>(unused);
  return words;
}

/// Follows the Adjusts and checks an instruction. `runs` says whether there is one to hand out:
/// none for an Adjust, and for what one leaves out.
inline Status prepare(Command &words, Adjuster &adjuster, Checker &checker, bool &runs) {
  WEFT_INLINE
  runs = false;
  if (words[0] == kAdjust) return adjuster.take(words);
  const Status status = adjuster.apply(words);
  runs = !adjuster.drops();
  adjuster.clear();
  return status != kDone || !runs ? status : checker.check(words);
}

/// Reads a segment's instructions, checks them and hands them out. The program starts with a pair
/// (first instruction, how many) per segment; instructions begin at `code`.
inline void fetch(const Int<32> *program, int code, int segment, Limits limits,
                  Stream<Command> &to_load, Stream<Command> &to_weights, Stream<Command> &to_decode,
                  Stream<Command> &to_compute, Stream<Command> &to_store) {
  WEFT_FUNCTION
  Checker checker;
  checker.begin(limits);
  Adjuster adjuster;
  adjuster.begin(limits);
  const int first = int(program[2 * segment]), count = int(program[2 * segment + 1]);
  Command words;
  Status status = legal_run(limits) ? kDone : kBadField;
  Int<64> unused = 0;
  bool open = true;
instructions:
  for (int i = 0; i <= count && open; ++i) {
    WEFT_TRIPCOUNT(65536)
    bool runs = true;
    // What a bad instruction would take of the weights is not taken.
    if (status == kDone) unused = checker.unused();
    if (i < count && status == kDone) {
    read_command:
      for (int w = 0; w < kInstructionWords; ++w) {
        WEFT_PIPELINE
        words[w] = program[code + (first + i) * kInstructionWords + w];
      }
      words[kNumberWord] = i;
      status = prepare(words, adjuster, checker, runs);
    } else if (status == kDone) {
      status = kBadOrder;  // the program ends without a Barrier
    }
    if (status != kDone || words[0] == kBarrier) words = barrier(status, i, unused);
    if (status == kDone && !runs) continue;
    const int opcode = int(words[0]);
    open = opcode != kBarrier;
    if (!open || opcode == kReadHost) to_load.write(words);
    if (!open || opcode == kReadWeights) to_weights.write(words);
    if (!open || opcode == kReadWeights) to_decode.write(words);
    if (!open || opcode == kWriteHost) to_store.write(words);
    if (opcode != kReadWeights) to_compute.write(words);
  }
}

inline void load(Stream<Command> &commands, const Beat *memory, int batch, Stream<Word> &loaded) {
  WEFT_FUNCTION
load:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    const Command words = commands.read();
    open = words[0] != kBarrier;
    WEFT_SIM(sim::run().reads.instruction = int(words[kNumberWord]));
    if (open) load_rows(ReadHost::decode(words), batch, memory, loaded);
  }
}

inline void store(Stream<Command> &commands, Stream<Word> &stored, int batch, Beat *memory) {
  WEFT_FUNCTION
store:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    const Command words = commands.read();
    open = words[0] != kBarrier;
    WEFT_SIM(sim::run().writes.instruction = int(words[kNumberWord]));
    if (open) store_rows(WriteHost::decode(words), batch, stored, memory);
  }
}

/// Counters and status for the host, as 32-bit words.
inline void write_report(const Counters &c, const Command &end, const Fault &fault, int segment,
                         Int<32> report[kReportWords]) {
  const Int<64> values[7] = {c.issue,  c.matrix, c.weight_shift, c.drain,
                             c.vector, c.table,  c.transfer};
  const bool faulty = fault.status != kDone;  // while it ran, so before the checker's
  report[kStatusWord] = faulty ? Int<32>(fault.status) : end[1];
  report[kInstructionWord] = faulty ? Int<32>(fault.instruction) : end[2];
  report[kRowWord] = fault.row;
  report[kSegmentWord] = segment;
counters:
  for (int i = 0; i < 7; ++i) {
    report[kCountersWord + 2 * i] = Int<32>(values[i] & 0xffffffffLL);
    report[kCountersWord + 2 * i + 1] = Int<32>(values[i] >> 32);
  }
}

/// Ends a segment: the report, and what a broken program left in the weight stream.
inline void finish(const Command &end, const Fault &fault, int segment, const Counters &counters,
                   WeightStream &tiles, Int<32> report[kReportWords]) {
  WEFT_FUNCTION
  write_report(counters, end, fault, segment, report);
  const int unused = int(end[3]);
discard:
  for (int i = 0; i < unused; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kTileDepth)
    tiles.read();
  }
}

/// MatMul with `last`, Attend and Vector run together with the Activate behind them; not an Attend
/// whose sums stay.
inline bool takes_activate(const Command &words) {
  return words[0] == kVector || (words[0] == kAttend && Attend::decode(words).stays == 0) ||
         (words[0] == kMatMul && MatMul::decode(words).last != 0);
}

/// Owns the on-chip memories and runs the instructions one after another.
inline void compute(Stream<Command> &commands, Stream<Word> &loaded, WeightStream &tiles, int batch,
                    int segment, bool fresh, Stream<Word> &stored, Int<32> report[kReportWords]) {
  WEFT_FUNCTION
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  WEFT_HLS(ALLOCATION function instances = activate limit = 1)
  WEFT_HLS(ALLOCATION function instances = wide_word limit = 1)
  WEFT_HLS(ALLOCATION function instances = exponentials limit = 1)
  WEFT_STATIC(Counters, counters);
  if (fresh) {
    counters.clear();
    if (kHasAttention) m.softmax.begin();  // while the first rows are on their way from memory
    if (kHasNorm) m.norms.begin();
  }
  Fault fault;
  fault.begin();
  LastSums last = {1, 1, 1, -1};
  int taken = 0;
compute:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    WEFT_SIM(sim::run().poll());
    report[kProgressWord] = taken++;
    Command words = commands.read(), next = words;
    counters.issue += kIssueClocks;
    if (takes_activate(words)) {
      next = commands.read();
      ++taken;
      if (next[0] == kBarrier) words = next;  // the program broke off here
      if (next[0] != kBarrier) counters.issue += kIssueClocks;
    }
    const int opcode = int(words[0]);
    if (opcode == kReadHost) {
      read_host(ReadHost::decode(words), batch, loaded, m, counters);
    } else if (opcode == kWriteHost) {
      write_host(WriteHost::decode(words), batch, stored, m, counters);
    } else if (opcode == kSetTable) {
      set_table(SetTable::decode(words), tiles, m, counters);
    } else if (opcode == kMatMul || (kHasAttention && opcode == kAttend)) {
      const bool attends = opcode == kAttend;
      const Attend by = Attend::decode(words);
      const MatMul f = attends ? product_of(by) : MatMul::decode(words);
      const bool stays = attends && by.stays != 0;
      last = {int(f.out_h), int(f.out_w), stays ? int(by.tiles) : 1,
              stays ? int(by.accumulator) : -1};
      fault.current = int(words[kNumberWord]);
      WEFT_MATMUL(f, Activate::decode(next), batch, m, tiles, counters, fault, by, attends);
    } else if (opcode == kVector) {
      WEFT_VECTOR(Vector::decode(words), Activate::decode(next), batch, m, counters);
    } else if (kHasNorm && opcode == kNorm) {
      WEFT_NORM(Norm::decode(words), m, counters);
    } else if (kHasRotate && opcode == kRotate) {
      rotate(Rotate::decode(words), m, counters);
    } else if (kHasPackedCache && opcode == kPackCache) {
      pack_cache(PackCache::decode(words), m, counters);
    } else if (opcode == kActivate) {
      drain_again(Activate::decode(words), batch, last, m, counters);
    } else {
      finish(words, fault, segment, counters, tiles, report);
      open = false;
    }
  }
}

inline void run_segment(const Int<32> *program, const Beat *weight_memory, const Beat *loads,
                        Beat *stores, int code, int segment, bool fresh, Limits limits,
                        Int<32> report[kReportWords] WEFT_EACH_PORT(WEFT_MEMORY_PARAMETER)
                            WEFT_EACH_CACHE(WEFT_CACHE_PARAMETER)) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Command, to_load, kCommandDepth)
  WEFT_CHANNEL(Command, to_weights, kCommandDepth)
  WEFT_CHANNEL(Command, to_decode, kCommandDepth)
  WEFT_CHANNEL(Command, to_compute, kCommandDepth)
  WEFT_CHANNEL(Command, to_store, kCommandDepth)
  WEFT_CHANNEL(Word, loaded, kTransferDepth)
  WEFT_CHANNEL(PackedRows, packed, kPackedDepth)
#define WEFT_PACKED_CHANNEL(p) WEFT_CHANNEL(PackedRows, packed_##p, kPackedDepth)
  WEFT_EACH_PORT(WEFT_PACKED_CHANNEL)
  WEFT_CHANNEL(StreamRow, tiles, kTileDepth)
  WEFT_CHANNEL(Word, stored, kTransferDepth)
  WEFT_SIM(sim::begin_segment(to_load, to_weights, to_decode, to_compute, to_store, loaded, packed,
                              tiles, stored WEFT_EACH_PORT(WEFT_PACKED)));
  WEFT_PROCESS(
      fetch(program, code, segment, limits, to_load, to_weights, to_decode, to_compute, to_store));
  WEFT_PROCESS(load(to_load, loads, limits.batch, loaded));
  WEFT_PROCESS(WEFT_WEIGHTS(to_weights, weight_memory WEFT_EACH_CACHE(WEFT_CACHE),
                            packed WEFT_EACH_PORT(WEFT_MEMORY) WEFT_EACH_PORT(WEFT_PACKED)));
  WEFT_PROCESS(WEFT_DECODE(to_decode, tiles, packed WEFT_EACH_PORT(WEFT_PACKED)));
  WEFT_PROCESS(compute(to_compute, loaded, tiles, limits.batch, segment, fresh, stored, report));
  WEFT_PROCESS(store(to_store, stored, limits.batch, stores));
  WEFT_JOIN;
  WEFT_SIM(sim::end_segment(report[kStatusWord] == kDone, to_load, to_weights, to_decode,
                            to_compute, to_store, loaded, packed, tiles,
                            stored WEFT_EACH_PORT(WEFT_PACKED)));
}

}  // namespace weft
