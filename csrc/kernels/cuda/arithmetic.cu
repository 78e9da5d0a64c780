#include "../math/exponents.h"

#include "map.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// The value of an operand that is a number of the host's; else NaN.
double constant_operand(const MapArgs& a, int k) {
  return a.operand[k].data ? __builtin_nan("") : a.operand[k].immediate.real;
}

}  // namespace

Status add(const MapArgs& a) { return map_with_integers<2, math::Add>(a); }
Status sub(const MapArgs& a) { return map_with_integers<2, math::Sub>(a); }
Status mul(const MapArgs& a) { return map_with_integers<2, math::Mul>(a); }
Status div(const MapArgs& a) { return map<2, math::Div>(a); }
Status div_floor(const MapArgs& a) { return map_with_integers<2, math::DivFloor>(a); }
Status div_trunc(const MapArgs& a) { return map_with_integers<2, math::DivTrunc>(a); }
Status pow(const MapArgs& a) {
  const bool floating = a.compute == Dtype::f32 || a.compute == Dtype::f64;
  return math::with_power(
      constant_operand(a, 2), /*number=*/true, floating,
      [&](auto power) { return map_with_integers<2, decltype(power)>(a); },
      [&](auto power) { return map<2, decltype(power)>(a); });
}
Status pow_base_backward(const MapArgs& a) {
  return math::with_power_gradient(constant_operand(a, 3), /*number=*/true,
                                   [&](auto gradient) { return map<3, decltype(gradient)>(a); });
}
Status pow_exponent_backward(const MapArgs& a) { return map<4, math::PowExponentBackward>(a); }

Status eq(const MapArgs& a) { return map_comparison<2, math::Eq>(a); }
Status ne(const MapArgs& a) { return map_comparison<2, math::Ne>(a); }
Status lt(const MapArgs& a) { return map_comparison<2, math::Lt>(a); }
Status le(const MapArgs& a) { return map_comparison<2, math::Le>(a); }
Status gt(const MapArgs& a) { return map_comparison<2, math::Gt>(a); }
Status ge(const MapArgs& a) { return map_comparison<2, math::Ge>(a); }

Status neg(const MapArgs& a) { return map_with_integers<1, math::Neg>(a); }
Status abs(const MapArgs& a) { return map_with_integers<1, math::Abs>(a); }
Status abs_backward(const MapArgs& a) { return map<2, math::AbsBackward>(a); }
Status sqrt(const MapArgs& a) { return map<1, math::Sqrt>(a); }
Status sqrt_backward(const MapArgs& a) { return map<2, math::SqrtBackward>(a); }
Status exp(const MapArgs& a) { return map<1, math::Exp>(a); }
Status log(const MapArgs& a) { return map<1, math::Log>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
