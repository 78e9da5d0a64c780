// Elementary functions of Vec<float> and Vec<double>, written on fma, round, scale2 and split2. Error budgets (ulp)
// are in docs/numerics.md; tests/test_arithmetic.py and tests/test_activations.py hold them over the whole range.
#pragma once

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// A whole number n, and `shifted`, whose last bits are n + kBias.
template <class T>
struct Exponent {
  Vec<T> n, shifted;
  // 2^n, where that is a normal number.
  FASTGRAD_INLINE Vec<T> power() const { return Vec<T>::from_bits(shifted.bits() << Vec<T>::R::kMantissa); }
};

// x = n ln2 + r with |r| <= ln2/2; returns r, and what rounding it lost in r_low. ln2 is split in two parts so that
// n * the first is exact.
template <class T>
FASTGRAD_INLINE Vec<T> reduce_exponent(Vec<T> x, Exponent<T>& e, Vec<T>& r_low) {
  using V = Vec<T>;
  constexpr bool f32 = sizeof(T) == 4;
  const V low(f32 ? T(-1.428606765330187e-06) : T(-1.9082149292705877e-10)), magic(V::kMagic + T(V::R::kBias));
  e.shifted = fma(x, V(T(1.4426950408889634)), magic);
  e.n = e.shifted - magic;
  const V high = fma(e.n, V(f32 ? T(-0.693145751953125) : T(-0.6931471803691238)), x);
  const V r = fma(e.n, low, high);
  r_low = fma(e.n, low, high - r);
  return r;
}

// sum(c[k] x^(k / Step)) over k = First, First + Step, ...
template <int First, int Step, class T, int N>
FASTGRAD_INLINE Vec<T> horner(Vec<T> x, const double (&c)[N]) {
  int k = N - 1 - (N - 1 - First) % Step;
  Vec<T> p = T(c[k]);
  while ((k -= Step) >= First) p = fma(p, x, Vec<T>(T(c[k])));
  return p;
}
// The polynomial sum(c[k] x^k). A long one in two chains, of the even and of the odd powers, which take half as long to
// wait for: a processor holds the operations of few registers at once.
template <class T, int N>
FASTGRAD_INLINE Vec<T> polynomial(Vec<T> x, const double (&c)[N]) {
  if constexpr (N < 8) return horner<0, 1>(x, c);
  const Vec<T> z = x * x;
  return fma(horner<1, 2>(z, c), x, horner<0, 2>(z, c));
}

// exp(r) - 1 - r for |r| <= ln2/2: the minimax polynomial for float (error 2^-28), Taylor's for double.
template <class T>
FASTGRAD_INLINE Vec<T> exp_tail(Vec<T> r) {
  if constexpr (sizeof(T) == 4)
    return polynomial(r, {0.4999999344756025, 0.16666520629439144, 0.04166838809269465, 0.008368717090860208,
                          0.0013814596382240773}) *
           (r * r);
  else
    return polynomial(r, {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                          1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800}) *
           (r * r);
}

// exp(x) = 2^n (1 + expm1_reduced(x, n))
template <class T>
FASTGRAD_INLINE Vec<T> expm1_reduced(Vec<T> x, Exponent<T>& n) {
  Vec<T> r_low;
  const Vec<T> r = reduce_exponent(x, n, r_low);
  return exp_tail(r) + r;
}

// x is less than kExpIsZero where the exponential is 0, and for |x| <= kExpIsNormal it is a normal number.
template <class T>
constexpr T kExpIsZero = sizeof(T) == 4 ? T(-104) : T(-746);
template <class T>
constexpr T kExpIsNormal = sizeof(T) == 4 ? T(87) : T(708);
// p * 2^n in two steps, so that neither factor overflows or underflows before the product does; 0 where x, for which
// this is exp(x), is less than kExpIsZero: there n may be anything, and no arithmetic underflows, which would take 20
// times as long.
template <class T>
FASTGRAD_INLINE Vec<T> scale_or_zero(Vec<T> p, Vec<T> n, Vec<T> x) {
#if defined(__AVX512F__)
  using Register = typename Vec<T>::Register;
  if constexpr (sizeof(T) == 4)
    return (Register)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x.v, _mm512_set1_ps(kExpIsZero<T>), _CMP_NLT_UQ),
                                            (__m512)p.v, (__m512)n.v);
  else
    return (Register)_mm512_maskz_scalef_pd(
        _mm512_cmp_pd_mask((__m512d)x.v, _mm512_set1_pd(kExpIsZero<T>), _CMP_NLT_UQ), (__m512d)p.v, (__m512d)n.v);
#else
  const auto zero = x < Vec<T>(kExpIsZero<T>);
  return select(zero, Vec<T>(0), scale2(p, select(zero, Vec<T>(0), n)));
