// The reduce engine against plain loops in long double, over shapes and strides that reach each of its paths.
// Build it with the kernel sources of one backend, for instance
//   g++ -std=c++20 -O2 -ffp-contract=fast -DFASTGRAD_BACKEND_NAMESPACE=cpu_default tests/kernels/reduce_test.cpp
//       csrc/kernels/cpu/{reduce,reductions,convert}.cpp
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/kernels/backend.h"

using namespace fastgrad;
namespace backend = fastgrad::FASTGRAD_BACKEND_NAMESPACE;

// One thread; pieces run in reverse order, which must not matter.
extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*f)(int64_t, int64_t, void*),
                                      void* context) {
  while (end > begin) {
    const int64_t start = end - grain > begin ? end - grain : begin;
    f(start, end, context);
    end = start;
  }
  return 0;
}

alignas(16) static char workspace[kWorkspaceBytes];  // the GPU's kernels want one

static int failures = 0;
static void check(const char* what, int64_t kept, int64_t reduced, double ours, double expected, double tolerance) {
  if (ours == expected || std::fabs(ours - expected) <= tolerance || (std::isnan(ours) && std::isnan(expected))) return;
  if (++failures < 20)
    std::printf("%s, %ld x %ld: %.9g, expected %.9g\n", what, long(kept), long(reduced), ours, expected);
}

// x[j, r] lies at j * js + r * rs; kept and reduced are each split in two dimensions if `split` divides them.
static void test(int64_t kept, int64_t reduced, int64_t js, int64_t rs, int64_t split) {
  std::vector<float> x((kept - 1) * js + (reduced - 1) * rs + 1);
  for (float& v : x) v = std::round(float(std::rand()) / RAND_MAX * 1000) / 250 - 1;
  ReduceArgs a{};
  const auto dims = [split](int64_t n, int64_t stride, int64_t* shape, int64_t* strides) {
    if (split > 1 && n % split == 0) {
      shape[0] = n / split, shape[1] = split;
      strides[0] = stride, strides[1] = stride * (n / split);
      return 2;
    }
    shape[0] = n, strides[0] = stride;
    return 1;
  };
  std::vector<float> values(kept), second(kept);
  std::vector<int64_t> indices(kept);
  a.workspace = workspace;
  a.inputs = 1;
  a.in[0].data = x.data();
  a.in[0].dtype = Dtype::f32;
  a.kept_dims = dims(kept, js * 4, a.kept_shape, a.in[0].kept_strides);
  a.reduced_dims = dims(reduced, rs * 4, a.reduced_shape, a.in[0].reduced_strides);
  a.kept = kept;
  a.reduced = reduced;
  a.compute = Dtype::f32;
  a.outputs = 2;
  a.out[0].dtype = Dtype::f32;
  a.out[0].data = values.data();
  dims(kept, 4, a.kept_shape, a.out[0].strides);
  a.out[1].dtype = Dtype::f32;
  a.out[1].data = second.data();
  dims(kept, 4, a.kept_shape, a.out[1].strides);
  const auto at = [&](int64_t j, int64_t r) { return static_cast<long double>(x[j * js + r * rs]); };

  backend::sum(a);
  std::vector<float> sums = values;
  a.parameter[0] = {1, 1};
  backend::var_mean(a);
  std::vector<float> vars = values, means = second;
  backend::logsumexp(a);
  std::vector<float> lses = values;
  a.out[1].dtype = Dtype::i64;
  a.out[1].data = indices.data();
  dims(kept, 8, a.kept_shape, a.out[1].strides);
  backend::max_with_index(a);
  for (int64_t j = 0; j < kept; ++j) {
    long double sum = 0, magnitude = 0, m2 = 0, e = 0;
    int64_t best = 0;
    for (int64_t r = 0; r < reduced; ++r) {
      sum += at(j, r), magnitude += std::fabs(at(j, r)), e += std::exp(at(j, r));
      if (at(j, r) > at(j, best)) best = r;
    }
    const long double mean = sum / reduced;
    for (int64_t r = 0; r < reduced; ++r) m2 += (at(j, r) - mean) * (at(j, r) - mean);
    check("sum", kept, reduced, sums[j], sum, 5e-7 * magnitude);
    check("mean", kept, reduced, means[j], mean, 5e-7 * magnitude / reduced);
    check("var", kept, reduced, vars[j], reduced > 1 ? m2 / (reduced - 1) : NAN, 5e-7 * m2 / (reduced - 1) + 1e-30);
    check("logsumexp", kept, reduced, lses[j], std::log(e), 1e-6 * (1 + std::fabs(std::log(e))));
    check("max", kept, reduced, values[j], at(j, best), 0);
    check("argmax", kept, reduced, indices[j], best, 0);
  }
}

// An argument limits the elements of a case, for slow backends.
int main(int argc, char** argv) {
  const int64_t most = argc > 1 ? std::atoll(argv[1]) : 3000000;
  for (int64_t kept : {1, 2, 3, 7, 8, 16, 17, 100, 130, 512, 1000, 1537})
    for (int64_t reduced : {1, 2, 5, 16, 33, 63, 64, 100, 1024, 4097, 70000}) {
      if (kept * reduced > most) continue;
      for (int64_t split : {1, 2, 5}) {
        test(kept, reduced, reduced, 1, split);  // inner
        test(kept, reduced, 1, kept, split);     // outer
        if (kept * reduced > most / 10) continue;
        test(kept, reduced, 2 * reduced, 2, split);  // strided
        test(kept, reduced, 3, 3 * kept, split);
        test(kept, reduced, 0, 1, split);  // expanded
        test(kept, reduced, 1, 0, split);
      }
    }
  test(1, most, 1, 1, 1);
  test(most / 40, 40, 40, 1, 2);
  std::printf(failures ? "%d failures\n" : "reduce: passed\n", failures);
  return failures != 0;
}
