/// Processes one after another: the fast simulation.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace weft {
namespace sim {

/// A FIFO that its writer fills before its reader starts.
template <typename T> class Stream {
  std::vector<T> items_;
  std::size_t next_ = 0;
  const char *name_;
  std::function<bool()> more_;

 public:
  Stream(const char *name, int) : name_(name) {}
  const T &read() {
    if (next_ == items_.size() && !refilled())
      throw Error(std::string("stream '") + name_ + "' is read when empty");
    return items_[next_++];
  }
  void write(const T &value) { items_.push_back(value); }
  void begin() {
    items_.clear();
    next_ = 0;
    more_ = nullptr;
  }
  /// What is written once a reader finds nothing left: `more` writes it and says whether it did.
  void refill(std::function<bool()> more) { more_ = std::move(more); }
  bool empty() const { return next_ == items_.size(); }
  void end() {
    if (next_ != items_.size() || refilled())
      throw Error(std::string("stream '") + name_ + "' keeps " +
                  std::to_string(items_.size() - next_) + " items that nobody reads");
  }

 private:
  bool refilled() {
    if (!more_) return false;
    items_.clear();
    next_ = 0;
    return more_() && !items_.empty();
  }
};

template <typename Call> void process(Call &&call) { call(); }
inline void join() {}

}  // namespace sim
}  // namespace weft
