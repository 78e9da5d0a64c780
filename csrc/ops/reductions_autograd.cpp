// The gradients of reductions. Those of one pass over the input are ops of their own, each one map kernel over
// broadcast operands (the small tensors of the results have size 1 where the input was reduced).
#include <ATen/ops/cat.h>
#include <ATen/ops/cumprod.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include "elementwise.h"
#include "ops.h"
#include "outputs.h"
#include "reductions.h"

namespace fastgrad::ops {

Reduced::Reduced(const Saved& s)
    : dims(s.values[0].isInt() ? std::vector<int64_t>() : s.values[0].toIntVector()),
      keepdim(s.values[1].toBool()),
      type(s.values[3].toScalarType()),
      correction(s.values[4].toDouble()) {
  shape = sizes_of(s.values[2]);
}
std::vector<c10::IValue> Reduced::values(const Tensor& input, const Request& r) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < input.dim(); ++d)
    if (r.mask[d]) dims.push_back(d);
  return {dims.empty() ? c10::IValue(0) : c10::IValue(dims), r.keepdim, as_value(input.sym_sizes()),
          input.scalar_type(), r.correction};
}
Tensor Reduced::with_dims(const Tensor& t) const {
  if (keepdim || !t.defined()) return t;
  c10::SymDimVector sizes = shape;
  for (const int64_t d : dims) sizes[d] = 1;
  return t.view_symint(sizes);
}
Tensor Reduced::expand(const Tensor& t) const {
  const Tensor small = with_dims(t).to(type);
  return small.expand_symint(shape);
}
c10::SymInt Reduced::count() const {
  c10::SymInt n = 1;
  for (const int64_t d : dims) n *= shape[d];
  return n;
}

namespace {

// t / n, where n may be symbolic. Not t times 1 / n, which a graph rounds to a 16-bit dtype of t.
Tensor divided(const Tensor& t, const c10::SymInt& n) { return div(t, constant(at::Scalar(n), t)); }

// What a full-size gradient gives a broadcast operand of the shape of `t`.
Tensor sum_like(const Tensor& grad, const Tensor& t) { return sum_to(grad, t.sym_sizes()); }

// `dims` of a gradient's op are those that were reduced: where they are none, dim_mask() would name all.
DimMask mask_of(const Tensor& x, at::IntArrayRef dims) { return dims.empty() ? DimMask() : dim_mask(dims, x.dim()); }
ReduceArgs reduce_inputs(at::TensorList inputs, at::IntArrayRef dims, const Tensor& out) {
  const Tensor& x = inputs[0];
  ReduceArgs a = reduce_args("reduction", inputs, mask_of(x, dims), {out}, true);
  a.compute = compute_dtype(x.scalar_type());
  return a;
}
// An accumulator for each result, in the arithmetic rather than the dtype of x.
Tensor empty_results(const Tensor& x, at::IntArrayRef dims) {
  return at::empty(reduced_shape(x.sizes(), mask_of(x, dims), true),
                   x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
}

using SumProduct = Tensor(const Tensor&, const Tensor&, at::IntArrayRef);
Tensor compute_sum_product(const Tensor& x, const Tensor& y, at::IntArrayRef dims) {
  TORCH_CHECK(x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() && x.device() == y.device(),
              "fastgrad::sum_product: expected two tensors of one shape, dtype and device");
  TORCH_CHECK(x.is_floating_point() && !dims.empty(),
              "fastgrad::sum_product: expected floating-point tensors and dimensions to sum over");
  const Tensor out = new_tensor(reduced_shape(x.sizes(), mask_of(x, dims), true), x.options());
  if (x.numel() == 0) return out.zero_();
  place_output(out);
  ReduceArgs a = reduce_inputs({x, y}, dims, out);
  run_kernel("sum_product", &Backend::sum_product, a, x.device());
  return out;
}

// grad / count where input == value, else 0. `nan_equal`: NaN equals NaN.
using MaxBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, at::IntArrayRef, bool);
Tensor max_grad(const Tensor& grad, const Tensor& input, const Tensor& value, at::IntArrayRef dims, bool nan_equal) {
  static const auto op = handle<MaxBackward>("max_backward");
  return op.call(grad, input, value, dims, nan_equal);
}
Tensor compute_max_grad(const Tensor& grad, const Tensor& input, const Tensor& value, at::IntArrayRef dims,
                        bool nan_equal) {
  const Number flag{double(nan_equal), nan_equal};
  const Tensor count = empty_results(input, dims), out = at::empty_like(input);
  if (input.numel() == 0) return out;
  ReduceArgs a = reduce_inputs({input, value.expand(input.sizes())}, dims, count);
  a.parameter[0] = flag;
  run_kernel("max_backward", &Backend::count_equal, a, input.device());
  return elementwise({"max_backward", &Backend::select_equal, Result::same}, {grad, input, value, count}, out, false,
                     flag);
}
Gradients max_double_backward(const Saved& s, const Gradients& gg) {
  const auto dims = s.values[0].toIntVector();
  const Tensor g = max_grad(gg[0], s.tensors[0], s.tensors[1], dims, s.values[1].toBool());
  return {sum(g, dims, true), Tensor(), Tensor()};
}

// grad at the index along `dim`, else 0.
using MaxDimBackward = Tensor(const Tensor&, const Tensor&, int64_t, c10::SymInt);
Tensor max_dim_grad(const Tensor& grad, const Tensor& indices, int64_t dim, c10::SymInt size) {
  static const auto op = handle<MaxDimBackward>("max_dim_backward");
  return op.call(grad, indices, dim, size);
}
Tensor compute_max_dim_grad(const Tensor& grad, const Tensor& indices, int64_t dim, c10::SymInt sym_size) {
  const int64_t size = sym_size.guard_int(__FILE__, __LINE__);
  at::DimVector shape(indices.sizes());
  if (indices.dim() > 0) shape[dim] = size;
  const Tensor out = new_tensor(shape, grad.options());
  if (out.numel() == 0) return out;
  place_output(out);
  return out.zero_().scatter_(dim, indices, grad);
}
Gradients max_dim_double_backward(const Saved& s, const Gradients& gg) {
  // The derivative by grad picks gg at the indices.
  const int64_t dim = s.values[0].toInt();
  return {gg[0].dim() > 0 ? gg[0].gather(dim, s.tensors[0]) : gg[0], Tensor()};
}

// grad * (input - mean) * factor
using VarBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, double);
Tensor var_grad(const Tensor& grad, const Tensor& input, const Tensor& mean, double factor) {
  static const auto op = handle<VarBackward>("var_backward");
  return op.call(grad, input, mean, factor);
}
Gradients var_double_backward(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &mean = s.tensors[2];
  const double factor = s.values[0].toDouble();
  Tensor gx, gmean;
  if (s.needed[1] || s.needed[2]) {
    const Tensor t = mul(mul(gg[0], g), factor);
    gx = sum_like(t, x);
    gmean = neg(sum_like(t, mean));
  }
  return {s.needed[0] ? sum_like(var_grad(gg[0], x, mean, factor), g) : Tensor(), gx, gmean};
}

