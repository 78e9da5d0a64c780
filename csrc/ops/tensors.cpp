// From tensors to the argument structs of backend.h, and from numbers to tensors.
#include <ATen/ScalarOps.h>
#include <ATen/ops/new_full.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "ops.h"

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

c10::Device device_of(const char* op, at::TensorList tensors, std::optional<c10::Device> given) {
  c10::Device device = given.value_or(tensors[0].device());
  if (!given)
    for (const Tensor& t : tensors)
      if (t.defined() && !t.device().is_cpu()) device = t.device();
  for (const Tensor& t : tensors)
    TORCH_CHECK(!t.defined() || t.device() == device || (t.dim() == 0 && t.device().is_cpu()), "fastgrad::", op,
                ": expected all tensors to be on the same device, but found at least two devices, ", device, " and ",
                t.device(), "!");
  return device;
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

namespace {

// Whether Python sees the op, as it does while a graph is traced.
bool seen_by_python(const Tensor& t) {
  return c10::impl::TorchDispatchModeTLS::any_modes_set() || t.key_set().has(c10::DispatchKey::Python);
}

// s as its conversion to `type` gives it, which would raise where it overflows.
at::Scalar converted(const at::Scalar& s, at::ScalarType type) {
  if (s.isSymbolic()) return s;
  switch (type) {
    case at::kFloat:
      return double(float(s.toDouble()));
    case at::kHalf:
      return double(float(c10::Half(float(s.toDouble()))));
    case at::kInt:
      return int64_t(int32_t(s.toLong()));
    case at::kShort:
      return int64_t(int16_t(s.toLong()));
    case at::kChar:
      return int64_t(int8_t(s.toLong()));
    case at::kByte:
      return int64_t(uint8_t(s.toLong()));
    default:
      return s;
  }
}

}  // namespace

// torch marks the tensors that it makes of numbers. A graph does not keep that mark, and no op of ours takes a number:
// there, the dtype is one that promotes alike. fastgrad/functional/_define.py has the same for torch.compile.
Tensor constant(const at::Scalar& s, const Tensor& like) {
  if (!seen_by_python(like)) return at::native::wrapped_scalar_tensor(s);
  const at::ScalarType type = like.scalar_type();
  at::ScalarType own = s.isBoolean() ? at::kBool : s.isFloatingPoint() ? at::kDouble : at::kLong;
  if (own == at::kDouble && c10::isIntegralType(type, true))
    own = c10::typeMetaToScalarType(at::get_default_dtype());
  else if (like.dim() == 0 && c10::isFloatingType(own) == c10::isFloatingType(type) && type != at::kBool &&
           own != at::kBool)
    own = type;
  const at::Scalar fits = converted(s, own);
  if (c10::impl::TorchDispatchModeTLS::any_modes_set()) return at::scalar_tensor(fits, at::TensorOptions().dtype(own));
  return like.new_full({}, fits, like.options().dtype(own));
}

}  // namespace fastgrad::ops
