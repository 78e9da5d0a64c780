// The scheduler: each CUDA thread runs on a fiber with its own stack until it must wait for others; then the next one
// that is ready, or has not started, continues. Where none is left, the threads that wait are reported.
//
// A thread that finishes leaves its stack to the next. ThreadSanitizer is told of every CUDA thread as a fiber of its
// own and learns an order from barriers only, so this file must not be instrumented by it: NO_TSAN, and no templates.
#include "scheduler.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee-saved registers and the stack pointer to *save, and continues from `load`.
extern "C" void cuda_emulator_switch(void** save, void* load);
asm(R"(.text
.globl cuda_emulator_switch
.hidden cuda_emulator_switch
.type cuda_emulator_switch,@function
cuda_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

constinit uint3 threadIdx{}, blockIdx{};
constinit dim3 blockDim, gridDim;

namespace cuda_emulator {

Thread threads[kMaxThreads];
int total, current, alive, direction;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStack = 512 << 10;
#else
constexpr size_t kStack = 128 << 10;
#endif
constexpr size_t kPage = 4096;

char grid_start, grid_end;
char* free_stacks[kMaxThreads];
int free_stack_count = 0;
int ready[kMaxThreads], ready_first, ready_count;
int started;

void* host_stack_pointer;
#if defined(__SANITIZE_THREAD__)
void* host_tsan_fiber;
#endif
#if defined(__SANITIZE_ADDRESS__)
const void* host_stack;
size_t host_stack_size;
#endif
const std::function<void()>* kernel_body;
unsigned char* shared_memory;

NO_TSAN void set_current(int t) {
  current = t;
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

NO_TSAN void fiber_main();

NO_TSAN void give_stack(int t) {
  if (!threads[t].stack && free_stack_count > 0) threads[t].stack = free_stacks[--free_stack_count];
  if (!threads[t].stack) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) std::abort();
    mprotect(stack, kPage, PROT_NONE);  // an overflow stops here
    threads[t].stack = static_cast<char*>(stack);
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(threads[t].stack + kPage, kStack - kPage);
#endif
  void** top = reinterpret_cast<void**>(threads[t].stack + kStack);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  threads[t].stack_pointer = top;
}

// Under the thread sanitizer a thread keeps its stack: passing it on would look like a race.
NO_TSAN void take_stack(int t) {
#if !defined(__SANITIZE_THREAD__)
  free_stacks[free_stack_count++] = threads[t].stack;
  threads[t].stack = nullptr;
#else
  (void)t;
#endif
}

// Threads start in ascending order in one block, in descending order in the next: results that depend on it show.
NO_TSAN int next_to_start() { return direction > 0 ? started : total - 1 - started; }

NO_TSAN void enter(int t) {
  set_current(t);
#if defined(__SANITIZE_THREAD__)
  if (!threads[t].tsan_fiber) threads[t].tsan_fiber = __tsan_create_fiber(0);
  __tsan_switch_to_fiber(threads[t].tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
}

[[noreturn]] NO_TSAN void report_waiting() {
  std::fprintf(stderr, "CUDA emulator: these threads of block (%u, %u, %u) wait for ever, the others have returned:\n",
               blockIdx.x, blockIdx.y, blockIdx.z);
  for (int t = 0, shown = 0; t < total && shown < 40; ++t) {
    const State state = threads[t].state;
    if (state != State::at_block_barrier && state != State::at_warp_barrier && state != State::at_mbarrier) continue;
    print_thread(state == State::at_block_barrier  ? "at the barrier"
                 : state == State::at_warp_barrier ? "at the warp's"
                                                   : "at the mbarrier",
                 t);
    ++shown;
  }
  std::abort();
}

// Continues another thread from the stack of `from`, whose state is kept unless it is done.
NO_TSAN void switch_away(int from) {
  while (ready_count == 0 && started == total)
    if (!land_a_copy()) report_waiting();
  int to;
  if (ready_count > 0) {
    to = ready[ready_first];
    ready_first = (ready_first + 1) % kMaxThreads;
    --ready_count;
  } else {
    to = next_to_start();
    ++started;
    threads[to].state = State::running;
    give_stack(to);
  }
  if (to == from) return;  // a copy that landed woke it
  enter(to);
  const bool done = threads[from].state == State::done;
  void* nowhere;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(done ? nullptr : &threads[from].asan_fake_stack, threads[to].stack, kStack);
#endif
  if (done) take_stack(from);
  cuda_emulator_switch(done ? &nowhere : &threads[from].stack_pointer, threads[to].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(threads[current].asan_fake_stack, nullptr, nullptr);
#endif
}

NO_TSAN void finish_thread() {
  Thread& me = threads[current];
  if (me.copy_count > 0) fail("a thread returns without having waited for its asynchronous copies", current);
  if (me.product_count > 0) fail("a thread returns without having waited for its products", current);
  me.state = State::done;
  --alive;
  thread_has_left();
  if (alive == 0) check_nothing_in_flight();
}

NO_TSAN void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  if (started == 1)
    __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_size);
  else
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    acquire(&grid_start);
    (*kernel_body)();
    release(&grid_end);
    finish_thread();
#if !defined(__SANITIZE_THREAD__)
    if (ready_count == 0 && started < total) {  // the next thread continues on this stack
      const int t = next_to_start();
      ++started;
      threads[t].state = State::running;
      threads[t].stack = threads[current].stack;
      threads[current].stack = nullptr;
      enter(t);
      continue;
    }
#endif
    break;
  }
  if (alive > 0) switch_away(current);
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(host_tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, host_stack, host_stack_size);
#endif
  take_stack(current);
  void* nowhere;
  cuda_emulator_switch(&nowhere, host_stack_pointer);
  std::abort();
}

NO_TSAN void run_block() {
  alive = total;
  started = ready_count = 0;
  reset_barrier();
  reset_copies();
  direction = (blockIdx.x + blockIdx.y + blockIdx.z) % 2 ? -1 : 1;
  for (int t = 0; t < kMaxThreads; ++t) {
    threads[t].state = t < total ? State::unstarted : State::absent;
    threads[t].copy_count = threads[t].groups = threads[t].product_count = threads[t].product_groups = 0;
    threads[t].fenced = false;
    threads[t].warp_syncs = 0;
  }
  const int t = next_to_start();
  ++started;
  threads[t].state = State::running;
  give_stack(t);
#if defined(__SANITIZE_THREAD__)
  host_tsan_fiber = __tsan_get_current_fiber();
#endif
  release(&grid_start);
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, threads[t].stack, kStack);
#endif
  enter(t);
  cuda_emulator_switch(&host_stack_pointer, threads[t].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  acquire(&grid_end);
}

}  // namespace

