// Elementwise ops: shapes, promotion and registration; see elementwise.h.
#include "elementwise.h"
#include "ops.h"
#include "outputs.h"

#include <ATen/ExpandUtils.h>

namespace fastgrad::ops {
namespace {

at::ScalarType promoted(at::TensorList inputs, Result result) {
  at::native::ResultTypeState state{};
  for (const Tensor& t : inputs) state = at::native::update_result_type_state(t, state);
  const at::ScalarType common = at::native::result_type(state);
  if (result == Result::floating && c10::isIntegralType(common, /*includeBool=*/true))
    return c10::typeMetaToScalarType(at::get_default_dtype());
  return common;
}

// Whether t stands for a number: marked as torch marks its own or, in a graph, of the widest dtype; see constant().
bool is_python_number(const Tensor& t, at::ScalarType common) {
  const bool widest = t.scalar_type() == at::kDouble || t.scalar_type() == at::kLong;
  return t.unsafeGetTensorImpl()->is_wrapped_number() ||
         (t.dim() == 0 && t.is_cpu() && widest && t.scalar_type() != common);
}

void fill_operand(Operand& o, const at::TensorIteratorBase& it, int k, bool immediate) {
  const at::ScalarType type = it.dtype(k);
  o.dtype = dtype_of(type);
  if (immediate) {
    o.data = nullptr;
    o.immediate = number(it.tensor(k).item());
    return;
  }
  o.data = it.data_ptr(k);
  o.strides[0] = size_of(o.dtype);
  std::copy(it.strides(k).begin(), it.strides(k).end(), o.strides);
}

// Tensors of one shape, dtype and device, contiguous: one dimension, nothing to promote or broadcast.
bool plain(at::TensorList inputs) {
  const Tensor& first = inputs[0];
  for (const Tensor& t : inputs)
    if (!t.is_contiguous() || t.dim() == 0 || t.scalar_type() != first.scalar_type() || t.device() != first.device() ||
        t.sizes() != first.sizes())
      return false;
  return true;
}

// elementwise() of such inputs, which a small kernel spends most of its time in otherwise.
Tensor plain_elementwise(const ElementwiseSpec& spec, at::TensorList inputs, at::ScalarType common,
                         at::ScalarType result, Number parameter) {
  const Tensor& first = inputs[0];
  const Tensor out = new_tensor(first.sizes(), first.options().dtype(result));
  if (out.numel() == 0) return out;
  place_output(out);
  MapArgs a;
  a.ndim = 1;
  a.shape[0] = a.numel = out.numel();
  a.outputs = 1;
  a.operands = int(inputs.size()) + 1;
  a.compute = compute_dtype(common);
  a.parameter[0] = parameter;
  for (int k = 0; k < a.operands; ++k) {
    Operand& o = a.operand[k];
    o.data = k == 0 ? out.mutable_data_ptr() : const_cast<void*>(inputs[k - 1].const_data_ptr());
    o.dtype = dtype_of(k == 0 ? result : first.scalar_type());
    o.strides[0] = size_of(o.dtype);
  }
  run_kernel(spec.name, spec.kernel, a, first.device());
  return out;
}

}  // namespace

Tensor elementwise(const ElementwiseSpec& spec, at::TensorList inputs, Tensor out, bool in_place, Number parameter) {
  const at::ScalarType common = promoted(inputs, spec.result);
  if (spec.check) spec.check(inputs[0], inputs.size() > 1 ? inputs[1] : Tensor(), common);
  const at::ScalarType result = spec.result == Result::boolean ? at::kBool : common;
  if (!out.defined() && plain(inputs)) return plain_elementwise(spec, inputs, common, result, parameter);
  if (out.defined()) check_writable(out);
  const c10::Device device = device_of(spec.name, inputs, out.defined() ? std::optional(out.device()) : std::nullopt);
  TORCH_CHECK(!out.defined() || c10::canCast(result, out.scalar_type()), "result type ", result,
              " can't be cast to the desired output type ", out.scalar_type());
  // A constant wraps to an integer type of the tensors before the arithmetic, and is rounded to a 16-bit one before a
  // comparison.
  std::array<Tensor, 4> converted;
  const bool converts = c10::isIntegralType(common, /*includeBool=*/false) ||
                        (spec.result == Result::boolean && c10::isReducedFloatingType(common));
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(true).check_all_same_dtype(false).check_all_same_device(false);
  config.resize_outputs(!in_place).allow_cpu_scalars(true);
  if (!out.defined()) config.declare_static_dtype_and_device(result, device);
  config.add_output(out);
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Tensor& t = inputs[k];
    if (t.dim() == 0 && t.scalar_type() != common && converts)
      config.add_const_input(converted[k] = t.to(common));
    else
      config.add_const_input(t);
  }
  auto it = config.build();
  if (it.numel() != 0) {
    TORCH_CHECK_NOT_IMPLEMENTED(it.ndim() <= kMaxDims, "fastgrad::", spec.name, ": more than ", kMaxDims,
                                " dimensions");
    const bool fresh = !out.defined();
    if (fresh) place_output(it.output());
    MapArgs a;
    a.ndim = std::max(it.ndim(), 1);
    a.shape[0] = 1;
    std::copy(it.shape().begin(), it.shape().end(), a.shape);
    a.numel = it.numel();
    a.outputs = 1;
    a.operands = it.ntensors();
    a.compute = compute_dtype(common);
    a.parameter[0] = parameter;
    for (int k = 0; k < a.operands; ++k) {
      const bool on_host = !device.is_cpu() && it.device(k).is_cpu();
      fill_operand(a.operand[k], it, k, /*immediate=*/on_host || (k > 0 && is_python_number(inputs[k - 1], common)));
    }
    if (fresh) a.operand[0].data = it.output().mutable_data_ptr();  // the iterator knows where it was made
    run_kernel(spec.name, spec.kernel, a, device);
  }
  return it.output();
}

