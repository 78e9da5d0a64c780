// The two forward forms of a pointwise loss, with and without its weights: elementwise, and summed, where the gradient
// can be had besides.
#pragma once
#include "../math/loss_sum.h"
#include "reduce.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Few: inputs without weights (the formula's defaults stand in), All: with them.
template <class Formula, int Few, int All = Few>
Status loss_map(const MapArgs& a) {
  return a.operands - a.outputs == Few ? map<Few, Formula>(a) : map<All, Formula>(a);
}
template <class Formula, int Few, int All = Few, class Gradient = NoGradient>
Status loss_sum(const ReduceArgs& a) {
  return a.inputs == Few ? reduce<math::LossSum, Formula, Few, Gradient>(a)
                         : reduce<math::LossSum, Formula, All, Gradient>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
