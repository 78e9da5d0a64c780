// Pointwise losses with a reduction: the one way from their tensors to the kernels, shared by the families
// regression_losses and bce.
#pragma once
#include <ATen/core/Reduction.h>

#include "early_gradient.h"
#include "ops.h"

namespace fastgrad::ops {

struct Loss {
  const char* name;
  Kernel<MapArgs> map;     // reduction "none"
  Kernel<ReduceArgs> sum;  // "sum" and "mean", in one pass over the inputs
};

// The loss of inputs[0] and inputs[1], broadcast together; the rest are weights, broadcast to them, 1 where undefined.
// Unreduced, it has the strides of `like`, or, if that is undefined, those torch gives to the result of a binary op.
// With `early`, and where that is possible, the gradient of inputs[0] besides.
Tensor loss_forward(EarlyGradient* early, const Loss& loss, at::TensorList inputs, int64_t reduction,
                    at::ScalarType result, const Tensor& like = {}, double beta = 0);

// kernel(grad, inputs...) with the shape of inputs[0] and `other` broadcast, and the dtype of `like`. `grad` broadcasts
// (a reduced loss has a 0-d one), and is divided by the number of elements where the loss was a mean.
Tensor loss_backward(const char* op, Kernel<MapArgs> kernel, const Tensor& grad, at::TensorList inputs,
                     const Tensor& other, int64_t reduction, const Tensor& like, double beta = 0);

// What loss_backward multiplies a gradient with.
double loss_scale(const Tensor& input, const Tensor& target, int64_t reduction);

// Whether a kernel of one input finds something to count in it. Waits for the device: ask checks_values first.
bool counts_any(const char* op, Kernel<ReduceArgs> kernel, const Tensor& input);

void refuse_weight_gradient(const char* op, const char* argument, const OptionalTensor& weight);

// The kernel of a loss op, from the function that can leave a gradient.
template <auto Compute>
struct without_early;
template <class... A, Tensor (*Compute)(EarlyGradient*, A...)>
struct without_early<Compute> {
  static Tensor call(A... a) { return Compute(nullptr, a...); }
};

inline Tensor defined_or_not(const OptionalTensor& t) { return t ? *t : Tensor(); }
inline Tensor scaled(const Tensor& x, double scale) { return scale == 1 ? x : mul(x, scale); }

// call(), recorded for autograd with all inputs and the values saved for `derivatives`.
template <class Call>
Tensor recorded(const char* op, BackwardFunction derivatives, std::initializer_list<Tensor> inputs,
                std::initializer_list<c10::IValue> values, const Call& call) {
  if (!needs_recording(op, inputs)) {
    const BelowAutograd below;
    return call();
  }
  return record_one(inputs, derivatives, [&] { return Step{{call()}, inputs, values}; });
}

// The same for a loss that can leave its gradient: call(), or compute(early) without the dispatcher.
template <class Call, class Compute>
Tensor recorded_loss(const char* op, const IncomingGradient& incoming, BackwardFunction derivatives,
                     std::initializer_list<Tensor> inputs, std::initializer_list<c10::IValue> values, int64_t reduction,
                     const Call& call, const Compute& compute) {
  if (!needs_recording(op, inputs)) {
    const BelowAutograd below;
    return call();
  }
  return record_one(inputs, derivatives, [&]() -> Step {
    std::optional<EarlyGradient> early = incoming.forecast(inputs, reduction);
    if (!early) return {{call()}, inputs, values};
    const Tensor loss = compute(&*early);
    return {{loss}, inputs, values, false, {}, *early};
  });
}

}  // namespace fastgrad::ops
