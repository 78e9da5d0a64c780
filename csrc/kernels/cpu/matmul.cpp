// gemm(args): c = activation(a @ b + bias), batched; the engine of gemm.h for floating point, loops for integers.
//
// Integers: c row by row, one row of b added at a time, in blocks of columns that stay in L1. Sums wrap around in the
// width of the type, as torch's do. Parallel over the rows of all products.
#include <algorithm>
#include <type_traits>

#include "gemm.h"
#include "parallel.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kColumns = 1024;
constexpr int64_t kGrain = 1 << 16;  // multiply-adds worth a piece of parallel work

// I is the operands' type without its sign: its arithmetic wraps.
template <class I>
void integer_row(const GemmArgs& g, const char* a, const char* b, char* c) {
  using Sum = std::conditional_t<sizeof(I) < 4, uint32_t, I>;
  for (int64_t j0 = 0; j0 < g.n; j0 += kColumns) {
    const int64_t n = std::min(kColumns, g.n - j0);
    Sum sum[kColumns];
    for (int64_t j = 0; j < n; ++j)
      sum[j] = g.bias ? *reinterpret_cast<const I*>(static_cast<const char*>(g.bias) + (j0 + j) * g.bias_stride) : 0;
    for (int64_t k = 0; k < g.k; ++k) {
      const Sum x = *reinterpret_cast<const I*>(a + k * g.a_col);
      const char* row = b + k * g.b_row + j0 * g.b_col;
      if (g.b_col == sizeof(I)) {
        for (int64_t j = 0; j < n; ++j) sum[j] += x * reinterpret_cast<const I*>(row)[j];
      } else {
        for (int64_t j = 0; j < n; ++j) sum[j] += x * *reinterpret_cast<const I*>(row + j * g.b_col);
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      I value = I(sum[j]);
      if (g.activation == Activation::relu && g.dtype != Dtype::u8 && std::make_signed_t<I>(value) < 0) value = 0;
      reinterpret_cast<I*>(c)[j0 + j] = value;
    }
  }
}

template <class I>
void integers(const GemmArgs& g) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, g.n * g.k));
  parallel_for(0, g.batches * g.m, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t i = r % g.m;
      const char* a = static_cast<const char*>(g.a) + i * g.a_row;
      const char* b = static_cast<const char*>(g.b);
      char* c = static_cast<char*>(g.c) + i * g.c_row;
      int64_t index = r / g.m;
      for (int d = 0; d < g.batch_dims; ++d) {
        const int64_t at = index % g.batch_shape[d];
        index /= g.batch_shape[d];
        a += at * g.a_batch[d], b += at * g.b_batch[d], c += at * g.c_batch[d];
      }
      integer_row<I>(g, a, b, c);
    }
  });
}

}  // namespace

Status gemm(const GemmArgs& args) {
  if (args.m == 0 || args.n == 0 || args.batches == 0) return 0;
  switch (args.dtype) {
    case Dtype::i64:
      integers<uint64_t>(args);
      return 0;
    case Dtype::i32:
      integers<uint32_t>(args);
      return 0;
    case Dtype::i16:
      integers<uint16_t>(args);
      return 0;
    case Dtype::i8:
    case Dtype::u8:
      integers<uint8_t>(args);
      return 0;
    default:
      return gemm_float(args);
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
