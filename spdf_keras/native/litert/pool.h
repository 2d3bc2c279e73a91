// Threads that wait for work: a short while awake, then asleep.
//
// The runtime's own threads sleep between its calls, and these must too, or both pools
// would fight for the same cores.

#ifndef SPDF_POOL_H_
#define SPDF_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace spdf {

class Pool {
 public:
  using Body = void (*)(void* argument, int64_t i);

  // Makes `threads - 1` workers; a worker looks for work `spins` times before it sleeps.
  Pool(int threads, int spins) : spins_(spins) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      epoch_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs `body(argument, i)` for every i in [0, count). While one call uses the workers,
  // another thread's call runs on its own thread.
  void run(int64_t count, Body body, void* argument) {
    std::unique_lock<std::mutex> use(use_, std::defer_lock);
    if (workers_.empty() || count <= 1 || !use.try_lock()) {
      for (int64_t i = 0; i < count; ++i) body(argument, i);
      return;
    }
    body_ = body, argument_ = argument, count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    bool sleeping;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1, std::memory_order_release);
      sleeping = asleep_ > 0;
    }
    if (sleeping) wake_.notify_all();
    take();
    while (busy_.load(std::memory_order_acquire)) pause();
  }

  // `run` as the core calls it.
  static void parallel(void* pool, int64_t count, Body body, void* argument) {
    static_cast<Pool*>(pool)->run(count, body, argument);
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void take() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
      body_(argument_, i);
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < spins_ && epoch_.load(std::memory_order_acquire) == seen; ++i)
        pause();
      if (epoch_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++asleep_;
        wake_.wait(lock, [&] { return epoch_.load() != seen; });
        --asleep_;
      }
      if (stop_) return;
      seen = epoch_.load(std::memory_order_acquire);
      take();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int spins_;
  std::vector<std::thread> workers_;
  std::mutex use_, mutex_;
  std::condition_variable wake_;
  int asleep_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  Body body_ = nullptr;
  void* argument_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace spdf

#endif  // SPDF_POOL_H_
