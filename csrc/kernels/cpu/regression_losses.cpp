#include "../math/regression_losses.h"

#include "losses.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

Status mse_loss(const MapArgs& a) { return loss_map<math::MseLoss, 2, 3>(a); }
Status mse_loss_sum(const ReduceArgs& a) { return loss_sum<math::MseLoss, 2, 3, math::MseLossBackward>(a); }
Status mse_loss_backward(const MapArgs& a) { return loss_map<math::MseLossBackward, 3, 4>(a); }
Status l1_loss(const MapArgs& a) { return loss_map<math::L1Loss, 2, 3>(a); }
Status l1_loss_sum(const ReduceArgs& a) { return loss_sum<math::L1Loss, 2, 3, math::L1LossBackward>(a); }
Status l1_loss_backward(const MapArgs& a) { return loss_map<math::L1LossBackward, 3, 4>(a); }
Status smooth_l1_loss(const MapArgs& a) { return loss_map<math::SmoothL1Loss, 2>(a); }
Status smooth_l1_loss_sum(const ReduceArgs& a) {
  return loss_sum<math::SmoothL1Loss, 2, 2, math::SmoothL1LossBackward>(a);
}
Status smooth_l1_loss_backward(const MapArgs& a) { return loss_map<math::SmoothL1LossBackward, 3>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
