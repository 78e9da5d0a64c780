// binary_cross_entropy, binary_cross_entropy_with_logits and their backward ops; second derivatives are composed of
// differentiable ops. Weights are not differentiable, as in torch.
#include <ATen/ops/clamp_min.h>

#include "elementwise.h"
#include "losses.h"
#include "ops.h"

namespace fastgrad::ops {
namespace {

Tensor weighted(const Tensor& x, const OptionalTensor& weight) { return weight ? mul(x, *weight) : x; }
Tensor complement(const Tensor& x) { return affine(1, -1, x); }
Tensor sigmoid(const Tensor& x) {
  static const auto op = handle<Tensor(const Tensor&)>("sigmoid");
  return op.call(x);
}

// The same size, as torch demands; its Python function words the error.
void check_sizes(const char* op, const Tensor& input, const Tensor& target) {
  TORCH_CHECK_VALUE(input.sizes() == target.sizes(), "fastgrad::", op, ": target of size ", target.sizes(),
                    ", input of size ", input.sizes());
}
void check_dtype(const Tensor& input, const Tensor& other) {
  TORCH_CHECK(input.scalar_type() == other.scalar_type(), "Found dtype ", other.scalar_type(), " but expected ",
              input.scalar_type());
}

// ---- Of probabilities.

using Bce = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t);
using BceBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, int64_t);
constexpr const char *kBce = "binary_cross_entropy", *kBceBackward = "binary_cross_entropy_backward",
                     *kBceTarget = "binary_cross_entropy_target_backward";

Tensor call_bce(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
  static const auto op = handle<Bce>(kBce);
  return op.call(input, target, weight, reduction);
}
Tensor call_bce_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                         int64_t reduction) {
  static const auto op = handle<BceBackward>(kBceBackward);
  return op.call(grad, input, target, weight, reduction);
}
Tensor call_bce_target_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                                const OptionalTensor& weight, int64_t reduction) {
  static const auto op = handle<BceBackward>(kBceTarget);
  return op.call(grad, input, target, weight, reduction);
}

bool is_nan(const Tensor& scalar) {
  if (!scalar.is_cpu()) return std::isnan(scalar.item<double>());
  if (scalar.scalar_type() == at::kFloat) return std::isnan(*scalar.const_data_ptr<float>());
  if (scalar.scalar_type() == at::kDouble) return std::isnan(*scalar.const_data_ptr<double>());
  return std::isnan(scalar.item<double>());
}

// The kernel gives NaN where input or target is outside [0, 1], so that only then they are searched.
void check_unit_interval(const Tensor& loss, const Tensor& input, const Tensor& target) {
  if (input.numel() == 0 || !checks_values(loss.device())) return;
  if (loss.dim() == 0 && input.dim() > 0 ? !is_nan(loss) : !counts_any(kBce, &Backend::count_nan, loss)) return;
  for (const auto& [tensor, name] : {std::pair(&input, "input"), std::pair(&target, "target")})
    TORCH_CHECK(!counts_any(kBce, &Backend::count_outside_unit_interval, *tensor), "all elements of ", name,
                " should be between 0 and 1");
}

Tensor bce(EarlyGradient* early, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
           int64_t reduction) {
  check_sizes(kBce, input, target);
  check_dtype(input, target);
  const Tensor tensors[] = {input, target, defined_or_not(weight)};
  const Tensor loss = loss_forward(early, {kBce, &Backend::binary_cross_entropy, &Backend::binary_cross_entropy_sum},
                                   at::TensorList(tensors, weight ? 3 : 2), reduction, input.scalar_type(), input);
  check_unit_interval(loss, input, target);
  return loss;
}
Tensor bce_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                    int64_t reduction) {
  const Tensor tensors[] = {input, target, defined_or_not(weight)};
  return loss_backward(kBceBackward, &Backend::binary_cross_entropy_backward, grad,
                       at::TensorList(tensors, weight ? 3 : 2), target, reduction, input);
}
Tensor bce_target_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                           int64_t reduction) {
  const Tensor tensors[] = {input, defined_or_not(weight)};
  return loss_backward(kBceTarget, &Backend::binary_cross_entropy_target_backward, grad,
                       at::TensorList(tensors, weight ? 2 : 1), target, reduction, target);
}