namespace {

// The dimensions of `grad` that a tensor of shape `sizes` was expanded along.
std::vector<int64_t> expanded_dims(const Tensor& grad, c10::SymIntArrayRef sizes) {
  const auto lead = grad.dim() - int64_t(sizes.size());
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < grad.dim(); ++d)
    if (d < lead || (sizes[d - lead] == 1 && grad.sym_size(d) != 1)) dims.push_back(d);
  return dims;
}

}  // namespace

Tensor sum_to(const Tensor& grad, c10::SymIntArrayRef sizes) {
  if (!grad.defined() || grad.sym_sizes() == sizes) return grad;
  const std::vector<int64_t> dims = expanded_dims(grad, sizes);
  const Tensor sum = dims.empty() ? grad : ops::sum(grad, at::IntArrayRef(dims), /*keepdim=*/true);
  return grad.dim() > int64_t(sizes.size()) ? sum.view_symint(sizes) : sum;
}

Tensor sum_product_to(const Tensor& grad, const Tensor& factor, c10::SymIntArrayRef sizes) {
  const std::vector<int64_t> dims = expanded_dims(grad, sizes);
  if (dims.empty() || !grad.is_floating_point() || grad.scalar_type() != factor.scalar_type() ||
      grad.device() != factor.device())
    return ops::sum_to(ops::mul(grad, factor), sizes);
  const Tensor sum = ops::sum_product(grad, factor.expand_symint(grad.sym_sizes()), dims);
  return grad.dim() > int64_t(sizes.size()) ? sum.view_symint(sizes) : sum;
}

Gradients to_inputs(const Saved& s, const Tensor& self, const Tensor& other) {
  if (s.values.empty()) return {self, other};
  const auto to = [&](const Tensor& grad, const c10::IValue& shape) {
    return shape.isNone() ? grad : ops::sum_to(grad, sizes_of(shape));
  };
  return {to(self, s.values[0]), to(other, s.values[1])};
}

