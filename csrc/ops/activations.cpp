// relu, sigmoid, tanh and their backward ops; second derivatives are composed of differentiable ops.
#include "elementwise.h"
#include "ops.h"

namespace fastgrad::ops {

Tensor relu_backward(const Tensor& grad, const Tensor& y) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&)>("relu_backward");
  return op.call(grad, y);
}
Tensor sigmoid_backward(const Tensor& grad, const Tensor& y) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&)>("sigmoid_backward");
  return op.call(grad, y);
}
Tensor tanh_backward(const Tensor& grad, const Tensor& y) {
  static const auto op = handle<Tensor(const Tensor&, const Tensor&)>("tanh_backward");
  return op.call(grad, y);
}

namespace {

void refuse_bool(const Tensor& self, const Tensor&, at::ScalarType) {
  TORCH_CHECK(self.scalar_type() != at::kBool, "Boolean inputs not supported for relu");
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  define_unary(
      m, {"relu", &Backend::relu, Result::same, &refuse_bool},
      {[](const Saved& s, const Gradients& g) -> Gradients { return {relu_backward(g[0], s.tensors[0])}; }, kOutput},
      /*in_place=*/true);
  define_unary(
      m, {"sigmoid", &Backend::sigmoid, Result::floating},
      {[](const Saved& s, const Gradients& g) -> Gradients { return {sigmoid_backward(g[0], s.tensors[0])}; }, kOutput},
      /*in_place=*/true);
  define_unary(
      m, {"tanh", &Backend::tanh, Result::floating},
      {[](const Saved& s, const Gradients& g) -> Gradients { return {tanh_backward(g[0], s.tensors[0])}; }, kOutput});

  // The backward ops, with g the gradient and y the activation's output.
  define_binary(m, {"relu_backward", &Backend::relu_backward, Result::same},
                {[](const Saved& s, const Gradients& gg) -> Gradients {
                   return {s.needed[0] ? relu_backward(gg[0], s.tensors[0]) : Tensor(), Tensor()};
                 },
                 kOther});
  define_binary(m, {"sigmoid_backward", &Backend::sigmoid_backward, Result::same},
                {[](const Saved& s, const Gradients& gg) -> Gradients {
                   const Tensor &g = s.tensors[0], &y = s.tensors[1];
                   return {s.needed[0] ? sigmoid_backward(gg[0], y) : Tensor(),
                           s.needed[1] ? mul(mul(gg[0], g), affine(1, -2, y)) : Tensor()};
                 },
                 kOther, kSelf | kOther});
  define_binary(m, {"tanh_backward", &Backend::tanh_backward, Result::same},
                {[](const Saved& s, const Gradients& gg) -> Gradients {
                   const Tensor &g = s.tensors[0], &y = s.tensors[1];
                   return {s.needed[0] ? tanh_backward(gg[0], y) : Tensor(),
                           s.needed[1] ? mul(mul(gg[0], g), mul(y, -2)) : Tensor()};
                 },
                 kOther, kSelf | kOther});
}

}  // namespace
}  // namespace fastgrad::ops
