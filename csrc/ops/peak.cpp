// Multiply-adds without memory and a copy without arithmetic, on the instruction set of the active backend.
#include "../kernels/peak.h"

#include "peak.h"

namespace fastgrad {
#define FASTGRAD_DECLARE_PEAK(space) \
  namespace space {                  \
  FASTGRAD_PEAK;                     \
  }
FASTGRAD_DECLARE_PEAK(cpu_default)
FASTGRAD_DECLARE_PEAK(cpu_avx2)
FASTGRAD_DECLARE_PEAK(cpu_avx512)
#undef FASTGRAD_DECLARE_PEAK
}  // namespace fastgrad

namespace fastgrad::ops {

double multiply_adds(at::ScalarType type, double count) {
  const std::string backend = active_backend();
  const Dtype dtype = dtype_of(type);
#ifdef FASTGRAD_HAS_AVX512
  if (backend == "avx512") return cpu_avx512::multiply_adds(dtype, count);
#endif
#ifdef FASTGRAD_HAS_AVX2
  if (backend == "avx2") return cpu_avx2::multiply_adds(dtype, count);
#endif
  return backend == "default" ? cpu_default::multiply_adds(dtype, count) : 0;
}

void copy_bytes(const Tensor& to, const Tensor& from) {
  TORCH_CHECK(
      to.is_cpu() && from.is_cpu() && to.is_contiguous() && from.is_contiguous() && to.nbytes() == from.nbytes(),
      "copy_bytes: contiguous tensors of one size on the CPU are expected");
  const auto copy = [&](auto kernel) {
    kernel(static_cast<char*>(to.mutable_data_ptr()), static_cast<const char*>(from.const_data_ptr()), from.nbytes());
  };
  const std::string backend = active_backend();
#ifdef FASTGRAD_HAS_AVX512
  if (backend == "avx512") return copy(cpu_avx512::copy_bytes);
#endif
#ifdef FASTGRAD_HAS_AVX2
  if (backend == "avx2") return copy(cpu_avx2::copy_bytes);
#endif
  copy(cpu_default::copy_bytes);
}

Tensor empty_output(int64_t bytes) {
  Tensor result = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  place_output(result);
  return result;
}

}  // namespace fastgrad::ops
