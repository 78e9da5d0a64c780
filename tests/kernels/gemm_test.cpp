// The CPU matrix product against sums in long double, without torch: every dtype, layout, batch, epilogue and thread
// count. Build it with the kernel sources of one backend, for instance
//   g++ -std=c++20 -O2 -ffp-contract=fast -DFASTGRAD_BACKEND_NAMESPACE=cpu_default tests/kernels/gemm_test.cpp
//       csrc/kernels/cpu/{gemm,gemv,matmul}.cpp -pthread
// and with -DFASTGRAD_EMULATE_DOT_PAIRS for products of bfloat16 by pairs, on a CPU that has no instruction for them.
//
// Operands hold small integers, so sums are exact in the arithmetic and results must be equal to the last bit, also
// after the one rounding to a 16-bit type; a second pass with fractions checks the errors of rounding. Memory between
// the elements of an operand is NaN, C starts as NaN, and what lies between its rows and around it must stay.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../../csrc/kernels/backend.h"
#include "../../csrc/kernels/cpu/convert.h"

using namespace fastgrad;
namespace backend = fastgrad::FASTGRAD_BACKEND_NAMESPACE;
using backend::bf16;
using backend::f16;

static int threads = 1, most_threads = 5;
extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*f)(int64_t, int64_t, void*),
                                      void* context) {
  const int64_t most = (end - begin + grain - 1) / grain, count = most < threads ? most : threads;
  const int64_t chunk = (end - begin + count - 1) / count;
  std::vector<std::thread> pool;
  for (int64_t at = begin; at < end; at += chunk)
    pool.emplace_back([=] { f(at, at + chunk < end ? at + chunk : end, context); });
  for (std::thread& thread : pool) thread.join();
  return 0;
}

namespace {

std::mt19937 generator(1);
int64_t random_below(int64_t n) { return int64_t(generator() % uint64_t(n)); }
int failures = 0, cases = 0;

template <class S>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<S, float>)
    return Dtype::f32;
  else if constexpr (std::is_same_v<S, double>)
    return Dtype::f64;
  else if constexpr (std::is_same_v<S, bf16>)
    return Dtype::bf16;
  else if constexpr (std::is_same_v<S, f16>)
    return Dtype::f16;
  else if constexpr (std::is_same_v<S, int64_t>)
    return Dtype::i64;
  else if constexpr (std::is_same_v<S, int32_t>)
    return Dtype::i32;
  else if constexpr (std::is_same_v<S, int16_t>)
    return Dtype::i16;
  else if constexpr (std::is_same_v<S, int8_t>)
    return Dtype::i8;
  else
    return Dtype::u8;
}
template <class S>
constexpr bool is_integer = std::is_integral_v<S>;
template <class S>
S poison() {
  if constexpr (is_integer<S>)
    return S(0x55);
  else
    return S(std::nanf(""));
}
template <class S>
long double number(S x) {
  if constexpr (is_integer<S> || std::is_same_v<S, double>)
    return x;
  else
    return float(x);
}
template <class S>
S element(bool fractions) {
  if constexpr (is_integer<S>)
    return S(generator());  // any bits: sums wrap
  else if (fractions)
    return S(float(random_below(2001) - 1000) / 700.f);
  else
    return S(float(random_below(9) - 4));
}

enum Layout {
  rows_padded,
  rows_dense,
  columns_padded,
  columns_dense,
  scattered,
  row_expanded,
  column_expanded,
  kLayouts
};

// A rows x columns matrix for every item of a batch, in a block with nothing to spare at its end.
template <class S>
struct Operand2d {
  std::vector<S> block;
  int64_t row, col, batch;
  Operand2d(int64_t items, int64_t rows, int64_t columns, Layout layout, bool batch_expanded, bool fractions) {
    const int64_t pad = layout == rows_dense || layout == columns_dense ? 0 : 3;
    row = columns + pad, col = 1;
    if (layout == columns_padded || layout == columns_dense) row = 1, col = rows + pad;
    if (layout == scattered) row = 2 * columns + 5, col = 2;
    if (layout == row_expanded) row = 0;
    if (layout == column_expanded) row = 1, col = 0;
    const int64_t extent =
        (rows > 0) * (columns > 0) + (rows > 0 ? (rows - 1) * row : 0) + (columns > 0 ? (columns - 1) * col : 0);
    batch = batch_expanded ? 0 : extent + 1;
    block.assign(items == 0 || rows * columns == 0 ? 1 : (items - 1) * batch + extent, poison<S>());
    for (int64_t p = 0; p < items; ++p)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) block[p * batch + i * row + j * col] = element<S>(fractions);
  }
  S at(int64_t p, int64_t i, int64_t j) const { return block[p * batch + i * row + j * col]; }
};

