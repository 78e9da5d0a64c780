// mm, bmm, matmul, linear: from tensors of any rank and layout to one call of the kernel `gemm`.
//
// An operand is a stack of matrices given by strides: a transpose swaps two strides, a broadcast batch dimension has
// stride 0, and nothing is copied. Batch dimensions that lie in memory like more rows of a (or more columns of b)
// become rows (columns): (B, M, K) @ (K, N) is one product of B M rows.
#include "matmul.h"

#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/native/Resize.h>

#include "outputs.h"

namespace fastgrad::ops {
namespace {

// A stack of rows x cols matrices; strides in elements.
struct Matrices {
  const Tensor& tensor;
  int64_t rows, cols, row, col;
  at::IntArrayRef batch, batch_strides;
};

// The last two dimensions of t are the matrix.
Matrices matrices(const Tensor& t) {
  const at::IntArrayRef n = t.sizes(), s = t.strides();
  const size_t d = n.size();
  return {t, n[d - 2], n[d - 1], s[d - 2], s[d - 1], n.slice(0, d - 2), s.slice(0, d - 2)};
}
Matrices row_vector(const Tensor& t) { return {t, 1, t.size(0), 0, t.stride(0), {}, {}}; }
Matrices column_vector(const Tensor& t) { return {t, t.size(0), 1, t.stride(0), 0, {}, {}}; }
Matrices transposed(const Matrices& m) { return {m.tensor, m.cols, m.rows, m.col, m.row, m.batch, m.batch_strides}; }

Matrices left(const Tensor& t) { return t.dim() == 1 ? row_vector(t) : matrices(t); }
Matrices right(const Tensor& t) { return t.dim() == 1 ? column_vector(t) : matrices(t); }
Matrices right_transposed(const Tensor& weight) {
  return weight.dim() == 1 ? column_vector(weight) : transposed(matrices(weight));
}
Matrices result(const Tensor& t, const Matrices& a, const Matrices& b) {
  const int64_t d = t.dim() - (a.tensor.dim() > 1) - (b.tensor.dim() > 1);
  const int64_t row = a.tensor.dim() > 1 ? t.stride(d) : 0, col = b.tensor.dim() > 1 ? t.stride(-1) : 0;
  return {t, a.rows, b.cols, row, col, t.sizes().slice(0, d), t.strides().slice(0, d)};
}

// Which of torch's products these operands would be; they differ in the words of their errors.
enum class Kind { dot, mv, mm, bmm };
Kind kind_of(const Matrices& a, const Matrices& b) {
  const int64_t dim_a = a.tensor.dim(), dim_b = b.tensor.dim();
  return dim_b == 1 ? dim_a == 1 ? Kind::dot : Kind::mv : dim_b == 2 ? Kind::mm : Kind::bmm;
}

[[noreturn]] void refuse_shapes(const Matrices& a, const Matrices& b, Kind kind) {
  const int64_t rows = c10::multiply_integers(a.batch) * a.rows;
  switch (kind) {
    case Kind::dot:
      TORCH_CHECK(false, "inconsistent tensor size, expected tensor [", a.cols, "] and src [", b.rows,
                  "] to have the same number of elements, but got ", a.cols, " and ", b.rows, " elements respectively");
    case Kind::mv:
      TORCH_CHECK(false, "size mismatch, got input (", rows, "), mat (", rows, "x", a.cols, "), vec (", b.rows, ")");
    case Kind::mm:
      TORCH_CHECK(false, "mat1 and mat2 shapes cannot be multiplied (", rows, "x", a.cols, " and ", b.rows, "x", b.cols,
                  ")");
    case Kind::bmm: {
      const int64_t batches = c10::multiply_integers(at::infer_size(a.batch, b.batch));
      TORCH_CHECK(false, "Expected size for first two dimensions of batch2 tensor to be: [", batches, ", ", a.cols,
                  "] but got: [", batches, ", ", b.rows, "].");
    }
  }
  TORCH_INTERNAL_ASSERT(false);
}

[[noreturn]] void refuse_dtypes(const Matrices& a, const Matrices& b, Kind kind) {
  const at::ScalarType type_a = a.tensor.scalar_type(), type_b = b.tensor.scalar_type();
  switch (kind) {
    case Kind::dot:
      TORCH_CHECK(false, "dot : expected both vectors to have same dtype, but found ", type_a, " and ", type_b);
    case Kind::mv:
      TORCH_CHECK(false, "addmv input tensors must have the same dtype, but got ", type_b, ", ", type_a, ", and ",
                  type_b);
    case Kind::mm:
      TORCH_CHECK(false, "expected m1 and m2 to have the same dtype, but got: ", a.tensor.dtype(),
                  " != ", b.tensor.dtype());
    case Kind::bmm:
      TORCH_CHECK(false, "expected scalar type ", type_a, " but found ", type_b);
  }
  TORCH_INTERNAL_ASSERT(false);
}

[[noreturn]] void refuse_bool(Kind kind) {
  const char* name = kind == Kind::dot  ? "dot"
                     : kind == Kind::mv ? "addmv_impl_cpu"
                     : kind == Kind::mm ? "addmm_impl_cpu_"
                                        : "bmm";
  TORCH_CHECK_NOT_IMPLEMENTED(false, "\"", name, "\" not implemented for 'Bool'");
}

void check_operands(const char* op, const Matrices& a, const Matrices& b) {
  if (a.cols != b.rows) [[unlikely]]
    refuse_shapes(a, b, kind_of(a, b));
  const at::ScalarType type = a.tensor.scalar_type();
  if (type != b.tensor.scalar_type()) [[unlikely]]
    refuse_dtypes(a, b, kind_of(a, b));
  if (type == at::kBool) [[unlikely]]
    refuse_bool(kind_of(a, b));
  TORCH_CHECK(a.tensor.device() == b.tensor.device(), "fastgrad::", op,
              ": Expected all tensors to be on the same device, but found at least two devices, ", a.tensor.device(),
              " and ", b.tensor.device(), "!");
}

// The shape of a @ b; a 1-D operand has no dimension of its own in it.
at::DimVector result_shape(const Matrices& a, const Matrices& b) {
  at::DimVector shape;
  if (a.batch.empty() || b.batch.empty())
    shape.append((a.batch.empty() ? b : a).batch.begin(), (a.batch.empty() ? b : a).batch.end());
  else
    shape = at::infer_size_dimvector(a.batch, b.batch);
  if (a.tensor.dim() > 1) shape.push_back(a.rows);
  if (b.tensor.dim() > 1) shape.push_back(b.cols);
  return shape;
}

int64_t batch_stride(const Matrices& m, size_t dim_from_last) {
  const size_t d = m.batch.size();
  return dim_from_last >= d || m.batch[d - 1 - dim_from_last] == 1 ? 0 : m.batch_strides[d - 1 - dim_from_last];
}

struct Epilogue {
  const Tensor* bias = nullptr;  // one element, or as many as c has columns
  Activation activation = Activation::none;
};

// c = activation(a @ b + bias); the columns of c have unit stride, or there is one only.
void multiply(const char* op, const Matrices& a, const Matrices& b, const Matrices& c, const Epilogue& epilogue) {
  GemmArgs g;
  g.m = a.rows, g.n = b.cols, g.k = a.cols;
  g.dtype = dtype_of(c.tensor.scalar_type());
  int64_t a_row = a.row, b_col = b.col, c_row = c.row;
  int dims = 0;
  g.batches = 1;
  for (size_t i = 0; i < c.batch.size(); ++i) {
    const int64_t size = c.batch[c.batch.size() - 1 - i];
    if (size == 1) continue;
    const int64_t sa = batch_stride(a, i), sb = batch_stride(b, i), sc = batch_stride(c, i);
    if (dims == 0 && sb == 0 && (g.m == 1 || (sa == g.m * a_row && sc == g.m * c_row))) {
      if (g.m == 1) a_row = sa, c_row = sc;
      g.m *= size;
    } else if (dims == 0 && sa == 0 && !epilogue.bias && sc == g.n && (g.n == 1 || sb == g.n * b_col)) {
      if (g.n == 1) b_col = sb;
      g.n *= size;
    } else if (const int d = dims - 1; dims > 0 && sa == g.batch_shape[d] * g.a_batch[d] &&
                                       sb == g.batch_shape[d] * g.b_batch[d] && sc == g.batch_shape[d] * g.c_batch[d]) {
      g.batch_shape[d] *= size;
      g.batches *= size;
    } else {
      TORCH_CHECK_NOT_IMPLEMENTED(dims < kMaxDims, "fastgrad::", op, ": more than ", kMaxDims, " batch dimensions");
      g.batch_shape[dims] = size;
      g.a_batch[dims] = sa, g.b_batch[dims] = sb, g.c_batch[dims] = sc;
      g.batches *= size;
      ++dims;
    }
  }
  const int64_t bytes = size_of(g.dtype);
  for (int d = 0; d < dims; ++d) g.a_batch[d] *= bytes, g.b_batch[d] *= bytes, g.c_batch[d] *= bytes;
  g.batch_dims = dims;
  g.a = a.tensor.const_data_ptr(), g.b = b.tensor.const_data_ptr(), g.c = c.tensor.mutable_data_ptr();
  g.a_row = a_row * bytes, g.a_col = a.col * bytes;
  g.b_row = b.row * bytes, g.b_col = b_col * bytes;
  g.c_row = c_row * bytes;
  g.bias = epilogue.bias ? epilogue.bias->const_data_ptr() : nullptr;
  g.bias_stride = epilogue.bias && epilogue.bias->numel() > 1 ? epilogue.bias->stride(0) * bytes : 0;
  g.activation = epilogue.activation;
  const c10::Device device = c.tensor.device();
  run_kernel(op, &Backend::gemm, g, device);
}

Tensor product(const char* op, const Matrices& a, const Matrices& b, const Epilogue& epilogue = {}) {
  const Tensor c = new_tensor(result_shape(a, b), a.tensor.options());
  if (c.numel() == 0) return c;
  place_output(c);
  multiply(op, a, b, result(c, a, b), epilogue);
  return c;
}

// Whether writing c could change t while it is read. What is certain to overlap is refused.
bool may_overlap(const Tensor& c, const Tensor& t) {
  at::assert_no_overlap(c, t);
  return c.is_alias_of(t) && at::get_overlap_status(c, t) == at::MemOverlapStatus::TooHard;
}

void product_out(const char* op, const Matrices& a, const Matrices& b, const Tensor& out) {
  check_writable(out);
  TORCH_CHECK(out.scalar_type() == a.tensor.scalar_type(), "Expected out tensor to have dtype ", a.tensor.dtype(),
              ", but got ", out.dtype(), " instead");
  TORCH_CHECK(out.device() == a.tensor.device(), "fastgrad::", op, ": Expected out tensor to have device ",
              a.tensor.device(), ", but got ", out.device(), " instead");
  at::native::resize_output(out, result_shape(a, b));
  if (out.numel() == 0) return;
  at::assert_no_internal_overlap(out);
  const Matrices c = result(out, a, b);
  if (may_overlap(out, a.tensor) || may_overlap(out, b.tensor)) {
    out.copy_(product(op, a, b));
  } else if (c.cols == 1 || c.col == 1) {
    multiply(op, a, b, c, {});
  } else if (c.rows == 1 || c.row == 1) {
    multiply(op, transposed(b), transposed(a), transposed(c), {});  // the transpose of c = a b is b' a'
  } else {
    out.copy_(product(op, a, b));
  }
}

void check_mm(const Tensor& input, const Tensor& mat2) {
  TORCH_CHECK(input.dim() == 2, "self must be a matrix");
  TORCH_CHECK(mat2.dim() == 2, "mat2 must be a matrix");
}
Tensor mm_kernel(const Tensor& input, const Tensor& mat2) {
  check_mm(input, mat2);
  const Matrices a = matrices(input), b = matrices(mat2);
  check_operands("mm", a, b);
  return product("mm", a, b);
}
void mm_out_kernel(const Tensor& input, const Tensor& mat2, const Tensor& out) {
  check_mm(input, mat2);
  const Matrices a = matrices(input), b = matrices(mat2);
  check_operands("mm", a, b);
  product_out("mm", a, b, out);
}

void check_bmm(const Tensor& input, const Tensor& mat2) {
  TORCH_CHECK(input.dim() == 3, "batch1 must be a 3D tensor");
  TORCH_CHECK(mat2.dim() == 3, "batch2 must be a 3D tensor");
  TORCH_CHECK(input.size(0) == mat2.size(0) && input.size(2) == mat2.size(1),
              "Expected size for first two dimensions of batch2 tensor to be: [", input.size(0), ", ", input.size(2),
              "] but got: [", mat2.size(0), ", ", mat2.size(1), "].");
}
Tensor bmm_kernel(const Tensor& input, const Tensor& mat2) {
  check_bmm(input, mat2);
  const Matrices a = matrices(input), b = matrices(mat2);
  check_operands("bmm", a, b);
  return product("bmm", a, b);
}
void bmm_out_kernel(const Tensor& input, const Tensor& mat2, const Tensor& out) {
  check_bmm(input, mat2);
  const Matrices a = matrices(input), b = matrices(mat2);
  check_operands("bmm", a, b);
  product_out("bmm", a, b, out);
}

void check_ranks(const char* op, const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() > 0 && b.dim() > 0, "both arguments to ", op, " need to be at least 1D, but they are ", a.dim(),
              "D and ", b.dim(), "D");
}
Tensor matmul_kernel(const Tensor& input, const Tensor& other) {
  check_ranks("matmul", input, other);
  const Matrices a = left(input), b = right(other);
  check_operands("matmul", a, b);
  return product("matmul", a, b);
}
void matmul_out_kernel(const Tensor& input, const Tensor& other, const Tensor& out) {
  check_ranks("matmul", input, other);
  const Matrices a = left(input), b = right(other);
  check_operands("matmul", a, b);
  product_out("matmul", a, b, out);
}

void check_bias(const Tensor& bias, const Matrices& a, const Matrices& b) {
  TORCH_CHECK(a.tensor.dim() == 1 || b.tensor.dim() == 2, "mat2 must be a matrix, got 1-D tensor");
  TORCH_CHECK(bias.scalar_type() == a.tensor.scalar_type(), "self and mat2 must have the same dtype, but got ",
              bias.scalar_type(), " and ", a.tensor.scalar_type());
  TORCH_CHECK(bias.device() == a.tensor.device(), "fastgrad::linear: expected bias on device ", a.tensor.device(),
              ", but got it on ", bias.device());
  TORCH_CHECK_NOT_IMPLEMENTED(bias.dim() <= 1, "fastgrad::linear does not support a bias of ", bias.dim(),
                              " dimensions");
  const int64_t rows = c10::multiply_integers(a.batch) * a.rows;
  TORCH_CHECK(bias.numel() == 1 || bias.numel() == b.cols, "The expanded size of the tensor (", b.cols,
              ") must match the existing size (", bias.numel(), ") at non-singleton dimension 1.  Target sizes: [",
              rows, ", ", b.cols, "].  Tensor sizes: [", bias.numel(), "]");
}
Tensor linear_kernel(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                     std::optional<std::string_view> activation) {
  check_ranks("linear", input, weight);
  TORCH_CHECK(weight.dim() <= 2, "t() expects a tensor with <= 2 dimensions, but self is ", weight.dim(), "D");
  const Matrices a = left(input), b = right_transposed(weight);
  check_operands("linear", a, b);
  Epilogue epilogue{nullptr, activation_named(activation)};
  TORCH_CHECK_NOT_IMPLEMENTED(epilogue.activation == Activation::none || input.is_floating_point(),
                              "fastgrad::linear does not support an activation for dtype ", input.scalar_type());
  if (bias && bias->defined()) {
    check_bias(*bias, a, b);
    epilogue.bias = &*bias;
  }
  return product("linear", a, b, epilogue);
}

}  // namespace

