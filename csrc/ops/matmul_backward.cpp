// The derivatives of mm, bmm, matmul and linear, composed of these ops on transposed views.
//
// c = a b:  da = dc b',  db = a' dc, each summed over the batch dimensions it was broadcast along.

#include <c10/core/GradMode.h>

#include "elementwise.h"
#include "matmul.h"
#include "ops.h"

namespace fastgrad::ops {

Tensor mm(const Tensor& input, const Tensor& mat2) {
  static const auto op = handle<ProductSignature>("mm");
  return op.call(input, mat2);
}
Tensor bmm(const Tensor& input, const Tensor& mat2) {
  static const auto op = handle<ProductSignature>("bmm");
  return op.call(input, mat2);
}
Tensor matmul(const Tensor& input, const Tensor& other) {
  static const auto op = handle<ProductSignature>("matmul");
  return op.call(input, other);
}

namespace {

// What a product reads, and does not outlive it: where nothing is recorded of it, torch need not know it as a view.
Tensor transposed(const Tensor& matrix) {
  std::optional<BelowAutograd> below;
  if (!c10::GradMode::is_enabled() && !matrix._fw_grad(/*level=*/0).defined()) below.emplace();
  return matrix.transpose(-2, -1);
}

// (..., n) as (rows, n): a view wherever strides allow one.
Tensor rows_of(const Tensor& t) { return t.dim() == 2 ? t : t.dim() == 1 ? t.unsqueeze(0) : t.flatten(0, -2); }

Gradients mm_backward(const Saved& s, const Gradients& g) {
  const Tensor &a = s.tensors[0], &b = s.tensors[1];
  return {s.needed[0] ? mm(g[0], transposed(b)) : Tensor(), s.needed[1] ? mm(transposed(a), g[0]) : Tensor()};
}
Gradients bmm_backward(const Saved& s, const Gradients& g) {
  const Tensor &a = s.tensors[0], &b = s.tensors[1];
  return {s.needed[0] ? bmm(g[0], transposed(b)) : Tensor(), s.needed[1] ? bmm(transposed(a), g[0]) : Tensor()};
}

// Values: the shapes of a and b.
Gradients matmul_backward(const Saved& s, const Gradients& grads) {
  const Tensor &a = s.tensors[0], &b = s.tensors[1];
  const auto shape_a = s.values[0].toSymIntVector(), shape_b = s.values[1].toSymIntVector();
  const bool a_is_vector = shape_a.size() == 1, b_is_vector = shape_b.size() == 1;
  if (a_is_vector && b_is_vector)
    return {s.needed[0] ? mul(grads[0], b) : Tensor(), s.needed[1] ? mul(grads[0], a) : Tensor()};
  // As matrices: a vector on the left is a row, one on the right a column.
  Tensor g = grads[0], ga, gb;
  if (a_is_vector) g = g.unsqueeze(-2);
  if (b_is_vector) g = g.unsqueeze(-1);
  if (s.needed[0]) {
    ga = matmul(g, b_is_vector ? b.unsqueeze(0) : transposed(b));
    ga = sum_to(a_is_vector ? ga.squeeze(-2) : ga, shape_a);
  }
  if (s.needed[1]) {
    const Tensor matrix = a_is_vector ? a.unsqueeze(0) : a;
    // With one b for all, the sum over the batch is part of the product.
    gb = shape_b.size() <= 2 ? mm(transposed(rows_of(matrix)), rows_of(g)) : matmul(transposed(matrix), g);
    gb = sum_to(b_is_vector ? gb.squeeze(-1) : gb, shape_b);
  }
  return {ga, gb};
}

Tensor column_sum(const Tensor& g) { return ops::sum(g, at::IntArrayRef({0})); }

template <Tensor (*ActivationBackward)(const Tensor& grad, const Tensor& y)>
Gradients linear_backward(const Saved& s, const Gradients& grads) {
  const Tensor &input = s.tensors[0], &weight = s.tensors[1];
  Tensor g = grads[0];
  if constexpr (ActivationBackward != nullptr) g = ActivationBackward(g, s.tensors[2]);
  // Values are recorded where the shapes are not the usual ones: a 1-D weight, a bias of one element.
  const bool usual = s.values.empty(), vector = !usual && s.values[0].toBool();
  if (vector) g = g.unsqueeze(-1);
  Gradients result(3);
  if (s.needed[0]) {
    const Tensor w = vector ? weight.unsqueeze(0) : weight;
    result[0] = g.dim() == 2 ? mm(g, w) : matmul(g, w);
  }
  if (!s.needed[1] && !s.needed[2]) return result;
  const Tensor rows = rows_of(g);
  if (s.needed[1]) {
    result[1] = mm(transposed(rows), rows_of(input));
    if (vector) result[1] = result[1].squeeze(0);
  }
  if (s.needed[2]) {
    result[2] = column_sum(rows);
    if (!usual) result[2] = sum_to(result[2], s.values[1].toSymIntVector());
  }
  return result;
}

BackwardFunction linear_backward_of(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return &linear_backward<&relu_backward>;
    case Activation::sigmoid:
      return &linear_backward<&sigmoid_backward>;
    case Activation::tanh:
      return &linear_backward<&tanh_backward>;
    default:
      return &linear_backward<nullptr>;
  }
}

// What the gradient of the other operand needs.
Gradients operands_to_save(const Tensor& a, const Tensor& b) {
  return {b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor()};
}

Tensor record_product(const char* name, const c10::TypedOperatorHandle<ProductSignature>& op, const Tensor& a,
                      const Tensor& b, BackwardFunction backward, bool shapes) {
  const std::array<Tensor, 2> inputs{a, b};
  if (!needs_recording(name, inputs)) {
    const BelowAutograd below;
    return op.call(a, b);
  }
  return record_one(inputs, backward, [&] {
    Step step{{op.call(a, b)}, operands_to_save(a, b), {}};
    if (shapes) step.values = {a.sym_sizes(), b.sym_sizes()};
    return step;
  });
}

}  // namespace

