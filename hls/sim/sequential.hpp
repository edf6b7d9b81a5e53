/// Processes one after another: the fast simulation.
#pragma once
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

 public:
  Stream(const char *name, int) : name_(name) {}
  const T &read() {
    if (next_ == items_.size())
      throw Error(std::string("stream '") + name_ + "' is read when empty");
    return items_[next_++];
  }
  void write(const T &value) { items_.push_back(value); }
  void begin() {
    items_.clear();
    next_ = 0;
  }
  void end() const {
    if (next_ != items_.size())
      throw Error(std::string("stream '") + name_ + "' keeps " +
                  std::to_string(items_.size() - next_) + " items that nobody reads");
  }
};

template <typename Call> void process(Call &&call) { call(); }
inline void join() {}

}  // namespace sim
}  // namespace weft
