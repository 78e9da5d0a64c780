// What the machine can do at best, for `fastgrad bench`.
#pragma once
#include "common.h"

namespace fastgrad::ops {

// Runs about `count` multiply-adds on all threads with the backend of CPU tensors; returns how many, 0 where that
// backend (the emulator) has no such loop.
double multiply_adds(at::ScalarType type, double count);

// A copy as the kernels write: a large one past the cache. On the emulator, that of the default backend.
void copy_bytes(const Tensor& to, const Tensor& from);

// Bytes, uninitialized, in memory such as an op's output gets.
Tensor empty_output(int64_t bytes);

}  // namespace fastgrad::ops