Tensor mm_autograd(const Tensor& input, const Tensor& mat2) {
  static const auto op = handle<ProductSignature>("mm");
  return record_product("mm", op, input, mat2, &mm_backward, false);
}
Tensor bmm_autograd(const Tensor& input, const Tensor& mat2) {
  static const auto op = handle<ProductSignature>("bmm");
  return record_product("bmm", op, input, mat2, &bmm_backward, false);
}
Tensor matmul_autograd(const Tensor& input, const Tensor& other) {
  static const auto op = handle<ProductSignature>("matmul");
  const bool matrices = input.dim() == 2 && other.dim() == 2;
  return record_product("matmul", op, input, other, matrices ? &mm_backward : &matmul_backward, !matrices);
}

Tensor linear_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                       std::optional<std::string_view> activation) {
  static const auto op = handle<LinearSignature>("linear");
  const std::array<Tensor, 3> inputs{input, weight, bias ? *bias : Tensor()};
  if (!needs_recording("linear", inputs)) {
    const BelowAutograd below;
    return op.call(input, weight, bias, activation);
  }
  const Activation function = activation_named(activation);
  return record_one(inputs, linear_backward_of(function), [&] {
    Step step{{op.call(input, weight, bias, activation)}, operands_to_save(input, weight), {}};
    if (function != Activation::none) step.saved.push_back(step.outputs[0]);
    const bool vector = weight.dim() == 1;
    const Tensor& b = inputs[2];
    if (vector || (b.defined() && (b.dim() == 0 || b.sym_size(0) != weight.sym_size(0))))
      step.values = {vector, b.defined() ? c10::IValue(b.sym_sizes()) : c10::IValue()};
    return step;
  });
}

void define_product(torch::Library& m, const std::string& schema, ProductSignature* kernel, ProductOutSignature* out,
                    ProductSignature* autograd) {
  const size_t end = schema.find('(');
  const std::string name = schema.substr(0, end), arguments = schema.substr(end);
  declare<ProductSignature>(m, schema + ") -> Tensor");
  implement(m, name, kernel, autograd);
  const auto op = declare<ProductOutSignature>(m, name + ".out" + arguments + ", *, Tensor(a!) out) -> ()");
  implement(m, name + ".out", out, [name, op](const Tensor& a, const Tensor& b, const Tensor& c) {
    const std::array<Tensor, 2> inputs{a, b};
    needs_recording(name.c_str(), inputs);
    check_out(name.c_str(), inputs, c);
    {
      const BelowAutograd below;
      op.call(a, b, c);
    }
    bump_version(c);
  });
}

}  // namespace fastgrad::ops
