// A small pipeline of wgmma and the copy engine that can be told to make one mistake, which the emulator must show.
#pragma once
#include "../../csrc/kernels/cuda/gemm_wgmma.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// One producer and one consumer warpgroup, 64 x 64 by 64 x 128 in 5 slices through 2 stages, right but for the mistake.
enum class Mistake {
  none,
  consumer_does_not_wait,
  early_release,
  wrong_first_parity,
  never_released,
  stuck_parity,
  too_few_bytes,
  too_many_bytes,
  two_arrivals,
  no_fence,
  products_not_waited,
  not_initialized,
  kCount
};
const char* const kMistakes[] = {"none",
                                 "consumer_does_not_wait",
                                 "early_release",
                                 "wrong_first_parity",
                                 "never_released",
                                 "stuck_parity",
                                 "too_few_bytes",
                                 "too_many_bytes",
                                 "two_arrivals",
                                 "no_fence",
                                 "products_not_waited",
                                 "not_initialized"};
constexpr unsigned kPipelineA = 64 * kLine, kPipelineStage = kPipelineA + 128 * kLine;

__global__ void pipeline(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                         float* out, Mistake mistake) {
  unsigned char* const shared = swizzled_shared();
  Barrier *const full = reinterpret_cast<Barrier*>(shared + 2 * kPipelineStage), *const empty = full + 2;
  if (threadIdx.x == 0 && mistake != Mistake::not_initialized)
    for (int s = 0; s < 2; ++s) barrier_init(full + s, 1), barrier_init(empty + s, 4);
  __syncthreads();
  Ring<2> ring;
  const auto advance_ring = [&] {
    ring.advance();
    if (mistake == Mistake::stuck_parity) ring.round = 0;
  };
  if (threadIdx.x < 128) {
    if (threadIdx.x > 0) return;
    for (int slice = 0; slice < 5; ++slice, advance_ring()) {
      unsigned char* const stage = shared + ring.stage * kPipelineStage;
      Barrier* const arrived = full + ring.stage;
      barrier_wait(empty + ring.stage,
                   mistake == Mistake::wrong_first_parity ? ring.full_parity() : ring.empty_parity());
      barrier_arrive_expecting(arrived, mistake == Mistake::too_few_bytes    ? kPipelineA
                                        : mistake == Mistake::too_many_bytes ? kPipelineStage + 16
                                                                             : kPipelineStage);
      if (mistake == Mistake::two_arrivals) barrier_arrive(arrived);
      const int batch[3] = {};
      load_panel<true, 64>(stage, map_a, arrived, 0, slice * 64, batch, false);
      load_panel<false, 128>(stage + kPipelineA, map_b, arrived, 0, slice * 64, batch, false);
    }
    return;
  }
  float sum[64] = {};
  const unsigned base = shared_address(shared);
  for (int slice = 0; slice < 5; ++slice, advance_ring()) {
    if (mistake != Mistake::consumer_does_not_wait) barrier_wait(full + ring.stage, ring.full_parity());
    if (mistake != Mistake::no_fence) wgmma_fence();
    const uint64_t a = fragment_descriptor<true>(base + ring.stage * kPipelineStage);
    const uint64_t b = fragment_descriptor<false>(base + ring.stage * kPipelineStage + kPipelineA);
    for (int k = 0; k < 64; k += 16)
      multiply_wgmma<bf16, 128, false, true>(sum, advance(a, panel_offset<true>(0, k)),
                                             advance(b, panel_offset<false>(0, k)), true);
    wgmma_commit();
    const bool early = mistake == Mistake::early_release;
    if (early && threadIdx.x % 32 == 0) barrier_arrive(empty + ring.stage);
    if (mistake != Mistake::products_not_waited && !early) wgmma_wait<0>();
    if (early && slice % 2) wgmma_wait<1>();
    if (!early && mistake != Mistake::never_released && threadIdx.x % 32 == 0) barrier_arrive(empty + ring.stage);
  }
  if (mistake == Mistake::early_release) wgmma_wait<0>();
  for (int i = 0; i < 64; ++i) {
    const Element e = accumulator_at(int(threadIdx.x) - 128, i);
    out[e.row * 128 + e.column] = sum[i];
  }
}

}  // namespace
}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
