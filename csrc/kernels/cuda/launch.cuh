// What every CUDA kernel file needs: launching, element types and their conversions.
//
// A launch is an ordinary function call (cudaLaunchKernelEx), so the same source compiles with nvcc and, against
// csrc/emulator, with a C++ compiler. Launchers take the stream from their arguments and return the error code.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "../backend.h"
#include "../math/value.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

struct Launch {
  int64_t blocks;
  int threads;
  Stream stream;
  int64_t blocks_y = 1, blocks_z = 1;
  int shared_bytes = 0;
};

// Runs kernel(args...); an empty grid is no error.
template <class... Params, class... Args>
Status launch(const Launch& how, void (*kernel)(Params...), Args... args) {
  if (how.blocks == 0 || how.blocks_y == 0 || how.blocks_z == 0) return kSuccess;
  if (how.blocks > 0x7fffffff || how.blocks_y > 65535 || how.blocks_z > 65535) return cudaErrorInvalidValue;
  if (how.shared_bytes > 48 << 10) {
    const Status status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, how.shared_bytes);
    if (status != kSuccess) return status;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(how.blocks), unsigned(how.blocks_y), unsigned(how.blocks_z));
  config.blockDim = dim3(unsigned(how.threads));
  config.dynamicSmemBytes = size_t(how.shared_bytes);
  config.stream = static_cast<cudaStream_t>(how.stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

// The block's dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char fastgrad_dynamic_shared[];
  return fastgrad_dynamic_shared;
#else
  return cuda_emulator::dynamic_shared();
#endif
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr unsigned kFullWarp = 0xffffffffu;

using bf16 = __nv_bfloat16;
using f16 = __half;

// One element to another type. 16-bit floats go through float, as torch's do.
template <class To, class From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<From, bf16>)
    return convert<To>(__bfloat162float(x));
  else if constexpr (std::is_same_v<From, f16>)
    return convert<To>(__half2float(x));
  else if constexpr (std::is_same_v<To, bf16>)
    return __float2bfloat16(float(x));
  else if constexpr (std::is_same_v<To, f16>)
    return __float2half(float(x));
  else if constexpr (std::is_same_v<To, bool>)
    return x != From(0);
  else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>)
    return To(int64_t(x));
  else
    return To(x);
}

// f(T{}) for the element type that `dtype` names.
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
  CASE(b8, bool)
template <class F>
__host__ __device__ __forceinline__ void with_dtype(Dtype dtype, const F& f) {
  switch (dtype) {
#define FASTGRAD_CASE(name, T) \
  case Dtype::name:            \
    return f(T{});
    FASTGRAD_DTYPES(FASTGRAD_CASE)
#undef FASTGRAD_CASE
  }
}
template <class F>
__device__ __forceinline__ void with_float_dtype(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f64:
      return f(double{});
    case Dtype::bf16:
      return f(bf16{});
    default:
      return f(f16{});
  }
}
template <class T>
constexpr Dtype dtype_of() {
#define FASTGRAD_CASE(name, U) \
  if constexpr (std::is_same_v<T, U>) return Dtype::name;
  FASTGRAD_DTYPES(FASTGRAD_CASE)
#undef FASTGRAD_CASE
}

inline bool is_float(Dtype d) { return d == Dtype::f32 || d == Dtype::f64 || d == Dtype::bf16 || d == Dtype::f16; }

// Arithmetic on T happens in arithmetic_t<T>.
template <class T>
struct ArithmeticOf {
  using type = T;
};
template <>
struct ArithmeticOf<bf16> {
  using type = float;
};
template <>
struct ArithmeticOf<f16> {
  using type = float;
};
template <class T>
using arithmetic_t = typename ArithmeticOf<T>::type;

// N elements, moved as one.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};
inline bool is_aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % uintptr_t(bytes) == 0; }

template <class A>
__device__ __forceinline__ void store_as(Dtype dtype, void* p, A x) {
  with_dtype(dtype, [&](auto zero) { *static_cast<decltype(zero)*>(p) = convert<decltype(zero)>(x); });
}

// Division of 31-bit numbers by a constant: a multiplication and a shift (Granlund and Montgomery, 1994).
struct Divider {
  unsigned divisor = 1, multiplier = 1, shift = 0;
  Divider() = default;
  explicit Divider(int64_t d) : divisor(unsigned(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    multiplier = unsigned(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor)) / divisor + 1);
  }
  __device__ __forceinline__ unsigned divide(unsigned n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

// The same for numbers below 2^62.
struct WideDivider {
  uint64_t divisor = 1, multiplier = 1;
  unsigned shift = 0;
  WideDivider() = default;
  explicit WideDivider(int64_t d) : divisor(uint64_t(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    multiplier = uint64_t(((__uint128_t(1) << 64) * ((uint64_t(1) << shift) - divisor)) / divisor + 1);
  }
  __device__ __forceinline__ uint64_t divide(uint64_t n) const { return (__umul64hi(n, multiplier) + n) >> shift; }
};

template <class Formula>
Formula make_formula(const Number* parameter) {
  if constexpr (std::is_constructible_v<Formula, const Number*>)
    return Formula(parameter);
  else
    return Formula{};
}

template <class R>
inline constexpr int output_count = 1;
template <class V, int N>
inline constexpr int output_count<math::Tuple<V, N>> = N;
template <class V>
__device__ __forceinline__ V item(const V& r, int) {
  return r;
}
template <class V, int N>
__device__ __forceinline__ V item(const math::Tuple<V, N>& r, int k) {
  return r.item[k];
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
