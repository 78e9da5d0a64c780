// The processor's peak, for `fastgrad bench`.
#pragma once
#include "common.h"

namespace fastgrad::ops {

// Runs about `count` multiply-adds on all threads with the backend of CPU tensors; returns how many, 0 where that
// backend (the emulator) has no such loop.
double multiply_adds(at::ScalarType type, double count);

}  // namespace fastgrad::ops
