// cross_entropy, nll_loss and their backward ops; second derivatives are composed of differentiable ops.
#include <ATen/ops/eq.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include "class_loss.h"
#include "early_gradient.h"
#include "ops.h"
#include "outputs.h"

namespace fastgrad::ops {
namespace {

using at::ScalarType;
using Dtype_ = std::optional<ScalarType>;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Two = std::tuple<Tensor, Tensor>;
using CrossEntropy = Three(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t, double, Dtype_);
using CrossEntropyBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&,
                                    const Tensor&, int64_t, int64_t, double);
using NllLoss = Two(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t, Dtype_);
using NllLossBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&,
                               int64_t, int64_t);

const auto& cross_entropy_op() {
  static const auto op = handle<CrossEntropy>("cross_entropy");
  return op;
}
const auto& cross_entropy_backward_op() {
  static const auto op = handle<CrossEntropyBackward>("cross_entropy_backward");
  return op;
}
const auto& nll_loss_op() {
  static const auto op = handle<NllLoss>("nll_loss");
  return op;
}
const auto& nll_loss_backward_op() {
  static const auto op = handle<NllLossBackward>("nll_loss_backward");
  return op;
}
Tensor reduced_to(const Tensor& x, int64_t dim, bool none) { return none ? sum_along(x, dim).squeeze(dim) : sum(x); }

// ---- cross_entropy

// And the gradient of the input, if `early` wants it and the kernel can.
Three cross_entropy_and_gradient(EarlyGradient* early, const Tensor& input, const Tensor& target,
                                 const OptionalTensor& weight, int64_t reduction, int64_t ignore_index,
                                 double label_smoothing, Dtype_ dtype) {
  const ClassLoss c("cross_entropy", input, target, weight, reduction, ignore_index, label_smoothing, dtype, true);
  std::vector<int64_t> stats_sizes{c.probabilities ? 3 : 2};
  stats_sizes.insert(stats_sizes.end(), c.row_sizes.begin(), c.row_sizes.end());
  const Tensor loss = c.empty_loss(), stats = new_tensor(stats_sizes, c.compute_options());
  const Tensor total_weight = new_tensor({}, c.compute_options());
  if (early && !c.probabilities && !weight && c.target.is_contiguous()) early->gradient = c.empty_gradient();
  RowsArgs a = c.args(input, loss, stats, total_weight, early ? early->gradient : Tensor());
  if (early) a.parameter[2] = number(early->incoming);
  c.run(&fastgrad::Backend::cross_entropy, a);
  return {loss, stats, total_weight};
}

Three cross_entropy_kernel(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                           int64_t ignore_index, double label_smoothing, Dtype_ dtype) {
  return cross_entropy_and_gradient(nullptr, input, target, weight, reduction, ignore_index, label_smoothing, dtype);
}

Tensor cross_entropy_backward_kernel(const Tensor& grad, const Tensor& input, const Tensor& target,
                                     const OptionalTensor& weight, const Tensor& stats, const Tensor& total_weight,
                                     int64_t reduction, int64_t ignore_index, double label_smoothing) {
  const ScalarType computed = stats.scalar_type() == at::kDouble ? at::kDouble : input.scalar_type();
  const ClassLoss c("cross_entropy_backward", input, target, weight, reduction, ignore_index, label_smoothing,
                    input.scalar_type() == at::kDouble || computed == at::kDouble ? at::kDouble : at::kFloat, true);
  TORCH_CHECK(grad.sizes() == (reduction == at::Reduction::None ? at::IntArrayRef(c.row_sizes) : at::IntArrayRef()),
              "cross_entropy_backward: grad has shape ", grad.sizes(), ", which the loss of input of shape ",
              input.sizes(), " has not");
  const Tensor grad_input = c.empty_gradient();
  if (grad_input.numel() == 0) return grad_input;
  RowsArgs a = c.args(input, grad, stats, total_weight, grad_input);
  run_kernel(c.name, &fastgrad::Backend::cross_entropy_backward, a, input.device());
  return grad_input;
}

Tensor call_backward(const Saved& s, const Tensor& grad) {
  return cross_entropy_backward_op().call(grad, s.tensors[0], s.tensors[1], optional(s.tensors[2]), s.tensors[3],
                                          s.tensors[4], s.values[0].toInt(), s.values[1].toInt(),
                                          s.values[2].toDouble());
}

