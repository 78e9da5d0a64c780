// The losses over classes, forward and backward, with classes out of bounds among the rows: under the address
// sanitizer, on operands of exactly their size. Good rows are compared with plain loops in long double.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/kernels/backend.h"

using namespace fastgrad;
namespace backend = fastgrad::FASTGRAD_BACKEND_NAMESPACE;

alignas(16) static char workspace[kWorkspaceBytes];
static int failures = 0;

constexpr int64_t kIgnored = -100;

struct Test {
  int64_t rows, n;
  bool across;  // neighbouring rows are neighbours in memory
  bool bytes;   // classes in one byte
  bool weighted, nll;
  double smoothing;
  int flags;

  void check(const char* what, int64_t row, double ours, long double expected) const {
    if (std::isnan(expected) ? std::isnan(ours) : std::fabs(ours - double(expected)) <= 2e-5 * (1 + std::fabs(ours)))
      return;
    if (++failures < 20)
      std::printf("%s of row %ld, %ld x %ld%s%s%s%s, smoothing %g, flags %d: %.9g, expected %.9g\n", what, long(row),
                  long(rows), long(n), across ? " across" : "", bytes ? " bytes" : "", weighted ? " weighted" : "",
                  nll ? " nll" : "", smoothing, flags, ours, double(expected));
  }

  static void operand(RowsArgs& a, int k, void* data, Dtype dtype, int64_t row, int64_t element) {
    a.operand[k].data = data;
    a.operand[k].dtype = dtype;
    a.operand[k].row_strides[0] = row;
    a.operand[k].element_stride = element;
  }

  void run() const {
    std::vector<float> x(rows * n), weight(n), loss(flags ? 1 : rows), grad(loss.size()), stats(2 * rows), dx(rows * n);
    std::vector<int64_t> wide(rows);
    std::vector<uint8_t> narrow(rows);
    for (float& v : x) v = float(std::rand()) / RAND_MAX * 8 - 8;
    for (float& v : weight) v = float(std::rand()) / RAND_MAX + 0.5f;
    for (float& v : grad) v = 1.5f;
    const int64_t bad[] = {n, -1, n + 7, int64_t(1) << 40, INT64_MIN, INT64_MAX};
    int64_t first_bad = -1;
    for (int64_t r = 0; r < rows; ++r) {
      const bool is_bad = r % 5 == 3 || rows == 1;
      wide[r] = is_bad ? bytes ? 255 : bad[std::rand() % 6] : r % 7 == 6 && !bytes ? kIgnored : std::rand() % n;
      narrow[r] = uint8_t(wide[r]);
      if (is_bad && first_bad < 0) first_bad = r;
    }
    float total = 0;
    int64_t bad_row = -2;
    const int64_t row = across ? 4 : 4 * n, element = across ? 4 * rows : 4;
    RowsArgs a{};
    a.ndim = 1;
    a.row_shape[0] = a.rows = rows;
    a.n = n;
    a.compute = Dtype::f32;
    a.parameter[0] = {double(kIgnored), kIgnored};
    a.parameter[1] = {smoothing, 0};
    a.flags = flags;
    a.workspace = workspace;
    operand(a, 0, x.data(), Dtype::f32, row, element);
    if (bytes)
      operand(a, 1, narrow.data(), Dtype::u8, 1, 0);
    else
      operand(a, 1, wide.data(), Dtype::i64, 8, 0);
    if (weighted) operand(a, 2, weight.data(), Dtype::f32, 0, 4);
    operand(a, 3, loss.data(), Dtype::f32, flags ? 0 : 4, 0);
    if (!nll) operand(a, 4, stats.data(), Dtype::f32, 4, 4 * rows);
    operand(a, 5, &total, Dtype::f32, 0, 0);
    a.bad_row = bytes ? nullptr : &bad_row;
    Status status = nll ? backend::nll_loss(a) : backend::cross_entropy(a);
    operand(a, 3, grad.data(), Dtype::f32, flags ? 0 : 4, 0);
    operand(a, 6, dx.data(), Dtype::f32, row, element);
    if (nll) a.operand[0] = {};
    if (status == kSuccess) status = nll ? backend::nll_loss_backward(a) : backend::cross_entropy_backward(a);
    if (status != kSuccess && ++failures) std::printf("status %d\n", status);
    if (!bytes) check("the first bad row", -1, double(bad_row), first_bad);
    if (flags) check("the reduced loss", -1, loss[0], first_bad >= 0 ? NAN : loss[0]);

    for (int64_t r = 0; r < rows; ++r) {
      const auto at = [&](int64_t c) { return (r * row + c * element) / 4; };
      const auto w = [&](int64_t c) { return weighted ? (long double)weight[c] : 1.0L; };
      const int64_t c = wide[r];
      const bool ignored = c == kIgnored, valid = !ignored && c >= 0 && c < n;
      long double maximum = -INFINITY, sum = 0, expected = ignored ? 0 : NAN, weights = 0;
      for (int64_t i = 0; i < n; ++i) maximum = std::fmax(maximum, (long double)x[at(i)]), weights += w(i);
      for (int64_t i = 0; i < n; ++i) sum += std::exp(x[at(i)] - maximum);
      const long double log_sum = nll ? 0 : maximum + std::log(sum), share = smoothing / n;
      if (valid) {
        expected = (1 - smoothing) * w(c) * (log_sum - x[at(c)]);
        if (smoothing > 0)
          for (int64_t i = 0; i < n; ++i) expected += share * w(i) * (log_sum - x[at(i)]);
      }
      if (!flags) check("loss", r, loss[r], expected);
      for (int64_t i = 0; i < n; ++i) {
        long double d = ignored ? 0 : NAN;
        if (valid) {
          const long double q = (i == c ? (1 - smoothing) * w(c) : 0) + share * w(i);
          d = nll ? -q : std::exp(x[at(i)] - log_sum) * ((1 - smoothing) * w(c) + share * weights) - q;
        }
        check("gradient", r, dx[at(i)], 1.5L * d);
      }
    }
  }
};

int main() {
  for (const int64_t n : {1, 4, 33, 250, 1500, 9000})
    for (const int64_t rows : {1, 6, 70})
      for (const bool across : {false, true})
        for (const bool weighted : {false, true})
          for (const bool nll : {false, true})
            for (const double smoothing : {0.0, 0.1}) {
              if (n * rows > 100000 || (nll && smoothing > 0)) continue;
              for (const bool bytes : {false, true})
                if (!bytes || n < 255) Test{rows, n, across, bytes, weighted, nll, smoothing, 0}.run();
              Test{rows, n, across, false, weighted, nll, smoothing, kReduceSum}.run();
            }
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures > 0;
}
