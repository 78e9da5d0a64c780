// Which formula computes a power whose exponent is one number for all elements.
#pragma once
#include "arithmetic.h"

namespace fastgrad::math {

// f(formula of a^e); one that is for floating point only is chosen if the arithmetic is.
template <class F>
auto with_power(double e, bool floating, const F& f) {
  if (e == 2) return f(PowConstant<Exponent::two>());
  if (e == 3) return f(PowConstant<Exponent::three>());
  if (floating && e == -1) return f(PowConstant<Exponent::minus_one>());
  if (floating && e == -2) return f(PowConstant<Exponent::minus_two>());
  if (floating && e == 0.5) return f(PowConstant<Exponent::half>());
  if (floating && e == -0.5) return f(PowConstant<Exponent::minus_half>());
  return f(Pow());
}
template <class Power>
inline constexpr bool takes_integers =
    std::is_same_v<Power, Pow> || std::is_same_v<Power, PowConstant<Exponent::two>> ||
    std::is_same_v<Power, PowConstant<Exponent::three>>;

// f(formula of the gradient of a^e by a)
template <class F>
auto with_power_gradient(double e, const F& f) {
  if (e == 2) return f(PowBaseBackward<PowConstant<Exponent::one>>());
  if (e == 3) return f(PowBaseBackward<PowConstant<Exponent::two>>());
  if (e == 0.5) return f(PowBaseBackward<PowConstant<Exponent::minus_half>>());
  if (e == -1) return f(PowBaseBackward<PowConstant<Exponent::minus_two>>());
  return f(PowBaseBackward<Pow>());
}

}  // namespace fastgrad::math
