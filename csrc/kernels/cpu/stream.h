// Stores past the cache, for results too large to be found in it by whoever reads them next.
//
// An ordinary store first reads the line that it writes, and pushes another out: a third of the traffic of an op of one
// operand. A whole line that is streamed goes to memory alone. What is written was computed in a block in L1 before;
// lines that it fills in part are stored as usual. A memory that was just read is best written as usual: its lines are
// there.
#pragma once
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int64_t kStreamFrom = 8 << 20;  // bytes of a result; below, a cache may keep it for its reader
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

// Bytes up to the next line, at most n.
FASTGRAD_INLINE int64_t bytes_to_line(const void* p, int64_t n) {
  const int64_t bytes = int64_t(-reinterpret_cast<uintptr_t>(p) & 63);
  return bytes < n ? bytes : n;
}

// A copy whose whole lines are streamed.
FASTGRAD_INLINE void stream_bytes(char* to, const char* from, int64_t n) {
  int64_t i = bytes_to_line(to, n);
  std::memcpy(to, from, i);
  for (; i + 64 <= n; i += 64) stream_line(to + i, from + i);
  std::memcpy(to + i, from + i, n - i);
}

// Streamed stores are seen by other threads, in order, only after this.
FASTGRAD_INLINE void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
