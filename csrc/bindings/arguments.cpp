// Python arguments; see bindings.h.
#include <ATen/ops/scalar_tensor.h>

#include "bindings.h"

namespace fastgrad::bindings {
namespace {

[[noreturn]] void refuse(py::handle object, const char* function, const char* name, int position, const char* what) {
  std::string message = std::string(function) + "(): argument '" + name + "'";
  if (position > 0) message += " (position " + std::to_string(position) + ")";
  throw py::type_error(message + " must be " + what + ", not " + Py_TYPE(object.ptr())->tp_name);
}

bool is_number(py::handle object) {
  return PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) || torch::utils::is_numpy_scalar(object.ptr());
}

}  // namespace

Tensor tensor_argument(py::handle object, const char* function, const char* name, int position) {
  if (!THPVariable_Check(object.ptr())) refuse(object, function, name, position, "Tensor");
  return THPVariable_Unpack(object.ptr());
}

OptionalTensor optional_tensor_argument(py::handle object, const char* function, const char* name, int position) {
  if (object.is_none()) return std::nullopt;
  return tensor_argument(object, function, name, position);
}

at::Scalar scalar_argument(py::handle object, const char* function, const char* name) {
  if (PyBool_Check(object.ptr())) return object.ptr() == Py_True;
  if (PyLong_Check(object.ptr())) return object.cast<int64_t>();
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (!is_number(object)) refuse(object, function, name, 0, "Number");
  return object.cast<at::Scalar>();
}

Tensor tensor_or_number_argument(py::handle object, const char* function, const char* name, int position) {
  if (THPVariable_Check(object.ptr())) return THPVariable_Unpack(object.ptr());
  if (!is_number(object)) refuse(object, function, name, position, "Tensor or Number");
  const at::Scalar s = scalar_argument(object, function, name);
  TORCH_CHECK_NOT_IMPLEMENTED(!s.isComplex(), function, "(): complex numbers are not supported");
  const at::AutoDispatchBelowADInplaceOrView below;
  const at::ScalarType type = s.isFloatingPoint() ? at::kDouble : s.isBoolean() ? at::kBool : at::kLong;
  Tensor t = at::scalar_tensor(s, at::TensorOptions().dtype(type));
  t.unsafeGetTensorImpl()->set_wrapped_number(true);
  return t;
}

}  // namespace fastgrad::bindings
