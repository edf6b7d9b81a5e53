/// Packed weights for the functional simulation: not decoded before somebody takes them, and then
/// eight tile rows at a time. Tests hold the operands equal to units/decode.hpp's.
#pragma once
#include <cstdint>
#include <deque>
#include <vector>

#include "sim/lookup.hpp"
#include "units/decode.hpp"

namespace weft {
namespace functional {

constexpr int kEight = kCodeRows;
using EightRows = std::int16_t[kEight][kCols];

/// What is on its way in the weight stream: ReadWeights whose rows nobody has asked for.
struct Waiting {
  const Beat *memory = nullptr, *cache = nullptr;
  std::deque<Command> reads;

  const std::int8_t *rows(const ReadWeights &f) const { return row_of(memory, UInt<32>(f.memory)); }
  const std::int8_t *row_of(const Beat *from, UInt<32> row) const {
    return reinterpret_cast<const std::int8_t *>(from) + std::ptrdiff_t(row) * kRows;
  }
  Command next() {
    const Command words = reads.front();
    reads.pop_front();
    return words;
  }
};
inline Waiting &waiting() { return sim::kept<Waiting, __LINE__>(); }

/// Whether eight rows at a time are all that there is to a ReadWeights.
inline bool in_eights(const ReadWeights &f) {
  return kRows >= kEight && f.index == 0 && f.rows % unsigned(kEight) == 0;
}

/// Operands of a ReadWeights, eight tile rows per call.
class EightReader {
  ReadWeights f_;
  PackedShape shape_;
  const std::int8_t *at_;
  CodeTable table_;
  Word scale_, zero_;
  int in_run_, run_groups_, reads_, span_;       // of eight rows, all of them
  std::int16_t digits_[kEight + kTrits][kCols];  // rows of base 3 that have not left
  int held_;

 public:
  EightReader(const ReadWeights &f, const std::int8_t *memory) : f_(f), at_(memory) {
    shape_.begin(f);
    table_.begin(f, at_);
    at_ += std::ptrdiff_t(shape_.codebook) * kRows;
    in_run_ = held_ = 0;
    run_groups_ = int(f.blocks) * (kRows / kEight);
    reads_ = code_bits(int(f.format));
    span_ = f.group != 0 ? (1 << int(f.group)) / kEight : 0;
  }
  void next(EightRows &out) {
    if (f_.format == 0) return plain(out);
    if (in_base_3(int(f_.format))) return digits(out);
    if (span_ != 0 && (in_run_ & (span_ - 1)) == 0) take_record();
    in_run_ = in_run_ == run_groups_ - 1 ? 0 : in_run_ + 1;
    table_.decode(at_, reads_, out);
    at_ += std::ptrdiff_t(reads_) * kRows;
    if (f_.group != 0) scale(out);
  }

 private:
  void plain(EightRows &out) {
    for (int r = 0; r < kEight; ++r, at_ += kRows)
      for (int c = 0; c < kCols; ++c) out[r][c] = at_[c];
  }
  void take_record() {
    for (int c = 0; c < kCols; ++c) scale_[c] = at_[c];
    at_ += kRows;
    for (int c = 0; c < kCols; ++c) zero_[c] = f_.zeros != 0 ? at_[c] : std::int8_t(0);
    if (f_.zeros != 0) at_ += kRows;
  }
  void scale(EightRows &out) const {
    if (record_kind(int(f_.format)) == kMultiplierRecord) {
      for (int r = 0; r < kEight; ++r)
        for (int c = 0; c < kCols; ++c)
          out[r][c] = std::int16_t((out[r][c] - zero_[c]) * std::uint8_t(scale_[c]));
      return;
    }
    for (int r = 0; r < kEight; ++r)
      for (int c = 0; c < kCols; ++c)
        out[r][c] = std::int16_t(scaled_operand(f_, out[r][c], scale_[c], zero_[c]));
  }
  void digits(EightRows &out) {
    while (held_ < kEight) {
      table_.decode_digits(at_, digits_ + held_);
      at_ += kRows;
      held_ += kTrits;
    }
    for (int r = 0; r < kEight; ++r)
      for (int c = 0; c < kCols; ++c) out[r][c] = digits_[r][c];
    held_ -= kEight;
    for (int r = 0; r < held_; ++r)
      for (int c = 0; c < kCols; ++c) digits_[r][c] = digits_[r + kEight][c];
  }
};

/// The rows of a ReadWeights as the ports' own memories have them, where they have any; `words` is
/// changed to where they lie there.
class OwnMemories {
  std::vector<Beat> rows_[kOwnMemories ? kWeightPorts : 1];

