// Elementary functions of Vec<float> and Vec<double>, written on fma, round, scale2 and split2. Error budgets (ulp)
// are in docs/numerics.md and checked by tests/kernels/simd_math_test.cpp.
#pragma once

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// x = n ln2 + r with |r| <= ln2/2; returns expm1(r) and n. ln2 is split in two parts so that n * hi is exact.
template <class T>
FASTGRAD_INLINE Vec<T> expm1_reduced(Vec<T> x, Vec<T>& n) {
  using V = Vec<T>;
  constexpr bool f32 = sizeof(T) == 4;
  n = round(x * V(T(1.4426950408889634)));
  V r = fma(n, V(f32 ? T(-0.693145751953125) : T(-0.6931471803691238)), x);
  r = fma(n, V(f32 ? T(-1.428606765330187e-06) : T(-1.9082149292705877e-10)), r);
  V q(0);
  if constexpr (f32) {
    q = V(T(1.0 / 5040));
  } else {
    q = fma(V(T(1.0 / 6227020800)), r, V(T(1.0 / 479001600)));
    q = fma(q, r, V(T(1.0 / 39916800)));
    q = fma(q, r, V(T(1.0 / 3628800)));
    q = fma(q, r, V(T(1.0 / 362880)));
    q = fma(q, r, V(T(1.0 / 40320)));
    q = fma(q, r, V(T(1.0 / 5040)));
  }
  q = fma(q, r, V(T(1.0 / 720)));
  q = fma(q, r, V(T(1.0 / 120)));
  q = fma(q, r, V(T(1.0 / 24)));
  q = fma(q, r, V(T(1.0 / 6)));
  q = fma(q, r, V(T(0.5)));
  return fma(q, r * r, r);
}

// The clamp keeps n in the range of scale2; beyond it the result is 0 or infinity anyway. It keeps NaN.
template <class T>
FASTGRAD_INLINE Vec<T> clamp_exponent(Vec<T> x) {
  return min(max(x, Vec<T>(sizeof(T) == 4 ? T(-104) : T(-746))), Vec<T>(sizeof(T) == 4 ? T(89) : T(710)));
}

template <class T>
FASTGRAD_INLINE Vec<T> exp(Vec<T> x) {
  Vec<T> n;
  const Vec<T> p = expm1_reduced(clamp_exponent(x), n);
  return scale2(p + Vec<T>(1), n);
}

template <class T>
FASTGRAD_INLINE Vec<T> expm1(Vec<T> x) {
  Vec<T> n;
  const Vec<T> p = expm1_reduced(clamp_exponent(x), n);
  const Vec<T> s = scale2(Vec<T>(1), n);
  return fma(s, p, s - Vec<T>(1));
}

// log(m 2^e) = e ln2 + log(1 + f), f = m - 1; with s = f / (2 + f), log(1 + f) = f - s (f - R(s^2)): the classical
// scheme (fdlibm), whose last bits do not cancel. For normal positive x; `low` is added below the last bit.
template <class T>
FASTGRAD_INLINE Vec<T> log_normal(Vec<T> x, Vec<T> low, Vec<T> exponent_offset = Vec<T>(0)) {
  using V = Vec<T>;
  V e;
  const V f = split2(x, e) - V(1);
  e = e + exponent_offset;
  const V s = f / (f + V(2)), z = s * s;
  V r(T(0.1479819860511658591));
  r = fma(r, z, V(T(0.1531383769920937332)));
  r = fma(r, z, V(T(0.1818357216161805012)));
  r = fma(r, z, V(T(0.2222219843214978396)));
  r = fma(r, z, V(T(0.2857142874366239149)));
  r = fma(r, z, V(T(0.3999999999940941908)));
  r = fma(r, z, V(T(0.6666666666666735130)));
  const V half = V(T(0.5)) * f * f;
  const V tail = fma(s, half + r * z, fma(e, V(T(1.90821492927058770002e-10)), low));
  return fma(e, V(T(0.693147180369123816490)), f - (half - tail));
}

