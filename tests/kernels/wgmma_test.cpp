// The Hopper matrix product on the emulator, without torch: its index maps, the order of its barriers, whole products
// against sums in double, when gemm() chooses it, and, by argument, pipelines with one planted mistake each, which must
// show.
//   g++ -std=c++20 -O1 -DFASTGRAD_BACKEND_NAMESPACE=cuda_emulated -Icsrc/emulator tests/kernels/wgmma_test.cpp
//       csrc/emulator/*.cpp -x c++ csrc/kernels/cuda/matmul.cu -o wgmma_test && ./wgmma_test [mistake]
//
// Operands hold small integers, so products are exact and results must be equal to the last bit after one rounding.
// Memory between the elements of an operand is NaN, c starts as NaN, and what lies between its rows and around it must
// stay.
#include "../../csrc/kernels/cuda/gemm_wgmma.cuh"

#include "../../csrc/emulator/scheduler.h"
#include "wgmma_pipeline.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace fastgrad;
using namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE;

namespace {

int failures = 0;
#define EXPECT(condition) ((condition) ? 0 : (++failures, std::printf("line %d: %s\n", __LINE__, #condition)))

std::mt19937 generator(1);
int random_below(int n) { return int(generator() % unsigned(n)); }

// Index maps.

template <bool KFastest>
void check_panel(int rows) {
  std::set<unsigned> seen;
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < kSliceDepth; ++k) {
      const unsigned at = panel_offset<KFastest>(row, k);
      EXPECT(at % 2 == 0 && at < unsigned(rows) * kLine && seen.insert(at).second);
      // Steps to another fragment are additions, and stay so in a descriptor.
      EXPECT(at == panel_offset<KFastest>(row / 64 * 64, k / 16 * 16) + panel_offset<KFastest>(row % 64, k % 16));
    }
}

void check_maps() {
  for (unsigned line = 0; line < 64; ++line)
    for (unsigned unit = 0; unit < 8; ++unit)
      for (unsigned byte = 0; byte < 16; ++byte)
        EXPECT(swizzle_128(line * 128 + unit * 16 + byte) == line * 128 + (unit ^ line % 8) * 16 + byte);
  check_panel<true>(128), check_panel<true>(256), check_panel<false>(128), check_panel<false>(256);

  // start 0x12400 / 16, strides 1024 / 16 and 8192 / 16, swizzle 1
  EXPECT(fragment_descriptor<true>(0x12400) == 0x4000004000011240);
  EXPECT(fragment_descriptor<false>(0x12400) == 0x4000004002001240);
  EXPECT(advance(fragment_descriptor<true>(0x12400), 96) == fragment_descriptor<true>(0x12460));
  EXPECT(advance(fragment_descriptor<true>(1024), 226 << 10) == fragment_descriptor<true>(227 << 10));

  std::set<std::pair<int, int>> seen;
  for (int thread = 0; thread < 128; ++thread)
    for (int i = 0; i < 128; ++i) {
      const Element e = accumulator_at(thread, i);
      EXPECT(e.row >= 0 && e.row < 64 && e.column >= 0 && e.column < 256 && seen.insert({e.row, e.column}).second);
    }
  EXPECT(accumulator_at(37, 6).row == 25 && accumulator_at(37, 6).column == 10);

  for (int tiles_m : {1, 3, 8, 9, 20})
    for (int tiles_n : {1, 2, 7})
      for (int batches : {1, 3})
        for (int blocks : {1, 4, 132}) {
          std::set<std::tuple<int64_t, int64_t, int64_t>> tiles;
          for (int64_t block = 0; block < blocks; ++block)
            for (int64_t t = block; t < tiles_m * tiles_n * batches; t += blocks) {
              const Tile tile = tile_at(t, tiles_m, tiles_n);
              EXPECT(tile.m >= 0 && tile.m < tiles_m && tile.n >= 0 && tile.n < tiles_n && tile.batch < batches);
              EXPECT(tiles.insert({tile.m, tile.n, tile.batch}).second);
            }
          EXPECT(int(tiles.size()) == tiles_m * tiles_n * batches);
        }

  EXPECT(wgmma_tile_columns(8192, 8192, 8192, 1, 132) == 256);
  EXPECT(wgmma_tile_columns(2048, 1024, 512, 1, 132) == 128);  // 128 tiles of 128, 64 of 256
  EXPECT(wgmma_tile_columns(512, 512, 8192, 1, 132) == 0);
  EXPECT(wgmma_tile_columns(8192, 8192, 63, 1, 132) == 0);
  EXPECT(wgmma_tile_columns(64, 64, 64, 132, 132) == 128);
}

