// The processor's peak, for `fastgrad bench`: no kernel of tensors, and so not in the table of backend.h.
#pragma once
#include "backend.h"

// multiply_adds: runs about `count` multiply-adds in this arithmetic, on all threads, and nothing else; returns how
// many. copy_bytes: a copy as fast as the kernels could do it, a large one past the cache.
#define FASTGRAD_PEAK                                        \
  double multiply_adds(fastgrad::Dtype dtype, double count); \
  void copy_bytes(char* to, const char* from, int64_t bytes)
