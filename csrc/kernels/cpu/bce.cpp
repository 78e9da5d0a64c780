#include "../math/bce.h"

#include "losses.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

Status binary_cross_entropy(const MapArgs& a) { return loss_map<math::BinaryCrossEntropy, 2, 3>(a); }
Status binary_cross_entropy_sum(const ReduceArgs& a) {
  return loss_sum<math::BinaryCrossEntropy, 2, 3, math::BinaryCrossEntropyBackward>(a);
}
Status binary_cross_entropy_backward(const MapArgs& a) { return loss_map<math::BinaryCrossEntropyBackward, 3, 4>(a); }
Status binary_cross_entropy_target_backward(const MapArgs& a) {
  return loss_map<math::BinaryCrossEntropyTargetBackward, 2, 3>(a);
}
Status count_outside_unit_interval(const ReduceArgs& a) { return loss_sum<math::OutsideUnitInterval, 1>(a); }
Status count_nan(const ReduceArgs& a) { return loss_sum<math::IsNan, 1>(a); }

Status binary_cross_entropy_with_logits(const MapArgs& a) {
  return loss_map<math::BinaryCrossEntropyWithLogits, 2, 4>(a);
}
Status binary_cross_entropy_with_logits_sum(const ReduceArgs& a) {
  return loss_sum<math::BinaryCrossEntropyWithLogits, 2, 4, math::BinaryCrossEntropyWithLogitsBackward>(a);
}
Status binary_cross_entropy_with_logits_backward(const MapArgs& a) {
  return loss_map<math::BinaryCrossEntropyWithLogitsBackward, 3, 5>(a);
}
Status binary_cross_entropy_with_logits_target_backward(const MapArgs& a) {
  return loss_map<math::BinaryCrossEntropyWithLogitsTargetBackward, 2, 4>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