NO_TSAN void print_thread(const char* what, int t) {
  const dim3& d = blockDim;
  std::fprintf(stderr, "  thread (%u, %u, %u) %s %s:%u\n", t % d.x, t / d.x % d.y, t / (d.x * d.y), what,
               threads[t].place.file_name(), unsigned(threads[t].place.line()));
}
NO_TSAN void fail(const char* what, int a, int b) {
  std::fprintf(stderr, "CUDA emulator: %s, in block (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
  print_thread("at", a);
  if (b >= 0) print_thread("at", b);
  std::abort();
}

NO_TSAN void make_ready(int t) {
  threads[t].state = State::running;
  ready[(ready_first + ready_count++) % kMaxThreads] = t;
}

NO_TSAN void wait_in(State state) {
  const int me = current;
  threads[me].state = state;
  switch_away(me);
}

NO_TSAN unsigned char* dynamic_shared() { return shared_memory; }

void run_blocks(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  total = int(block.x * block.y * block.z);
  blockDim = block;
  gridDim = grid;
  kernel_body = &body;
  // Of the exact size, so that the address sanitizer sees its end, and full of NaN before each block.
  void* memory = nullptr;
  if (shared_bytes > 0 && posix_memalign(&memory, 1024, shared_bytes)) std::abort();
  shared_memory = static_cast<unsigned char*>(memory);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        if (memory) std::memset(memory, 0xff, shared_bytes);
        run_block();
      }
  std::free(memory);
}

}  // namespace cuda_emulator
