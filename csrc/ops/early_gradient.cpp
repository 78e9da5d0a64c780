// See early_gradient.h.
#include "early_gradient.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/Reduction.h>

#include <bit>

namespace fastgrad::ops {
namespace {

constexpr int64_t kWorthwhile = 1 << 14;  // elements

// Whether the dispatcher would do nothing but call the CPU's kernel.
bool is_plain(const Tensor& t) {
  return !t.defined() || (t.is_cpu() && !t.is_neg() && !t._is_zerotensor() && !at::isTensorSubclassLike(t));
}

bool same(double a, double b) { return std::bit_cast<int64_t>(a) == std::bit_cast<int64_t>(b); }

}  // namespace

std::optional<EarlyGradient> IncomingGradient::forecast(at::TensorList tensors, int64_t reduction) const {
  const Tensor& input = tensors[0];
  if (reduction == at::Reduction::None || !steady_ || !is_plain(input)) return std::nullopt;
  if (input.numel() < kWorthwhile || !backend_for(input.device()).leaves_gradients) return std::nullopt;
  for (const Tensor& t : tensors)
    if (!is_plain(t) || (t.defined() && t.requires_grad() != (&t == &input))) return std::nullopt;
  // Hooks decide where what is saved is kept, or that it is not (checkpoints): this would escape them.
  if (!input.is_contiguous() || at::SavedTensorDefaultHooks::get_hooks()) return std::nullopt;
  return EarlyGradient{last_};
}

Tensor IncomingGradient::take(const Saved& s, const Tensor& incoming) {
  Tensor early = std::move(s.early.gradient);  // if it is of no use, its memory is free for the other one
  if (incoming.dim() != 0 || !is_plain(incoming) || s.tensors[0].sym_numel() < kWorthwhile) return {};
  const double value = incoming.item<double>();
  steady_ = same(last_.exchange(value), value);
  return same(s.early.incoming, value) ? early : Tensor();
}

}  // namespace fastgrad::ops
