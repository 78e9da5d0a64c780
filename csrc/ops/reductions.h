// What the reductions and their backward functions (reductions_autograd.cpp) share.
#pragma once
#include "reduce.h"

namespace fastgrad::ops {

// The dtype of the result, from that of the input and the argument dtype.
enum class Promotion {
  same,      // amax
  integers,  // sum, prod: integers give int64
  refuse,    // mean, var: integers raise
  floating,  // logsumexp: integers give the default dtype
};

enum SavedByReduction { kNoTensor = 0, kInput = 1, kFirstOutput = 2, kSecondOutput = 4 };

struct ReductionSpec {
  const char* name;
  Kernel<ReduceArgs> kernel;
  int outputs = 1;
  Promotion promotion = Promotion::same;
  std::optional<double> empty{};        // the result of no elements; an error where there is none
  bool index = false;                   // the last output is an index: int64
  BackwardFunction backward = nullptr;  // gets what `save` names, in that order; values: see Reduced
  int save = kNoTensor;
};

// The arguments of a reduction. Kept for backward as the values dims, keepdim, numel, correction.
struct Request {
  DimMask mask;
  bool whole;  // no dimension was named
  bool keepdim = false;
  std::optional<at::ScalarType> dtype{};
  double correction = 1;
};

// What backward needs to know of the step: the shape of the input and how it was reduced.
struct Reduced {
  std::vector<int64_t> dims;
  bool keepdim;
  c10::SymDimVector shape;
  at::ScalarType type;
  double correction;

  explicit Reduced(const Saved& s);
  static std::vector<c10::IValue> values(const Tensor& input, const Request& r);
  Tensor with_dims(const Tensor& t) const;  // t with the reduced dimensions put back, of size 1
  Tensor expand(const Tensor& t) const;     // and expanded to the input's shape and cast to its dtype
  c10::SymInt count() const;                // elements per result
};

// Backward functions, by what they expect to be saved.
Gradients sum_backward(const Saved&, const Gradients&);
Gradients mean_backward(const Saved&, const Gradients&);
Gradients prod_backward(const Saved&, const Gradients&);
Gradients max_backward(const Saved&, const Gradients&);      // and min
Gradients amax_backward(const Saved&, const Gradients&);     // and amin
Gradients max_dim_backward(const Saved&, const Gradients&);  // and min_dim
Gradients var_mean_backward(const Saved&, const Gradients&);
Gradients std_mean_backward(const Saved&, const Gradients&);
Gradients logsumexp_backward(const Saved&, const Gradients&);

}  // namespace fastgrad::ops
