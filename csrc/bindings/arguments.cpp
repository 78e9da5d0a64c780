// Python arguments; see bindings.h.
#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/utils/python_symnode.h>

#include "../ops/ops.h"
#include "bindings.h"

namespace fastgrad::bindings {
namespace {

[[noreturn]] void refuse(py::handle object, const char* function, const char* name, int position, const char* what) {
  std::string message = std::string(function) + "(): argument '" + name + "'";
  if (position > 0) message += " (position " + std::to_string(position) + ")";
  throw py::type_error(message + " must be " + what + ", not " + Py_TYPE(object.ptr())->tp_name);
}

// torch.Tensor or torch.nn.Parameter, and no class derived from them.
bool is_torch_tensor(py::handle object) {
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  return type == THPVariableClass || type == ParameterClass;
}

// Whether its class has a __torch_function__, and not that of torch's own that does nothing.
bool has_torch_function(py::handle object) {
  using at::impl::PythonTorchFunctionTLS, at::impl::TorchFunctionDisabledState;
  if (is_torch_tensor(object) || PythonTorchFunctionTLS::get_disabled_state() != TorchFunctionDisabledState::ENABLED)
    return false;
  const py::object function = py::getattr(py::type::handle_of(object), "__torch_function__", py::none());
  return !function.is_none() && !function.is(py::module_::import("torch._C").attr("_disabled_torch_function_impl"));
}

bool is_number(py::handle object) {
  if (is_torch_tensor(object)) return false;
  return PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) || PyComplex_Check(object.ptr()) ||
         torch::utils::is_numpy_scalar(object.ptr()) || torch::is_symint(object) || torch::is_symfloat(object);
}

at::Scalar number_of(py::handle object, const char* function) {
  if (PyBool_Check(object.ptr())) return object.ptr() == Py_True;
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (PyLong_Check(object.ptr())) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (!overflow) return int64_t(value);
    PyErr_Format(PyExc_OverflowError, "%s(): %S does not fit 64 bits", function, object.ptr());
    throw py::error_already_set();
  }
  if (torch::is_symint(object)) return at::Scalar(object.cast<c10::SymInt>());
  if (torch::is_symfloat(object)) return at::Scalar(object.cast<c10::SymFloat>());
  const bool complex =
      PyComplex_Check(object.ptr()) || py::isinstance(object, py::module_::import("numpy").attr("complexfloating"));
  TORCH_CHECK_NOT_IMPLEMENTED(!complex, function, "(): complex numbers are not supported");
  const py::object item = object.attr("item")();
  if (PyBool_Check(item.ptr()) || PyLong_Check(item.ptr())) return number_of(item, function);
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

}  // namespace

Tensor tensor_argument(py::handle object, const char* function, const char* name, int position) {
  if (at::impl::torch_function_mode_enabled() || has_torch_function(object))
    throw py::reference_cast_error();  // see bind_overrides()
  if (!THPVariable_Check(object.ptr())) refuse(object, function, name, position, "Tensor");
  return THPVariable_Unpack(object.ptr());
}

OptionalTensor optional_tensor_argument(py::handle object, const char* function, const char* name, int position) {
  if (object.is_none()) return std::nullopt;
  return tensor_argument(object, function, name, position);
}

at::Scalar scalar_argument(py::handle object, const char* function, const char* name) {
  if (!is_number(object)) {
    const Tensor t = THPVariable_Check(object.ptr()) ? THPVariable_Unpack(object.ptr()) : Tensor();
    if (!t.defined() || t.dim() != 0 || t.requires_grad()) refuse(object, function, name, 0, "Number");
    return t.item();
  }
  return number_of(object, function);
}

std::string public_name(const std::string& binding) {
  return binding.ends_with("_dim") || binding.ends_with("_mean") ? binding.substr(0, 3) : binding;
}

std::pair<Tensor, Tensor> operand_arguments(py::handle input, py::handle other, const char* function, bool in_place) {
  const bool numbers[] = {is_number(input), is_number(other)};
  if (!numbers[0] && !numbers[1])
    return {tensor_argument(input, function, "input", 1), tensor_argument(other, function, "other", 2)};
  if (numbers[0] && (numbers[1] || in_place)) refuse(input, function, "input", 1, "Tensor");
  const Tensor tensor =
      numbers[0] ? tensor_argument(other, function, "other", 2) : tensor_argument(input, function, "input", 1);
  const Tensor number = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ops::constant(number_of(numbers[0] ? input : other, function), tensor);
  }();
  return numbers[0] ? std::pair{number, tensor} : std::pair{tensor, number};
}

namespace {

py::tuple overriding(const py::args& args, const py::kwargs& kwargs) {
  py::list found;
  const auto look = [&](py::handle object) {
    if (has_torch_function(object)) found.append(object);
  };
  const auto look_into = [&](py::handle object) {
    if (PyTuple_Check(object.ptr()) || PyList_Check(object.ptr()))
      for (const py::handle item : object) look(item);
    else
      look(object);
  };
  for (const py::handle object : args) look_into(object);
  for (const auto& [name, object] : kwargs) look_into(object);
  return py::tuple(found);
}

}  // namespace

void bind_overrides(py::module_& m) {
  for (const auto& [key, function] : py::dict(m.attr("__dict__")).attr("copy")().cast<py::dict>()) {
    if (!PyCFunction_Check(function.ptr())) continue;
    const auto name = key.cast<std::string>();
    m.def(name.c_str(), [name](const py::args& args, const py::kwargs& kwargs) -> py::object {
      const py::tuple relevant = overriding(args, kwargs);
      if (py::len(relevant) == 0 && !at::impl::torch_function_mode_enabled()) {
        std::string types;
        for (const py::handle object : args)
          types += std::string(types.empty() ? "" : ", ") + Py_TYPE(object.ptr())->tp_name;
        for (const auto& [keyword, object] : kwargs)
          types += std::string(types.empty() ? "" : ", ") + keyword.cast<std::string>() + "=" +
                   Py_TYPE(object.ptr())->tp_name;
        throw py::type_error(public_name(name) + "() received an invalid combination of arguments - got (" + types +
                             ")");
      }
      return py::module_::import("torch.overrides")
          .attr("handle_torch_function")(py::module_::import("fastgrad._C").attr(name.c_str()), relevant, *args,
                                         **kwargs);
    });
  }
}

}  // namespace fastgrad::bindings
