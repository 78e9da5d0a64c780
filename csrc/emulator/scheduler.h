// What the scheduler (scheduler.cpp) and the primitives that make threads wait (primitives.cpp) share.
#pragma once
#include "cuda_runtime.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define NO_TSAN
#endif

namespace cuda_emulator {

constexpr int kMaxThreads = 1024, kLanes = 32;

enum class State : char { absent, unstarted, running, at_block_barrier, at_warp_barrier, at_mbarrier, done };

struct Copy {
  void* to;
  const void* from;
  int bytes, bytes_read, group;
};
struct Product {
  Multiply what;
  int group;
};
struct Thread {
  void* stack_pointer;
  char* stack;
  void* tsan_fiber;
  void* asan_fake_stack;
  State state;
  Place place;  // where it waits
  // What it brings to, and takes from, the warp.
  Warp kind;
  unsigned mask;
  uint64_t value, result;
  int source;
  // Its asynchronous copies, oldest first, and the number of groups committed.
  Copy* copies;
  int copy_count, groups;
  // Its products, likewise, and the phase of an mbarrier that it waits for.
  Product* products;
  int product_count, product_groups;
  bool fenced;
  const uint64_t* barrier;
  unsigned parity;
  char warp_order[2];
  unsigned warp_syncs;
};

extern Thread threads[kMaxThreads];  // of the block that runs
extern int total, current, alive;
extern int direction;  // 1 or -1: the order in which threads start

// Suspends the current thread until make_ready.
void wait_in(State);
void make_ready(int thread);
// primitives.cpp: at the start of a block, and when a thread has returned.
void reset_barrier();
void thread_has_left();
// asynchronous.cpp: at the start of a block, when nothing else can run (false: nothing was in flight), and at the end.
void reset_copies();
bool land_a_copy();
void check_nothing_in_flight();
void print_thread(const char* what, int thread);
[[noreturn]] void fail(const char* what, int thread, int other = -1);

// Tell the thread sanitizer of an order: what came before release(x) precedes what follows acquire(x).
inline NO_TSAN void release([[maybe_unused]] char* x) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(x);
#endif
}
inline NO_TSAN void acquire([[maybe_unused]] char* x) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(x);
#endif
}

}  // namespace cuda_emulator
