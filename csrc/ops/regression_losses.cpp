// mse_loss, l1_loss, smooth_l1_loss and their backward ops; second derivatives are composed of differentiable ops.
#include <ATen/ops/abs.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "elementwise.h"
#include "losses.h"
#include "ops.h"

namespace fastgrad::ops {
namespace {

at::ScalarType promoted(const Tensor& input, const Tensor& target, const OptionalTensor& weight) {
  const at::ScalarType type = c10::promoteTypes(input.scalar_type(), target.scalar_type());
  return weight ? c10::promoteTypes(type, weight->scalar_type()) : type;
}

// mse_loss and l1_loss, which take a weight: loss(d), with its derivative by d in `backward`.
using WeightedLoss = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t);
using WeightedBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, int64_t);

struct Mse {
  static constexpr const char *name = "mse_loss", *backward_name = "mse_loss_backward";
  static constexpr auto map = &Backend::mse_loss;
  static constexpr auto sum = &Backend::mse_loss_sum;
  static constexpr auto map_backward = &Backend::mse_loss_backward;
  static inline IncomingGradient incoming;
  static void check(const Tensor&, const Tensor&) {}
  // The second derivative by d, times `factor`.
  static Tensor second(const Tensor& factor) { return mul(factor, 2); }
};
struct L1 {
  static constexpr const char *name = "l1_loss", *backward_name = "l1_loss_backward";
  static constexpr auto map = &Backend::l1_loss;
  static constexpr auto sum = &Backend::l1_loss_sum;
  static constexpr auto map_backward = &Backend::l1_loss_backward;
  static inline IncomingGradient incoming;
  static void check(const Tensor& input, const Tensor& target) {
    TORCH_CHECK(input.scalar_type() != at::kBool && target.scalar_type() != at::kBool,
                "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a "
                "mask, use the `~` or `logical_not()` operator instead.");
  }
  static Tensor second(const Tensor& factor) { return at::zeros_like(factor); }
};

template <class L>
Tensor call_loss(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
  static const auto op = handle<WeightedLoss>(L::name);
  return op.call(input, target, weight, reduction);
}
template <class L>
Tensor call_backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                     int64_t reduction) {
  static const auto op = handle<WeightedBackward>(L::backward_name);
  return op.call(grad, input, target, weight, reduction);
}

template <class L>
Tensor forward(EarlyGradient* early, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               int64_t reduction) {
  L::check(input, target);
  const Tensor tensors[] = {input, target, defined_or_not(weight)};
  return loss_forward(early, {L::name, L::map, L::sum}, at::TensorList(tensors, weight ? 3 : 2), reduction,
                      promoted(input, target, weight));
}
template <class L>
Tensor backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                int64_t reduction) {
  const Tensor tensors[] = {input, target, defined_or_not(weight)};
  return loss_backward(L::backward_name, L::map_backward, grad, at::TensorList(tensors, weight ? 3 : 2), target,
                       reduction, input);
}

// With d = input - target, the derivative by the target is that of the loss of -d.
template <class L>
Gradients first_derivatives(const Saved& s, const Gradients& g) {
  if (const Tensor early = L::incoming.take(s, g[0]); early.defined()) return {early, Tensor(), Tensor()};
  const Tensor &x = s.tensors[0], &t = s.tensors[1];
  const OptionalTensor w = optional(s.tensors[2]);
  const int64_t reduction = s.values[0].toInt();
  Tensor gx, gt, gw;
  if (s.needed[0]) gx = sum_to(call_backward<L>(g[0], x, t, w, reduction), x.sym_sizes());
  if (s.needed[1]) gt = sum_to(call_backward<L>(g[0], t, x, w, reduction), t.sym_sizes());
  if (s.needed[2])
    gw = sum_to(mul(scaled(g[0], loss_scale(x, t, reduction)), call_loss<L>(x, t, {}, at::Reduction::None)),
                w->sym_sizes());
  return {gx, gt, gw};
}

// Of backward(g, x, t, w) = scale g w loss'(x - t).
template <class L>
Gradients second_derivatives(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  const OptionalTensor w = optional(s.tensors[3]);
  const int64_t reduction = s.values[0].toInt();
  Tensor of_g, of_x, of_t, of_w;
  if (s.needed[0]) of_g = sum_to(call_backward<L>(gg[0], x, t, w, reduction), g.sym_sizes());
  if (s.needed[1] || s.needed[2] || s.needed[3]) {
    const Tensor both = mul(gg[0], g);
    const Tensor factor = scaled(w ? mul(both, *w) : both, loss_scale(x, t, reduction));
    const Tensor curved = L::second(factor);
    if (s.needed[1]) of_x = sum_to(curved, x.sym_sizes());
    if (s.needed[2]) of_t = sum_to(neg(curved), t.sym_sizes());
    if (s.needed[3]) of_w = sum_to(call_backward<L>(both, x, t, {}, reduction), w->sym_sizes());
  }
  return {of_g, of_x, of_t, of_w};
}

