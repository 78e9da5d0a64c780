// softmax, log_softmax and their backward ops; second derivatives are composed of differentiable ops.
#include <ATen/WrapDimUtils.h>

#include "ops.h"
#include "outputs.h"
#include "rows.h"

namespace fastgrad::ops {

using Forward = Tensor(const Tensor&, int64_t, std::optional<at::ScalarType>);
using Backward = Tensor(const Tensor&, const Tensor&, int64_t, at::ScalarType);

Tensor softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype) {
  static const auto op = handle<Forward>("softmax");
  return op.call(input, dim, dtype);
}
Tensor log_softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype) {
  static const auto op = handle<Forward>("log_softmax");
  return op.call(input, dim, dtype);
}
Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input_dtype) {
  static const auto op = handle<Backward>("softmax_backward");
  return op.call(grad, output, dim, input_dtype);
}
Tensor log_softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input_dtype) {
  static const auto op = handle<Backward>("log_softmax_backward");
  return op.call(grad, output, dim, input_dtype);
}
Tensor sum_along(const Tensor& x, int64_t dim) { return sum(x, at::IntArrayRef({dim}), /*keepdim=*/true); }

namespace {

template <bool Log>
struct Family {
  static constexpr const char* name = Log ? "log_softmax" : "softmax";
  static constexpr const char* backward_name = Log ? "log_softmax_backward" : "softmax_backward";
  static Tensor apply(const Tensor& x, int64_t dim, std::optional<at::ScalarType> dtype) {
    return Log ? ops::log_softmax(x, dim, dtype) : ops::softmax(x, dim, dtype);
  }
  static Tensor apply_backward(const Tensor& g, const Tensor& y, int64_t dim, at::ScalarType dtype) {
    return Log ? ops::log_softmax_backward(g, y, dim, dtype) : ops::softmax_backward(g, y, dim, dtype);
  }

  static Tensor forward(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype) {
    dim = at::maybe_wrap_dim(dim, input.dim());
    const at::ScalarType type = dtype.value_or(input.scalar_type());
    TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(type), '"', name, "\" not implemented for '", type, "'");
    const Tensor output = new_tensor(input.sizes(), input.options().dtype(type));
    if (output.numel() == 0) return output;
    place_output(output);
    RowsArgs a = rows_args(name, input.sizes(), dim, {{input, dim}, {output, dim}});
    a.compute = compute_dtype(type);
    run_kernel(name, Log ? &Backend::log_softmax : &Backend::softmax, a, input.device());
    return output;
  }

  static Tensor backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input_dtype) {
    TORCH_CHECK(grad.sizes() == output.sizes() && grad.device() == output.device(), "fastgrad::", backward_name,
                ": grad has shape ", grad.sizes(), " on ", grad.device(), ", but output has shape ", output.sizes(),
                " on ", output.device());
    dim = at::maybe_wrap_dim(dim, output.dim());
    const Tensor result = new_tensor(output.sizes(), output.options().dtype(input_dtype));
    if (result.numel() == 0) return result;
    place_output(result);
    RowsArgs a = rows_args(backward_name, output.sizes(), dim, {{grad, dim}, {output, dim}, {result, dim}});
    a.compute = compute_dtype(output.scalar_type());
    run_kernel(backward_name, Log ? &Backend::log_softmax_backward : &Backend::softmax_backward, a, output.device());
    return result;
  }

  static Gradients differentiate(const Saved& s, const Gradients& g) {
    return {apply_backward(g[0], s.tensors[0], s.values[0].toInt(), s.values[1].toScalarType())};
  }
  static Tensor forward_autograd(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype) {
    if (!needs_recording(name, input)) {
      const BelowAutograd below;
      return apply(input, dim, dtype);
    }
    return record_one(input, &differentiate, [&]() -> Step {
      const Tensor y = apply(input, dim, dtype);
      return {{y}, {y}, {dim, input.scalar_type()}};
    });
  }

  // With v the incoming gradient, y the output and <a, b> = sum(a b) along dim:
  // softmax: dx = y (g - <g, y>):  d/dg = y (v - <v, y>),  d/dy = v (g - <g, y>) - g <v, y>
  // log_softmax: dx = g - exp(y) sum(g):  d/dg = v - <v, exp(y)>,  d/dy = -v exp(y) sum(g)
  static Gradients differentiate_backward(const Saved& s, const Gradients& grads) {
    const Tensor &g = s.tensors[0], &y = s.tensors[1];
    const at::ScalarType type = y.scalar_type();
    const Tensor v = grads[0].scalar_type() == type ? grads[0] : grads[0].to(type);
    const int64_t dim = s.values[0].toInt();
    if constexpr (Log) {
      const Tensor vp = mul(v, exp(y));
      return {s.needed[0] ? sub(v, sum_along(vp, dim)) : Tensor(),
              s.needed[1] ? neg(mul(vp, sum_along(g, dim))) : Tensor()};
    } else {
      return {
          s.needed[0] ? ops::softmax_backward(v, y, dim, g.scalar_type()) : Tensor(),
          s.needed[1] ? sub(mul(v, sub(g, sum_along(mul(g, y), dim))), mul(g, sum_along(mul(v, y), dim))) : Tensor()};
    }
  }
  static Tensor backward_autograd(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input_dtype) {
    if (!needs_recording(backward_name, {grad, output})) {
      const BelowAutograd below;
      return apply_backward(grad, output, dim, input_dtype);
    }
    return record_one({grad, output}, &differentiate_backward, [&]() -> Step {
      return {{apply_backward(grad, output, dim, input_dtype)}, {grad, output}, {dim}};
    });
  }

  static void define(torch::Library& m) {
    declare<Forward>(m, std::string(name) + "(Tensor input, int dim, ScalarType? dtype=None) -> Tensor");
    implement(m, name, &forward, &forward_autograd);
    declare<Backward>(
        m, std::string(backward_name) + "(Tensor grad, Tensor output, int dim, ScalarType input_dtype) -> Tensor");
    implement(m, backward_name, &backward, &backward_autograd);
    define_autocast(m, name, Autocast::fp32_set_dtype);
  }
};

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  Family<false>::define(m);
  Family<true>::define(m);
}

}  // namespace
}  // namespace fastgrad::ops
