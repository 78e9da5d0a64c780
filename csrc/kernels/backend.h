// The contract between the glue (csrc/ops) and every backend: plain argument structs and a table of
// functions. Nothing of torch and nothing of CUDA is visible here.
//
// All strides are in bytes, all sizes and counts in elements, all of them int64. Dimension 0 is the innermost.
#pragma once
#include <cstdint>

namespace fastgrad {

enum class Dtype : int8_t { f32, f64, bf16, f16, i64, i32, i16, i8, u8, b8 };

constexpr int64_t size_of(Dtype d) {
  switch (d) {
    case Dtype::f64:
    case Dtype::i64:
      return 8;
    case Dtype::f32:
    case Dtype::i32:
      return 4;
    case Dtype::bf16:
    case Dtype::f16:
    case Dtype::i16:
      return 2;
    default:
      return 1;
  }
}

using Stream = void*;                                                 // a cudaStream_t; null on the CPU
using Status = int;                                                   // a cudaError_t; 0 is success
constexpr Status kSuccess = 0, kOutOfMemory = 2, kUnsupported = 801;  // as in cudaError_t

constexpr int kMaxDims = 16;     // after coalescing
constexpr int kMaxOperands = 8;  // of an elementwise kernel: outputs first, then inputs
constexpr int kRowOperands = 7;  // of a row kernel
constexpr int kMaxInputs = 4;    // of a reduction

// A scalar argument, kept exactly in both arithmetics; a formula takes the one of its value type.
struct Number {
  double real;
  int64_t integer;
};

// A tensor of an elementwise kernel. Without data it is the constant `immediate`, and its strides mean nothing.
struct Operand {
  void* data;
  Dtype dtype;
  int64_t strides[kMaxDims];
  Number immediate;
};

// (out...) = formula(in...), elementwise. Mixed dtypes and stride 0 are allowed.
struct MapArgs {
  int ndim;  // at least 1
  int64_t shape[kMaxDims];
  int64_t numel;
  int outputs, operands;
  Operand operand[kMaxOperands];
  Dtype compute;  // the arithmetic: f32 (for 16-bit floats too), f64, or an integer dtype (u8 for bool)
  Number parameter[2];
  Stream stream;
};

// A reduction: the input index space is kept x reduced dimensions, both coalesced and sorted innermost first.
// The inputs first go through the kernel's formula (identity, or a loss of several inputs), then are reduced.
struct ReduceArgs {
  int kept_dims, reduced_dims;  // either may be 0
  int64_t kept_shape[kMaxDims], reduced_shape[kMaxDims];
  int64_t kept, reduced;  // the products of the shapes; both at least 1
  struct Input {
    const void* data;
    Dtype dtype;
    int64_t kept_strides[kMaxDims], reduced_strides[kMaxDims];
    Number immediate;  // used when data is null
  } in[kMaxInputs];
  int inputs;
  struct Output {
    void* data;
    Dtype dtype;
    int64_t strides[kMaxDims];  // over the kept dimensions
  } out[2];
  int outputs;
  Dtype compute;        // the arithmetic: f32, f64, i32 or i64
  Number parameter[2];  // of the reduction (a correction, a divisor) or the formula
  // If the backend leaves gradients, a loss summed in full gives besides the gradient of in[0], which is contiguous as
  // all operands are, for the incoming gradient given. Its formula has its own parameters.
  struct Gradient {
    void* data = nullptr;  // null where none is wanted
    Dtype dtype;
    double incoming;
    Number parameter[2];
  } gradient;
  void* workspace;  // kWorkspaceBytes of device memory on CUDA; null on the CPU
  Stream stream;
};
constexpr int64_t kWorkspaceBytes = 1 << 20;

// Independent rows of n elements. Operand strides: element_stride along the row, row_strides over row_shape.
// Rows are numbered with dimension 0 of row_shape running fastest. Which operand is which:
//   softmax, log_softmax                        x | y
//   softmax_backward, log_softmax_backward      gradient, y | gradient of x
//   cross_entropy            logits, target, weight | loss, stats, total weight, (gradient of the logits)
//   cross_entropy_backward   logits, target, weight, gradient, stats, total weight | gradient of the logits
//   nll_loss                 log probabilities, target, weight | loss, (none), total weight
//   nll_loss_backward        (none), target, weight, gradient, (none), total weight | gradient of the log probabilities
// Of the losses: target is one class index a row (i64 or u8), or with kProbabilities a row of n probabilities; weight
// (optional) is a row of n with row strides 0; loss and its gradient are one element a row, or a single one when
// reduced; stats are per row the maximum, sum(exp(x - maximum)) and, with kProbabilities, the sum of the weighted
// probabilities, in the compute dtype; total weight is the divisor of the mean, a single element of that dtype.
// parameter[0] is ignore_index, parameter[1] label_smoothing. If the backend leaves gradients, cross_entropy without
// weight, of contiguous logits and class indices, gives the gradient of the logits as well where its data is not null,
// for an incoming gradient of parameter[2]; the loss is reduced then.
enum RowsFlags { kReduceMean = 1, kReduceSum = 2, kProbabilities = 4 };
struct RowsArgs {
  int ndim;  // of the row index space, at least 1
  int64_t row_shape[kMaxDims];
  int64_t rows, n;
  struct Operand {
    void* data;  // null where an optional operand is absent
    Dtype dtype;
    int64_t row_strides[kMaxDims];
    int64_t element_stride;
  } operand[kRowOperands];
  Dtype compute;  // f32 or f64
  Number parameter[3];
  int flags;         // of RowsFlags
  void* workspace;   // as in ReduceArgs
  int64_t* bad_row;  // receives the first row whose class index is out of bounds, or -1; may be null. Its loss is NaN
  Stream stream;
};

enum class Activation : int8_t { none, relu, sigmoid, tanh };

// c = activation(a @ b + bias), batched. a is m x k, b is k x n, c is m x n with unit column stride.
struct GemmArgs {
  int64_t m, n, k;
  int batch_dims;  // 0 for a single product
  int64_t batch_shape[kMaxDims];
  int64_t batches;  // the product of batch_shape
  const void *a, *b;
  void* c;
  const void* bias;  // n elements, or null
  int64_t bias_stride;
  int64_t a_row, a_col, b_row, b_col, c_row;  // strides in bytes; 0 where expanded
  int64_t a_batch[kMaxDims], b_batch[kMaxDims], c_batch[kMaxDims];
  Dtype dtype;  // of every operand: a float dtype, or an integer one
  Activation activation;
  void* workspace;  // as in ReduceArgs
  Stream stream;
};

// One line per kernel: this list declares it, and puts it in the table of every backend.
// clang-format off
#define FASTGRAD_KERNELS(KERNEL) \
  KERNEL(add, MapArgs) \
  KERNEL(sub, MapArgs) \
  KERNEL(mul, MapArgs) \
  KERNEL(div, MapArgs) \
  KERNEL(div_floor, MapArgs) \
  KERNEL(div_trunc, MapArgs) \
  KERNEL(pow, MapArgs) \
  KERNEL(pow_base_backward, MapArgs) \
  KERNEL(pow_exponent_backward, MapArgs) \
  KERNEL(eq, MapArgs) \
  KERNEL(ne, MapArgs) \
  KERNEL(lt, MapArgs) \
  KERNEL(le, MapArgs) \
  KERNEL(gt, MapArgs) \
  KERNEL(ge, MapArgs) \
  KERNEL(neg, MapArgs) \
  KERNEL(abs, MapArgs) \
  KERNEL(sqrt, MapArgs) \
  KERNEL(exp, MapArgs) \
  KERNEL(log, MapArgs) \
  KERNEL(relu, MapArgs) \
  KERNEL(sigmoid, MapArgs) \
  KERNEL(tanh, MapArgs) \
  KERNEL(relu_backward, MapArgs) \
  KERNEL(sigmoid_backward, MapArgs) \
  KERNEL(tanh_backward, MapArgs) \
  KERNEL(abs_backward, MapArgs) \
  KERNEL(sqrt_backward, MapArgs) \
  KERNEL(gemm, GemmArgs) \
  KERNEL(softmax, RowsArgs) \
  KERNEL(softmax_backward, RowsArgs) \
  KERNEL(log_softmax, RowsArgs) \
  KERNEL(log_softmax_backward, RowsArgs) \
  KERNEL(mse_loss, MapArgs) \
  KERNEL(mse_loss_sum, ReduceArgs) \
  KERNEL(mse_loss_backward, MapArgs) \
  KERNEL(l1_loss, MapArgs) \
  KERNEL(l1_loss_sum, ReduceArgs) \
  KERNEL(l1_loss_backward, MapArgs) \
  KERNEL(smooth_l1_loss, MapArgs) \
  KERNEL(smooth_l1_loss_sum, ReduceArgs) \
  KERNEL(smooth_l1_loss_backward, MapArgs) \
  KERNEL(binary_cross_entropy, MapArgs) \
  KERNEL(binary_cross_entropy_sum, ReduceArgs) \
  KERNEL(binary_cross_entropy_backward, MapArgs) \
  KERNEL(binary_cross_entropy_target_backward, MapArgs) \
  KERNEL(count_outside_unit_interval, ReduceArgs) \
  KERNEL(count_nan, ReduceArgs) \
  KERNEL(binary_cross_entropy_with_logits, MapArgs) \
  KERNEL(binary_cross_entropy_with_logits_sum, ReduceArgs) \
  KERNEL(binary_cross_entropy_with_logits_backward, MapArgs) \
  KERNEL(binary_cross_entropy_with_logits_target_backward, MapArgs) \
  KERNEL(sum, ReduceArgs) \
  KERNEL(mean, ReduceArgs) \
  KERNEL(prod, ReduceArgs) \
  KERNEL(amax, ReduceArgs) \
  KERNEL(amin, ReduceArgs) \
  KERNEL(max_with_index, ReduceArgs) \
  KERNEL(min_with_index, ReduceArgs) \
  KERNEL(argmax, ReduceArgs) \
  KERNEL(argmin, ReduceArgs) \
  KERNEL(var_mean, ReduceArgs) \
  KERNEL(std_mean, ReduceArgs) \
  KERNEL(logsumexp, ReduceArgs) \
  KERNEL(sum_product, ReduceArgs) \
  KERNEL(count_equal, ReduceArgs) \
  KERNEL(count_zero, ReduceArgs) \
  KERNEL(prod_nonzero, ReduceArgs) \
  KERNEL(select_equal, MapArgs) \
  KERNEL(prod_backward, MapArgs) \
  KERNEL(var_backward, MapArgs) \
  KERNEL(logsumexp_backward, MapArgs) \
  KERNEL(maximum, MapArgs) \
  KERNEL(minimum, MapArgs) \
  KERNEL(maximum_backward, MapArgs) \
  KERNEL(cross_entropy, RowsArgs) \
  KERNEL(cross_entropy_backward, RowsArgs) \
  KERNEL(nll_loss, RowsArgs) \
  KERNEL(nll_loss_backward, RowsArgs)

// clang-format on

struct Backend {
  const char* name;
  const char* (*error_string)(Status);
  Status (*synchronize)(Stream);  // waits for the kernels launched; null where a kernel has run when it returns
  bool leaves_gradients;          // of losses, in their forward pass, where the arguments ask for them
#define FASTGRAD_FIELD(kernel, Args) Status (*kernel)(const Args&);
  FASTGRAD_KERNELS(FASTGRAD_FIELD)
#undef FASTGRAD_FIELD
};

}  // namespace fastgrad

// Kernel sources are compiled once per backend, each time inside a namespace of that backend's name,
// which the build passes as FASTGRAD_BACKEND_NAMESPACE: cpu_avx512, cuda, cuda_emulated, ...
#ifdef FASTGRAD_BACKEND_NAMESPACE
namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
#define FASTGRAD_DECLARE(kernel, Args) Status kernel(const Args&);
FASTGRAD_KERNELS(FASTGRAD_DECLARE)
#undef FASTGRAD_DECLARE
}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
#endif
