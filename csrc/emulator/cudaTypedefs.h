// A stand-in for CUDA's header: tensor maps, and the driver's function that encodes them, with the driver's checks
// (asynchronous.cpp).
#pragma once
#include "cuda_runtime.h"

using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

// Of 16-bit elements. The true one is opaque.
struct alignas(64) CUtensorMap {
  const char* data;
  uint64_t shape[5], strides[4];  // strides in bytes, of dimensions 1 and up
  uint16_t box[5];
  uint8_t rank, swizzle;
};
static_assert(sizeof(CUtensorMap) == 128);

using PFN_cuTensorMapEncodeTiled_v12000 = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                                       const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                                       const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

namespace cuda_emulator {

// Starts the copy of a box to shared memory: until it lands, as late as threads can wait for it, NaN lies there.
void load_box(void* to, const CUtensorMap& map, uint64_t* barrier, const int* at, int rank,
              Place place = Place::current());

}  // namespace cuda_emulator