namespace {

// The op's arguments are its tensors and, last, an optional alpha.
template <class... In>
constexpr size_t kTensors = (size_t(std::is_same_v<In, Tensor>) + ...);

template <class... In>
std::array<Tensor, kTensors<In...>> tensors_of(const In&... in) {
  std::array<Tensor, kTensors<In...>> tensors;
  size_t k = 0;
  const auto take = [&](const auto& x) {
    if constexpr (std::is_same_v<std::decay_t<decltype(x)>, Tensor>) tensors[k++] = x;
  };
  (take(in), ...);
  return tensors;
}

at::Scalar alpha_of(const Tensor&) { return 1; }
at::Scalar alpha_of(const Tensor&, const Tensor&) { return 1; }
at::Scalar alpha_of(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
  const at::ScalarType common = promoted({self, other}, Result::same);
  TORCH_CHECK(!alpha.isBoolean() || common == at::kBool, "Boolean alpha only supported for Boolean results.");
  TORCH_CHECK(c10::isFloatingType(common) || alpha.isIntegral(true),
              "For integral input tensors, argument alpha must not be a floating point number.");
  return alpha;
}

template <class... In>
Tensor compute(const ElementwiseSpec& spec, const Tensor& out, bool in_place, const In&... in) {
  return elementwise(spec, tensors_of(in...), out, in_place, number(alpha_of(in...)));
}

bool shares_memory(const Tensor& a, const Tensor& b) {
  return a.is_same(b) || (a.has_storage() && b.has_storage() && a.is_alias_of(b));
}

// What the gradients that will be wanted take.
int wanted(const Differentiation& d, at::TensorList inputs) {
  const bool by_other = inputs.size() > 1 && inputs[1].requires_grad();
  return (inputs[0].requires_grad() ? d.by_self : 0) | (by_other ? d.by_other : 0);
}

Step make_step(const Differentiation& d, at::TensorList inputs, const Tensor& out, const at::Scalar& alpha) {
  Step step;
  step.outputs = {out};
  const int saved = wanted(d, inputs);
  const auto keep = [&](Save which, const Tensor& t) {
    if ((d.by_self | d.by_other) & which) step.saved.push_back(saved & which ? t : Tensor());
  };
  keep(kSelf, inputs[0]);
  keep(kOther, inputs.back());
  keep(kOutput, out);
  if (inputs.size() == 2) {
    const bool same[] = {inputs[0].sym_sizes() == out.sym_sizes(), inputs[1].sym_sizes() == out.sym_sizes()};
    if (same[0] && same[1] && !alpha.isSymbolic() && alpha.equal(1)) return step;
    for (size_t k = 0; k < 2; ++k) step.values.push_back(same[k] ? c10::IValue() : as_value(inputs[k].sym_sizes()));
    step.values.push_back(alpha);
  }
  return step;
}

template <class... In>
void define_elementwise(torch::Library& m, const ElementwiseSpec& spec, const Differentiation& d, bool in_place,
                        const std::string& arguments) {
  const std::string name = spec.name;

  const auto op = declare<Tensor(const In&...)>(m, name + "(" + arguments + ") -> Tensor");
  implement(
      m, name, [spec](const In&... in) { return compute(spec, {}, false, in...); },
      [spec, d, op](const In&... in) {
        const auto inputs = tensors_of(in...);
        if (!needs_recording(spec.name, inputs) || !d.backward) {
          const BelowAutograd below;
          return op.call(in...);
        }
        return record_one(inputs, d.backward, [&] { return make_step(d, inputs, op.call(in...), alpha_of(in...)); });
      });

  const std::string keyword = arguments.find('*') == std::string::npos ? ", *" : "";
  const auto out_op =
      declare<void(const In&..., const Tensor&)>(m, name + ".out(" + arguments + keyword + ", Tensor(a!) out) -> ()");
  implement(
      m, name + ".out", [spec](const In&... in, const Tensor& out) { compute(spec, out, false, in...); },
      [spec, out_op](const In&... in, const Tensor& out) {
        const auto inputs = tensors_of(in...);
        needs_recording(spec.name, inputs);
        check_out(spec.name, inputs, out);
        {
          const BelowAutograd below;
          out_op.call(in..., out);
        }
        bump_version(out);
      });

  if (!in_place) return;
  const auto in_place_op = declare<void(const In&...)>(
      m, name + "_(Tensor(a!) input" + arguments.substr(arguments.find("input") + 5) + ") -> ()");
  implement(
      m, name + "_",
      [spec](const In&... in) {
        const auto inputs = tensors_of(in...);
        compute(spec, inputs[0], true, in...);
      },
      [spec, d, in_place_op](const In&... in) {
        const auto inputs = tensors_of(in...);
        check_in_place(spec.name, inputs[0]);
        if (!needs_recording(spec.name, inputs)) {
          {
            const BelowAutograd below;
            in_place_op.call(in...);
          }
          return bump_version(inputs[0]);
        }
        // What backward needs of the memory that is overwritten is kept aside first, with its history for double
        // backward.
        auto kept = inputs;
        const int saved = wanted(d, inputs);
        if (saved & kSelf) kept.front() = inputs[0].clone();
        if (saved & kOther && shares_memory(kept.back(), inputs[0])) kept.back() = kept.back().clone();
        record(inputs, d.backward, [&] {
          in_place_op.call(in...);
          Step step = make_step(d, kept, inputs[0], alpha_of(in...));
          step.in_place = true;
          return step;
        });
      });
}

}  // namespace

void define_unary(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place) {
  define_elementwise<Tensor>(m, spec, d, in_place, "Tensor input");
}
void define_binary(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place) {
  define_elementwise<Tensor, Tensor>(m, spec, d, in_place, "Tensor input, Tensor other");
}
void define_binary_alpha(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place) {
  define_elementwise<Tensor, Tensor, at::Scalar>(m, spec, d, in_place, "Tensor input, Tensor other, *, Scalar alpha=1");
}

}  // namespace fastgrad::ops