#endif
}
// (1 + p) 2^n where that is a normal number, or p NaN: rounded once, as 1 + p is.
template <class T>
FASTGRAD_INLINE Vec<T> scale_normal(Vec<T> p, const Exponent<T>& n) {
  const Vec<T> s = n.power();
#if defined(__FMA__)
  return fma(p, s, s);
#else
  return (p + Vec<T>(1)) * s;
#endif
}

// Beyond this bound the exponential is infinity; it keeps n in the range of scale2, and NaN.
template <class T>
FASTGRAD_INLINE Vec<T> bound_above(Vec<T> x) {
  return at_most(x, sizeof(T) == 4 ? T(89) : T(710));
}
// Whether it pays to ask if all lanes give normal numbers: AVX-512 has an instruction for any scaling, and what is not
// x86 none for the question. Both ways give the same bits.
#if defined(__SSE2__) && !defined(__AVX512F__)
constexpr bool kScalesNormal = true;
#else
constexpr bool kScalesNormal = false;
#endif
// Of x that is not far above 0: whether all exponentials are normal numbers.
template <class T>
FASTGRAD_INLINE bool exp_is_normal(Vec<T> x) {
  return all(x >= Vec<T>(-kExpIsNormal<T>));
}
// exp(x) for |x| <= kExpIsNormal, or NaN.
template <class T>
FASTGRAD_INLINE Vec<T> exp_normal(Vec<T> x) {
  Exponent<T> n;
  const Vec<T> p = expm1_reduced(x, n);
  return scale_normal(p, n);
}
// exp(x) for x <= 0, or so little above that it does not overflow.
template <class T>
FASTGRAD_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  Exponent<T> n;
  const Vec<T> p = expm1_reduced(x, n);
  if (kScalesNormal && __builtin_expect(exp_is_normal(x), true)) return scale_normal(p, n);
  return scale_or_zero(p + Vec<T>(1), n.n, x);
}
template <class T>
FASTGRAD_INLINE Vec<T> exp(Vec<T> x) {
  if (kScalesNormal && __builtin_expect(all(abs(x) <= Vec<T>(kExpIsNormal<T>)), true)) return exp_normal(x);
  Exponent<T> n;
  x = bound_above(x);
  const Vec<T> p = expm1_reduced(x, n) + Vec<T>(1);
  return scale_or_zero(p, n.n, x);
}

// With t = exp(-2|x|) - 1: tanh|x| = -t / (t + 2). t keeps its relative accuracy near 0; from -40 on it is -1 to the
// last bit.
template <class T>
FASTGRAD_INLINE Vec<T> tanh(Vec<T> x) {
  using V = Vec<T>;
  Exponent<T> n;
  const V p = expm1_reduced(at_least(V(-2) * abs(x), T(-40)), n);
#if defined(__AVX512F__)
  const V s = scale2(V(1), n.n);
#else
  const V s = n.power();
#endif
  const V t = fma(s, p, s - V(1));
  return copysign(quotient(-t, t + V(2)), x);
}

// log(1 + f) = f - (f^2/2 - s (f^2/2 + R(s^2))) with s = f / (2 + f), a form whose last bits do not cancel, plus
// `low`, which lies below them. R(z) = z (2/3 + 2/5 z + 2/7 z^2 + ...), minimax; `series` holds its factor.
template <class T, int N>
FASTGRAD_INLINE Vec<T> log1p_series(Vec<T> f, Vec<T> low, const double (&series)[N]) {
  using V = Vec<T>;
  const V s = quotient(f, f + V(2)), z = s * s, half = V(T(0.5)) * f * f;
  return f - (half - fma(s, fma(polynomial(z, series), z, half), low));
}

// log(m 2^e) = e ln2 + log(m) for normal positive x; `low` is added below the last bit.
template <class T>
FASTGRAD_INLINE Vec<T> log_normal(Vec<T> x, Vec<T> low, Vec<T> exponent_offset = Vec<T>(0)) {
  using V = Vec<T>;
  V e;
  const V f = split2(x, e) - V(1);
  e = e + exponent_offset;
  constexpr bool f32 = sizeof(T) == 4;
  low = fma(e, V(f32 ? T(1.428606765330187e-06) : T(1.90821492927058770002e-10)), low);
  V y;
  if constexpr (f32)
    y = log1p_series(f, low, {0.6666677641687567, 0.39977536809346426, 0.29871866121891205});
  else
    y = log1p_series(f, low,
                     {0.6666666666666735130, 0.3999999999940941908, 0.2857142874366239149, 0.2222219843214978396,
                      0.1818357216161805012, 0.1531383769920937332, 0.1479819860511658591});
  return fma(e, V(f32 ? T(0.693145751953125) : T(0.693147180369123816490)), y);
}

