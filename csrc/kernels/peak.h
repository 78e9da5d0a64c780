// The processor's peak, for `fastgrad bench`: no kernel of tensors, and so not in the table of backend.h.
#pragma once
#include "backend.h"

// Runs about `count` multiply-adds in this arithmetic, on all threads, and nothing else; returns how many.
#define FASTGRAD_PEAK double multiply_adds(fastgrad::Dtype dtype, double count)