// The parities of a ring against the definition of a barrier's phases, for every interleaving that a random scheduler
// finds: neither side may pass too early, and one of them can always go on.
template <int Stages>
void check_ring() {
  struct {
    int phase = 0;  // the one in hand
    bool passes(unsigned parity) const { return unsigned(phase) % 2 != parity; }
  } full[Stages], empty[Stages];
  Ring<Stages> producer, consumer;
  int produced = 0, consumed = 0;
  for (int step = 0; step < 4000; ++step) {
    const bool can_produce = empty[producer.stage].passes(producer.empty_parity());
    const bool can_consume = full[consumer.stage].passes(consumer.full_parity());
    EXPECT(can_produce == (produced - consumed < Stages));
    EXPECT(can_consume == (produced > consumed));
    EXPECT(can_produce || can_consume);
    EXPECT(producer.stage == produced % Stages && consumer.stage == consumed % Stages);
    if (can_produce && (!can_consume || random_below(2)))
      ++full[producer.stage].phase, producer.advance(), ++produced;
    else
      ++empty[consumer.stage].phase, consumer.advance(), ++consumed;
  }
}

// Whole products.

template <class T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __float2bfloat16(x);
  else
    return __float2half(x);
}
template <class T>
const T kPoison = from_float<T>(NAN);

struct Case {
  int64_t m, n, k;
  bool a_k_fastest, b_k_fastest;
  std::vector<int64_t> batch = {};
  int expanded = 0;  // bit d: a does not have batch dimension d; bit 4 + d: b
  int bias = 0;      // 0 none, 1 dense, 2 strided, 3 expanded
  Activation activation = Activation::none;
  bool c_aligned = true;
  int multiprocessors = 1;
};

// A stack of matrices; `row` elements lead to the next row, `k` to the next k.
template <class T>
struct Operand {
  std::vector<T> memory;
  T* data;
  int64_t row, k;
  int64_t batch[4] = {};
  Operand(int64_t rows, int64_t depth, bool k_fastest, const std::vector<int64_t>& shape, int expanded) {
    const int64_t inner = k_fastest ? depth : rows, outer = k_fastest ? rows : depth;
    const int64_t pitch = (inner + 7) / 8 * 8 + 8 * random_below(2);
    row = k_fastest ? pitch : 1, k = k_fastest ? 1 : pitch;
    int64_t extent = (outer - 1) * pitch + inner;
    for (size_t d = 0; d < shape.size(); ++d) {
      if (expanded >> d & 1) continue;
      batch[d] = (extent + 7) / 8 * 8;
      extent += (shape[d] - 1) * batch[d];
    }
    memory.assign(size_t(extent + 8), kPoison<T>);  // 8 to align it
    data = memory.data();
    while (reinterpret_cast<uintptr_t>(data) % 16) ++data;
    for (int64_t p = 0; p < batches_of(shape); ++p)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < depth; ++d) at(p, r, d, shape) = from_float<T>(float(random_below(9) - 4));
  }
  static int64_t batches_of(const std::vector<int64_t>& shape) {
    int64_t batches = 1;
    for (const int64_t size : shape) batches *= size;
    return batches;
  }
  T& at(int64_t p, int64_t r, int64_t d, const std::vector<int64_t>& shape) {
    T* from = data + r * row + d * k;
    for (size_t i = 0; i < shape.size(); ++i) from += p % shape[i] * batch[i], p /= shape[i];
    return *from;
  }
};

