// A loop whose iterations run on XLA's thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "vector_isa.h"
#include "xla/ffi/api/ffi.h"

namespace native_ops {

// Runs body(0) ... body(count - 1) on the threads of the pool and on the calling thread; returns when all have ended.
//
// - The caller runs iterations itself and waits only for those that a thread has begun. So there is no deadlock
//   when every thread of the pool runs such a loop.
// - If an iteration throws, those not begun yet are skipped. The first exception is rethrown once no thread is inside
//   `body` any more, because `body` refers to the caller's stack.
// - If a helper cannot be scheduled for lack of memory, fewer threads run the loop.
inline void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> body) {
  struct Loop {
    std::function<void(int64_t)> body;
    int64_t count;
    std::atomic<int64_t> next{0}, ended{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // the first
    std::mutex mutex;
    std::condition_variable all_ended;

    void run() noexcept {
      for (int64_t i; (i = next.fetch_add(1)) < count;) {
        try {
          if (!failed.load()) body(i);
        } catch (...) {
          if (!failed.exchange(true)) error = std::current_exception();
        }
        if (ended.fetch_add(1) + 1 == count) {
          std::lock_guard<std::mutex> lock(mutex);
          all_ended.notify_all();
        }
      }
    }
  };
  auto loop = std::make_shared<Loop>();  // shared: a helper may start after the loop has ended
  loop->body = std::move(body);
  loop->count = count;
  try {
    for (int64_t i = 1; i < std::min<int64_t>(count, pool.num_threads()); ++i) pool.Schedule([loop] { loop->run(); });
  } catch (const std::bad_alloc&) {
  }
  loop->run();
  {
    std::unique_lock<std::mutex> lock(loop->mutex);
    loop->all_ended.wait(lock, [&] { return loop->ended.load() == count; });
  }
  if (loop->error) std::rethrow_exception(loop->error);
}

// Runs tasks 0 ... count - 1 of an operation.
template <typename Operation>
void run_tasks(xla::ffi::ThreadPool& pool, int64_t count, const Operation& operation, TaskFn<Operation> function) {
  parallel_for(pool, count, [&](int64_t index) { function(operation, index); });
}

}  // namespace native_ops
