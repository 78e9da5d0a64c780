// Which formula computes a power whose exponent is one number for all elements.
#pragma once
#include "arithmetic.h"

namespace fastgrad::math {

// any(formula of a^e), or real(formula) where it is for floating point only, and the arithmetic is. As in torch, a
// Python `number` of 0.5 gives a root, which of -0 and -inf is not what pow gives.
template <class Any, class Real>
auto with_power(double e, bool number, bool floating, const Any& any, const Real& real) {
  if (e == 2) return any(PowConstant<Exponent::two>());
  if (e == 3) return any(PowConstant<Exponent::three>());
  if (floating && e == -1) return real(PowConstant<Exponent::minus_one>());
  if (floating && e == -2) return real(PowConstant<Exponent::minus_two>());
  if (floating && number && e == 0.5) return real(PowConstant<Exponent::half>());
  if (floating && number && e == -0.5) return real(PowConstant<Exponent::minus_half>());
  return any(Pow());
}

// f(formula of the gradient of a^e by a)
template <class F>
auto with_power_gradient(double e, bool number, const F& f) {
  if (e == 2) return f(PowBaseBackward<PowConstant<Exponent::one>>());
  if (e == 3) return f(PowBaseBackward<PowConstant<Exponent::two>>());
  if (number && e == 0.5) return f(PowBaseBackward<PowConstant<Exponent::minus_half>>());
  if (e == -1) return f(PowBaseBackward<PowConstant<Exponent::minus_two>>());
  return f(PowBaseBackward<Pow>());
}

}  // namespace fastgrad::math