// The gradient of max(input, other) by input, and of min(other, input) by other.
using MaximumBackward = Tensor(const Tensor& grad, const Tensor& input, const Tensor& other);
Tensor maximum_grad(const Tensor& grad, const Tensor& input, const Tensor& other) {
  static const auto op = handle<MaximumBackward>("maximum_backward");
  return op.call(grad, input, other);
}
Gradients maximum_double_backward(const Saved& s, const Gradients& gg) {
  return {maximum_grad(gg[0], s.tensors[0], s.tensors[1])};
}
template <bool Largest>
Gradients extreme_backward(const Saved& s, const Gradients& g) {
  const auto part = [&](int own) {
    return s.needed[own] ? maximum_grad(g[0], s.tensors[Largest ? own : 1 - own], s.tensors[Largest ? 1 - own : own])
                         : Tensor();
  };
  return to_inputs(s, part(0), part(1));
}

// grad * exp(input - output)
using LogSumExpBackward = Tensor(const Tensor&, const Tensor&, const Tensor&);
Tensor logsumexp_grad(const Tensor& grad, const Tensor& input, const Tensor& output) {
  static const auto op = handle<LogSumExpBackward>("logsumexp_backward");
  return op.call(grad, input, output);
}
Gradients logsumexp_double_backward(const Saved& s, const Gradients& gg) {
  const Tensor &g = s.tensors[0], &x = s.tensors[1], &y = s.tensors[2];
  const Tensor softmax = logsumexp_grad(gg[0], x, y);
  Tensor gx, gy;
  if (s.needed[1] || s.needed[2]) {
    const Tensor t = mul(softmax, g);
    gx = sum_like(t, x);
    gy = neg(sum_like(t, y));
  }
  return {sum_like(softmax, g), gx, gy};
}