// Subnormals are scaled up first. 0 gives -inf, a negative x NaN, +inf and NaN themselves.
template <class T>
FASTGRAD_INLINE Vec<T> log(Vec<T> x) {
  using V = Vec<T>;
  constexpr T smallest_normal = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  constexpr T scale = T(int64_t(1) << (sizeof(T) == 4 ? 24 : 53));
  const auto subnormal = x < V(smallest_normal);
  V y = log_normal(select(subnormal, x * V(scale), x), V(0),
                   select(subnormal, V(sizeof(T) == 4 ? T(-24) : T(-53)), V(0)));
  y = select(x == V(T(__builtin_inf())), x, y);
  y = select(x == V(0), V(T(-__builtin_inf())), y);
  return select(x < V(0), V(T(__builtin_nan(""))), select(x != x, x, y));
}

// log1p(u) = log(w) + (u - (w - 1)) / w with w = 1 + u: the second term is what rounding w lost. For u > -1.
template <class T>
FASTGRAD_INLINE Vec<T> log1p(Vec<T> u) {
  using V = Vec<T>;
  const V w = u + V(1);
  const V y = log_normal(w, (u - (w - V(1))) / w);
  return select(u == V(T(__builtin_inf())), u, y);
}

// f lane by lane, for what has no vector form.
template <class T, class F>
FASTGRAD_INLINE Vec<T> lanewise(Vec<T> a, Vec<T> b, F f) {
  alignas(kVecBytes) T x[Vec<T>::size], y[Vec<T>::size];
  a.store(x);
  b.store(y);
  for (int i = 0; i < Vec<T>::size; ++i) x[i] = f(x[i], y[i]);
  return Vec<T>::load(x);
}

// The exact remainder of a / b, with a's sign. n = trunc(a / b) is off by at most one, and fma(-n, b, a) is exact,
// as long as n has no more bits than the mantissa; other lanes go through libm.
template <class T>
FASTGRAD_INLINE Vec<T> fmod(Vec<T> a, Vec<T> b) {
#if defined(__FMA__)
  using V = Vec<T>;
  constexpr T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-290);
  const V q = a / b;
  const auto plain = (abs(q) < V(T(int64_t(1) << (V::R::kMantissa - 2)))) & (abs(b) > V(tiny)) &
                     (abs(b) < V(T(__builtin_inf())));
  if (!any(~plain)) {
    V r = fma(-trunc(q), b, a);
    const V step = copysign(b, a);
    r = select(select(a < V(0), -r, r) < V(0), r + step, r);
    r = select(abs(r) >= abs(b), r - step, r);
    return copysign(r, a);
  }
#endif
  return lanewise(a, b, [](T x, T y) { return math::fmod(x, y); });
}

// float: exp(y log x) in double, which leaves half an ulp of float; double: libm lane by lane.
template <class T>
FASTGRAD_INLINE Vec<T> pow(Vec<T> x, Vec<T> y) {
  if constexpr (sizeof(T) == 8) {
    return lanewise(x, y, [](T a, T b) { return math::pow(a, b); });
  } else {
    using V = Vec<float>;
    using D = Vec<double>;
    alignas(kVecBytes) float base[V::size], exponent[V::size], result[V::size];
    abs(x).store(base);
    y.store(exponent);
    for (int h = 0; h < V::size; h += D::size) {
      D b, e, r;
      for (int i = 0; i < D::size; ++i) b.v[i] = base[h + i], e.v[i] = exponent[h + i];
      r = exp(e * log(b));
      for (int i = 0; i < D::size; ++i) result[h + i] = float(r.v[i]);
    }
    V r = V::load(result);
    const V half = y * V(0.5f);
    const auto integer = floor(y) == y, odd = integer & (floor(half) != half);
    const auto negative = x.bits() < 0;
    r = select(negative & odd, -r, r);
    r = select((x < V(0)) & ~integer & (x != V(-__builtin_inff())), V(__builtin_nanf("")), r);
    r = select((abs(x) == V(1)) & (abs(y) == V(__builtin_inff())), V(1), r);
    r = select((x != x) | (y != y), x + y, r);
    return select((y == V(0)) | (x == V(1)), V(1), r);
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
