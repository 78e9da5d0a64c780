#include "bindings.h"

#include <torch/csrc/Dtype.h>

namespace fastgrad::bindings {
namespace {

std::optional<at::ScalarType> dtype_argument(py::handle object, const char* function) {
  if (object.is_none()) return std::nullopt;
  if (!THPDtype_Check(object.ptr()))
    throw py::type_error(std::string(function) + "(): argument 'dtype' must be torch.dtype, not " +
                         Py_TYPE(object.ptr())->tp_name);
  return reinterpret_cast<THPDtype*>(object.ptr())->scalar_type;
}

}  // namespace

void bind_softmax(py::module_& m) {
  for (const char* name : {"softmax", "log_softmax"})
    m.def(
        name,
        [name, op = handle<Tensor(const Tensor&, int64_t, std::optional<at::ScalarType>)>(name)](
            py::handle input, int64_t dim, py::handle dtype) {
          const Tensor x = tensor_argument(input, name, "input", 1);
          const auto type = dtype_argument(dtype, name);
          const WithoutGil no_gil;
          return op.call(x, dim, type);
        },
        py::arg("input"), py::arg("dim"), py::arg("dtype") = py::none());
}

}  // namespace fastgrad::bindings