template <class T, int TileN>
void check_product(const Case& t) {
  Operand<T> a(t.m, t.k, t.a_k_fastest, t.batch, t.expanded & 15), b(t.n, t.k, t.b_k_fastest, t.batch, t.expanded >> 4);
  const int64_t batches = Operand<T>::batches_of(t.batch), bias_stride = t.bias == 2 ? 3 : t.bias == 3 ? 0 : 1;
  std::vector<T> bias(size_t(t.n * 3), kPoison<T>);
  for (int64_t j = 0; j < t.n; ++j) bias[j * bias_stride] = from_float<T>(float(random_below(9) - 4));
  const int64_t c_row = t.c_aligned ? (t.n + 7) / 8 * 8 : t.n + 3, c_batch = t.m * c_row + (t.c_aligned ? 8 : 1);
  const int64_t guard = 40;
  std::vector<T> c(size_t(batches * c_batch + 2 * guard), kPoison<T>);
  T* start = c.data() + guard;
  while (reinterpret_cast<uintptr_t>(start) % 16 != (t.c_aligned ? 0 : 2)) --start;

  GemmArgs g{};
  g.m = t.m, g.n = t.n, g.k = t.k, g.batches = batches, g.batch_dims = int(t.batch.size());
  g.a = a.data, g.b = b.data, g.c = start;
  g.bias = t.bias ? bias.data() : nullptr, g.bias_stride = 2 * bias_stride;
  g.a_row = 2 * a.row, g.a_col = 2 * a.k, g.b_col = 2 * b.row, g.b_row = 2 * b.k, g.c_row = 2 * c_row;
  int64_t stride = 2 * c_batch;
  for (size_t d = 0; d < t.batch.size(); ++d) {
    g.batch_shape[d] = t.batch[d];
    g.a_batch[d] = 2 * a.batch[d], g.b_batch[d] = 2 * b.batch[d], g.c_batch[d] = stride;
    stride *= t.batch[d];
  }
  g.dtype = std::is_same_v<T, bf16> ? Dtype::bf16 : Dtype::f16;
  g.activation = t.activation;
  const Status status = launch_wgmma<T, TileN>(g, t.multiprocessors);

  int wrong = 0;
  for (int64_t p = 0; p < batches; ++p)
    for (int64_t i = 0; i < t.m; ++i)
      for (int64_t j = 0; j < t.n; ++j) {
        double sum = t.bias ? convert<float>(bias[j * bias_stride]) : 0;
        for (int64_t d = 0; d < t.k; ++d)
          sum += double(convert<float>(a.at(p, i, d, t.batch))) * convert<float>(b.at(p, j, d, t.batch));
        if (t.activation == Activation::relu) sum = std::max(sum, 0.0);
        const bool exact = t.activation == Activation::none || t.activation == Activation::relu;
        if (t.activation == Activation::sigmoid) sum = 1 / (1 + std::exp(-sum));
        if (t.activation == Activation::tanh) sum = std::tanh(sum);
        T& got = start[p * c_batch + i * c_row + j];
        const double tolerance = exact ? 0 : std::fabs(sum) * 0x1p-8 + 1e-7;
        const double expected = exact ? convert<float>(from_float<T>(float(sum))) : sum;
        wrong += !(std::fabs(convert<float>(got) - expected) <= tolerance);
        got = kPoison<T>;
      }
  const auto untouched = [](T x) { return x.bits == kPoison<T>.bits; };
  const int64_t touched = int64_t(c.size()) - std::count_if(c.begin(), c.end(), untouched);
  if (status == kSuccess && wrong == 0 && touched == 0) return;
  ++failures;
  std::printf("%ldx%ldx%ld tile %d k fastest %d %d, %zu batch dimensions, bias %d: status %d, %d wrong, %ld touched\n",
              long(t.m), long(t.n), long(t.k), TileN, t.a_k_fastest, t.b_k_fastest, t.batch.size(), t.bias, status,
              wrong, long(touched));
}

void check_products() {
  const Activation activations[] = {Activation::none, Activation::relu, Activation::sigmoid, Activation::tanh};
  const std::vector<int64_t> batches[] = {{}, {}, {2}, {2, 2}, {3, 1, 2}};
  for (int repeat = 0; repeat < 3; ++repeat)
    for (int order = 0; order < 4; ++order)
      for (const bool wide : {false, true}) {
        Case t{1 + random_below(290), 1 + random_below(290), 1 + random_below(500), order % 2 == 1, order / 2 == 1};
        t.batch = batches[random_below(5)];
        t.expanded = random_below(256);
        t.bias = random_below(4);
        t.activation = activations[random_below(4)];
        t.c_aligned = random_below(2);
        t.multiprocessors = 1 + random_below(5);
        if (wide)
          repeat == 1 ? check_product<bf16, 256>(t) : check_product<f16, 256>(t);
        else
          repeat == 1 ? check_product<f16, 128>(t) : check_product<bf16, 128>(t);
      }
  // The ring goes round several times within a tile and from one tile to the next; whole tiles, and lone elements.
  check_product<bf16, 256>({256, 512, 64 * 9, true, false, {}, 0, 1, Activation::none, true, 1});
  check_product<bf16, 128>({128, 128, 64, true, true, {5}, 1, 0, Activation::none, true, 2});
  check_product<f16, 128>({1, 1, 1, true, true, {}, 0, 0, Activation::none, false, 3});
  check_product<f16, 256>({129, 257, 65, false, false, {}, 0, 3, Activation::relu, true, 3});
}