IncomingGradient bce_incoming;

Gradients bce_first(const Saved& s, const Gradients& g) {
  if (const Tensor early = bce_incoming.take(s, g[0]); early.defined()) return {early, Tensor(), Tensor()};
  const Tensor &x = s.tensors[0], &t = s.tensors[1];
  const OptionalTensor w = optional(s.tensors[2]);
  const int64_t reduction = s.values[0].toInt();
  return {s.needed[0] ? call_bce_backward(g[0], x, t, w, reduction) : Tensor(),
          s.needed[1] ? call_bce_target_backward(g[0], x, t, w, reduction) : Tensor(), Tensor()};
}

// gg g w scale / (x (1 - x)): minus the mixed derivative. The kernel's bound on the denominator holds here too.
struct BceSecond {
  Tensor denominator, factor;
  BceSecond(const Tensor& gg, const Saved& s) {
    const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
    denominator = at::clamp_min(mul(x, complement(x)), 1e-12);
    const Tensor both = weighted(mul(gg, g), optional(s.tensors[3]));
    factor = div(scaled(both, loss_scale(x, t, s.values[0].toInt())), denominator);
  }
};
// d/dx (x - t) / (x (1 - x)) = (x^2 - 2xt + t) / (x (1 - x))^2
Gradients bce_backward_second(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  Tensor of_g, of_x, of_t;
  if (s.needed[0])
    of_g = sum_to(call_bce_backward(gg[0], x, t, optional(s.tensors[3]), s.values[0].toInt()), g.sym_sizes());
  if (s.needed[1] || s.needed[2]) {
    const BceSecond second(gg[0], s);
    if (s.needed[1]) of_x = mul(second.factor, div(add(mul(x, sub(x, t, 2)), t), second.denominator));
    if (s.needed[2]) of_t = neg(second.factor);
  }
  return {of_g, of_x, of_t, Tensor()};
}
Gradients bce_target_backward_second(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  Tensor of_g, of_x;
  if (s.needed[0])
    of_g = sum_to(call_bce_target_backward(gg[0], x, t, optional(s.tensors[3]), s.values[0].toInt()), g.sym_sizes());
  if (s.needed[1]) of_x = neg(BceSecond(gg[0], s).factor);
  return {of_g, of_x, Tensor(), Tensor()};
}

// ---- Of logits.

using Logits = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t);
using LogitsBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                              int64_t);
constexpr const char *kLogits = "binary_cross_entropy_with_logits",
                     *kLogitsBackward = "binary_cross_entropy_with_logits_backward",
                     *kLogitsTarget = "binary_cross_entropy_with_logits_target_backward";

Tensor call_logits(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                   const OptionalTensor& pos_weight, int64_t reduction) {
  static const auto op = handle<Logits>(kLogits);
  return op.call(input, target, weight, pos_weight, reduction);
}
Tensor call_logits_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            const OptionalTensor& pos_weight, int64_t reduction) {
  static const auto op = handle<LogitsBackward>(kLogitsBackward);
  return op.call(grad, input, target, weight, pos_weight, reduction);
}
Tensor call_logits_target_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                                   const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
  static const auto op = handle<LogitsBackward>(kLogitsTarget);
  return op.call(grad, input, target, weight, pos_weight, reduction);
}

