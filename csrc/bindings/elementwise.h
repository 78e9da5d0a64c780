// Bindings of elementwise ops: name(input[, other], *, [alpha,] out=None) and name_(input[, other], ...).
#pragma once
#include "bindings.h"

namespace fastgrad::bindings {

void bind_unary(py::module_& m, const char* name, bool in_place = false);
void bind_binary(py::module_& m, const char* name, bool in_place = false);
void bind_binary_alpha(py::module_& m, const char* name, bool in_place = false);

}  // namespace fastgrad::bindings
