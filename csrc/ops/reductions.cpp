// Reductions: arguments, shapes, dtypes and registration.
#include "reductions.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/native/Resize.h>

#include "ops.h"
#include "outputs.h"

namespace fastgrad::ops {
namespace {

at::ScalarType result_type(const ReductionSpec& spec, const Tensor& input, const Request& r) {
  const at::ScalarType type = r.dtype.value_or(input.scalar_type());
  const bool integral = c10::isIntegralType(type, /*includeBool=*/true);
  switch (spec.promotion) {
    case Promotion::integers:
      return integral && !r.dtype ? at::kLong : type;
    case Promotion::floating:
      return integral ? c10::typeMetaToScalarType(at::get_default_dtype()) : type;
    case Promotion::refuse:
      if (std::string_view(spec.name) == "mean")
        TORCH_CHECK(!integral, "mean(): could not infer output dtype. ", r.dtype ? "Optional" : "Input",
                    " dtype must be either a floating point or complex dtype. Got: ", type);
      TORCH_CHECK(!integral, "std and var only support floating point and complex dtypes");
      return type;
    default:
      return type;
  }
}

// The arithmetic: integers are summed and multiplied as int64, but a block of the small ones fits int32 sums.
Dtype arithmetic(const ReductionSpec& spec, const Tensor& input, at::ScalarType result) {
  const at::ScalarType type = spec.promotion == Promotion::same ? input.scalar_type() : result;
  if (spec.promotion != Promotion::integers || !c10::isIntegralType(type, true)) {
    const Dtype compute = compute_dtype(type);
    return compute == Dtype::i16 || compute == Dtype::i8 || compute == Dtype::u8 ? Dtype::i32 : compute;
  }
  const bool small = c10::isIntegralType(input.scalar_type(), true) && input.element_size() <= 2;
  return std::string_view(spec.name) == "sum" && small ? Dtype::i32 : Dtype::i64;
}

// Raises where a reduction that has no neutral element is asked for the result of no elements.
void check_not_empty(const ReductionSpec& spec, const Tensor& input, const Request& r) {
  if (spec.empty || input.numel() != 0) return;
  const char* const name = std::string_view(spec.name).starts_with("max")   ? "max"
                           : std::string_view(spec.name).starts_with("min") ? "min"
                                                                            : spec.name;
  if (r.whole) {
    TORCH_CHECK_INDEX(!spec.index, name, "(): Expected reduction dim to be specified for input.numel() == 0.");
    TORCH_CHECK(false, name,
                "(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction "
                "dim with the 'dim' argument.");
  }
  for (int64_t d = 0; d < input.dim(); ++d)
    TORCH_CHECK_INDEX(!r.mask[d] || input.size(d) != 0, name, "(): Expected reduction dim ", d,
                      " to have non-zero size.");
}

// Computes into `outs`, of which absent ones are allocated.
Gradients compute(const ReductionSpec& spec, const Tensor& input, Request r, Gradients outs = {}) {
  const bool typed =
      spec.promotion == Promotion::integers || (std::string_view(spec.name) == "mean" && input.is_floating_point());
  if (typed && !r.dtype && !outs.empty()) r.dtype = outs[0].scalar_type();
  const at::ScalarType type = result_type(spec, input, r);
  check_not_empty(spec, input, r);
  const at::DimVector shape = reduced_shape(input.sizes(), r.mask, r.keepdim);
  const bool given = !outs.empty();
  if (!given) outs.resize(spec.outputs);
  for (size_t k = 0; k < outs.size(); ++k) {
    const at::ScalarType expected = spec.index && int(k) == spec.outputs - 1 ? at::kLong : type;
    if (!outs[k].defined()) {
      outs[k] = new_tensor(shape, input.options().dtype(expected));
      place_output(outs[k]);
      continue;
    }
    check_writable(outs[k]);
    const bool castable = (spec.promotion == Promotion::floating || spec.outputs > int(outs.size())) &&
                          c10::canCast(expected, outs[k].scalar_type());
    TORCH_CHECK(castable || outs[k].scalar_type() == expected, "Expected out tensor to have dtype ", expected,
                ", but got ", outs[k].scalar_type(), " instead");
    TORCH_CHECK(outs[k].device() == input.device(), "Expected out tensor to be on device ", input.device(),
                ", but got ", outs[k].device());
    at::native::resize_output(outs[k], shape);
    at::assert_no_internal_overlap(outs[k]);
    at::assert_no_overlap(outs[k], input);
  }
  if (spec.kernel == &Backend::var_mean || spec.kernel == &Backend::std_mean) {
    int64_t count = 1;
    for (int64_t d = 0; d < input.dim(); ++d) count *= r.mask[d] ? input.size(d) : 1;
    if (count - r.correction <= 0)
      TORCH_WARN(spec.kernel == &Backend::var_mean ? "var" : "std",
                 "(): degrees of freedom is <= 0. Correction should be strictly less than the reduction factor (input "
                 "numel divided by output numel).");
  }
  if (outs[0].numel() == 0) return outs;
  if (input.numel() == 0) {
    for (Tensor& out : outs) out.fill_(*spec.empty);
    return outs;
  }
  // Casting to bool is no matter of the kernels' arithmetic.
  const Tensor source = r.dtype == at::kBool && input.scalar_type() != at::kBool ? input.ne(0) : input;
  ReduceArgs a = reduce_args(spec.name, {source}, r.mask, outs, r.keepdim, spec.index);
  a.compute = arithmetic(spec, source, type);
  a.parameter[0] = {r.correction, 0};
  run_kernel(spec.name, spec.kernel, a, input.device());
  return outs;
}

// From the arguments of each signature to a request.
Request request(const Tensor& x) { return {dim_mask({}, x.dim()), true}; }
Request request(const Tensor& x, at::OptionalIntArrayRef dim, bool keepdim) {
  return {dim_mask(dim, x.dim()), !dim || dim->empty(), keepdim};
}
Request request(const Tensor& x, at::OptionalIntArrayRef dim, bool keepdim, std::optional<at::ScalarType> dtype) {
  return {dim_mask(dim, x.dim()), !dim || dim->empty(), keepdim, dtype};
}
Request request(const Tensor& x, at::IntArrayRef dim, bool keepdim) {
  return request(x, at::OptionalIntArrayRef(dim), keepdim);
}
Request request(const Tensor& x, std::optional<int64_t> dim, bool keepdim) {
  if (!dim) return {dim_mask({}, x.dim()), true, keepdim};
  return {dim_mask(at::OptionalIntArrayRef(*dim), x.dim()), false, keepdim};
}
Request request(const Tensor& x, std::optional<int64_t> dim, bool keepdim, std::optional<at::ScalarType> dtype) {
  Request r = request(x, dim, keepdim);
  r.dtype = dtype;
  return r;
}
Request request(const Tensor& x, int64_t dim, bool keepdim) { return request(x, std::optional(dim), keepdim); }
Request request(const Tensor& x, at::OptionalIntArrayRef dim, const std::optional<at::Scalar>& correction,
                bool keepdim) {
  return {dim_mask(dim, x.dim()), false, keepdim, std::nullopt, correction ? correction->toDouble() : 1};
}

using Pair = std::tuple<Tensor, Tensor>;
template <class R>
R as_result(const Gradients& outs) {
  if constexpr (std::is_same_v<R, Tensor>)
    return outs[0];
  else
    return {outs[0], outs[1]};
}
Gradients as_list(const Tensor& t) { return {t}; }
Gradients as_list(const Pair& p) { return {std::get<0>(p), std::get<1>(p)}; }

// Registers name(`arguments`) -> R and name.out, whose outputs are `outs` (one tensor, or values and indices).
template <class R, class Out, class... In>
void define_with_out(torch::Library& m, const ReductionSpec& spec, const std::string& arguments) {
  const std::string name = spec.name;
  const std::string results = std::is_same_v<R, Tensor> ? "Tensor" : "(Tensor, Tensor)";
  const auto op = declare<R(const Tensor&, In...)>(m, name + "(" + arguments + ") -> " + results);
  implement(
      m, name, [spec](const Tensor& x, In... in) { return as_result<R>(compute(spec, x, request(x, in...))); },
      [spec, op](const Tensor& x, In... in) {
        if (!needs_recording(spec.name, {x}) || !spec.backward) {
          const BelowAutograd below;
          return op.call(x, in...);
        }
        return as_result<R>(record({x}, spec.backward, [&] {
          Step step;
          step.outputs = as_list(op.call(x, in...));
          if (spec.save & kInput) step.saved.push_back(x);
          if (spec.save & kFirstOutput) step.saved.push_back(step.outputs[0]);
          if (spec.save & kSecondOutput) step.saved.push_back(step.outputs[1]);
          for (const Tensor& out : step.outputs) step.non_differentiable.push_back(!out.is_floating_point());
          step.values = Reduced::values(x, request(x, in...));
          return step;
        }));
      });

  constexpr bool pair = std::is_same_v<Out, Pair>;
  const std::string keyword = arguments.find('*') == std::string::npos ? ", *" : "";
  const std::string outs = pair ? ", Tensor(a!) values, Tensor(b!) indices) -> ()" : ", Tensor(a!) out) -> ()";
  const auto define_out = [&](auto tensors_of, auto... types) {
    using Op = void(const Tensor&, In..., typename decltype(types)::type...);
    const auto out_op = declare<Op>(m, name + ".out(" + arguments + keyword + outs);
    implement(
        m, name + ".out",
        [spec, tensors_of](const Tensor& x, In... in, typename decltype(types)::type... out) {
          compute(spec, x, request(x, in...), tensors_of(out...));
        },
        [spec, out_op](const Tensor& x, In... in, typename decltype(types)::type... out) {
          needs_recording(spec.name, {x});
          (check_out(spec.name, {x}, out), ...);
          {
            const BelowAutograd below;
            out_op.call(x, in..., out...);
          }
          (bump_version(out), ...);
        });
  };
  using T = std::type_identity<const Tensor&>;
  const auto list = [](const auto&... t) { return Gradients{t...}; };
  if constexpr (pair)
    define_out(list, T(), T());
  else
    define_out(list, T());
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  using Dims = at::OptionalIntArrayRef;
  using Type = std::optional<at::ScalarType>;
  using Dim = std::optional<int64_t>;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const char* const typed = "Tensor input, int[]? dim=None, bool keepdim=False, *, ScalarType? dtype=None";
  define_with_out<Tensor, Tensor, Dims, bool, Type>(
      m, {"sum", &Backend::sum, 1, Promotion::integers, 0, false, &sum_backward}, typed);
  define_with_out<Tensor, Tensor, Dims, bool, Type>(
      m, {"mean", &Backend::mean, 1, Promotion::refuse, nan, false, &mean_backward}, typed);
  define_with_out<Tensor, Tensor, Dim, bool, Type>(
      m, {"prod", &Backend::prod, 1, Promotion::integers, 1, false, &prod_backward, kInput},
      "Tensor input, int? dim=None, bool keepdim=False, *, ScalarType? dtype=None");

  const char* const dims = "Tensor input, int[] dim=[], bool keepdim=False";
  define_with_out<Tensor, Tensor, at::IntArrayRef, bool>(
      m, {"amax", &Backend::amax, 1, Promotion::same, {}, false, &amax_backward, kInput | kFirstOutput}, dims);
  define_with_out<Tensor, Tensor, at::IntArrayRef, bool>(
      m, {"amin", &Backend::amin, 1, Promotion::same, {}, false, &amax_backward, kInput | kFirstOutput}, dims);
  define_with_out<Tensor, Tensor, at::IntArrayRef, bool>(
      m,
      {"logsumexp", &Backend::logsumexp, 1, Promotion::floating, -std::numeric_limits<double>::infinity(), false,
       &logsumexp_backward, kInput | kFirstOutput},
      "Tensor input, int[] dim, bool keepdim=False");

  define_with_out<Tensor, Tensor>(
      m, {"max", &Backend::amax, 1, Promotion::same, {}, false, &max_backward, kInput | kFirstOutput}, "Tensor input");
  define_with_out<Tensor, Tensor>(
      m, {"min", &Backend::amin, 1, Promotion::same, {}, false, &max_backward, kInput | kFirstOutput}, "Tensor input");
  const char* const dim = "Tensor input, int dim, bool keepdim=False";
  define_with_out<Pair, Pair, int64_t, bool>(
      m, {"max_dim", &Backend::max_with_index, 2, Promotion::same, {}, true, &max_dim_backward, kSecondOutput}, dim);
  define_with_out<Pair, Pair, int64_t, bool>(
      m, {"min_dim", &Backend::min_with_index, 2, Promotion::same, {}, true, &max_dim_backward, kSecondOutput}, dim);
  const char* const optional_dim = "Tensor input, int? dim=None, bool keepdim=False";
  define_with_out<Tensor, Tensor, Dim, bool>(m, {"argmax", &Backend::argmax, 1, Promotion::same, {}, true},
                                             optional_dim);
  define_with_out<Tensor, Tensor, Dim, bool>(m, {"argmin", &Backend::argmin, 1, Promotion::same, {}, true},
                                             optional_dim);

  const char* const correction = "Tensor input, int[]? dim=None, *, Scalar? correction=None, bool keepdim=False";
  define_with_out<Pair, Tensor, Dims, const std::optional<at::Scalar>&, bool>(
      m, {"var_mean", &Backend::var_mean, 2, Promotion::refuse, nan, false, &var_mean_backward, kInput | kSecondOutput},
      correction);
  define_with_out<Pair, Tensor, Dims, const std::optional<at::Scalar>&, bool>(
      m,
      {"std_mean", &Backend::std_mean, 2, Promotion::refuse, nan, false, &std_mean_backward,
       kInput | kFirstOutput | kSecondOutput},
      correction);

  // As in torch's lists.
  for (const char* name : {"sum", "prod"}) define_autocast(m, name, Autocast::fp32_set_dtype);
  define_autocast(m, "logsumexp", Autocast::fp32);
  define_cpu_autocast(m, "prod", Autocast::fp32);
}

}  // namespace

Tensor sum(const Tensor& input, at::OptionalIntArrayRef dim, bool keepdim) {
  using Op = Tensor(const Tensor&, at::OptionalIntArrayRef, bool, std::optional<at::ScalarType>);
  static const auto op = handle<Op>("sum");
  return op.call(input, dim, keepdim, std::nullopt);
}

}  // namespace fastgrad::ops