Activation activation_named(std::optional<std::string_view> name) {
  if (!name) return Activation::none;
  if (*name == "relu") return Activation::relu;
  if (*name == "sigmoid") return Activation::sigmoid;
  if (*name == "tanh") return Activation::tanh;
  TORCH_CHECK_NOT_IMPLEMENTED(false, "fastgrad::linear does not support activation \"", *name,
                              "\": expected None, \"relu\", \"sigmoid\" or \"tanh\"");
}

TORCH_LIBRARY_FRAGMENT(fastgrad, m) {
  define_product(m, "mm(Tensor input, Tensor mat2", &mm_kernel, &mm_out_kernel, &mm_autograd);
  define_product(m, "bmm(Tensor input, Tensor mat2", &bmm_kernel, &bmm_out_kernel, &bmm_autograd);
  define_product(m, "matmul(Tensor input, Tensor other", &matmul_kernel, &matmul_out_kernel, &matmul_autograd);
  declare<LinearSignature>(m,
                           "linear(Tensor input, Tensor weight, Tensor? bias=None, *, str? activation=None) -> Tensor");
  implement(m, "linear", &linear_kernel, &linear_autograd);
  for (const char* name : {"mm", "bmm", "matmul", "linear"})
    define_autocast(m, name, Autocast::lower_precision, Autocast::lower_precision);
}

}  // namespace fastgrad::ops
