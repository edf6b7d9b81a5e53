/// Processes as threads on bounded streams: the exact simulation, which finds deadlocks.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace weft {
namespace sim {

/// The threads of the running segment. A run is stuck when every live process waits for a stream.
struct Processes {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::thread> threads;
  int live = 0, waiting = 0;
  std::exception_ptr failure;

  void fail(std::exception_ptr reason) {
    if (!failure) failure = std::move(reason);
    changed.notify_all();
  }
  /// Waits until `ready`; called with the mutex held.
  template <typename Ready>
  void wait(std::unique_lock<std::mutex> &lock, const std::string &what, Ready ready) {
    ++waiting;
    while (!ready() && !failure) {
      if (waiting == live && !progress_) {
        fail(std::make_exception_ptr(Error("deadlock: every process waits; one of them " + what)));
        break;
      }
      progress_ = false;
      changed.wait(lock);
    }
    --waiting;
    if (failure) throw Error("stopped: another process failed");
  }
  void moved() {
    progress_ = true;
    changed.notify_all();
  }

 private:
  bool progress_ = false;
};

inline Processes &processes() {
  static Processes instance;
  return instance;
}

/// A FIFO of the depth that the hardware has; full and empty streams block.
template <typename T> class Stream {
  std::deque<T> items_;
  std::size_t depth_;
  std::string name_;

 public:
  Stream(const char *name, int depth) : depth_(static_cast<std::size_t>(depth)), name_(name) {}
  T read() {
    std::unique_lock<std::mutex> lock(processes().mutex);
    processes().wait(lock, "reads '" + name_ + "'", [&] { return !items_.empty(); });
    T value = items_.front();
    items_.pop_front();
    processes().moved();
    return value;
  }
  void write(const T &value) {
    std::unique_lock<std::mutex> lock(processes().mutex);
    processes().wait(lock, "writes '" + name_ + "'", [&] { return items_.size() < depth_; });
    items_.push_back(value);
    processes().moved();
  }
  void begin() { items_.clear(); }
  void end() const {
    if (!items_.empty())
      throw Error("stream '" + name_ + "' keeps " + std::to_string(items_.size()) + " items");
  }
};

template <typename Call> void process(Call call) {
  Processes &all = processes();
  std::lock_guard<std::mutex> lock(all.mutex);
  ++all.live;
  all.threads.emplace_back([call, &all] {
    std::exception_ptr failure;
    try {
      call();
    } catch (...) {
      failure = std::current_exception();
    }
    std::lock_guard<std::mutex> guard(all.mutex);
    --all.live;
    if (failure) all.fail(failure);
    all.moved();
  });
}

inline void join() {
  Processes &all = processes();
  for (std::thread &thread : all.threads) thread.join();
  all.threads.clear();
  std::exception_ptr failure;
  std::swap(failure, all.failure);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sim
}  // namespace weft
