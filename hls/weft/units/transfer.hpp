/// What moves data: memory ports to streams, streams to the on-chip memories.
#pragma once
#include "memories.hpp"
#include "units/requant.hpp"
#include "units/window.hpp"

namespace weft {

/// One memory row from `beats`: consecutive addresses, so that the port makes bursts.
inline Word read_row(const Beat *memory, UInt<32> row) {
  WEFT_INLINE
  WEFT_SIM(sim::run().trace.row(std::int64_t(row)));
  const long long first = static_cast<long long>(row) * kBeats;
  Word word;
read_beats:
  for (int beat = 0; beat < kBeats; ++beat) {
    const Beat part = memory[first + beat];
    for (int i = 0; i < kBusBytes; ++i) word[beat * kBusBytes + i] = part[i];
  }
  return word;
}

inline void write_row(Beat *memory, UInt<32> row, const Word &word) {
  WEFT_INLINE
  WEFT_SIM(sim::run().trace.row(std::int64_t(row)));
  const long long first = static_cast<long long>(row) * kBeats;
write_beats:
  for (int beat = 0; beat < kBeats; ++beat) {
    Beat part;
    for (int i = 0; i < kBusBytes; ++i) part[i] = word[beat * kBusBytes + i];
    memory[first + beat] = part;
  }
}

/// Memory row where a chunk of a sample begins.
template <typename Transfer> UInt<32> first_row(const Transfer &f, int sample, int chunk) {
  return UInt<32>(f.memory + UInt<32>(sample) * f.memory_sample + UInt<32>(chunk) * f.memory_step);
}

/// Whether a transfer is of ranges of tokens,
template <typename Transfer> bool of_ranges(const Transfer &f) {
  return kHasTokenRanges && f.space == kRangesSpace;
}
/// or of words of int16 at all: these are two memory rows each, low bytes first.
template <typename Transfer> bool of_int16(const Transfer &f) {
  return (kHasWide && f.space == kWideSpace) || of_ranges(f);
}
template <typename Transfer> int rows_per_word(const Transfer &f) { return of_int16(f) ? 2 : 1; }

/// ReadHost in the load process: memory → stream.
inline void load_rows(const ReadHost &f, int batch, const Beat *memory, Stream<Word> &loaded) {
  WEFT_FUNCTION
samples:
  for (int b = 0; b < batch; ++b) {
    WEFT_TRIPCOUNT(kAccumulatorRows)
  chunks:
    for (int c = 0; c < int(f.chunks); ++c) {
      WEFT_TRIPCOUNT(kBufferWords)
      const UInt<32> row = first_row(f, b, c);
      const int rows = int(f.words) * rows_per_word(f);
      WEFT_SIM(sim::run().load(std::int64_t(row), std::int64_t(rows)));
    rows:
      for (int w = 0; w < rows; ++w) {
        WEFT_PIPELINE_EVERY(kBeats)
        WEFT_TRIPCOUNT(kBufferWords)
        loaded.write(read_row(memory, UInt<32>(row + UInt<32>(w))));
      }
    }
  }
}

/// WriteHost in the store process: stream → memory.
inline void store_rows(const WriteHost &f, int batch, Stream<Word> &stored, Beat *memory) {
  WEFT_FUNCTION
samples:
  for (int b = 0; b < batch; ++b) {
    WEFT_TRIPCOUNT(kAccumulatorRows)
  chunks:
    for (int c = 0; c < int(f.chunks); ++c) {
      WEFT_TRIPCOUNT(kBufferWords)
      const UInt<32> row = first_row(f, b, c);
      const int rows = int(f.words) * rows_per_word(f);
      WEFT_SIM(sim::run().store(std::int64_t(row), std::int64_t(rows)));
    rows:
      for (int w = 0; w < rows; ++w) {
        WEFT_PIPELINE_EVERY(kBeats)
        WEFT_TRIPCOUNT(kBufferWords)
        write_row(memory, UInt<32>(row + UInt<32>(w)), stored.read());
      }
    }
  }
}

/// Words of an on-chip buffer, in the order of a transfer.
template <typename Transfer> struct BufferWalk {
  Positions at;
  Strided word;
  void begin(const Transfer &f, int batch) {
    at.begin(batch, int(f.chunks), int(f.words));
    word.begin(unsigned(f.buffer), unsigned(f.buffer_sample), unsigned(f.buffer_step), 1);
  }
  Int<64> count() const { return Int<64>(at.batch) * (at.out_h * at.out_w); }
  void next() {
    word.next(at);
    at.next();
  }
};

/// Halves of a word of the wide buffer as rows of memory.
inline WideWord joined(const Word &low, const Word &high) {
  WEFT_INLINE
  WideWord word;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    word[c] = Int<16>((Int<32>(high[c]) * 256) + (Int<32>(low[c]) & 0xff));
  }
  return word;
}
inline Word half(const WideWord &word, bool high) {
  WEFT_INLINE
  Word bytes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    bytes[c] = Int<8>((high ? Int<32>(word[c] >> 8) : Int<32>(word[c])) & 0xff);
  }
  return bytes;
}

/// ReadHost in the compute process: stream → on-chip buffer.
inline void read_host(const ReadHost &f, int batch, Stream<Word> &loaded, Memories &m,
                      Counters &counters) {
  WEFT_FUNCTION
  BufferWalk<ReadHost> walk;
  walk.begin(f, batch);
  const Int<64> rows = walk.count() * rows_per_word(f);
  const bool wide = of_int16(f);
  Word low = filled(0);
  bool second = false;
read_host:
  for (Int<64> i = 0; i < rows; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kBufferWords)
    const Word row = loaded.read();
    const int address = walk.word.address();
    if (wide) {
      if (second && of_ranges(f)) put(m.token_ranges[address], joined(low, row));
      if (second && !of_ranges(f)) put(m.wide[address], joined(low, row));
    } else if (kHasAttention && f.space == kOperandSpace) {
      m.operands.write(address, row);
    } else {
      m.buffer.write(address, row);
    }
    low = row;
    if (!wide || second) walk.next();
    second = !second;
  }
  counters.transfer += rows * kBeats;
}

/// WriteHost in the compute process: on-chip buffer → stream.
inline void write_host(const WriteHost &f, int batch, Stream<Word> &stored, const Memories &m,
                       Counters &counters) {
  WEFT_FUNCTION
  BufferWalk<WriteHost> walk;
  walk.begin(f, batch);
  const Int<64> rows = walk.count() * rows_per_word(f);
  const bool wide = of_int16(f);
  bool second = false;
write_host:
  for (Int<64> i = 0; i < rows; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kBufferWords)
    const int address = walk.word.address();
    if (wide) {
      const WideWord word =
          of_ranges(f) ? value_of(m.token_ranges[address]) : value_of(m.wide[address]);
      stored.write(half(word, second));
    } else {
      stored.write(m.buffer.read(address));
    }
    if (!wide || second) walk.next();
    second = !second;
  }
  counters.transfer += rows * kBeats;
}

}  // namespace weft