// torch's own chain of ops fails for integers; the result has the target's dtype.
Tensor logits(EarlyGradient* early, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
              const OptionalTensor& pos_weight, int64_t reduction) {
  check_sizes(kLogits, input, target);
  TORCH_CHECK_NOT_IMPLEMENTED(input.is_floating_point(), "fastgrad::", kLogits, " is not implemented for dtype ",
                              input.scalar_type());
  TORCH_CHECK(target.is_floating_point(), "result type ", input.scalar_type(),
              " can't be cast to the desired output type ", target.scalar_type());
  const Tensor tensors[] = {input, target, defined_or_not(weight), defined_or_not(pos_weight)};
  return loss_forward(
      early, {kLogits, &Backend::binary_cross_entropy_with_logits, &Backend::binary_cross_entropy_with_logits_sum},
      at::TensorList(tensors, weight || pos_weight ? 4 : 2), reduction, target.scalar_type(), target);
}
Tensor logits_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                       const OptionalTensor& pos_weight, int64_t reduction) {
  const Tensor tensors[] = {input, target, defined_or_not(weight), defined_or_not(pos_weight)};
  return loss_backward(kLogitsBackward, &Backend::binary_cross_entropy_with_logits_backward, grad,
                       at::TensorList(tensors, weight || pos_weight ? 4 : 2), target, reduction, input);
}
Tensor logits_target_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                              const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
  const Tensor tensors[] = {input, defined_or_not(weight), defined_or_not(pos_weight)};
  return loss_backward(kLogitsTarget, &Backend::binary_cross_entropy_with_logits_target_backward, grad,
                       at::TensorList(tensors, weight || pos_weight ? 3 : 1), target, reduction, target);
}

IncomingGradient logits_incoming;

Gradients logits_first(const Saved& s, const Gradients& g) {
  if (const Tensor early = logits_incoming.take(s, g[0]); early.defined()) return {early, Tensor(), Tensor(), Tensor()};
  const Tensor &x = s.tensors[0], &t = s.tensors[1];
  const OptionalTensor w = optional(s.tensors[2]), p = optional(s.tensors[3]);
  const int64_t reduction = s.values[0].toInt();
  return {s.needed[0] ? call_logits_backward(g[0], x, t, w, p, reduction) : Tensor(),
          s.needed[1] ? call_logits_target_backward(g[0], x, t, w, p, reduction) : Tensor(), Tensor(), Tensor()};
}

Tensor logits_factor(const Tensor& gg, const Saved& s) {  // gg g w scale
  const Tensor both = weighted(mul(gg, s.tensors[0]), optional(s.tensors[3]));
  return scaled(both, loss_scale(s.tensors[1], s.tensors[2], s.values[0].toInt()));
}
// The mixed derivative -(s(x) + p s(-x)), which is -1 without p.
Tensor logits_mixed(const Tensor& factor, const Saved& s) {
  const Tensor &x = s.tensors[1], &p = s.tensors[4];
  if (!p.defined()) return neg(factor);
  return neg(mul(factor, add(sigmoid(x), mul(p, sigmoid(neg(x))))));
}
// By x twice: (1 - t + p t) s(x) s(-x).
Gradients logits_backward_second(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  const OptionalTensor w = optional(s.tensors[3]), p = optional(s.tensors[4]);
  Tensor of_g, of_x, of_t;
  if (s.needed[0]) of_g = sum_to(call_logits_backward(gg[0], x, t, w, p, s.values[0].toInt()), g.sym_sizes());
  if (s.needed[1] || s.needed[2]) {
    const Tensor factor = logits_factor(gg[0], s);
    if (s.needed[1]) {
      of_x = mul(factor, mul(sigmoid(x), sigmoid(neg(x))));
      if (p) of_x = mul(of_x, add(complement(t), mul(*p, t)));
    }
    if (s.needed[2]) of_t = logits_mixed(factor, s);
  }
  return {of_g, of_x, of_t, Tensor(), Tensor()};
}
Gradients logits_target_backward_second(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  const OptionalTensor w = optional(s.tensors[3]), p = optional(s.tensors[4]);
  Tensor of_g, of_x;
  if (s.needed[0]) of_g = sum_to(call_logits_target_backward(gg[0], x, t, w, p, s.values[0].toInt()), g.sym_sizes());
  if (s.needed[1]) of_x = logits_mixed(logits_factor(gg[0], s), s);
  return {of_g, of_x, Tensor(), Tensor(), Tensor()};
}

// ---- Registration.