// grad times the product of the other elements, from the product of the nonzero ones and the number of zeros.
using ProdBackward = Tensor(const Tensor&, const Tensor&, at::IntArrayRef);
Tensor prod_grad(const Tensor& grad, const Tensor& input, at::IntArrayRef dims) {
  static const auto op = handle<ProdBackward>("prod_backward");
  return op.call(grad, input, dims);
}
// The same of differentiable ops, for zeros too: the products of what stands before and behind each element.
Tensor prod_grad_composed(const Tensor& grad, const Tensor& input, at::IntArrayRef dims) {
  if (input.dim() == 0) return mul(grad, at::ones_like(input));
  const bool whole = int64_t(dims.size()) == input.dim() && dims.size() > 1;
  const Tensor x = whole ? input.reshape({-1}) : input;
  const int64_t d = whole ? 0 : dims[0];
  const c10::SymInt n = x.sym_size(d);
  if (n == 0) return mul(x, grad);
  const Tensor one = at::ones_like(x.narrow(d, 0, 1));
  const Tensor before = at::cumprod(at::cat({one, x.narrow_symint(d, 0, n - 1)}, d), d);
  const Tensor behind = at::cumprod(at::cat({one, x.flip(d).narrow_symint(d, 0, n - 1)}, d), d).flip(d);
  const Tensor others = mul(before, behind);
  return mul(whole ? others.view_symint(input.sym_sizes()) : others, grad);
}
Tensor compute_prod_grad(const Tensor& grad, const Tensor& input, at::IntArrayRef dims) {
  const Tensor out = at::empty_like(input);
  if (input.numel() == 0) return out;
  const Tensor product = empty_results(input, dims), zeros = empty_results(input, dims);
  ReduceArgs a = reduce_inputs({input}, dims, product);
  run_kernel("prod_backward", &Backend::prod_nonzero, a, input.device());
  a = reduce_inputs({input}, dims, zeros);
  run_kernel("prod_backward", &Backend::count_zero, a, input.device());
  return elementwise({"prod_backward", &Backend::prod_backward, Result::same}, {grad, input, product, zeros}, out);
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  const auto sum_product_op = declare<SumProduct>(m, "sum_product(Tensor self, Tensor other, int[] dim) -> Tensor");
  implement(m, "sum_product", &compute_sum_product,
            [sum_product_op](const Tensor& x, const Tensor& y, at::IntArrayRef dims) {
              if (needs_recording("sum_product", {x, y})) return sum(mul(x, y), dims, true);
              const BelowAutograd below;
              return sum_product_op.call(x, y, dims);
            });
  const auto max_op = declare<MaxBackward>(
      m, "max_backward(Tensor grad, Tensor input, Tensor value, int[] dim, bool nan_equal) -> Tensor");
  implement(m, "max_backward", &compute_max_grad,
            [max_op](const Tensor& g, const Tensor& x, const Tensor& v, at::IntArrayRef dims, bool nan_equal) {
              needs_recording("max_backward", {g, x, v});
              return record({g, x, v}, &max_double_backward, [&] {
                return Step{{max_op.call(g, x, v, dims, nan_equal)}, {x, v}, {dims.vec(), nan_equal}};
              })[0];
            });
  const auto max_dim_op =
      declare<MaxDimBackward>(m, "max_dim_backward(Tensor grad, Tensor indices, int dim, SymInt size) -> Tensor");
  implement(m, "max_dim_backward", &compute_max_dim_grad,
            [max_dim_op](const Tensor& g, const Tensor& indices, int64_t dim, c10::SymInt size) {
              needs_recording("max_dim_backward", {g});
              return record({g, indices}, &max_dim_double_backward,
                            [&] { return Step{{max_dim_op.call(g, indices, dim, size)}, {indices}, {dim}}; })[0];
            });
  const auto var_op =
      declare<VarBackward>(m, "var_backward(Tensor grad, Tensor input, Tensor mean, float factor) -> Tensor");
  implement(
      m, "var_backward",
      [](const Tensor& g, const Tensor& x, const Tensor& mean, double factor) {
        return elementwise({"var_backward", &Backend::var_backward, Result::same}, {g, x, mean}, {}, false,
                           {factor, 0});
      },
      [var_op](const Tensor& g, const Tensor& x, const Tensor& mean, double factor) {
        needs_recording("var_backward", {g, x, mean});
        return record({g, x, mean}, &var_double_backward,
                      [&] { return Step{{var_op.call(g, x, mean, factor)}, {g, x, mean}, {factor}}; })[0];
      });
  const auto logsumexp_op =
      declare<LogSumExpBackward>(m, "logsumexp_backward(Tensor grad, Tensor input, Tensor output) -> Tensor");
  implement(
      m, "logsumexp_backward",
      [](const Tensor& g, const Tensor& x, const Tensor& y) {
        return elementwise({"logsumexp_backward", &Backend::logsumexp_backward, Result::same}, {g, x, y});
      },
      [logsumexp_op](const Tensor& g, const Tensor& x, const Tensor& y) {
        needs_recording("logsumexp_backward", {g, x, y});
        return record({g, x, y}, &logsumexp_double_backward,
                      [&] { return Step{{logsumexp_op.call(g, x, y)}, {g, x, y}, {}}; })[0];
      });
  const auto prod_op = declare<ProdBackward>(m, "prod_backward(Tensor grad, Tensor input, int[] dim) -> Tensor");
  implement(m, "prod_backward", &compute_prod_grad, [prod_op](const Tensor& g, const Tensor& x, at::IntArrayRef dims) {
    if (needs_recording("prod_backward", {g, x})) return prod_grad_composed(g, x, dims);
    const BelowAutograd below;
    return prod_op.call(g, x, dims);
  });

  const auto maximum_op =
      declare<MaximumBackward>(m, "maximum_backward(Tensor grad, Tensor input, Tensor other) -> Tensor");
  implement(
      m, "maximum_backward",
      [](const Tensor& g, const Tensor& a, const Tensor& b) {
        return elementwise({"maximum_backward", &Backend::maximum_backward, Result::same}, {g, a, b});
      },
      [maximum_op](const Tensor& g, const Tensor& a, const Tensor& b) {
        needs_recording("maximum_backward", {g, a, b});
        return record({g}, &maximum_double_backward, [&] { return Step{{maximum_op.call(g, a, b)}, {a, b}, {}}; })[0];
      });
  define_binary(m, {"maximum", &Backend::maximum, Result::same},
                {&extreme_backward<true>, kSelf | kOther, kSelf | kOther});
  define_binary(m, {"minimum", &Backend::minimum, Result::same},
                {&extreme_backward<false>, kSelf | kOther, kSelf | kOther});
}

}  // namespace

