// add, sub, mul, div, pow, comparisons, neg, abs, sqrt, exp, log and their derivatives.
#include <ATen/ops/eq.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "elementwise.h"
#include "ops.h"

namespace fastgrad::ops {

namespace {

using Binary = Tensor(const Tensor&, const Tensor&);
using Unary = Tensor(const Tensor&);
using Alpha = Tensor(const Tensor&, const Tensor&, const at::Scalar&);

}  // namespace

Tensor add(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
  static const auto op = handle<Alpha>("add");
  return op.call(self, other, alpha);
}
Tensor sub(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
  static const auto op = handle<Alpha>("sub");
  return op.call(self, other, alpha);
}
Tensor mul(const Tensor& self, const Tensor& other) {
  static const auto op = handle<Binary>("mul");
  return op.call(self, other);
}
Tensor mul(const Tensor& self, const at::Scalar& other) { return mul(self, constant(other, self)); }
Tensor div(const Tensor& self, const Tensor& other) {
  static const auto op = handle<Binary>("div");
  return op.call(self, other);
}
Tensor pow(const Tensor& self, const Tensor& other) {
  static const auto op = handle<Binary>("pow");
  return op.call(self, other);
}
Tensor pow(const Tensor& self, const at::Scalar& other) { return pow(self, constant(other, self)); }
Tensor neg(const Tensor& self) {
  static const auto op = handle<Unary>("neg");
  return op.call(self);
}
Tensor log(const Tensor& self) {
  static const auto op = handle<Unary>("log");
  return op.call(self);
}
Tensor exp(const Tensor& self) {
  static const auto op = handle<Unary>("exp");
  return op.call(self);
}
Tensor affine(const at::Scalar& a, const at::Scalar& b, const Tensor& x) { return add(constant(a, x), x, b); }

namespace {

Tensor abs_backward(const Tensor& grad, const Tensor& x) {
  static const auto op = handle<Binary>("abs_backward");
  return op.call(grad, x);
}
Tensor sqrt_backward(const Tensor& grad, const Tensor& y) {
  static const auto op = handle<Binary>("sqrt_backward");
  return op.call(grad, y);
}

at::Scalar alpha_of(const Saved& s) { return s.values.empty() ? at::Scalar(1) : s.values[2].toScalar(); }

Gradients add_backward(const Saved& s, const Gradients& g) {
  const at::Scalar alpha = alpha_of(s);
  return to_inputs(s, g[0], !s.needed[1] ? Tensor() : !alpha.isSymbolic() && alpha.equal(1) ? g[0] : mul(g[0], alpha));
}
Gradients sub_backward(const Saved& s, const Gradients& g) {
  return to_inputs(s, g[0], !s.needed[1] ? Tensor() : mul(g[0], -alpha_of(s)));
}
Gradients mul_backward(const Saved& s, const Gradients& g) {
  const auto of = [&](int k) {
    if (!s.needed[k]) return Tensor();
    const Tensor& factor = s.tensors[1 - k];
    const bool expanded = !s.values.empty() && !s.values[k].isNone();
    return expanded ? sum_product_to(g[0], factor, sizes_of(s.values[k])) : mul(g[0], factor);
  };
  return {of(0), of(1)};
}
Gradients div_backward(const Saved& s, const Gradients& g) {
  const Tensor &a = s.tensors[0], &b = s.tensors[1];
  const Tensor ga = div(g[0], b);
  return to_inputs(s, ga, s.needed[1] ? neg(mul(ga, div(a, b))) : Tensor());
}
Gradients rounded_div_backward(const Saved& s, const Gradients& g) {
  const Tensor zero = at::zeros_like(g[0]);
  return to_inputs(s, zero, zero);
}

// The gradients of a^b by a and by b; see math/arithmetic.h.
using PowBaseBackward = Tensor(const Tensor& grad, const Tensor& input, const Tensor& other);
Tensor pow_base_backward(const Tensor& grad, const Tensor& input, const Tensor& other) {
  static const auto op = handle<PowBaseBackward>("pow_base_backward");
  return op.call(grad, input, other);
}
using PowExponentBackward = Tensor(const Tensor& grad, const Tensor& input, const Tensor& other, const Tensor& output);
Tensor pow_exponent_backward(const Tensor& grad, const Tensor& input, const Tensor& other, const Tensor& output) {
  static const auto op = handle<PowExponentBackward>("pow_exponent_backward");
  return op.call(grad, input, other, output);
}
Gradients pow_backward(const Saved& s, const Gradients& g) {
  const Tensor &a = s.tensors[0], &b = s.tensors[1], &y = s.tensors[2];
  return to_inputs(s, s.needed[0] ? pow_base_backward(g[0], a, b) : Tensor(),
                   s.needed[1] ? pow_exponent_backward(g[0], a, b, y) : Tensor());
}

// Whether t is an ordinary number, no gradient's and not being traced or transformed, so that one may look at it.
bool is_number(const Tensor& t) {
  constexpr c10::DispatchKeySet more{c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
                                     c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper};
  return t.dim() == 0 && t.is_cpu() && !t.requires_grad() && !t.key_set().has_any(more);
}
// The two gradients of differentiable ops, for second derivatives.
Tensor pow_base_composed(const Tensor& g, const Tensor& a, const Tensor& b) {
  if (!is_number(b)) return at::where(at::eq(b, 0), 0, mul(g, mul(b, pow(a, sub(b, constant(1, b))))));
  const double exponent = b.item<double>();
  if (exponent == 0) return at::zeros_like(g);
  if (exponent == 1) return mul(g, b);
  return mul(g, mul(b, exponent == 2 ? a : pow(a, exponent - 1)));
}
Tensor pow_exponent_composed(const Tensor& g, const Tensor& a, const Tensor& b, const Tensor& y) {
  // Either may be a number on the CPU; logical_and would make its result on the device of the first.
  const Tensor zero = at::eq(a, 0).bitwise_and(b.ge(0));
  return at::where(zero, 0, mul(g, mul(y, log(at::where(zero, 1, a)))));
}

// Registers a gradient that is one kernel, or where it is to be differentiated itself, composed.
template <class... In>
void define_gradient(torch::Library& m, const ElementwiseSpec& spec, const char* arguments,
                     Tensor (*composed)(const In&...)) {
  const auto op = declare<Tensor(const In&...)>(m, spec.name + std::string("(") + arguments + ") -> Tensor");
  implement(
      m, spec.name, [spec](const In&... in) { return elementwise(spec, {in...}); },
      [spec, op, composed](const In&... in) {
        if (needs_recording(spec.name, {in...})) return composed(in...);
        const BelowAutograd below;
        return op.call(in...);
      });
}

void refuse_bool_sub(const Tensor& self, const Tensor& other, at::ScalarType common) {
  TORCH_CHECK(self.scalar_type() != at::kBool && other.scalar_type() != at::kBool,
              common == at::kBool
                  ? "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
                    "`logical_xor()` operator instead."
                  : "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a "
                    "mask, use the `~` or `logical_not()` operator instead.");
}
void refuse_bool_neg(const Tensor& self, const Tensor&, at::ScalarType) {
  TORCH_CHECK(self.scalar_type() != at::kBool,
              "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, use "
              "the `~` or `logical_not()` operator instead.");
}
void refuse_zero_divisor(const Tensor&, const Tensor& other, at::ScalarType common) {
  if (c10::isIntegralType(common, true) && other.is_cpu())
    TORCH_CHECK(!at::eq(other, 0).any().item<bool>(), "ZeroDivisionError");
}

void check_pow(const Tensor&, const Tensor& other, at::ScalarType common) {
  const bool number = other.unsafeGetTensorImpl()->is_wrapped_number();
  TORCH_CHECK_NOT_IMPLEMENTED(common != at::kBool || number, "\"pow\" not implemented for 'Bool'");
  if (number && c10::isIntegralType(common, true))
    TORCH_CHECK(other.item<int64_t>() >= 0, "Integers to negative integer powers are not allowed.");
}
void refuse_bool_abs(const Tensor& self, const Tensor&, at::ScalarType) {
  TORCH_CHECK_NOT_IMPLEMENTED(self.scalar_type() != at::kBool, "\"abs\" not implemented for 'Bool'");
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  define_binary_alpha(m, {"add", &Backend::add, Result::same}, {&add_backward}, true);
  define_binary_alpha(m, {"sub", &Backend::sub, Result::same, &refuse_bool_sub}, {&sub_backward}, true);
  define_binary(m, {"mul", &Backend::mul, Result::same}, {&mul_backward, kOther, kSelf}, true);
  define_binary(m, {"div", &Backend::div, Result::floating}, {&div_backward, kOther, kSelf | kOther}, true);
  define_binary(m, {"div_floor", &Backend::div_floor, Result::same, &refuse_zero_divisor}, {&rounded_div_backward},
                true);
  define_binary(m, {"div_trunc", &Backend::div_trunc, Result::same, &refuse_zero_divisor}, {&rounded_div_backward},
                true);
  define_binary(m, {"pow", &Backend::pow, Result::same, &check_pow},
                {&pow_backward, kSelf | kOther, kSelf | kOther | kOutput});

  define_gradient(m, {"pow_base_backward", &Backend::pow_base_backward, Result::same},
                  "Tensor grad, Tensor input, Tensor other", &pow_base_composed);
  define_gradient(m, {"pow_exponent_backward", &Backend::pow_exponent_backward, Result::same},
                  "Tensor grad, Tensor input, Tensor other, Tensor output", &pow_exponent_composed);

  define_binary(m, {"eq", &Backend::eq, Result::boolean}, {});
  define_binary(m, {"ne", &Backend::ne, Result::boolean}, {});
  define_binary(m, {"lt", &Backend::lt, Result::boolean}, {});
  define_binary(m, {"le", &Backend::le, Result::boolean}, {});
  define_binary(m, {"gt", &Backend::gt, Result::boolean}, {});
  define_binary(m, {"ge", &Backend::ge, Result::boolean}, {});

  define_unary(m, {"neg", &Backend::neg, Result::same, &refuse_bool_neg},
               {[](const Saved&, const Gradients& g) -> Gradients { return {neg(g[0])}; }});
  define_unary(
      m, {"abs", &Backend::abs, Result::same, &refuse_bool_abs},
      {[](const Saved& s, const Gradients& g) -> Gradients { return {abs_backward(g[0], s.tensors[0])}; }, kSelf});
  define_unary(
      m, {"sqrt", &Backend::sqrt, Result::floating},
      {[](const Saved& s, const Gradients& g) -> Gradients { return {sqrt_backward(g[0], s.tensors[0])}; }, kOutput});
  define_unary(m, {"exp", &Backend::exp, Result::floating},
               {[](const Saved& s, const Gradients& g) -> Gradients { return {mul(g[0], s.tensors[0])}; }, kOutput});
  define_unary(m, {"log", &Backend::log, Result::floating},
               {[](const Saved& s, const Gradients& g) -> Gradients { return {div(g[0], s.tensors[0])}; }, kSelf});

  define_binary(m, {"abs_backward", &Backend::abs_backward, Result::same},
                {[](const Saved& s, const Gradients& gg) -> Gradients {
                   return {s.needed[0] ? abs_backward(gg[0], s.tensors[0]) : Tensor(), Tensor()};
                 },
                 kOther});
  // g / 2y: by g it is linear, by y its derivative is -g / 2y^2.
  define_binary(m, {"sqrt_backward", &Backend::sqrt_backward, Result::same},
                {[](const Saved& s, const Gradients& gg) -> Gradients {
                   const Tensor &g = s.tensors[0], &y = s.tensors[1];
                   return {s.needed[0] ? sqrt_backward(gg[0], y) : Tensor(),
                           s.needed[1] ? neg(div(sqrt_backward(mul(gg[0], g), y), y)) : Tensor()};
                 },
                 kOther, kSelf | kOther});

  // As in torch's list of ops that autocast to float32.
  for (const char* name : {"pow", "exp", "log"}) define_autocast(m, name, Autocast::fp32);
}

}  // namespace
}  // namespace fastgrad::ops
