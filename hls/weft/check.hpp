/// Checks every instruction before it is dispatched: a bad one ends the run with a status, so no
/// process ever sees an address outside its memory or waits for data that does not come.
#pragma once
#include "check_attend.hpp"
#include "check_engine.hpp"
#include "check_norm.hpp"
#include "check_pack.hpp"
#include "check_rotate.hpp"
#include "check_stream.hpp"
#include "status.hpp"
#include "units/matvec.hpp"
#include "units/set_table.hpp"
#include "units/vector.hpp"

namespace weft {

constexpr int kMaxReach = 1 << 30;  // positions from the window's first to its last, one axis

class Checker {
  Limits limits_;
  bool pending_, repeat_;       // sums wait for their Activate; they may be drained again
  int blocks_, out_h_, out_w_;  // of those sums
  Range first_, second_;        // what was read to make them,
  int input_;                   // and the buffer of the first
  int open_rows_;               // partial sums of a MatMul without `last`
  StreamLedger stream_;         // what is in the weight stream,
  Int<64> pending_elements_;    // and what the MatMul waiting for its Activate takes of it
  int scores_;                  // rows of scores whose maxima are known
  bool attends_;                // the sums that wait are those of an Attend,
  bool scored_, divides_;       // of scores, whose exponentials are still to be divided
  StayingSums staying_;         // sums that an Attend left for one that goes on
  Magnitudes magnitudes_;       // that a Norm has left

 public:
  void begin(const Limits &limits) {
    limits_ = limits;
    pending_ = repeat_ = false;
    open_rows_ = 0;
    stream_.begin();
    pending_elements_ = 0;
    scores_ = 0;
    attends_ = scored_ = divides_ = false;
    staying_.clear();
    magnitudes_.begin();
    input_ = kUnifiedSpace;
  }

  /// Elements of the weight stream that nobody has asked for.
  Int<64> unused() const {
    return Int<64>(stream_.elements + (pending_ ? pending_elements_ : Int<64>(0)));
  }

  /// Status of the next instruction; kDone if it may run.
  Status check(const Command &words) {
    WEFT_FUNCTION
    const int opcode = int(words[0]);
    if (opcode < kReadHost || opcode > kLastOpcode) return kBadOpcode;
    if (pending_ && opcode != kActivate) return kBadOrder;
    if (opcode == kReadHost)
      return ReadHost::legal(words) ? transfer(ReadHost::decode(words)) : kBadField;
    if (opcode == kWriteHost)
      return WriteHost::legal(words) ? transfer(WriteHost::decode(words)) : kBadField;
    if (opcode == kReadWeights)
      return ReadWeights::legal(words) ? read_weights(ReadWeights::decode(words)) : kBadField;
    if (opcode == kSetTable)
      return SetTable::legal(words) ? set_table(SetTable::decode(words)) : kBadField;
    if (opcode == kMatMul) return MatMul::legal(words) ? matmul(MatMul::decode(words)) : kBadField;
    if (opcode == kActivate)
      return Activate::legal(words) ? activate(Activate::decode(words)) : kBadField;
    if (opcode == kVector) return Vector::legal(words) ? vector(Vector::decode(words)) : kBadField;
    if (opcode == kAttend) return Attend::legal(words) ? attend(Attend::decode(words)) : kBadField;
    if (opcode == kNorm)
      return Norm::legal(words) ? magnitudes_.checked(Norm::decode(words), limits_.batch)
                                : kBadField;
    if (opcode == kRotate)
      return Rotate::legal(words) ? check_rotate(Rotate::decode(words), limits_.batch) : kBadField;
    if (opcode == kPackCache)
      return PackCache::legal(words) ? check_pack(PackCache::decode(words), limits_.batch)
                                     : kBadField;
    return stream_.rows == 0 ? kDone : kBadStream;
  }