 public:
  OwnMemories(Command &words, const Beat *memory) {
    const ReadWeights f = ReadWeights::decode(words);
    if (!kOwnMemories || f.cached != 0) return;
    const UInt<32> before = f.memory & UInt<32>(kTurnRows - 1);
    const long long count = static_cast<long long>(before) + static_cast<long long>(f.memory_rows);
    for (std::vector<Beat> &rows : rows_) rows.resize(std::size_t(own_rows(count) * kBeats));
    const Beat *from = memory + static_cast<long long>(f.memory - before) * kBeats;
    for (long long row = before; row < count; ++row) {
      const long long packet = row / kWeightPorts;
      const long long at = packet / kWeightPorts * kWeightPorts + row % kWeightPorts;
      for (int beat = 0; beat < kBeats; ++beat)
        rows_[packet % kWeightPorts][std::size_t(at * kBeats + beat)] = from[row * kBeats + beat];
    }
    words[1] = Int<32>(before);
  }
  /// What port `p` reads.
  const Beat *of(int p, const Beat *memory) const {
    return rows_[kOwnMemories ? p : 0].empty() ? memory : rows_[kOwnMemories ? p : 0].data();
  }
};

/// As the hardware has it, for what is not in eights: positions, small arrays, tables.
inline void decode_slowly(Command words, const Beat *memory, const Beat *cache,
                          WeightStream &tiles) {
#define WEFT_SLOW_CHANNEL(p) static thread_local Stream<PackedRows> packed_##p("packed", 0);
#define WEFT_BEGIN(p) packed_##p.begin();
#define WEFT_SAME(p) , own.of(p, memory)
#define WEFT_SAME_CACHE(p, bundle, packed) , cache
  static thread_local Stream<Command> to_weights("weights", 0), to_decode("decode", 0);
  static thread_local Stream<PackedRows> packed("packed", 0);
  WEFT_EACH_PORT(WEFT_SLOW_CHANNEL)
  to_weights.begin(), to_decode.begin(), packed.begin();
  WEFT_EACH_PORT(WEFT_BEGIN)
  const OwnMemories own(words, memory);
  Command end = words;
  end[0] = kBarrier;
  to_weights.write(words), to_weights.write(end);
  to_decode.write(words), to_decode.write(end);
  static_cast<void>(cache);
  weft::weights(to_weights, own.of(0, memory) WEFT_EACH_CACHE(WEFT_SAME_CACHE),
                packed WEFT_EACH_PORT(WEFT_SAME) WEFT_EACH_PORT(WEFT_PACKED));
  weft::decode(to_decode, tiles, packed WEFT_EACH_PORT(WEFT_PACKED));
}

/// Keys or values of earlier tokens, run by run.
inline void read_cache(const ReadWeights &f, const Waiting &all, WeightStream &tiles) {
  StreamRow element = widened(filled(0));
  UInt<32> first = f.memory;
  for (UInt<32> run = 0; run < f.runs; ++run, first += f.memory_step) {
    sim::run().cache(std::int64_t(first), std::int64_t(f.memory_rows));
    const std::int8_t *from = all.row_of(all.cache, first);
    for (UInt<32> row = 0; row < run_rows(f); ++row, from += kRows) {
      const int place = int(row & UInt<32>(kStreamRows - 1));
      for (int c = 0; c < kCols; ++c)
        weft::row_of(element, place)[c] = Operand(row < f.memory_rows ? from[c] : 0);
      if (place == kStreamRows - 1) tiles.write(element);
    }
  }
}

/// The rows of the next ReadWeights; false where there is none.
inline bool decode_next(WeightStream &tiles) {
  Waiting &all = waiting();
  if (all.reads.empty()) return false;
  const Command words = all.next();
  const ReadWeights f = ReadWeights::decode(words);
  if (reads_cache(f)) {
    read_cache(f, all, tiles);
    return true;
  }
  if (f.format == 0 && f.matvec == 0) {
    const std::int8_t *from = all.rows(f);
    for (UInt<32> row = 0; row < f.rows; ++row, from += kRows) {
      Word word;
      for (int lane = 0; lane < kRows; ++lane) word[lane] = from[lane];
      tiles.write(widened(word));
    }
    return true;
  }
  if (!in_eights(f)) {
    decode_slowly(words, all.memory, all.cache, tiles);
    return true;
  }
  EightReader reader(f, all.rows(f));
  EightRows eight;
  StreamRow element = widened(filled(0));
  const int step = f.matvec != 0 ? kStreamRows : 1;
  for (UInt<32> row = 0; row < f.rows; row += unsigned(kEight)) {
    reader.next(eight);
    for (int r = 0; r < kEight; ++r) {
      const int place = (int(row) + r) & (step - 1);
      for (int c = 0; c < kCols; ++c) row_of(element, place)[c] = Operand(eight[r][c]);
      if (place == step - 1) tiles.write(element);
    }
  }
  return true;
}

/// The processes of weights: they keep what is asked for until somebody takes it.
template <typename... Ports>
inline void weights(Stream<Command> &commands, const Beat *memory, const Beat *cache, Ports &&...) {
  while (commands.read()[0] != kBarrier) continue;
  waiting().memory = memory;
  waiting().cache = cache;
}
template <typename... Ports>
inline void weights(Stream<Command> &commands, const Beat *memory, Stream<PackedRows> &,
                    Ports &&...) {
  while (commands.read()[0] != kBarrier) continue;
  waiting().memory = memory;
}
template <typename... Ports>
inline void decode(Stream<Command> &commands, WeightStream &tiles, Ports &&...) {
  Waiting &all = waiting();
  all.reads.clear();
  for (Command words = commands.read(); words[0] != kBarrier; words = commands.read())
    all.reads.push_back(words);
  tiles.refill([&tiles] { return decode_next(tiles); });
}

}  // namespace functional
}  // namespace weft
