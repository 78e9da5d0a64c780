// Conversion loops between element types and compute types; see convert.h.
#include "convert.h"

#include "stream.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kAhead = 4096;         // elements
constexpr int64_t kStridedAhead = 4096;  // bytes
constexpr int64_t kSecondAhead = 2048;   // bytes, of every second element
constexpr int64_t kConverted = 1024;     // elements converted at a time before they are streamed

template <class S>
constexpr bool is_half = std::is_same_v<S, f16> || std::is_same_v<S, bf16>;
// Whether a register is narrowed by instructions; lane by lane is slower than the plain loop, vectorized.
#if defined(__AVX512F__) || defined(__F16C__)
template <class S>
constexpr bool narrows_registers = is_half<S>;
#else
template <class S>
constexpr bool narrows_registers = std::is_same_v<S, bf16>;
#endif

// The loops of contiguous runs: of 16-bit floats, registers are converted at once where the ISA can.
template <class T, class S>
FASTGRAD_INLINE void load_contiguous(T* __restrict to, const S* __restrict from, int64_t n,
                                     [[maybe_unused]] bool prefetch) {
  int64_t i = 0;
  if constexpr (is_half<S> && std::is_same_v<T, float>)
    for (; i + Vec<T>::size <= n; i += Vec<T>::size) {
      if (prefetch) __builtin_prefetch(from + i + kAhead, 0, 2);
      load_as<T>(from + i).store(to + i);
    }
  for (; i < n; ++i) to[i] = T(from[i]);
}
template <class T, class S>
FASTGRAD_INLINE void store_contiguous(const T* __restrict from, S* __restrict to, int64_t n) {
  int64_t i = 0;
  if constexpr (narrows_registers<S> && std::is_same_v<T, float>)
    for (; i + Vec<T>::size <= n; i += Vec<T>::size) store_as(Vec<T>::load(from + i), to + i);
  for (; i < n; ++i) to[i] = S(from[i]);
}

template <class T, size_t... I>
FASTGRAD_INLINE Vec<T> even_lanes(Vec<T> a, Vec<T> b, std::index_sequence<I...>) {
  return Vec<T>(__builtin_shufflevector(a.v, b.v, 2 * int(I)...));
}
// to[i] = from[2 i]: whole registers, of which the last would end past the last element.
template <class T>
FASTGRAD_INLINE void load_every_second(T* __restrict to, const T* __restrict from, int64_t n) {
  using V = Vec<T>;
  int64_t i = 0;
  for (; i + V::size < n; i += V::size) {
    const T* const at = from + 2 * i;
    __builtin_prefetch(reinterpret_cast<const char*>(at) + kSecondAhead, 0, 2);
    __builtin_prefetch(reinterpret_cast<const char*>(at + V::size) + kSecondAhead, 0, 2);
    even_lanes(V::load(at), V::load(at + V::size), std::make_index_sequence<V::size>()).store(to + i);
  }
  for (; i < n; ++i) to[i] = from[2 * i];
}
// Every `step` bytes, more than the elements' own. The lines are fetched ahead: the loop is too slow to ask in time.
template <class T, class S>
FASTGRAD_INLINE void load_strided(T* __restrict to, const char* __restrict from, int64_t step, int64_t n,
                                  bool prefetch) {
  constexpr int kUnit = 16;
  int64_t i = 0;
  if (prefetch && step > 0 && step < 64)
    for (; i + kUnit <= n; i += kUnit, from += kUnit * step) {
      for (int64_t line = 0; line < kUnit * step; line += 64) __builtin_prefetch(from + kStridedAhead + line);
      for (int u = 0; u < kUnit; ++u) to[i + u] = T(*reinterpret_cast<const S*>(from + u * step));
    }
  for (; i < n; ++i, from += step) to[i] = T(*reinterpret_cast<const S*>(from));
}

template <class T, class S>
void load_typed(T* __restrict to, const char* __restrict from, int64_t stride, int64_t n, bool prefetch) {
  if (stride == sizeof(S)) return load_contiguous(to, reinterpret_cast<const S*>(from), n, prefetch);
  if (stride == 0) {
    const T x = T(*reinterpret_cast<const S*>(from));
    for (int64_t i = 0; i < n; ++i) to[i] = x;
    return;
  }
  if constexpr (std::is_same_v<T, S> && sizeof(T) >= 4)
    if (stride == 2 * sizeof(S)) return load_every_second(to, reinterpret_cast<const S*>(from), n);
  load_strided<T, S>(to, from, stride, n, prefetch);
}
template <class T, class S>
void store_typed(const T* __restrict from, char* __restrict to, int64_t stride, int64_t n) {
  if (stride == sizeof(S)) return store_contiguous(from, reinterpret_cast<S*>(to), n);
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<S*>(to + i * stride) = S(from[i]);
}

}  // namespace

#define FASTGRAD_DTYPES(CASE) \
  CASE(f32, float)            \
  CASE(f64, double)           \
  CASE(bf16, bf16)            \
  CASE(f16, f16)              \
  CASE(i64, int64_t)          \
  CASE(i32, int32_t)          \
  CASE(i16, int16_t)          \
  CASE(i8, int8_t)            \
  CASE(u8, uint8_t)           \
  CASE(b8, b8)

template <class T>
void load_run(Dtype dtype, T* to, const char* from, int64_t stride, int64_t n, bool prefetch) {
  switch (dtype) {
#define FASTGRAD_CASE(name, S) \
  case Dtype::name:            \
    return load_typed<T, S>(to, from, stride, n, prefetch);
    FASTGRAD_DTYPES(FASTGRAD_CASE)
#undef FASTGRAD_CASE
  }
}
template <class T>
void store_run(Dtype dtype, const T* from, char* to, int64_t stride, int64_t n) {
  switch (dtype) {
#define FASTGRAD_CASE(name, S) \
  case Dtype::name:            \
    return store_typed<T, S>(from, to, stride, n);
    FASTGRAD_DTYPES(FASTGRAD_CASE)
#undef FASTGRAD_CASE
  }
}
template <class T>
void stream_run(Dtype dtype, const T* from, char* to, int64_t n, StreamWriter& writer) {
  const int64_t size = size_of(dtype);
  if (dtype == dtype_of<T>) return writer.write(to, reinterpret_cast<const char*>(from), n * size);
  alignas(64) char converted[kConverted * 8];
  for (int64_t i = 0; i < n; i += kConverted) {
    const int64_t count = n - i < kConverted ? n - i : kConverted;
    store_run<T>(dtype, from + i, converted, size, count);
    writer.write(to + i * size, converted, count * size);
  }
}

#define FASTGRAD_INSTANTIATE(T)                                              \
  template void load_run<T>(Dtype, T*, const char*, int64_t, int64_t, bool); \
  template void store_run<T>(Dtype, const T*, char*, int64_t, int64_t);      \
  template void stream_run<T>(Dtype, const T*, char*, int64_t, StreamWriter&);
FASTGRAD_INSTANTIATE(float)
FASTGRAD_INSTANTIATE(double)
FASTGRAD_INSTANTIATE(int64_t)
FASTGRAD_INSTANTIATE(int32_t)
FASTGRAD_INSTANTIATE(int16_t)
FASTGRAD_INSTANTIATE(int8_t)
FASTGRAD_INSTANTIATE(uint8_t)

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