 private:
  template <typename Transfer> Status transfer(const Transfer &f) const {
    if (f.words == 0 || f.chunks == 0) return kBadField;
    const int space = space_words(int(f.space));
    if (!legal_space(f)) return kBadField;
    if (Int<64>(f.chunks) * Int<64>(f.words) > space) return kBadField;
    const Int<64> b = limits_.batch - 1, c = Int<64>(f.chunks) - 1, w = Int<64>(f.words) - 1;
    const Range buffer = {
        0, Int<64>(f.buffer) + b * Int<64>(f.buffer_sample) + c * Int<64>(f.buffer_step) + w};
    const Int<64> row = Int<64>(f.memory) + b * Int<64>(f.memory_sample) +
                        c * Int<64>(f.memory_step) + Int<64>(f.words) * rows_per_word(f) - 1;
    if (!in_words(buffer, space)) return kBadBuffer;
    return row < Int<64>(limits_.memory_rows) ? kDone : kBadMemory;
  }
  Status read_weights(const ReadWeights &f) {
    if (!sized(f)) return kBadField;
    Int<64> end = Int<64>(f.memory) + Int<64>(f.memory_rows);
    if (f.cached != 0) end += (Int<64>(f.runs) - 1) * Int<64>(f.memory_step);
    if (end > Int<64>(f.cached != 0 ? limits_.memory_rows : limits_.weight_rows)) return kBadMemory;
    return stream_.add(Int<64>(f.rows), f.matvec != 0) ? kDone : kBadStream;
  }
  Status set_table(const SetTable &f) {
    const int words = method_words(f);
    if (words != 0 && (int(f.count) != words || f.index != 0)) return kBadField;
    if (words != 0) return stream_.take(method_rows(f), false) ? kDone : kBadStream;
    if (f.target == kOperandsTable) {
      if (f.bits != 0 && (!legal_bits(int(f.bits)) || int(f.count) % kPackedGroup != 0))
        return kBadField;
      const Status status = legal_operands(f);
      if (status != kDone) return status;
      return stream_.take(operand_rows(f), true) ? kDone : kBadStream;
    }
    const int wide = kHasWide ? kWideWords : 0;
    const int size = f.target == kParametersTable ? kParameterBlocks
                     : f.target == kTapsTable     ? kTapWords
                     : f.target == kLookupTable   ? kLookupEntries
                     : f.target == kWideTable     ? wide
                                                  : 0;
    if (size == 0 || f.count == 0) return kBadField;
    if (int(f.index) + int(f.count) > size) return kBadTable;
    return stream_.take(Int<64>(f.count) * rows_per_entry(f), false) ? kDone : kBadStream;
  }
  /// Sizes of a window and the words it can touch.
  template <typename Windowed> Status window(const Windowed &f, Range &source) const {
    if (f.height == 0 || f.width == 0 || f.kernel_h == 0 || f.kernel_w == 0 || f.out_h == 0 ||
        f.out_w == 0 || f.blocks == 0)
      return kBadField;
    if (reach(f.out_h, f.stride_y, f.kernel_h, f.dilation_y) > kMaxReach ||
        reach(f.out_w, f.stride_x, f.kernel_w, f.dilation_x) > kMaxReach)
      return kBadField;
    source.first = Int<64>(f.source);
    source.last = source.first + Int<64>(limits_.batch - 1) * Int<64>(f.source_sample) +
                  (Int<64>(f.blocks) - 1) * Int<64>(f.source_block) +
                  (Int<64>(f.height) - 1) * Int<64>(f.source_row) +
                  (Int<64>(f.width) - 1) * Int<64>(f.source_col);
    return in_words(source, space_words(source_space(f))) ? kDone : kBadBuffer;
  }
  template <typename Windowed> void keep(const Windowed &f, int blocks, bool repeat) {
    blocks_ = blocks;
    out_h_ = int(f.out_h), out_w_ = int(f.out_w);
    repeat_ = repeat;
    pending_ = true;
  }
  Status matmul(const MatMul &f) {
    const Status status = window(f, first_);
    if (status != kDone) return status;
    second_ = first_;
    if (f.tiles == 0 || (f.last == 0 && f.tiles != 1)) return kBadField;
    if (!legal_engine(f, limits_.batch)) return kBadField;
    const Int<64> rows = Int<64>(limits_.batch) * Int<64>(f.out_h) * Int<64>(f.out_w);
    if (rows > (is_matvec(f) ? kMatvecRows : kAccumulatorRows)) return kBadRows;
    if (is_compressed(f) && rows * Int<64>(f.tiles) > kAccumulatorRows) return kBadRows;
    if (f.first == 0 && open_rows_ != int(rows)) return kBadOrder;
    open_rows_ = f.last != 0 ? 0 : int(rows);
    attends_ = divides_ = scored_ = repeat_ = false;
    staying_.clear();
    input_ = source_space(f);
    if (f.last != 0) keep(f, int(f.tiles), f.tiles == 1);
    const int words = int(f.words);
    const Int<64> groups = (Int<64>(f.blocks) + words - 1) >> (words >> 1);
    const Int<64> part = Int<64>(f.tiles) * groups * Int<64>(f.kernel_h);
    if (part > stream_.rows && !is_compressed(f))
      return kBadStream;  // so that the product below stays in 64 bits
    const int index = f.engine == kNmEngine ? pattern_of(f).index_rows() : 0;
    const Int<64> taken =
        is_compressed(f)
            ? Int<64>(f.rows)
            : Int<64>(part * Int<64>(f.kernel_w) * Int<64>(kRows * weight_rows(f) + index));
    pending_elements_ = StreamLedger::elements_of(taken, is_matvec(f));
    return stream_.take(taken, is_matvec(f)) ? kDone : kBadStream;
  }
  Status vector(const Vector &f) {
    const Status status = window(f, first_);
    if (status != kDone) return status;
    second_ = first_;
    if (f.operation > kDepthwise) return kBadField;
    const Int<64> taps = Int<64>(f.kernel_h) * Int<64>(f.kernel_w);
    const Int<64> words = Int<64>(limits_.batch) * Int<64>(f.out_h) * Int<64>(f.out_w);
    if (taps > kBufferWords || words > kBufferWords || words * Int<64>(f.blocks) > kBufferWords)
      return kBadField;
    if (has_second(f)) {
      if (taps != 1 || f.pad_y != 0 || f.pad_x != 0 ||
          reach(f.out_h, f.stride_y, 1, 0) >= Int<64>(f.height) ||
          reach(f.out_w, f.stride_x, 1, 0) >= Int<64>(f.width))
        return kBadField;
      second_.first = Int<64>(f.second);
      second_.last = second_.first + Int<64>(limits_.batch - 1) * Int<64>(f.second_sample) +
                     (Int<64>(f.blocks) - 1) * Int<64>(f.second_block) +
                     (Int<64>(f.out_h) - 1) * Int<64>(f.second_row) +
                     (Int<64>(f.out_w) - 1) * Int<64>(f.second_col);
      if (!in_buffer(second_)) return kBadBuffer;
    }
    if (f.operation == kDepthwise && Int<64>(f.tap) + Int<64>(f.blocks) * taps > kTapWords)
      return kBadTable;
    attends_ = divides_ = scored_ = false;
    input_ = kUnifiedSpace;
    keep(f, int(f.blocks), false);
    pending_elements_ = 0;
    return kDone;
  }
  Status attend(const Attend &f) {
    if (!kHasAttention) return kBadOpcode;
    if (limits_.batch != 1 || f.rows == 0 || f.blocks == 0 || f.tiles == 0) return kBadField;
    const bool scores = f.scores != 0;
    if (scores ? f.method >= kSoftmaxMethods || staying_.keys_with(f) > kMostKeys
               : f.normalized != 0)
      return kBadField;
    if (f.normalized != 0 && keeps_sums(f)) return kBadField;  // by sums of whole rows
    if (!legal_ranges(f)) return kBadField;
    if (f.matvec != 0 && !legal_group(f)) return kBadField;
    first_.first = Int<64>(f.source);
    first_.last = first_.first + (Int<64>(f.blocks) - 1) * Int<64>(f.source_block) +
                  (Int<64>(f.rows) - 1) * Int<64>(f.source_col);
    const Int<64> tokens = Int<64>(f.transposed != 0 ? f.tiles : f.blocks) * kRows;
    const Int<64> others = Int<64>(f.transposed != 0 ? f.blocks : f.tiles);
    second_.first = Int<64>(f.operand);
    second_.last = second_.first + tokens - 1 + (others - 1) * Int<64>(f.operand_block);
    if (!in_words(first_, space_words(scores ? kWideSpace : kUnifiedSpace))) return kBadBuffer;
    if (!in_words(second_, kOperandWords)) return kBadBuffer;
    if (accumulator_rows(f).last >= kAccumulatorRows) return kBadRows;
    if (f.matvec != 0 && f.rows > kMatvecRows) return kBadRows;
    if (f.ranged != 0 && int(f.ranges) + int(f.blocks) > kRangeWords) return kBadTable;
    if (scores && int(f.rows) != scores_) return kBadOrder;
    if (f.goes_on != 0 && !staying_.fits(f)) return kBadOrder;
    staying_.take(f);
    open_rows_ = 0;
    input_ = scores ? kWideSpace : kUnifiedSpace;
    attends_ = true, scored_ = scores, divides_ = scores && f.normalized == 0;
    blocks_ = int(f.tiles), out_h_ = 1, out_w_ = int(f.rows);
    pending_ = f.stays == 0, repeat_ = f.stays != 0, pending_elements_ = 0;
    return kDone;
  }
  /// Whether an output may go to its space, and what is asked of it there is possible.
  bool legal_output(const Activate &f) const {
    const bool wide = f.space == kWideSpace;
    if (f.space != kUnifiedSpace &&
        (output_words(int(f.space)) == 0 || f.pack != 0 || (wide && f.lookup != 0)))
      return false;
    if ((wide || f.residual != 0) && f.mode > kFloatEven) return false;
    // The wide buffer has one read port: for scores, or for what is added.
    if (f.residual != 0 && (!legal_residual(f) || scored_)) return false;
    if (f.maximum != 0 && (!wide || !attends_ || scored_)) return false;
    if (f.maximum == 0 && (f.running != 0 || f.discard != 0)) return false;
    if (f.normalize == kByToken)
      return kHasTokenRanges && attends_ && !scored_ && f.mode < kFloatCode;
    if (f.normalize == kByMagnitude) return kHasRanges && !attends_ && f.mode < kFloatCode;
    return f.normalize == 0 || (f.normalize == kBySum && divides_);
  }
  /// Whether an output lies on what is still read.
  bool overlaps(const Activate &f, const Steps &steps, const Range &target,
                const Range &added) const {
    const int second = attends_ ? int(kOperandSpace) : input_;
    if (f.space == input_ && target.meets(first_)) return true;
    if (f.space == second && target.meets(second_)) return true;
    if (f.space != kWideSpace || f.residual == 0) return false;
    return target.meets(added) && !(in_place(f) && written_once(f, steps));
  }
  Status activate(const Activate &f) {
    if (!pending_ && !repeat_) return kBadOrder;
    if (f.mode == kRawByte - 1 || f.mode > kBf16High) return kBadField;
    if (f.mode >= kFloatCode && !kHasBf16) return kBadField;
    if (f.pack != 0 && kParts == 1) return kBadField;
    if (!legal_output(f)) return kBadField;
    if (f.running != 0 && scores_ != out_w_) return kBadOrder;
    if (f.normalize == kByMagnitude && !magnitudes_.of(limits_.batch, out_h_, out_w_))
      return kBadOrder;
    const Steps steps = {Int<64>(limits_.batch - 1), Int<64>(blocks_ - 1), Int<64>(out_h_ - 1),
                         Int<64>(out_w_ - 1)};
    const Range target = target_range(f, steps), added = residual_range(f, steps);
    if (!in_words(target, space_words(int(f.space)))) return kBadBuffer;
    if (f.residual != 0 && !in_words(added, kWideWords)) return kBadBuffer;
    if (f.discard == 0 && overlaps(f, steps, target, added)) return kBadOverlap;
    if (int(f.parameter) + (f.parameter_step != 0 ? blocks_ - 1 : 0) >= kParameterBlocks)
      return kBadTable;
    if (f.normalize == kByToken && int(f.ranges) + blocks_ > kRangeWords) return kBadTable;
    pending_ = false;
    if (f.maximum != 0) scores_ = out_w_;
    return kDone;
  }
};

}  // namespace weft