// Subnormals are scaled up first. 0 gives -inf, a negative x NaN, +inf and NaN themselves.
template <class T>
FASTGRAD_INLINE Vec<T> log(Vec<T> x) {
  using V = Vec<T>;
  constexpr T smallest_normal = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  constexpr T scale = T(int64_t(1) << (sizeof(T) == 4 ? 24 : 53));
  const V infinity = T(__builtin_inf());
  const auto ordinary = (x >= V(smallest_normal)) & (x < infinity);
  if (all(ordinary)) return log_normal(x, V(0));
  const auto subnormal = x < V(smallest_normal);
  V y = log_normal(select(subnormal, x * V(scale), x), V(0),
                   select(subnormal, V(sizeof(T) == 4 ? T(-24) : T(-53)), V(0)));
  y = select(x == infinity, x, y);
  y = select(x == V(0), -infinity, y);
  return select(x < V(0), V(T(__builtin_nan(""))), select(x != x, x, y));
}

// log1p(u) = log(w) + (u - (w - 1)) / w with w = 1 + u: the second term is what rounding w lost. For -1 < u < inf.
template <class T>
FASTGRAD_INLINE Vec<T> log1p_of_finite(Vec<T> u) {
  using V = Vec<T>;
  const V w = u + V(1);
  return log_normal(w, quotient(u - (w - V(1)), w));
}

// Questions to all lanes at once.
template <class T>
FASTGRAD_INLINE bool is_interior(Vec<T> x) {  // of (0, 1), and normal
  return all((x > Vec<T>(T(1e-37))) & (x < Vec<T>(1)));
}
template <class T>
FASTGRAD_INLINE bool is_binary(Vec<T> x) {
  return all((x == Vec<T>(0)) | (x == Vec<T>(1)));
}
// For both: to the bit, log(x) where t is 1 and log1p_of_finite(-x) where it is 0.
template <class T>
FASTGRAD_INLINE Vec<T> log_likelihood(Vec<T> x, Vec<T> t) {
  using V = Vec<T>;
  const auto positive = t == V(1);
  const V w = V(1) - x, low = quotient(-x - (w - V(1)), w);
  return log_normal(select(positive, x, w), select(positive, V(0), low));
}

// log1p for 0 <= u <= 1, where no exponent need be split off: u - u^2 Q(u), Q minimax for float (error 2^-30).
template <class T>
FASTGRAD_INLINE Vec<T> log1p_of_fraction(Vec<T> u) {
  if constexpr (sizeof(T) == 4)
    return fma(-(u * u),
               polynomial(u, {0.4999998729028321, -0.3333268976242757, 0.24988578865199831, -0.198979312017712,
                              0.16129333337501214, -0.1246711834569044, 0.08307402813445573, -0.0419813377654847,
                              0.013631473708026268, -0.0020729470238311618}),
               u);
  else
    return log1p_of_finite(u);
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
  const auto plain =
      (abs(q) < V(T(int64_t(1) << (V::R::kMantissa - 2)))) & (abs(b) > V(tiny)) & (abs(b) < V(T(__builtin_inf())));
  if (all(plain)) {
    V r = fma(-trunc(q), b, a);
    const V step = copysign(b, a);
    r = select(select(a < V(0), -r, r) < V(0), r + step, r);
    r = select(abs(r) >= abs(b), r - step, r);
    return copysign(r, a);
  }
#endif
  return lanewise(a, b, [](T x, T y) { return math::fmod(x, y); });
}