// What second derivatives and those by the target are composed of. Saved: input, target, weight, stats, total weight.
struct Composed {
  const Saved& s;
  const Tensor &input = s.tensors[0], &target = s.tensors[1], &weight = s.tensors[2], &total_weight = s.tensors[4];
  int64_t reduction = s.values[0].toInt(), ignore_index = s.values[1].toInt();
  double smoothing = s.values[2].toDouble();
  int64_t dim = input.dim() == 1 ? 0 : 1;
  double classes = double(input.size(dim));
  bool probabilities = target.is_floating_point();
  ScalarType type = s.tensors[3].scalar_type();  // the compute dtype

  Tensor weights_as_column() const {  // broadcast along `dim`
    std::vector<int64_t> shape(input.dim(), 1);
    shape[dim] = -1;
    return weight.view(shape);
  }
  Tensor smoothed() const { return affine(smoothing / classes, 1 - smoothing, target.to(type)); }
  // Per row, the sum of q, keeping the class dimension.
  Tensor sum_q() const {
    if (probabilities) return sum_along(weight.defined() ? mul(smoothed(), weights_as_column()) : smoothed(), dim);
    const Tensor rows = input.dim() == 1 ? target.view(at::IntArrayRef()) : target, ignored = rows.eq(ignore_index);
    const Tensor outside = rows.lt(0).logical_or(rows.ge(input.size(dim)));  // without an IndexError: see checks_values
    const Tensor index = rows.masked_fill(ignored.logical_or(outside), 0).to(at::kLong);
    Tensor q = at::ones_like(index, input.options().dtype(type));
    if (weight.defined()) {
      const Tensor w = weight.to(type);
      q = add(mul(at::index_select(w, 0, index.reshape(-1)).view_as(index), 1 - smoothing), sum(w),
              smoothing / classes);
    }
    return q.masked_fill(outside, std::numeric_limits<double>::quiet_NaN()).masked_fill(ignored, 0).unsqueeze(dim);
  }
  // The gradient of each row's loss, keeping the class dimension.
  Tensor row_gradient(const Tensor& grad) const {
    Tensor g = grad.scalar_type() == type ? grad : grad.to(type);
    // Where every row is ignored, so is this; infinite, it would make 0 * inf of what is 0.
    if (reduction == at::Reduction::Mean) g = div(g, at::where(at::eq(total_weight, 0), 1, total_weight));
    return reduction == at::Reduction::None ? g.unsqueeze(dim) : g;
  }
};

IncomingGradient cross_entropy_incoming;

Gradients cross_entropy_differentiate(const Saved& s, const Gradients& g) {
  if (const Tensor early = cross_entropy_incoming.take(s, g[0]); early.defined()) return {early, Tensor(), Tensor()};
  Gradients result{s.needed[0] ? call_backward(s, g[0]) : Tensor(), Tensor(), Tensor()};
  if (!s.needed[1] && !s.needed[2]) return result;
  const Composed c{s};
  // loss = -sum_c w_c t'_c log p_c with the smoothed probabilities t' = (1 - e) t + e/n
  const Tensor by_share = mul(log_softmax(c.input, c.dim, c.type), neg(c.row_gradient(g[0])));
  if (s.needed[1]) {
    const Tensor by_t = c.weight.defined() ? mul(by_share, c.weights_as_column()) : by_share;
    result[1] = mul(by_t, 1 - c.smoothing).to(c.target.scalar_type());
  }
  if (s.needed[2]) {
    const Tensor by_w = mul(by_share, c.smoothed());
    result[2] =
        (c.input.dim() == 1 ? by_w
                            : sum(by_w.movedim(c.dim, -1).reshape({-1, c.input.size(c.dim)}), at::IntArrayRef({0})))
            .to(c.weight.scalar_type());
  }
  return result;
}

