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

namespace {

struct Peak {
  decltype(&cpu_default::multiply_adds) multiply_adds;
  decltype(&cpu_default::copy_bytes) copy_bytes;
};
// Those of the active backend; the emulator has no multiply-adds, and copies as the default backend does.
Peak active_peak() {
  const std::string backend = active_backend();
#ifdef FASTGRAD_HAS_AVX512
  if (backend == "avx512") return {cpu_avx512::multiply_adds, cpu_avx512::copy_bytes};
#endif
#ifdef FASTGRAD_HAS_AVX2
  if (backend == "avx2") return {cpu_avx2::multiply_adds, cpu_avx2::copy_bytes};
#endif
  return {backend == "default" ? cpu_default::multiply_adds : nullptr, cpu_default::copy_bytes};
}

}  // namespace

double multiply_adds(at::ScalarType type, double count) {
  const Peak peak = active_peak();
  return peak.multiply_adds ? peak.multiply_adds(dtype_of(type), count) : 0;
}

void copy_bytes(const Tensor& to, const Tensor& from) {
  TORCH_CHECK(
      to.is_cpu() && from.is_cpu() && to.is_contiguous() && from.is_contiguous() && to.nbytes() == from.nbytes(),
      "copy_bytes: contiguous tensors of one size on the CPU are expected");
  active_peak().copy_bytes(static_cast<char*>(to.mutable_data_ptr()), static_cast<const char*>(from.const_data_ptr()),
                           from.nbytes());
}

Tensor empty_output(int64_t bytes) {
  Tensor result = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  place_output(result);
  return result;
}

}  // namespace fastgrad::ops
