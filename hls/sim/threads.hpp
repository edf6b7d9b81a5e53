/// Processes as threads on bounded streams: the exact simulation, which finds deadlocks.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace weft {
namespace sim {

/// The processes of the running segment. It is stuck when every live one has found its stream not
/// ready since anything last moved.
struct Processes {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::function<void()>> calls;
  std::exception_ptr failure;
  int live = 0;

  void fail(std::exception_ptr reason) {
    if (!failure) failure = std::move(reason);
    changed.notify_all();
  }
  /// Waits until `ready`; called with the mutex held.
  template <typename Ready>
  void wait(std::unique_lock<std::mutex> &lock, const std::string &what, Ready ready) {
    long seen = -1;
    while (!failure && !ready()) {
      if (seen != version_) {
        seen = version_;
        if (++stuck_ == live)
          fail(
              std::make_exception_ptr(Error("deadlock: every process waits; one of them " + what)));
      }
      if (!failure) changed.wait(lock);
    }
    if (failure) throw Error("stopped: another process failed");
  }
  void moved() {
    ++version_;
    stuck_ = 0;
    changed.notify_all();
  }

 private:
  long version_ = 0;
  int stuck_ = 0;
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

template <typename Call> void process(Call call) { processes().calls.emplace_back(call); }

inline void run_process(const std::function<void()> &call) {
  Processes &all = processes();
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
}

/// Starts the processes together and waits for all of them.
inline void join() {
  Processes &all = processes();
  all.live = int(all.calls.size());
  std::vector<std::thread> threads;
  for (const std::function<void()> &call : all.calls) threads.emplace_back(run_process, call);
  for (std::thread &thread : threads) thread.join();
  all.calls.clear();
  std::exception_ptr failure;
  std::swap(failure, all.failure);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sim
}  // namespace weft
