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
  // The next one, if forward should compute for it: the last two were the same, the backend leaves gradients, and of
  // `tensors` only the first wants one, is contiguous, and is large.
  std::optional<EarlyGradient> forecast(at::TensorList tensors, int64_t reduction) const;
  // What forward left of s.tensors[0], if it is for `incoming`; undefined otherwise.
  Tensor take(const Saved& s, const Tensor& incoming);

 private:
  std::atomic<double> last_ = 1;
  std::atomic<bool> steady_ = true;  // the one before was the same
};

}  // namespace fastgrad::ops