long double activate(Activation activation, long double x) {
  switch (activation) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

struct Case {
  int64_t m, n, k, batch0, batch1;
  Layout a, b;
  int bias;  // 0 none, 1 dense, 2 strided, 3 expanded
  Activation activation;
  bool a_expanded, fractions;
};

template <class S>
void check(const Case& t, const char* name) {
  const int64_t items = t.batch0 * t.batch1;
  const Operand2d<S> a(items, t.m, t.k, t.a, t.a_expanded, t.fractions);
  const Operand2d<S> b(items, t.k, t.n, t.b, false, t.fractions);
  const int64_t bias_stride = t.bias == 2 ? 3 : t.bias == 3 ? 0 : 1;
  std::vector<S> bias(t.n * 3 + 1, poison<S>());
  for (int64_t j = 0; j < t.n; ++j) bias[j * bias_stride] = element<S>(t.fractions);
  constexpr int64_t guard = 40;
  const int64_t c_row = t.n + (t.k % 3), c_batch = t.m * c_row + 2;
  const std::vector<S> blank(items * c_batch + 2 * guard, poison<S>());

  GemmArgs args{};
  args.m = t.m, args.n = t.n, args.k = t.k;
  args.batch_dims = 2, args.batch_shape[0] = t.batch0, args.batch_shape[1] = t.batch1, args.batches = items;
  args.a = a.block.data(), args.b = b.block.data();
  args.bias = t.bias ? bias.data() : nullptr, args.bias_stride = bias_stride * sizeof(S);
  args.a_row = a.row * sizeof(S), args.a_col = a.col * sizeof(S);
  args.b_row = b.row * sizeof(S), args.b_col = b.col * sizeof(S), args.c_row = c_row * sizeof(S);
  const auto batch_strides = [&](int64_t* to, int64_t stride) {
    to[0] = stride * sizeof(S), to[1] = stride * t.batch0 * sizeof(S);
  };
  batch_strides(args.a_batch, a.batch), batch_strides(args.b_batch, b.batch), batch_strides(args.c_batch, c_batch);
  args.dtype = dtype_of<S>(), args.activation = t.activation;

  std::vector<S> result;
  for (const int count : {1, 2, 5}) {
    if (count > most_threads) break;
    std::vector<S> c = blank;
    args.c = c.data() + guard;
    threads = count;
    const Status status = backend::gemm(args);
    if (status != 0 || (count > 1 && std::memcmp(c.data(), result.data(), c.size() * sizeof(S)) != 0)) {
      std::printf("%s: status %d, or %d threads differ from one\n", name, status, count);
      ++failures;
    }
    result = c;
  }

  std::vector<bool> inside(result.size(), false);
  int64_t wrong = 0, wrong_i = 0, wrong_j = 0;
  long double got = 0, wanted = 0;
  const long double unit = std::is_same_v<S, double> ? 0x1p-53L : 0x1p-24L;
  const long double rounding = std::is_same_v<S, bf16> ? 0x1p-8L : std::is_same_v<S, f16> ? 0x1p-11L : unit;
  for (int64_t p = 0; p < items; ++p)
    for (int64_t i = 0; i < t.m; ++i)
      for (int64_t j = 0; j < t.n; ++j) {
        const int64_t at = guard + p * c_batch + i * c_row + j;
        inside[at] = true;
        bool bad;
        if constexpr (is_integer<S>) {
          uint64_t sum = t.bias ? uint64_t(bias[j * bias_stride]) : 0;
          for (int64_t k = 0; k < t.k; ++k) sum += uint64_t(a.at(p, i, k)) * uint64_t(b.at(p, k, j));
          S value = S(sum);
          if (t.activation == Activation::relu && value < 0) value = 0;
          bad = value != result[at];
          if (bad) wanted = value, got = result[at];
        } else {
          using Real = std::conditional_t<std::is_same_v<S, double>, long double, double>;
          Real sum = t.bias ? number(bias[j * bias_stride]) : 0, size = std::fabs(sum);
          for (int64_t k = 0; k < t.k; ++k) {
            const Real term = Real(number(a.at(p, i, k))) * Real(number(b.at(p, k, j)));
            sum += term, size += std::fabs(term);
          }
          const long double value = activate(t.activation, sum), out = number(result[at]);
          const bool exact = !t.fractions && (t.activation == Activation::none || t.activation == Activation::relu);
          if (exact)
            bad = out != number(std::is_same_v<S, double> ? S(double(value)) : S(float(value)));
          else
            bad = !(std::fabs(out - value) <=
                    unit * (2 + std::sqrt(double(t.k))) * 2 * size + rounding * std::fabs(value) * 1.01L + 6 * unit);
          if (bad) wanted = value, got = out;
        }
        if (bad) ++wrong, wrong_i = i, wrong_j = j;
      }
  int64_t touched = 0;
  for (size_t at = 0; at < result.size(); ++at)
    touched += !inside[at] && std::memcmp(&result[at], &blank[at], sizeof(S)) != 0;
  ++cases;
  if (wrong || touched) {
    ++failures;
    std::printf(
        "%s %lldx%lldx%lld batch %lldx%lld layouts %d %d bias %d activation %d fractions %d: %lld wrong, the last "
        "[%lld, %lld] = %Lg for %Lg; %lld written outside\n",
        name, (long long)t.m, (long long)t.n, (long long)t.k, (long long)t.batch0, (long long)t.batch1, t.a, t.b,
        t.bias, int(t.activation), t.fractions, (long long)wrong, (long long)wrong_i, (long long)wrong_j, got, wanted,
        (long long)touched);
  }
}

// c[i0 + i][j0 + j] of the matrices in a and b, both row-major with rows of k and of `pitch`.
template <class S>
std::vector<S> part(const std::vector<S>& a, const std::vector<S>& b, int64_t k, int64_t pitch, int64_t i0, int64_t m,
                    int64_t j0, int64_t n) {
  std::vector<S> c(m * n, poison<S>());
  GemmArgs args{};
  args.m = m, args.n = n, args.k = k, args.batches = 1;
  args.a = a.data() + i0 * k, args.a_row = k * sizeof(S), args.a_col = sizeof(S);
  args.b = b.data() + j0, args.b_row = pitch * sizeof(S), args.b_col = sizeof(S);
  args.c = c.data(), args.c_row = n * sizeof(S);
  args.dtype = dtype_of<S>();
  failures += backend::gemm(args) != 0;
  return c;
}

// An element has the same bits wherever in the product it is, and what is not finite stays in its row or column.
template <class S>
void check_positions(int64_t k, const char* name) {
  constexpr int64_t m = 61, n = 83;
  std::vector<S> a(m * k), b(k * n);
  for (S& x : a) x = element<S>(true);
  for (S& x : b) x = element<S>(true);
  const auto compare = [&](const std::vector<S>& c, const std::vector<S>& of, int64_t i0, int64_t j0, int64_t width,
                           const auto& expected) {
    int64_t wrong = 0;
    for (size_t at = 0; at < c.size(); ++at) {
      const int64_t i = int64_t(at) / width, j = int64_t(at) % width;
      wrong += !expected(c[at], of[(i0 + i) * n + j0 + j], i, j);
    }
    ++cases;
    if (wrong) {
      ++failures;
      std::printf("%s k %lld, part at %lld, %lld: %lld elements wrong\n", name, (long long)k, (long long)i0,
                  (long long)j0, (long long)wrong);
    }
  };
  const auto same_bits = [](S x, S y, int64_t, int64_t) { return std::memcmp(&x, &y, sizeof x) == 0; };
  threads = 1;
  const std::vector<S> whole = part(a, b, k, n, 0, m, 0, n);
  for (const auto [i0, rows, j0, columns] : {std::array<int64_t, 4>{5, 17, 3, 33}, {40, 21, 0, 83}, {0, 61, 70, 13}})
    compare(part(a, b, k, n, i0, rows, j0, columns), whole, i0, j0, columns, same_bits);

  a[7 * k + k - 1] = S(std::nanf("")), a[20 * k] = S(-INFINITY), b[(k - 1) * n + 81] = S(INFINITY);
  compare(part(a, b, k, n, 0, m, 0, n), whole, 0, 0, n, [&](S x, S y, int64_t i, int64_t j) {
    const bool finite = std::isfinite(double(number(x)));
    return i == 7 || i == 20 || j == 81 ? !finite : finite && same_bits(x, y, i, j);
  });
}

void check_all_dtypes(const Case& t) {
  check<float>(t, "f32"), check<double>(t, "f64"), check<bf16>(t, "bf16"), check<f16>(t, "f16");
}

}  // namespace

