// This ISA's table of kernels.
#include "../backend.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
static const char* error_string(Status status) { return status == kUnsupported ? "unsupported dtype" : "failed"; }
static constexpr Status (*synchronize)(Stream) = nullptr;
static constexpr bool leaves_gradients = true;
}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE

#include "../table.inc"
