// Stores past the cache, for results too large to be found in it by whoever reads them next.
//
// An ordinary store first reads the line that it writes, and pushes another out: a third of the traffic of an op of one
// operand. A whole line that is streamed goes to memory alone. A loop that makes whole lines streams its registers
// (Vec::stream); what is converted, or does not begin with a line, was computed in a block in L1 before (StreamWriter).
// Lines that are written in part are stored as usual. Memory that was just read is best written as usual: its lines
// are there.
#pragma once
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int64_t kStreamFrom = 8 << 20;  // bytes of a result; below, a cache may keep it for its reader
constexpr int64_t kLine = 64;             // bytes of a cache line
constexpr int64_t kStreamRun = 512;       // bytes that are contiguous at least: few lines are written in part

FASTGRAD_INLINE void stream_line(char* to, const char* from) {
  using Bytes = Vec<uint8_t>;
  for (int i = 0; i < kLine; i += Bytes::size)
    Bytes::load(reinterpret_cast<const uint8_t*>(from + i)).stream(reinterpret_cast<uint8_t*>(to + i));
}

// Bytes from the beginning of its line.
FASTGRAD_INLINE int64_t place_in_line(const void* p) { return int64_t(reinterpret_cast<uintptr_t>(p) & (kLine - 1)); }

// What was streamed before is in memory, for all threads, before what is stored after.
FASTGRAD_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Writes runs of bytes whose whole lines are streamed. A line that two adjacent runs share waits for the second; what
// is written is in memory, for all threads, when the writer is gone.
class StreamWriter {
 public:
  StreamWriter() = default;
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;
  ~StreamWriter() {
    if (!next_) return;
    flush();
    stream_fence();
  }

  void write(char* to, const char* from, int64_t n) {
    if (to != next_) {
      flush();
      first_ = next_ = to;
    }
    if (const int64_t filled = place_in_line(next_); filled > 0) {
      const int64_t part = n < kLine - filled ? n : kLine - filled;
      std::memcpy(line_ + filled, from, part);
      next_ += part, from += part, n -= part;
      if (filled + part < kLine) return;
      if (next_ - first_ >= kLine)
        stream_line(next_ - kLine, line_);
      else
        std::memcpy(first_, line_ + kLine - (next_ - first_), next_ - first_);
    }
    for (; n >= kLine; n -= kLine, next_ += kLine, from += kLine) stream_line(next_, from);
    std::memcpy(line_, from, n);
    next_ += n;
  }

 private:
  // Writes the part of a line that waits.
  void flush() {
    const int64_t filled = place_in_line(next_), part = next_ - first_ < filled ? next_ - first_ : filled;
    if (part > 0) std::memcpy(next_ - part, line_ + filled - part, part);
  }

  char *first_ = nullptr, *next_ = nullptr;  // where the run began, and its next byte
  alignas(kLine) char line_[kLine];
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
