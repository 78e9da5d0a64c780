// What a formula may use: + - * / and comparisons, and the functions below, called unqualified.
//
// A formula is a template over its value type V. For scalars (device code, integer arithmetic in tests) the
// functions are those of this file; for a SIMD register (kernels/cpu/simd.h) argument-dependent lookup finds the
// ones beside that type. Nothing here is instantiated in a per-ISA file, so no ISA leaks through these inlines.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../backend.h"

#ifdef __CUDACC__
#define FASTGRAD_FORMULA __host__ __device__ __forceinline__
#else
#define FASTGRAD_FORMULA inline __attribute__((always_inline))
#endif

namespace fastgrad::math {

// scalar_t<V> is the type of one element of V; SIMD registers specialize it.
template <class V>
struct ScalarOf {
  using type = V;
};
template <class V>
using scalar_t = typename ScalarOf<V>::type;
template <class V>
inline constexpr bool is_integer = std::is_integral_v<scalar_t<V>>;

// A parameter in the arithmetic of V.
template <class V>
FASTGRAD_FORMULA V value(const Number& n) {
  if constexpr (is_integer<V>)
    return V(scalar_t<V>(n.integer));
  else
    return V(scalar_t<V>(n.real));
}

// x < 0, which unsigned values never are.
template <class V>
FASTGRAD_FORMULA auto is_negative(V x) {
  if constexpr (std::is_unsigned_v<scalar_t<V>>)
    return x != x;
  else
    return x < V(0);
}

// Formulas whose arithmetic takes longer than reading their operands from memory: transcendental functions.
struct BoundByArithmetic {};
template <class Formula>
constexpr bool kBoundByMemory = !std::is_base_of_v<BoundByArithmetic, Formula>;

// What a formula with several outputs returns.
template <class V, int N>
struct Tuple {
  V item[N];
};

#define FASTGRAD_SCALAR_FUNCTIONS(T, f)                                                          \
  FASTGRAD_FORMULA T exp(T x) { return ::exp##f(x); }                                            \
  FASTGRAD_FORMULA T exp_nonpositive(T x) { return ::exp##f(x); } /* x <= 0, or not far above */ \
  FASTGRAD_FORMULA T tanh(T x) { return ::tanh##f(x); }                                          \
  FASTGRAD_FORMULA T log(T x) { return ::log##f(x); }                                            \
  FASTGRAD_FORMULA T log1p_of_finite(T x) { return ::log1p##f(x); }        /* -1 < x < inf */    \
  FASTGRAD_FORMULA T log1p_of_fraction(T x) { return ::log1p##f(x); }      /* 0 <= x <= 1 */     \
  FASTGRAD_FORMULA bool is_interior(T x) { return x > T(1e-37) && x < 1; } /* of (0, 1) */       \
  FASTGRAD_FORMULA bool is_binary(T x) { return x == 0 || x == 1; }                              \
  /* of the target t in {0, 1}, where x is the probability of 1, in the interior */              \
  FASTGRAD_FORMULA T log_likelihood(T x, T t) { return t == 1 ? ::log##f(x) : ::log1p##f(-x); }  \
  FASTGRAD_FORMULA T sqrt(T x) { return ::sqrt##f(x); }                                          \
  FASTGRAD_FORMULA T floor(T x) { return ::floor##f(x); }                                        \
  FASTGRAD_FORMULA T trunc(T x) { return ::trunc##f(x); }                                        \
  FASTGRAD_FORMULA T pow(T x, T y) { return ::pow##f(x, y); }                                    \
  FASTGRAD_FORMULA T fmod(T x, T y) { return ::fmod##f(x, y); }                                  \
  FASTGRAD_FORMULA T abs(T x) { return ::fabs##f(x); }                                           \
  FASTGRAD_FORMULA T fma(T a, T b, T c) { return ::fma##f(a, b, c); }                            \
  FASTGRAD_FORMULA T copysign(T x, T sign) { return ::copysign##f(x, sign); }                    \
  FASTGRAD_FORMULA T at_least(T x, T low) { return x < low ? low : x; } /* NaN stays */          \
  FASTGRAD_FORMULA T select(bool c, T a, T b) { return c ? a : b; }
FASTGRAD_SCALAR_FUNCTIONS(float, f)
FASTGRAD_SCALAR_FUNCTIONS(double, )
#undef FASTGRAD_SCALAR_FUNCTIONS

// a / b for a divisor of ordinary size. max and min keep NaN.
FASTGRAD_FORMULA double quotient(double a, double b) { return a / b; }
FASTGRAD_FORMULA double max(double a, double b) { return a > b || a != a ? a : b; }
FASTGRAD_FORMULA double min(double a, double b) { return a < b || a != a ? a : b; }
#ifdef __CUDA_ARCH__
// An approximate reciprocal, and the remainder once: the branch for tiny and huge divisors, which / has, is left out.
FASTGRAD_FORMULA float quotient(float a, float b) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  const float q = a * r;
  return fma(fma(-b, q, a), r, q);
}
// One instruction, which the compiler does not find.
FASTGRAD_FORMULA float max(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
FASTGRAD_FORMULA float min(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
#else
FASTGRAD_FORMULA float quotient(float a, float b) { return a / b; }
FASTGRAD_FORMULA float max(float a, float b) { return a > b || a != a ? a : b; }
FASTGRAD_FORMULA float min(float a, float b) { return a < b || a != a ? a : b; }
#endif

// Integers wrap as in torch; the detour over unsigned keeps that defined.
#define FASTGRAD_SCALAR_FUNCTIONS(T)                                                             \
  FASTGRAD_FORMULA T abs(T x) { return int64_t(x) < 0 ? T(0 - std::make_unsigned_t<T>(x)) : x; } \
  FASTGRAD_FORMULA T max(T a, T b) { return a > b ? a : b; }                                     \
  FASTGRAD_FORMULA T min(T a, T b) { return a < b ? a : b; }                                     \
  FASTGRAD_FORMULA T fma(T a, T b, T c) {                                                        \
    using U = std::make_unsigned_t<T>;                                                           \
    return T(U(uint64_t(a) * uint64_t(b) + uint64_t(c)));                                        \
  }                                                                                              \
  FASTGRAD_FORMULA T select(bool c, T a, T b) { return c ? a : b; }
FASTGRAD_SCALAR_FUNCTIONS(int64_t)
FASTGRAD_SCALAR_FUNCTIONS(int32_t)
FASTGRAD_SCALAR_FUNCTIONS(int16_t)
FASTGRAD_SCALAR_FUNCTIONS(int8_t)
FASTGRAD_SCALAR_FUNCTIONS(uint8_t)
#undef FASTGRAD_SCALAR_FUNCTIONS

struct Identity {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return x;
  }
};

}  // namespace fastgrad::math
