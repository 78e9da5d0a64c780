// The Python module fastgrad._C: the bindings of every family, and the choice of backend.
#include "bindings/bindings.h"
#include "ops/peak.h"

PYBIND11_MODULE(_C, m) {
  namespace ops = fastgrad::ops;
  namespace bindings = fastgrad::bindings;
  py::options options;
  options.disable_function_signatures();  // fastgrad/functional writes the docstrings

  bindings::bind_activations(m);
  bindings::bind_arithmetic(m);
  bindings::bind_matmul(m);
  bindings::bind_softmax(m);
  bindings::bind_bce(m);
  bindings::bind_regression_losses(m);
  bindings::bind_reductions(m);
  bindings::bind_cross_entropy(m);
  bindings::bind_overrides(m);

  m.def("backends", &ops::list_backends);
  m.def("active_backend", &ops::active_backend);
  m.def("force_backend", &ops::force_backend);
  m.def("emulate_cuda", &ops::emulate_cuda);
  m.def("empty_cache", &ops::empty_cache);
  m.def("cached_bytes", &ops::cached_bytes);
  m.def("multiply_adds", &ops::multiply_adds);
  m.def("copy_bytes", &ops::copy_bytes);
  m.def("empty_output", &ops::empty_output);
}