template <auto Call, BackwardFunction Derivative>
void define_bce_backward(torch::Library& m, const char* name, BceBackward* kernel) {
  declare<BceBackward>(m, std::string(name) +
                              "(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, int reduction) -> "
                              "Tensor");
  implement(m, name, kernel,
            [name](const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                   int64_t reduction) {
              refuse_weight_gradient(name, "weight", weight);
              return recorded(name, Derivative, {grad, input, target, defined_or_not(weight)}, {reduction},
                              [&] { return Call(grad, input, target, weight, reduction); });
            });
}
template <auto Call, BackwardFunction Derivative>
void define_logits_backward(torch::Library& m, const char* name, LogitsBackward* kernel) {
  declare<LogitsBackward>(m, std::string(name) +
                                 "(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, Tensor? "
                                 "pos_weight, int reduction) -> Tensor");
  implement(m, name, kernel,
            [name](const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                   const OptionalTensor& pos_weight, int64_t reduction) {
              refuse_weight_gradient(name, "weight", weight);
              refuse_weight_gradient(name, "pos_weight", pos_weight);
              return recorded(name, Derivative,
                              {grad, input, target, defined_or_not(weight), defined_or_not(pos_weight)}, {reduction},
                              [&] { return Call(grad, input, target, weight, pos_weight, reduction); });
            });
}

Tensor refuse_bce_autocast(const Tensor&, const Tensor&, const OptionalTensor&, int64_t) {
  TORCH_CHECK(false,
              "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.\n"
              "Many models use a sigmoid layer right before the binary cross entropy layer.\n"
              "In this case, combine the two layers using torch.nn.functional.binary_cross_entropy_with_logits\n"
              "or torch.nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits are\n"
              "safe to autocast.");
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  declare<Bce>(m, "binary_cross_entropy(Tensor input, Tensor target, Tensor? weight=None, int reduction=1) -> Tensor");
  implement(m, kBce, &without_early<&bce>::call,
            [](const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
              refuse_weight_gradient(kBce, "weight", weight);
              return recorded_loss(
                  kBce, bce_incoming, &bce_first, {input, target, defined_or_not(weight)}, {reduction}, reduction,
                  [&] { return call_bce(input, target, weight, reduction); },
                  [&](EarlyGradient* early) { return bce(early, input, target, weight, reduction); });
            });
  define_bce_backward<&call_bce_backward, &bce_backward_second>(m, kBceBackward, &bce_backward);
  define_bce_backward<&call_bce_target_backward, &bce_target_backward_second>(m, kBceTarget, &bce_target_backward);

  declare<Logits>(m,
                  "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight=None, Tensor? "
                  "pos_weight=None, int reduction=1) -> Tensor");
  implement(m, kLogits, &without_early<&logits>::call,
            [](const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               const OptionalTensor& pos_weight, int64_t reduction) {
              refuse_weight_gradient(kLogits, "weight", weight);
              refuse_weight_gradient(kLogits, "pos_weight", pos_weight);
              return recorded_loss(
                  kLogits, logits_incoming, &logits_first,
                  {input, target, defined_or_not(weight), defined_or_not(pos_weight)}, {reduction}, reduction,
                  [&] { return call_logits(input, target, weight, pos_weight, reduction); },
                  [&](EarlyGradient* early) { return logits(early, input, target, weight, pos_weight, reduction); });
            });
  define_logits_backward<&call_logits_backward, &logits_backward_second>(m, kLogitsBackward, &logits_backward);
  define_logits_backward<&call_logits_target_backward, &logits_target_backward_second>(m, kLogitsTarget,
                                                                                       &logits_target_backward);

  define_autocast(m, kLogits, Autocast::fp32, Autocast::fp32);
  // On CUDA, torch refuses; on the CPU the op is on its float32 list.
  m.impl(kBce, torch::dispatch(c10::DispatchKey::AutocastCUDA, &refuse_bce_autocast));
  define_cpu_autocast(m, kBce, Autocast::fp32);
}

}  // namespace
}  // namespace fastgrad::ops
