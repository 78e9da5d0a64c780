// The memory of large CPU outputs.
//
// The system clears and maps a new page at its first touch, which takes longer than most kernels here do. So a large
// output lies on 2 MiB pages of its own, and pages given back are kept for the next output of an op, up to a limit;
// the longest unused ones go back to the system first.
#include "common.h"

#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <deque>
#include <mutex>

namespace fastgrad::ops {
namespace {

constexpr size_t kPage = size_t(2) << 20;
constexpr size_t kPart = size_t(64) << 10;     // of a page, for what is not much longer than one
constexpr size_t kSmallest = size_t(1) << 20;  // below this, malloc keeps its pages itself

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

struct Block {
  void* data = nullptr;
  size_t size = 0;
};

// FASTGRAD_CACHE_MIB, or a sixteenth of the machine's memory and at most 1 GiB.
size_t limit_from_environment() {
  const char* const text = std::getenv("FASTGRAD_CACHE_MIB");
  if (!text || !*text) return std::min<size_t>(size_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 16, 1 << 30);
  size_t mib = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, mib);
  TORCH_CHECK_VALUE(error == std::errc() && stop == end && mib <= SIZE_MAX >> 20,
                    "FASTGRAD_CACHE_MIB must be a number of MiB, but is \"", text, "\"");
  return mib << 20;
}

class Pages {
 public:
  // Memory for `size` bytes, whole pages if it is long; no data if the system has none left.
  Block take(size_t size) {
    size = round_up(size, size < 2 * kPage ? kPart : kPage);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // The best fit, of equal ones the most recent: its pages may still be in the cache.
      auto best = free_.end();
      for (auto b = free_.begin(); b != free_.end(); ++b)
        if (b->size >= size && b->size - size <= size / 16 && (best == free_.end() || b->size <= best->size)) best = b;
      if (best != free_.end()) {
        const Block block = *best;
        free_.erase(best);
        free_bytes_ -= block.size;
        return block;
      }
    }
    Block block = map(size);
    if (!block.data) {
      shrink(0);
      block = map(size);
    }
    return block;
  }
  void give_back(Block block) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.push_back(block);
      free_bytes_ += block.size;
    }
    shrink(limit_);
  }
  void shrink(size_t limit) {
    std::deque<Block> old;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (; free_bytes_ > limit; free_.pop_front()) {
        old.push_back(free_.front());
        free_bytes_ -= free_.front().size;
      }
    }
    for (const Block& b : old) munmap(b.data, b.size);
  }
  size_t free_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return free_bytes_;
  }
  std::mutex& mutex() { return mutex_; }

 private:
  static Block map(size_t size) {
    // One page more, of which what lies before and after whole ones is handed back.
    char* const begin = static_cast<char*>(
        mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (begin == MAP_FAILED) return {};
    const size_t before = (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
    if (before) munmap(begin, before);
    munmap(begin + before + size, kPage - before);
    madvise(begin + before, size, MADV_HUGEPAGE);
    return {begin + before, size};
  }

  std::mutex mutex_;
  std::deque<Block> free_;  // the longest unused first
  size_t free_bytes_ = 0;
  const size_t limit_ = limit_from_environment();
};

// Never destroyed: tensors may outlive static objects.
Pages& pages() {
  static Pages* const instance = [] {
    auto* const p = new Pages;
    pthread_atfork([] { pages().mutex().lock(); }, [] { pages().mutex().unlock(); }, [] { pages().mutex().unlock(); });
    return p;
  }();
  return *instance;
}

void report(const Block& block, int64_t change) {
  if (c10::memoryProfilingEnabled()) c10::reportMemoryUsageToProfiler(block.data, change, 0, 0, c10::Device(c10::kCPU));
}

void give_back(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  report(*block, -int64_t(block->size));
  pages().give_back(*block);
}

}  // namespace

void place_output(const Tensor& output) {
  if (output.nbytes() < kSmallest || !output.is_cpu()) return;
  auto block = std::make_unique<Block>(pages().take(output.nbytes()));
  if (!block->data) return;
  const Block placed = *block;
  // What the tensor was made with was never touched, so no page of it exists.
  output.storage().set_data_ptr_noswap(c10::DataPtr(placed.data, block.release(), &give_back, c10::Device(c10::kCPU)));
  report(placed, int64_t(placed.size));
}

void empty_cache() { pages().shrink(0); }
size_t cached_bytes() { return pages().free_bytes(); }

}  // namespace fastgrad::ops
