// From tensors to the argument structs of backend.h.
#include "common.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace fastgrad::ops {

Dtype dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Dtype::f32;
    case at::kDouble:
      return Dtype::f64;
    case at::kBFloat16:
      return Dtype::bf16;
    case at::kHalf:
      return Dtype::f16;
    case at::kLong:
      return Dtype::i64;
    case at::kInt:
      return Dtype::i32;
    case at::kShort:
      return Dtype::i16;
    case at::kChar:
      return Dtype::i8;
    case at::kByte:
      return Dtype::u8;
    case at::kBool:
      return Dtype::b8;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "fastgrad: dtype ", type, " is not supported");
  }
}

Dtype compute_dtype(at::ScalarType type) {
  switch (dtype_of(type)) {
    case Dtype::f64:
      return Dtype::f64;
    case Dtype::f32:
    case Dtype::bf16:
    case Dtype::f16:
      return Dtype::f32;
    case Dtype::b8:
      return Dtype::u8;
    default:
      return dtype_of(type);
  }
}

Stream stream_of(c10::Device device) {
  if (!device.is_cuda()) return nullptr;
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

Number number(const at::Scalar& s) {
  if (s.isFloatingPoint()) {
    const double x = s.toDouble();
    return {x, x >= -9.2233720368547758e18 && x < 9.2233720368547758e18 ? int64_t(x) : 0};
  }
  const int64_t i = s.isBoolean() ? s.toBool() : s.toLong();
  return {double(i), i};
}

void check_status(const char* op, const Backend& backend, Status status, Stream stream) {
  // A kernel may fail after its launch, and would be reported by whatever runs next.
  if (status == kSuccess && backend.synchronize && debugging()) status = backend.synchronize(stream);
  TORCH_CHECK_NOT_IMPLEMENTED(status != kUnsupported, "fastgrad::", op, " does not support this dtype on ",
                              backend.name);
  TORCH_CHECK(status == kSuccess, "fastgrad::", op, ": the ", backend.name,
              " kernel failed: ", backend.error_string(status));
}

Tensor workspace_for(c10::Device device) {
  if (!backend_for(device).synchronize) return {};
  return at::empty({kWorkspaceBytes}, at::TensorOptions().dtype(at::kByte).device(device));
}

}  // namespace fastgrad::ops