void check_refusals() {
  alignas(16) static bf16 x[64 * 80];
  GemmArgs good{};
  good.m = good.n = good.k = 64, good.batches = 1, good.dtype = Dtype::bf16;
  good.a = good.b = good.c = x, good.a_row = good.b_row = good.c_row = 144, good.a_col = good.b_col = 2;
  const auto refused = [&](auto change) {
    GemmArgs g = good;
    change(g);
    return launch_wgmma<bf16, 128>(g, 1) == kUnsupported;
  };
  EXPECT(!refused([](GemmArgs&) {}));
  EXPECT(refused([](GemmArgs& g) { g.a = x + 1; }));
  EXPECT(refused([](GemmArgs& g) { g.a_row = 130; }));
  EXPECT(refused([](GemmArgs& g) { g.b_row = 0; }));
  EXPECT(refused([](GemmArgs& g) { g.a_col = 4; }));
  EXPECT(refused([](GemmArgs& g) { g.b_col = 144, g.b_row = 4; }));
  EXPECT(refused([](GemmArgs& g) { g.batch_dims = 1, g.batch_shape[0] = 1, g.a_batch[0] = 8; }));
  EXPECT(refused([](GemmArgs& g) {
    g.batch_dims = 4;
    for (int d = 0; d < 4; ++d) g.batch_shape[d] = 1;
  }));
}

// The emulated device has capability 9.0 and 4 multiprocessors; a thread has memory for products once it has used
// wgmma.
void check_choice() {
  std::vector<bf16> a(256 * 200 + 8, from_float<bf16>(1)), b(200 * 256 + 8, from_float<bf16>(1)), c(256 * 256);
  const auto chosen = [&](int64_t offset, int64_t n, Dtype dtype) {
    GemmArgs g{};
    g.m = 256, g.n = n, g.k = 200, g.batches = 1, g.dtype = dtype;
    g.a = a.data() + offset, g.b = b.data(), g.c = c.data();
    g.a_row = 400, g.a_col = 2, g.b_row = 512, g.b_col = 2, g.c_row = 512;
    std::free(std::exchange(cuda_emulator::threads[kWarpgroup].products, nullptr));
    EXPECT(gemm(g) == kSuccess);
    EXPECT(dtype != Dtype::bf16 || convert<float>(c[255 * 256 + n - 1]) == 200);
    return cuda_emulator::threads[kWarpgroup].products != nullptr;
  };
  EXPECT(chosen(0, 256, Dtype::bf16) && chosen(0, 250, Dtype::bf16) && chosen(8, 256, Dtype::f16));
  EXPECT(!chosen(1, 256, Dtype::bf16) && !chosen(0, 63, Dtype::bf16) && !chosen(0, 256, Dtype::i16));
}

void check_pipeline(Mistake mistake) {
  alignas(16) static bf16 a[64 * 320], b[320 * 128];
  for (bf16& x : a) x = from_float<bf16>(float(random_below(9) - 4));
  for (bf16& x : b) x = from_float<bf16>(float(random_below(9) - 4));
  std::vector<float> out(64 * 128, NAN);
  CUtensorMap map_a, map_b;
  EXPECT(encode_map(&map_a, Dtype::bf16, {a, 320, 64, 640, 0, nullptr, nullptr}, 64));
  EXPECT(encode_map(&map_b, Dtype::bf16, {b, 128, 320, 256, 0, nullptr, nullptr}, 64));
  Launch how{1, 256, nullptr};
  how.shared_bytes = 2 * kPipelineStage + 4 * sizeof(Barrier);
  EXPECT(launch(how, &pipeline, map_a, map_b, out.data(), mistake) == kSuccess);
  int wrong = 0;
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 128; ++j) {
      float sum = 0;
      for (int k = 0; k < 320; ++k) sum += convert<float>(a[i * 320 + k]) * convert<float>(b[k * 128 + j]);
      wrong += !(out[i * 128 + j] == sum);
    }
  EXPECT(wrong == 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    for (int m = 0; m < int(Mistake::kCount); ++m)
      if (argv[1] == std::string(kMistakes[m])) check_pipeline(Mistake(m));
  } else {
    check_maps();
    check_ring<1>(), check_ring<2>(), check_ring<4>(), check_ring<6>();
    check_pipeline(Mistake::none);
    check_refusals();
    check_choice();
    check_products();
  }
  if (failures == 0) std::printf("ok\n");
  return failures != 0;
}
