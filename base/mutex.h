// A mutex whose use clang checks: -Wthread-safety rejects code that touches a member GUARDED_BY a
// mutex without holding it, or that calls a function which REQUIRES one. Other compilers see a
// std::mutex and a std::condition_variable.
// https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#ifdef __clang__
#define GIGAGPT_THREAD_SAFETY(x) __attribute__((x))
#else
#define GIGAGPT_THREAD_SAFETY(x)
#endif

#define CAPABILITY(name) GIGAGPT_THREAD_SAFETY(capability(name))
#define SCOPED_CAPABILITY GIGAGPT_THREAD_SAFETY(scoped_lockable)
// A member that is read and written under the mutex alone.
#define GUARDED_BY(mutex) GIGAGPT_THREAD_SAFETY(guarded_by(mutex))
// A function that is called under the mutex, one that must not be, one that takes or gives it up.
#define REQUIRES(...) GIGAGPT_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) GIGAGPT_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) GIGAGPT_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RELEASE(...) GIGAGPT_THREAD_SAFETY(release_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) GIGAGPT_THREAD_SAFETY(assert_capability(x))

namespace gigagpt {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds the mutex for a scope, and knows how long it waited for it.
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) {
    const auto start = std::chrono::steady_clock::now();
    mutex_.lock();
    waited_ = std::chrono::steady_clock::now() - start;
  }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  double waited_ms() const { return waited_.count(); }

 private:
  Mutex& mutex_;
  std::chrono::duration<double, std::milli> waited_;
};

// A condition is waited for in a loop, which lets the analysis see that it is read under the mutex:
//   while (!ready_) changed_.wait(mutex_);
class CondVar {
 public:
  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Returns after the duration at the latest.
  template <class Duration>
  void wait_for(Mutex& mutex, const Duration& duration) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait_for(lock, duration);
    lock.release();
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

// Claims memory for one thread without a lock: what is GUARDED_BY it is that thread's own, used in
// functions that REQUIRE it. Costs nothing when the program runs.
class CAPABILITY("role") ThreadRole {
 public:
  // States that the caller runs on the thread of this role.
  void assert_held() const ASSERT_CAPABILITY(this) {}
};

}  // namespace gigagpt