// An argument thins the cases out, for slow backends that have no threads of ours.
int main(int argc, char** argv) {
  const int thin = argc > 1 ? std::atoi(argv[1]) : 1;
  if (thin > 1) most_threads = 1;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const Activation activations[] = {Activation::none, Activation::relu, Activation::sigmoid, Activation::tanh};
  const int64_t sizes[] = {0, 1, 2, 3, 7, 8, 13, 15, 16, 17, 31, 32, 33, 47, 64, 65};
  // Every layout of both operands, at sizes about the register tile.
  for (int a = 0; a < kLayouts; ++a)
    for (int b = 0; b < kLayouts; ++b)
      for (int repeat = 0; repeat < 8; ++repeat) {
        const auto size = [&] { return sizes[random_below(16)]; };
        check_all_dtypes({size(), size(), size(), 1 + random_below(2), random_below(4), Layout(a), Layout(b),
                          int(random_below(4)), activations[random_below(4)], random_below(2) == 0,
                          random_below(2) == 0});
      }
  // Vectors, narrow matrices, and several blocks of rows, columns and k.
  const int64_t shapes[][3] = {
      {759, 1, 8},     {8, 1, 759},    {1, 1, 5000},   {1, 700, 300}, {700, 1, 300},  {2, 700, 900},  {4, 9, 2500},
      {3, 1, 40000},   {700, 3, 33},   {5, 500, 1},    {1, 1, 1},     {230, 33, 800}, {20, 2100, 30}, {1300, 17, 20},
      {40, 1200, 400}, {420, 40, 390}, {130, 16, 150}, {70, 10, 260}, {1700, 7, 170}, {9, 70, 300},   {30, 45, 390}};
  for (const auto& s : shapes)
    for (int repeat = 0; repeat < 4; repeat += thin)
      for (const bool fractions : {repeat % 3 == 0})
        check_all_dtypes({s[0], s[1], s[2], 1, 1, repeat & 1 ? columns_padded : rows_padded,
                          repeat & 2 ? columns_dense : rows_dense, repeat, activations[random_below(4)], false,
                          fractions});
  for (int repeat = 0; repeat < 40 / thin; ++repeat) {
    const auto size = [&] { return sizes[random_below(16)]; };
    const Case t{size(),
                 size(),
                 size(),
                 2,
                 2,
                 Layout(random_below(kLayouts)),
                 Layout(random_below(kLayouts)),
                 int(random_below(4)),
                 random_below(2) ? Activation::relu : Activation::none,
                 false,
                 false};
    check<int64_t>(t, "i64"), check<int32_t>(t, "i32"), check<int16_t>(t, "i16"), check<int8_t>(t, "i8"),
        check<uint8_t>(t, "u8");
  }
  check<int32_t>({3, 2500, 5, 1, 1, rows_dense, rows_dense, 1, Activation::none, false, false}, "i32");
  if (thin == 1) {
    check_all_dtypes({20, 40, 3301, 1, 1, rows_padded, columns_dense, 1, Activation::relu, false, true});
    check_all_dtypes({20, 40, 3301, 1, 1, columns_padded, rows_dense, 0, Activation::none, false, false});
    for (const int64_t k : {1, 2, 3, 31, 64, 1605})
      check_positions<float>(k, "f32"), check_positions<double>(k, "f64"), check_positions<bf16>(k, "bf16"),
          check_positions<f16>(k, "f16");
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures != 0;
}