#if defined(__FMA__)
// x^y for positive finite x in double: y log x carried in two doubles (high + low), so that the exponential's argument
// is right to the last bit even where it is large. log(m 2^e) = e ln2 + 2s + s^3 (2/3 + z P(z)), s = (m - 1) / (m + 1),
// z = s^2, with 2s and s^3 2/3 in double-double (Dekker 1971, with fma) and P in double.
FASTGRAD_INLINE Vec<double> pow_positive(Vec<double> x, Vec<double> y) {
  using V = Vec<double>;
  const auto subnormal = x < V(2.2250738585072014e-308);
  V e;
  const V f = split2(select(subnormal, x * V(9007199254740992.0), x), e) - V(1);
  e = e - select(subnormal, V(53), V(0));
  const V d = f + V(2), d_low = f - (d - V(2));
  const V s = f / d, s_low = fma(-s, d_low, fma(-s, d, f)) / d;
  const V z = s * s, z_low = fma(s, s, -z) + V(2) * s * s_low;
  V p(2.0 / 25);
  p = fma(p, z, V(2.0 / 23));
  p = fma(p, z, V(2.0 / 21));
  p = fma(p, z, V(2.0 / 19));
  p = fma(p, z, V(2.0 / 17));
  p = fma(p, z, V(2.0 / 15));
  p = fma(p, z, V(2.0 / 13));
  p = fma(p, z, V(2.0 / 11));
  p = fma(p, z, V(2.0 / 9));
  p = fma(p, z, V(2.0 / 7));
  p = fma(p, z, V(2.0 / 5));
  const V third2(2.0 / 3), t = z * p;
  const V c = third2 + t, c_low = (third2 - c) + t + V(3.700743415417188e-17);  // 2/3 - double(2/3)
  const V cube = s * z, cube_low = fma(s, z, -cube) + s * z_low + s_low * z;
  const V v = cube * c, v_low = fma(cube, c, -v) + cube * c_low + cube_low * c;
  const V m = V(2) * s + v, m_low = (V(2) * s - m) + v + (V(2) * s_low + v_low);
  const V scaled = e * V(0.693147180369123816490);  // exact: this part of ln2 ends in zeros
  const V g = scaled + m, g_low = (scaled - g) + m + fma(e, V(1.90821492927058770002e-10), m_low);
  const V log_high = g + g_low, log_low = g_low - (log_high - g);
  const V w = y * log_high;
  const V w_low = select(abs(w) < V(1e4), fma(y, log_high, -w) + y * log_low, V(0));
  Exponent<double> n;
  V r_low;
  const V r = reduce_exponent(at_least(bound_above(w), kExpIsZero<double>), n, r_low), tail = exp_tail(r);
  const V sum = V(1) + r, sum_low = (V(1) - sum) + r;
  return scale2(sum + fma(w_low + r_low, sum + tail, sum_low + tail), n.n);
}
#else
FASTGRAD_INLINE Vec<double> pow_positive(Vec<double> x, Vec<double> y) {
  return lanewise(x, y, [](double a, double b) { return math::pow(a, b); });
}
#endif

// x^y for positive finite x as float needs it: exp(y log x) to 2^-33, by minimax polynomials. Beyond 110 and -110, the
// exponential is infinity and 0 in float.
FASTGRAD_INLINE Vec<double> pow_for_float(Vec<double> x, Vec<double> y) {
  using V = Vec<double>;
  V e;
  const V f = split2(x, e) - V(1), s = quotient(f, f + V(2)), z = s * s;
  const V log_m = s * fma(z,
                          polynomial(z, {0.66666666675801705, 0.3999999562152896, 0.28572109190916586,
                                         0.22176187404527275, 0.19584168820023123}),
                          V(2));
  const V w = at_most(at_least(y * fma(e, V(0.6931471805599453), log_m), -110.0), 110.0);
  const V n = round(w * V(1.4426950408889634)), r = fma(n, V(-0.6931471805599453), w);
  const V tail = polynomial(r, {0.5000000077705619, 0.16666666860515376, 0.0416662704144747, 0.008333264388087446,
                                0.0013946047026939345, 0.00019918370391002713});
  return scale2(fma(tail * r, r, r) + V(1), n);
}
FASTGRAD_INLINE Vec<float> pow_positive(Vec<float> x, Vec<float> y) {
  typedef float Half __attribute__((vector_size(kVecBytes / 2)));
  using D = Vec<double>;
  Half base[2], exponent[2];
  std::memcpy(base, &x, sizeof x);
  std::memcpy(exponent, &y, sizeof y);
  for (int h = 0; h < 2; ++h) {
    const D b = __builtin_convertvector(base[h], D::Register), e = __builtin_convertvector(exponent[h], D::Register);
    base[h] = __builtin_convertvector(pow_for_float(b, e).v, Half);
  }
  std::memcpy(&x, base, sizeof x);
  return x;
}

// The special cases of C99's pow around pow_positive.
template <class T>
FASTGRAD_INLINE Vec<T> pow(Vec<T> x, Vec<T> y) {
  using V = Vec<T>;
  const V infinity = V(T(__builtin_inf())), magnitude = abs(x);
  if (all((x > V(0)) & (x < infinity) & (abs(y) < infinity))) return pow_positive(x, y);
  const auto integer = floor(y) == y, odd = integer & (floor(y * V(T(0.5))) != y * V(T(0.5)));
  V r = pow_positive(magnitude, y);
  r = select(magnitude == V(0), select(y < V(0), infinity, V(0)), r);
  r = select(magnitude == infinity, select(y < V(0), V(0), infinity), r);
  r = select(abs(y) == infinity, select((magnitude > V(1)) == (y > V(0)), infinity, V(0)), r);
  r = select((x < V(0)) & ~integer & (magnitude != infinity), V(T(__builtin_nan(""))), r);
  r = select((x.bits() < 0) & odd, -r, r);
  r = select((magnitude == V(1)) & (abs(y) == infinity), V(1), r);
  r = select((x != x) | (y != y), x + y, r);
  return select((y == V(0)) | (x == V(1)), V(1), r);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
