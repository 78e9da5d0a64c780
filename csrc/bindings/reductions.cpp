// Bindings of reductions: name(input, <dimensions>, *, <options>, out=None).
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>

#include "elementwise.h"

namespace fastgrad::bindings {
namespace {

using Dims = std::optional<std::vector<int64_t>>;
using Dim = std::optional<int64_t>;
using Type = std::optional<at::ScalarType>;

bool is_index(py::handle object) { return PyIndex_Check(object.ptr()) && !PyBool_Check(object.ptr()); }
int64_t index_of(py::handle object) {
  const py::object number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!number) throw py::error_already_set();
  return number.cast<int64_t>();
}
[[noreturn]] void refuse_dim(py::handle object, const char* function, const char* what) {
  throw py::type_error(std::string(function) + "(): argument 'dim' (position 2) must be " + what + ", not " +
                       Py_TYPE(object.ptr())->tp_name);
}

// None, an int, or a tuple or list of ints.
Dims dims_argument(py::handle object, const char* function) {
  if (object.is_none()) return std::nullopt;
  if (is_index(object)) return std::vector{index_of(object)};
  if (!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr())) refuse_dim(object, function, "tuple of ints");
  std::vector<int64_t> dims;
  for (const py::handle item : object) {
    if (!is_index(item)) refuse_dim(object, function, "tuple of ints");
    dims.push_back(index_of(item));
  }
  return dims;
}
Dim dim_argument(py::handle object, const char* function) {
  if (object.is_none()) return std::nullopt;
  if (!is_index(object)) refuse_dim(object, function, "int");
  return index_of(object);
}
Type dtype_argument(py::handle object, const char* function) {
  if (object.is_none()) return std::nullopt;
  if (!THPDtype_Check(object.ptr()))
    throw py::type_error(std::string(function) + "(): argument 'dtype' must be torch.dtype, not " +
                         Py_TYPE(object.ptr())->tp_name);
  return reinterpret_cast<THPDtype*>(object.ptr())->scalar_type;
}
at::OptionalIntArrayRef view(const Dims& dims) {
  return dims ? at::OptionalIntArrayRef(at::IntArrayRef(*dims)) : at::OptionalIntArrayRef();
}

// Calls op, or out_op if there is an `out`.
template <class Op, class OutOp, class... In>
Tensor call(const Op& op, const OutOp& out_op, const char* name, const py::object& out, const In&... in) {
  OptionalTensor result = optional_tensor_argument(out, name, "out", 0);
  if (!result) {
    const WithoutGil no_gil;
    if constexpr (std::is_same_v<decltype(op.call(in...)), Tensor>)
      return op.call(in...);
    else
      return std::get<0>(op.call(in...));
  }
  without_gil_warning([&] { out_op.call(in..., *result); });
  return *result;
}

void bind_typed(py::module_& m, const char* name) {
  m.def(
      name,
      [name, op = handle<Tensor(const Tensor&, at::OptionalIntArrayRef, bool, Type)>(name),
       out_op = handle<void(const Tensor&, at::OptionalIntArrayRef, bool, Type, const Tensor&)>(name, "out")](
          py::handle input, py::handle dim, bool keepdim, py::handle dtype, const py::object& out) {
        const Tensor x = tensor_argument(input, name, "input", 1);
        const Dims dims = dims_argument(dim, name);
        return call(op, out_op, name, out, x, view(dims), keepdim, dtype_argument(dtype, name));
      },
      py::arg("input"), py::arg("dim") = py::none(), py::arg("keepdim") = false, py::kw_only(),
      py::arg("dtype") = py::none(), py::arg("out") = py::none());
}
void bind_prod(py::module_& m) {
  m.def(
      "prod",
      [op = handle<Tensor(const Tensor&, Dim, bool, Type)>("prod"),
       out_op = handle<void(const Tensor&, Dim, bool, Type, const Tensor&)>("prod", "out")](
          py::handle input, py::handle dim, bool keepdim, py::handle dtype, const py::object& out) {
        const Tensor x = tensor_argument(input, "prod", "input", 1);
        return call(op, out_op, "prod", out, x, dim_argument(dim, "prod"), keepdim, dtype_argument(dtype, "prod"));
      },
      py::arg("input"), py::arg("dim") = py::none(), py::arg("keepdim") = false, py::kw_only(),
      py::arg("dtype") = py::none(), py::arg("out") = py::none());
}

