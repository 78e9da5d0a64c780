// ldmatrix and mma.sync by the fragment layouts that the PTX manual documents; see kernels/cuda/mma.cuh.
#pragma once
#include "cuda_runtime.h"

namespace cuda_emulator {

#if defined(__SANITIZE_THREAD__)
#define FASTGRAD_EXCHANGE __attribute__((no_sanitize("thread")))  // between registers: nothing to race for
#else
#define FASTGRAD_EXCHANGE
#endif

// Lane l names row l % 8 of matrix l / 8, 8 elements of 16 bits; it receives of each matrix elements 2 (l % 4) and the
// next of row l / 4, or, transposed, of column l / 4.
template <bool Transposed>
void load_matrices(uint32_t (&fragment)[4], const void* row, Place place = Place::current()) {
  struct Lane {
    uint16_t row[8];
    uint32_t* fragment;
  } mine;
  std::memcpy(mine.row, row, sizeof mine.row);
  mine.fragment = fragment;
  warp_together(
      [](void* const* lanes) FASTGRAD_EXCHANGE {
        for (int l = 0; l < 32; ++l)
          for (int matrix = 0; matrix < 4; ++matrix) {
            const auto element = [&](int r, int c) FASTGRAD_EXCHANGE {
              return uint32_t(static_cast<Lane*>(lanes[matrix * 8 + r])->row[c]);
            };
            const int at = l / 4, pair = l % 4 * 2;
            static_cast<Lane*>(lanes[l])->fragment[matrix] = Transposed
                                                                 ? element(pair, at) | element(pair + 1, at) << 16
                                                                 : element(at, pair) | element(at, pair + 1) << 16;
          }
      },
      &mine, place);
}

// d += a b, of 16 x 16 and 16 x 8 elements; `to_float` decodes one.
template <class Decode>
void multiply_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Decode,
                    Place place = Place::current()) {
  struct Lane {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  warp_together(
      [](void* const* lanes) FASTGRAD_EXCHANGE {
        float x[16][16], y[16][8];
        const auto half = [](uint32_t pair, int h) FASTGRAD_EXCHANGE { return Decode()(uint16_t(pair >> (16 * h))); };
        for (int l = 0; l < 32; ++l) {
          const Lane& lane = *static_cast<Lane*>(lanes[l]);
          for (int h = 0; h < 2; ++h) {
            for (int r = 0; r < 4; ++r) x[l / 4 + r % 2 * 8][l % 4 * 2 + h + r / 2 * 8] = half(lane.a[r], h);
            for (int r = 0; r < 2; ++r) y[l % 4 * 2 + h + r * 8][l / 4] = half(lane.b[r], h);
          }
        }
        for (int l = 0; l < 32; ++l)
          for (int r = 0; r < 4; ++r) {
            float& sum = static_cast<Lane*>(lanes[l])->d[r];
            for (int k = 0; k < 16; ++k) sum += x[l / 4 + r / 2 * 8][k] * y[k][l % 4 * 2 + r % 2];
          }
      },
      &mine, place);
}

// d += a b in float64, of 16 x 4 Q and 4 Q x 8 elements.
template <int Q>
void multiply_f64(double (&d)[4], const double (&a)[2 * Q], const double (&b)[Q], Place place = Place::current()) {
  struct Lane {
    double* d;
    const double *a, *b;
  } mine{d, a, b};
  warp_together(
      [](void* const* lanes) FASTGRAD_EXCHANGE {
        double x[16][4 * Q], y[4 * Q][8];
        for (int l = 0; l < 32; ++l) {
          const Lane& lane = *static_cast<Lane*>(lanes[l]);
          for (int r = 0; r < 2 * Q; ++r) x[l / 4 + r % 2 * 8][l % 4 + r / 2 * 4] = lane.a[r];
          for (int r = 0; r < Q; ++r) y[l % 4 + r * 4][l / 4] = lane.b[r];
        }
        for (int l = 0; l < 32; ++l)
          for (int r = 0; r < 4; ++r) {
            double& sum = static_cast<Lane*>(lanes[l])->d[r];
            for (int k = 0; k < 4 * Q; ++k) sum = std::fma(x[l / 4 + r / 2 * 8][k], y[k][l % 4 * 2 + r % 2], sum);
          }
      },
      &mine, place);
}

}  // namespace cuda_emulator