template <class L>
void define_weighted(torch::Library& m) {
  const std::string name = L::name, backward_name = L::backward_name;
  declare<WeightedLoss>(m, name + "(Tensor input, Tensor target, Tensor? weight=None, int reduction=1) -> Tensor");
  implement(m, name, &without_early<&forward<L>>::call,
            [](const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction) {
              return recorded_loss(
                  L::name, L::incoming, &first_derivatives<L>, {input, target, defined_or_not(weight)}, {reduction},
                  reduction, [&] { return call_loss<L>(input, target, weight, reduction); },
                  [&](EarlyGradient* early) { return forward<L>(early, input, target, weight, reduction); });
            });
  declare<WeightedBackward>(m, backward_name +
                                   "(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, int reduction) "
                                   "-> Tensor");
  implement(m, backward_name, &backward<L>,
            [](const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               int64_t reduction) {
              return recorded(L::backward_name, &second_derivatives<L>, {grad, input, target, defined_or_not(weight)},
                              {reduction}, [&] { return call_backward<L>(grad, input, target, weight, reduction); });
            });
  define_autocast(m, L::name, Autocast::fp32, Autocast::fp32);
}

// smooth_l1_loss has beta, and no weight.
using SmoothL1 = Tensor(const Tensor&, const Tensor&, int64_t, double);
using SmoothL1Backward = Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, double);

Tensor call_smooth_l1(const Tensor& input, const Tensor& target, int64_t reduction, double beta) {
  static const auto op = handle<SmoothL1>("smooth_l1_loss");
  return op.call(input, target, reduction, beta);
}
Tensor call_smooth_l1_backward(const Tensor& grad, const Tensor& input, const Tensor& target, int64_t reduction,
                               double beta) {
  static const auto op = handle<SmoothL1Backward>("smooth_l1_loss_backward");
  return op.call(grad, input, target, reduction, beta);
}

Tensor smooth_l1_loss(EarlyGradient* early, const Tensor& input, const Tensor& target, int64_t reduction, double beta) {
  TORCH_CHECK(beta >= 0, "smooth_l1_loss does not support negative values for beta.");
  return loss_forward(early, {"smooth_l1_loss", &Backend::smooth_l1_loss, &Backend::smooth_l1_loss_sum},
                      {input, target}, reduction, promoted(input, target, {}), {}, beta);
}
Tensor smooth_l1_loss_backward(const Tensor& grad, const Tensor& input, const Tensor& target, int64_t reduction,
                               double beta) {
  return loss_backward("smooth_l1_loss_backward", &Backend::smooth_l1_loss_backward, grad, {input, target}, target,
                       reduction, input, beta);
}

IncomingGradient smooth_l1_incoming;

Gradients smooth_l1_first(const Saved& s, const Gradients& g) {
  if (const Tensor early = smooth_l1_incoming.take(s, g[0]); early.defined()) return {early, Tensor()};
  const Tensor &x = s.tensors[0], &t = s.tensors[1];
  const int64_t reduction = s.values[0].toInt();
  const double beta = s.values[1].toDouble();
  Tensor gx, gt;
  if (s.needed[0]) gx = sum_to(call_smooth_l1_backward(g[0], x, t, reduction, beta), x.sym_sizes());
  if (s.needed[1]) gt = sum_to(call_smooth_l1_backward(g[0], t, x, reduction, beta), t.sym_sizes());
  return {gx, gt};
}
// The loss is curved, by 1 / beta, only where |d| < beta.
Gradients smooth_l1_second(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &t = s.tensors[2];
  const int64_t reduction = s.values[0].toInt();
  const double beta = s.values[1].toDouble();
  Tensor of_g, of_x, of_t;
  if (s.needed[0]) of_g = sum_to(call_smooth_l1_backward(gg[0], x, t, reduction, beta), g.sym_sizes());
  if (s.needed[1] || s.needed[2]) {
    const Tensor inside = at::lt(at::abs(at::sub(x.detach(), t.detach())), beta);
    const Tensor curved = at::where(inside, mul(mul(gg[0], g), loss_scale(x, t, reduction) / beta), 0);
    if (s.needed[1]) of_x = sum_to(curved, x.sym_sizes());
    if (s.needed[2]) of_t = sum_to(neg(curved), t.sym_sizes());
  }
  return {of_g, of_x, of_t};
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  define_weighted<Mse>(m);
  define_weighted<L1>(m);

  declare<SmoothL1>(m, "smooth_l1_loss(Tensor input, Tensor target, int reduction=1, float beta=1.0) -> Tensor");
  implement(m, "smooth_l1_loss", &without_early<&smooth_l1_loss>::call,
            [](const Tensor& input, const Tensor& target, int64_t reduction, double beta) {
              return recorded_loss(
                  "smooth_l1_loss", smooth_l1_incoming, &smooth_l1_first, {input, target}, {reduction, beta}, reduction,
                  [&] { return call_smooth_l1(input, target, reduction, beta); },
                  [&](EarlyGradient* early) { return smooth_l1_loss(early, input, target, reduction, beta); });
            });
  declare<SmoothL1Backward>(
      m,
      "smooth_l1_loss_backward(Tensor grad_output, Tensor input, Tensor target, int reduction, float beta) -> Tensor");
  implement(m, "smooth_l1_loss_backward", &smooth_l1_loss_backward,
            [](const Tensor& grad, const Tensor& input, const Tensor& target, int64_t reduction, double beta) {
              return recorded("smooth_l1_loss_backward", &smooth_l1_second, {grad, input, target}, {reduction, beta},
                              [&] { return call_smooth_l1_backward(grad, input, target, reduction, beta); });
            });
  define_autocast(m, "smooth_l1_loss", Autocast::fp32, Autocast::fp32);
}

}  // namespace
}  // namespace fastgrad::ops
