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
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX__)
  for (int i = 0; i < 64; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
#elif defined(__SSE2__)
  for (int i = 0; i < 64; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
#else
  std::memcpy(to, from, 64);
#endif
}

FASTGRAD_INLINE bool is_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % kLine == 0; }

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
    if (const int64_t filled = offset(next_); filled > 0) {
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
  static int64_t offset(const char* p) { return int64_t(reinterpret_cast<uintptr_t>(p) & (kLine - 1)); }
  // Writes the part of a line that waits.
  void flush() {
    const int64_t filled = offset(next_), part = next_ - first_ < filled ? next_ - first_ : filled;
    if (part > 0) std::memcpy(next_ - part, line_ + filled - part, part);
  }

  char *first_ = nullptr, *next_ = nullptr;  // where the run began, and its next byte
  alignas(kLine) char line_[kLine];
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
