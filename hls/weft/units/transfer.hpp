/// What moves data: memory ports to streams, streams to the on-chip memories.
#pragma once
#include "memories.hpp"
#include "units/requant.hpp"
#include "units/window.hpp"

namespace weft {

/// One memory row from `beats`: consecutive addresses, so that the port makes bursts.
inline Word read_row(const Beat *memory, UInt<32> row) {
  WEFT_INLINE
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
      WEFT_SIM(sim::run().reads.add(std::int64_t(row), std::int64_t(f.words)));
    words:
      for (int w = 0; w < int(f.words); ++w) {
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
      WEFT_SIM(sim::run().writes.add(std::int64_t(row), std::int64_t(f.words)));
    words:
      for (int w = 0; w < int(f.words); ++w) {
        WEFT_PIPELINE_EVERY(kBeats)
        WEFT_TRIPCOUNT(kBufferWords)
        write_row(memory, UInt<32>(row + UInt<32>(w)), stored.read());
      }
    }
  }
}

/// Words of the unified buffer, in the order of a transfer.
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

/// ReadHost in the compute process: stream → unified buffer.
inline void read_host(const ReadHost &f, int batch, Stream<Word> &loaded, Memories &m,
                      Counters &counters) {
  WEFT_FUNCTION
  BufferWalk<ReadHost> walk;
  walk.begin(f, batch);
  const Int<64> words = walk.count();
read_host:
  for (Int<64> i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kBufferWords)
    m.buffer.write(walk.word.address(), loaded.read());
    walk.next();
  }
  counters.transfer += words * kBeats;
}

/// WriteHost in the compute process: unified buffer → stream.
inline void write_host(const WriteHost &f, int batch, Stream<Word> &stored, const Memories &m,
                       Counters &counters) {
  WEFT_FUNCTION
  BufferWalk<WriteHost> walk;
  walk.begin(f, batch);
  const Int<64> words = walk.count();
write_host:
  for (Int<64> i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kBufferWords)
    stored.write(m.buffer.read(walk.word.address()));
    walk.next();
  }
  counters.transfer += words * kBeats;
}

/// Shifts that requantization knows; a table's others become the nearest of them.
inline Int<8> legal_shift(Int<8> s) {
  return s < kShiftLow ? Int<8>(kShiftLow) : s > kShiftHigh ? Int<8>(kShiftHigh) : s;
}

/// Puts byte plane `plane` of a parameter block in its place (host/weft/units/requant.py).
inline void set_plane(ParameterWord &p, int plane, const Word &row) {
  WEFT_INLINE
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> byte = Int<32>(UInt<32>(row[c]) & 0xff);
    const Int<32> placed =
        Int<32>(UInt<32>(byte) << (8 * (plane < 8 ? plane & 3 : (plane - 9) & 3)));
    if (plane < 4) {
      p.bias[c] = plane == 0 ? placed : Int<32>(p.bias[c] | placed);
    } else if (plane < 8) {
      p.multiplier[c] = plane == 4 ? placed : Int<32>(p.multiplier[c] | placed);
    } else if (plane == 8) {
      p.shift[c] = legal_shift(row[c]);
    } else if (plane < 13) {
      p.negative_multiplier[c] = plane == 9 ? placed : Int<32>(p.negative_multiplier[c] | placed);
    } else {
      p.negative_shift[c] = legal_shift(row[c]);
    }
  }
}

/// SetTable: weight stream → parameters, taps or lookup.
inline void set_table(const SetTable &f, Stream<TileWord> &weights, Memories &m,
                      Counters &counters) {
  WEFT_FUNCTION
  const int planes = f.target == kParametersTable ? kParameterRows : 1;
  const int rows = int(f.count) * planes;
  int entry = int(f.index), plane = 0;
  ParameterWord block;
table:
  for (int i = 0; i < rows; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kTapWords)
    const Word row = narrowed(weights.read());
    if (f.target == kParametersTable) {
      set_plane(block, plane, row);
      if (plane == kParameterRows - 1) m.parameters.write(entry, block);
    } else if (f.target == kTapsTable) {
      put(m.taps[entry], row);
    } else {
    lookup:
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        m.lookup[c][entry] = row[c];
      }
    }
    plane = plane == planes - 1 ? 0 : plane + 1;
    if (plane == 0) ++entry;
  }
  counters.table += Int<64>(rows) * kBeats;
}

}  // namespace weft
