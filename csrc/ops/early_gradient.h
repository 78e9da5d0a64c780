// The gradient of a reduced loss, left by its forward kernel.
//
// Forward and backward of a loss read the same tensors, and where these are large that is what takes the time. The
// forward kernel can write the gradient while what it reads is in cache, if it knows the gradient that will come in;
// which is nearly always what it was before: 1, or the factor of a scaled loss. So it computes for that. If another one
// comes, or the graph is used again, backward computes as if nothing had been left, and the bits are the same.
#pragma once
#include <atomic>

#include "common.h"

namespace fastgrad::ops {

// What comes into the losses of one op.
class IncomingGradient {
 public:
  // The next one, if forward should compute for it: the CPU's kernels will serve a loss of `tensors`, of which only the
  // first, contiguous and large, wants a gradient, and the last incoming gradients were all the same.
  std::optional<EarlyGradient> forecast(at::TensorList tensors, int64_t reduction) const;
  // What forward left of s.tensors[0], if it is for `incoming`; undefined otherwise.
  Tensor take(const Saved& s, const Tensor& incoming);

 private:
  std::atomic<double> last_ = 1;
  std::atomic<bool> steady_ = true;  // the one before was the same
};

}  // namespace fastgrad::ops
