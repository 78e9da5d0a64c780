// What the tile kernels fetch for later: a block of an operand, cut in spots that are dealt out to the tiles.
#pragma once
#include <algorithm>

#include "gemm.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// A block of a matrix, spot by spot. Its lines are its rows or columns, whichever are contiguous; the first spots of
// all lines come first, so that a run of spots is a start and a step.
class Ahead {
 public:
  Ahead() = default;
  template <class S>
  Ahead(const Matrix<S>& x, int64_t rows, int64_t columns) : start(reinterpret_cast<const char*>(x.data)) {
    const bool by_rows = x.col == 1;
    if (!by_rows && x.row != 1) return;
    step = (by_rows ? x.row : x.col) * int64_t(sizeof(S));
    lines = by_rows ? rows : columns;
    left = ceil_div((by_rows ? columns : rows) * int64_t(sizeof(S)), kSpot) * lines;
  }
  // The next `count` spots, or fewer where the lines end.
  Touch take(int64_t count) {
    const Touch touch{start + line * step, step, std::min({count, lines - line, left})};
    left -= touch.count;
    line += touch.count;
    if (line == lines) line = 0, start += kSpot;
    return touch;
  }
  int64_t spots() const { return left; }

 private:
  const char* start = nullptr;
  int64_t step = 0, lines = 0, line = 0, left = 0;
};

// The list that a tile kernel gets: a share of what is wanted, most urgent first, and an empty entry.
struct AheadList {
  Touch list[3];
  // `spots`: how many the tile has time for.
  void fill(int64_t spots, Ahead& urgent, Ahead& later, int64_t later_share) {
    Touch* end = list;
    if (spots > 0 && urgent.spots() > 0) {
      *end = urgent.take(spots);
      spots -= end++->count;
    }
    if (spots > 0 && later.spots() > 0) *end++ = later.take(std::min(spots, later_share));
    *end = {nullptr, 0, 0};
  }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