Three cross_entropy_autograd(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                             int64_t ignore_index, double label_smoothing, Dtype_ dtype) {
  const auto& forward = cross_entropy_op();
  const Tensor w = weight.value_or(Tensor());
  if (!needs_recording("cross_entropy", {input, target, w})) {
    const BelowAutograd below;
    return forward.call(input, target, weight, reduction, ignore_index, label_smoothing, dtype);
  }
  TORCH_CHECK(!w.defined() || !w.requires_grad() || target.is_floating_point(),
              "The function 'cross_entropy' is not differentiable with respect to argument 'weight'. This input cannot "
              "have requires_grad True.");
  const Gradients out = record({input, target, w}, &cross_entropy_differentiate, [&]() -> Step {
    std::optional<EarlyGradient> early = cross_entropy_incoming.forecast({input, target, w}, reduction);
    const auto [loss, stats, total] =
        early ? cross_entropy_and_gradient(&*early, input, target, weight, reduction, ignore_index, label_smoothing,
                                           dtype)
              : forward.call(input, target, weight, reduction, ignore_index, label_smoothing, dtype);
    return {{loss, stats, total}, {input, target, w, stats, total}, {reduction, ignore_index, label_smoothing}, false,
            {false, true, true},  early.value_or(EarlyGradient())};
  });
  return {out[0], out[1], out[2]};
}

// The gradient is g (p sum(q) - q) along a row; v is the gradient that comes for it.
Gradients cross_entropy_backward_differentiate(const Saved& saved, const Gradients& grads) {
  const Tensor& grad = saved.tensors[5];
  const Composed c{saved};
  TORCH_CHECK_NOT_IMPLEMENTED(!saved.needed[3], "cross_entropy: no second derivative with respect to weight");
  const Tensor v = grads[0].scalar_type() == c.type ? grads[0] : grads[0].to(c.type);
  Gradients result(6);
  if (saved.needed[0]) {
    const Tensor unit = call_backward(saved, at::ones_like(grad));
    result[0] = reduced_to(mul(v, unit), c.dim, c.reduction == at::Reduction::None).to(grad.scalar_type());
  }
  if (!saved.needed[1] && !saved.needed[2]) return result;
  const Tensor p = softmax(c.input, c.dim, c.type), g = c.row_gradient(grad);
  const Tensor vp = mul(v, p), dot = sum_along(vp, c.dim);
  if (saved.needed[1]) result[1] = mul(sub(vp, mul(p, dot)), mul(g, c.sum_q())).to(c.input.scalar_type());
  if (saved.needed[2]) {
    const Tensor by_q = mul(sub(dot, v), g);
    const Tensor by_t = c.weight.defined() ? mul(by_q, c.weights_as_column()) : by_q;
    result[2] = mul(by_t, 1 - c.smoothing).to(c.target.scalar_type());
  }
  return result;
}

Tensor cross_entropy_backward_autograd(const Tensor& grad, const Tensor& input, const Tensor& target,
                                       const OptionalTensor& weight, const Tensor& stats, const Tensor& total_weight,
                                       int64_t reduction, int64_t ignore_index, double label_smoothing) {
  const auto call = [&] {
    return cross_entropy_backward_op().call(grad, input, target, weight, stats, total_weight, reduction, ignore_index,
                                            label_smoothing);
  };
  const Tensor w = weight.value_or(Tensor());
  const Gradients inputs{grad, input, target, w, stats, total_weight};
  if (!needs_recording("cross_entropy_backward", inputs)) {
    const BelowAutograd below;
    return call();
  }
  return record(inputs, &cross_entropy_backward_differentiate, [&]() -> Step {
    return {{call()}, {input, target, w, stats, total_weight, grad}, {reduction, ignore_index, label_smoothing}};
  })[0];
}

// ---- nll_loss

Two nll_loss_kernel(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                    int64_t ignore_index, Dtype_ dtype) {
  const ClassLoss c("nll_loss", input, target, weight, reduction, ignore_index, 0, dtype, false);
  const Tensor loss = c.empty_loss(), total_weight = new_tensor({}, c.compute_options());
  RowsArgs a = c.args(input, loss, {}, total_weight);
  c.run(&fastgrad::Backend::nll_loss, a);
  return {loss, total_weight};
}