Tensor sum_product(const Tensor& self, const Tensor& other, at::IntArrayRef dim) {
  static const auto op = handle<SumProduct>("sum_product");
  return op.call(self, other, dim);
}

Gradients sum_backward(const Saved& s, const Gradients& g) { return {Reduced(s).expand(g[0])}; }
Gradients mean_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  return {r.expand(divided(g[0], r.count()))};
}
Gradients prod_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  return {prod_grad(r.with_dims(g[0]).to(r.type), s.tensors[0], r.dims)};
}
Gradients max_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  return {max_grad(r.with_dims(g[0]), s.tensors[0], r.with_dims(s.tensors[1]), r.dims, true)};
}
Gradients amax_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  return {max_grad(r.with_dims(g[0]), s.tensors[0], r.with_dims(s.tensors[1]), r.dims, false)};
}
Gradients max_dim_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  const Tensor grad = r.with_dims(g[0]), indices = r.with_dims(s.tensors[0]);
  return {max_dim_grad(grad, indices, r.dims.empty() ? 0 : r.dims[0],
                       r.dims.empty() ? c10::SymInt(1) : r.shape[r.dims[0]])};
}
Gradients logsumexp_backward(const Saved& s, const Gradients& g) {
  const Reduced r(s);
  return {logsumexp_grad(r.with_dims(g[0]), s.tensors[0].to(g[0].scalar_type()), r.with_dims(s.tensors[1]))};
}

// d var = 2 (x - mean) / (n - correction); d std = d var / (2 std), 0 where std = 0 as in torch.
static Gradients moments_backward(const Reduced& r, const Saved& s, const Tensor& gvar, const Tensor& gmean,
                                  double factor) {
  Tensor grad;
  if (gvar.defined()) {
    Tensor g = r.with_dims(gvar);
    if (const auto count = r.count().maybe_as_int())
      factor /= double(*count) - r.correction;
    else
      g = mul(g, at::Scalar(c10::SymFloat(1.0) / (c10::SymFloat(r.count()) - c10::SymFloat(r.correction))));
    grad = var_grad(g, s.tensors[0], r.with_dims(s.tensors.back()), factor);
  }
  if (!gmean.defined()) return {grad};
  const Tensor from_mean = r.expand(divided(gmean, r.count()));
  return {grad.defined() ? add(grad, from_mean) : from_mean};
}
Gradients var_mean_backward(const Saved& s, const Gradients& g) {
  return moments_backward(Reduced(s), s, g[0], g[1], 2);
}
Gradients std_mean_backward(const Saved& s, const Gradients& g) {
  const Tensor& std = s.tensors[1];
  Tensor gvar;
  if (g[0].defined()) gvar = at::where(at::eq(std, 0), 0, div(g[0], std));
  return moments_backward(Reduced(s), s, gvar, g[1], 1);
}

}  // namespace fastgrad::ops
