// Multiply-adds without memory, on the instruction set of the active backend; and memory to copy into.
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

Tensor empty_output(int64_t bytes) {
  Tensor result = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  place_output(result);
  return result;
}

}  // namespace fastgrad::ops