Tensor nll_loss_backward_kernel(const Tensor& grad, const Tensor& input, const Tensor& target,
                                const OptionalTensor& weight, const Tensor& total_weight, int64_t reduction,
                                int64_t ignore_index) {
  const ClassLoss c("nll_loss_backward", input, target, weight, reduction, ignore_index, 0,
                    input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat, false);
  TORCH_CHECK(grad.sizes() == (reduction == at::Reduction::None ? at::IntArrayRef(c.row_sizes) : at::IntArrayRef()),
              "nll_loss_backward: grad has shape ", grad.sizes(), ", which the loss of input of shape ", input.sizes(),
              " has not");
  const Tensor grad_input = c.empty_gradient();
  if (grad_input.numel() == 0) return grad_input;
  RowsArgs a = c.args({}, grad, {}, total_weight, grad_input);
  run_kernel(c.name, &fastgrad::Backend::nll_loss_backward, a, input.device());
  return grad_input;
}

Two nll_loss_autograd(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                      int64_t ignore_index, Dtype_ dtype) {
  const auto& forward = nll_loss_op();
  const Tensor w = weight.value_or(Tensor());
  if (!needs_recording("nll_loss", {input, w})) {
    const BelowAutograd below;
    return forward.call(input, target, weight, reduction, ignore_index, dtype);
  }
  TORCH_CHECK(!w.defined() || !w.requires_grad(),
              "The function 'nll_loss' is not differentiable with respect to argument 'weight'. This input cannot have "
              "requires_grad True.");
  const BackwardFunction differentiate = [](const Saved& s, const Gradients& g) -> Gradients {
    return {nll_loss_backward_op().call(g[0], s.tensors[0], s.tensors[1], optional(s.tensors[2]), s.tensors[3],
                                        s.values[0].toInt(), s.values[1].toInt())};
  };
  const Gradients out = record(input, differentiate, [&]() -> Step {
    auto [loss, total] = forward.call(input, target, weight, reduction, ignore_index, dtype);
    return {{loss, total}, {input, target, w, total}, {reduction, ignore_index}, false, {false, true}};
  });
  return {out[0], out[1]};
}

// The gradient is linear in the incoming one, and what comes back is the loss of v itself.
Tensor nll_loss_backward_autograd(const Tensor& grad, const Tensor& input, const Tensor& target,
                                  const OptionalTensor& weight, const Tensor& total_weight, int64_t reduction,
                                  int64_t ignore_index) {
  const auto call = [&] {
    return nll_loss_backward_op().call(grad, input, target, weight, total_weight, reduction, ignore_index);
  };
  if (!needs_recording("nll_loss_backward", {grad, input})) {
    const BelowAutograd below;
    return call();
  }
  const BackwardFunction differentiate = [](const Saved& s, const Gradients& v) -> Gradients {
    return {std::get<0>(nll_loss_op().call(v[0], s.tensors[0], optional(s.tensors[1]), s.values[0].toInt(),
                                           s.values[1].toInt(), s.values[2].toScalarType())),
            Tensor()};
  };
  return record({grad, input}, differentiate, [&]() -> Step {
    return {{call()}, {target, weight.value_or(Tensor())}, {reduction, ignore_index, grad.scalar_type()}};
  })[0];
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  declare<CrossEntropy>(m,
                        "cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, "
                        "float label_smoothing, ScalarType? dtype=None) -> (Tensor, Tensor, Tensor)");
  implement(m, "cross_entropy", &cross_entropy_kernel, &cross_entropy_autograd);
  declare<CrossEntropyBackward>(m,
                                "cross_entropy_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, "
                                "Tensor stats, Tensor total_weight, int reduction, int ignore_index, "
                                "float label_smoothing) -> Tensor");
  implement(m, "cross_entropy_backward", &cross_entropy_backward_kernel, &cross_entropy_backward_autograd);
  declare<NllLoss>(m,
                   "nll_loss(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, "
                   "ScalarType? dtype=None) -> (Tensor, Tensor)");
  implement(m, "nll_loss", &nll_loss_kernel, &nll_loss_autograd);
  declare<NllLossBackward>(m,
                           "nll_loss_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, "
                           "Tensor total_weight, int reduction, int ignore_index) -> Tensor");
  implement(m, "nll_loss_backward", &nll_loss_backward_kernel, &nll_loss_backward_autograd);
  // torch's list has nll_loss and log_softmax, of which its cross_entropy is made: float32 inside and as the result,
  // from the tensors as they are.
  define_autocast(m, "cross_entropy", Autocast::fp32_set_dtype, Autocast::fp32);
  define_autocast(m, "nll_loss", Autocast::fp32_set_dtype, Autocast::fp32);
}

}  // namespace
}  // namespace fastgrad::ops
