// Work that several threads share.

#ifndef SPDF_XLA_JOB_H_
#define SPDF_XLA_JOB_H_

#include <atomic>
#include <cstdint>
#include <new>

namespace spdf {

// The iterations of a loop, which its caller could also run alone: a helper that comes
// late finds no iteration left, and nobody waits for a helper that has not begun. A pool
// whose threads are all busy can therefore not block the caller.
class Job {
 public:
  Job(int64_t count, void (*body)(void*, int64_t), void* argument)
      : count_(count), body_(body), argument_(argument) {}

  // Runs iterations until none is left.
  void take() {
    for (int64_t i; (i = next_.fetch_add(1)) < count_; done_.fetch_add(1)) try {
        body_(argument_, i);
      } catch (...) {
        has_failed_.store(true);
      }
  }
  // Returns whether every iteration has ended, on whichever thread.
  bool is_done() const { return done_.load() >= count_; }
  // Tells the caller, when all is done, that there was no memory on some thread. Before,
  // other threads may still use what the caller has on its stack.
  void rethrow() const {
    if (has_failed_.load()) throw std::bad_alloc();
  }

 private:
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> has_failed_{false};
  const int64_t count_;
  void (*const body_)(void*, int64_t);
  void* const argument_;
};

}  // namespace spdf

#endif  // SPDF_XLA_JOB_H_