// `none`: whether a dim of None means all.
template <class... Extra>
void bind_dims(py::module_& m, const char* name, bool none, const Extra&... dim_default) {
  m.def(
      name,
      [name, none, op = handle<Tensor(const Tensor&, at::IntArrayRef, bool)>(name),
       out_op = handle<void(const Tensor&, at::IntArrayRef, bool, const Tensor&)>(name, "out")](
          py::handle input, py::handle dim, bool keepdim, const py::object& out) {
        const Tensor x = tensor_argument(input, name, "input", 1);
        Dims dims = dims_argument(dim, name);
        if (!dims && !none) refuse_dim(dim, name, "tuple of ints");
        if (!dims) dims.emplace();
        return call(op, out_op, name, out, x, at::IntArrayRef(*dims), keepdim);
      },
      py::arg("input"), dim_default..., py::arg("keepdim") = false, py::kw_only(), py::arg("out") = py::none());
}

void bind_index(py::module_& m, const char* name) {
  m.def(
      name,
      [name, op = handle<Tensor(const Tensor&, Dim, bool)>(name),
       out_op = handle<void(const Tensor&, Dim, bool, const Tensor&)>(name, "out")](
          py::handle input, py::handle dim, bool keepdim, const py::object& out) {
        const Tensor x = tensor_argument(input, name, "input", 1);
        return call(op, out_op, name, out, x, dim_argument(dim, name), keepdim);
      },
      py::arg("input"), py::arg("dim") = py::none(), py::arg("keepdim") = false, py::kw_only(),
      py::arg("out") = py::none());
}

// -> (values, indices); `out` is such a pair.
void bind_with_index(py::module_& m, const char* name) {
  using Pair = std::tuple<Tensor, Tensor>;
  m.def(
      name,
      [name, op = handle<Pair(const Tensor&, int64_t, bool)>(name),
       out_op = handle<void(const Tensor&, int64_t, bool, const Tensor&, const Tensor&)>(name, "out")](
          py::handle input, py::handle dim, bool keepdim, const py::object& out) {
        const std::string function = public_name(name);
        const Tensor x = tensor_argument(input, function.c_str(), "input", 1);
        const Dim d = dim_argument(dim, function.c_str());
        if (!d) refuse_dim(dim, function.c_str(), "int");
        if (out.is_none()) {
          const WithoutGil no_gil;
          return op.call(x, *d, keepdim);
        }
        if (!py::isinstance<py::sequence>(out) || py::len(out) != 2)
          throw py::type_error(function + "(): argument 'out' must be tuple of Tensors (values, indices)");
        const py::sequence pair(out);
        const Tensor values = tensor_argument(py::object(pair[0]), function.c_str(), "out", 0);
        const Tensor indices = tensor_argument(py::object(pair[1]), function.c_str(), "out", 0);
        without_gil_warning([&] { out_op.call(x, *d, keepdim, values, indices); });
        return Pair(values, indices);
      },
      py::arg("input"), py::arg("dim"), py::arg("keepdim") = false, py::kw_only(), py::arg("out") = py::none());
}

void bind_moments(py::module_& m, const char* name) {
  using Correction = std::optional<at::Scalar>;
  m.def(
      name,
      [name,
       op = handle<std::tuple<Tensor, Tensor>(const Tensor&, at::OptionalIntArrayRef, const Correction&, bool)>(name),
       out_op = handle<void(const Tensor&, at::OptionalIntArrayRef, const Correction&, bool, const Tensor&)>(
           name, "out")](py::handle input, py::handle dim, py::handle correction, bool keepdim, const py::object& out) {
        const std::string function = public_name(name);
        const Tensor x = tensor_argument(input, function.c_str(), "input", 1);
        const Dims dims = dims_argument(dim, function.c_str());
        torch::PyWarningHandler warnings;  // too few degrees of freedom
        Correction c;
        if (!correction.is_none()) c = scalar_argument(correction, function.c_str(), "correction");
        return call(op, out_op, function.c_str(), out, x, view(dims), c, keepdim);
      },
      py::arg("input"), py::arg("dim") = py::none(), py::kw_only(), py::arg("correction") = py::none(),
      py::arg("keepdim") = false, py::arg("out") = py::none());
}

}  // namespace

void bind_reductions(py::module_& m) {
  for (const char* name : {"sum", "mean"}) bind_typed(m, name);
  bind_prod(m);
  for (const char* name : {"amax", "amin"}) bind_dims(m, name, true, py::arg("dim") = py::tuple());
  bind_dims(m, "logsumexp", false, py::arg("dim"));
  for (const char* name : {"max", "min"}) bind_unary(m, name);
  for (const char* name : {"max_dim", "min_dim"}) bind_with_index(m, name);
  for (const char* name : {"argmax", "argmin"}) bind_index(m, name);
  for (const char* name : {"var_mean", "std_mean"}) bind_moments(m, name);
  for (const char* name : {"maximum", "minimum"}) bind_binary(m, name);
}

}  // namespace fastgrad::bindings
