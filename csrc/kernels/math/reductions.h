// Reductions: what a block of elements gives, how two results merge, and what comes out at the end.
//
// A reducer has three forms of a result. A block (a few thousand elements at most) is reduced in the compute type by
// block(source), where source.reduce(init, fill, map, op) applies op over map(x) of all its elements: what lies past
// the end counts as x = fill. Its `partials` are widened (float to double, int32 to int64) to `fields` by widen(),
// which also gets the number of elements and the index of the first one. merge() appends one result to another, whose
// elements come first: order matters for ties, where a reducer is `ordered`. finish() gives the outputs.
#pragma once
#include "value.h"

namespace fastgrad::math {

struct Plus {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return a + b;
  }
};
struct Times {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return a * b;
  }
};
// The larger or the smaller of two; NaN of either side is kept.
template <bool Largest>
struct Extreme {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    if constexpr (Largest)
      return max(a, b);
    else
      return min(a, b);
  }
};

// The value that no element is beyond, in the direction searched.
template <bool Largest, class V>
FASTGRAD_FORMULA V worst() {
  using T = scalar_t<V>;
  if constexpr (is_integer<V>) {
    constexpr T highest = T(std::make_unsigned_t<T>(-1) >> 1);
    return V(T(Largest ? -highest - 1 : highest));
  } else {
    return V(T(Largest ? -__builtin_inf() : __builtin_inf()));
  }
}

struct Itself {
  static constexpr bool light = true;  // memory, not arithmetic, is waited for
  template <class V>
  FASTGRAD_FORMULA Tuple<V, 1> operator()(V x) const {
    return {{x}};
  }
};

// One number, the fold of an associative operation.
template <class Op>
struct Fold {
  using Operation = Op;
  static constexpr int partials = 1, fields = 1, outputs = 1;
  static constexpr bool ordered = false;
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> widen(Tuple<V, 1> p, double, int64_t) {
    return p;
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> merge(Tuple<V, 1> a, Tuple<V, 1> b, double, double) {
    return {{Op()(a.item[0], b.item[0])}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> finish(Tuple<V, 1> a, double, const Number*) {
    return a;
  }
};

struct Sum : Fold<Plus> {
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    using V = typename S::Value;
    return source.template reduce<1>(V(0), V(0), Itself(), Plus());
  }
};
struct Mean : Sum {
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> finish(Tuple<V, 1> a, double count, const Number*) {
    return {{a.item[0] / V(scalar_t<V>(count))}};
  }
};
struct Prod : Fold<Times> {
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    using V = typename S::Value;
    return source.template reduce<1>(V(1), V(1), Itself(), Times());
  }
};
template <bool Largest>
struct ExtremeValue : Fold<Extreme<Largest>> {
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    const auto none = worst<Largest, typename S::Value>();
    return source.template reduce<1>(none, none, Itself(), Extreme<Largest>());
  }
};

// Whether x is beyond `best`: larger, or smaller, or NaN where that is a number.
template <bool Largest, class V>
FASTGRAD_FORMULA auto beyond(V x, V best) {
  if constexpr (is_integer<V> && Largest)
    return x > best;
  else if constexpr (is_integer<V>)
    return x < best;
  else if constexpr (Largest)
    return (!(x <= best)) & (best == best);
  else
    return (!(x >= best)) & (best == best);
}

// The extreme and the index of its first occurrence; the first NaN if there is one.
template <bool Largest>
struct ExtremeIndex {
  static constexpr int partials = 2, fields = 2, outputs = 2;
  static constexpr bool ordered = true;
  template <class V>
  struct Best {
    V value, index;
    FASTGRAD_FORMULA void take(V x, V i) {
      const auto better = beyond<Largest>(x, value);
      value = select(better, x, value);
      index = select(better, i, index);
    }
  };
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    using V = typename S::Value;
    if constexpr (S::kLanesTogether) {  // the extreme first, then a search for it, in L1
      const V none = worst<Largest, V>();
      const V best = source.template reduce<1>(none, none, Itself(), Extreme<Largest>()).item[0];
      return Tuple<V, 2>{{best, source.find(best, none)}};
    } else {
      // Two parts side by side, since a step must wait for the one before; of equal ones that of the first part.
      constexpr int kParts = 2;
      const int64_t part = source.n / kParts;
      Best<V> best[kParts];
      V at[kParts];
      for (int p = 0; p < kParts; ++p) best[p] = {source.at(p * part), at[p] = V(scalar_t<V>(p * part))};
      for (int64_t i = 1; i < part; ++i)
        for (int p = 0; p < kParts; ++p) best[p].take(source.at(p * part + i), at[p] = at[p] + V(1));
      for (int p = 1; p < kParts; ++p) best[0].take(best[p].value, best[p].index);
      for (int64_t i = kParts * part; i < source.n; ++i) best[0].take(source.at(i), V(scalar_t<V>(i)));
      return Tuple<V, 2>{{best[0].value, best[0].index}};
    }
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> widen(Tuple<V, 2> p, double, int64_t first) {
    return {{p.item[0], p.item[1] + V(scalar_t<V>(first))}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> merge(Tuple<V, 2> a, Tuple<V, 2> b, double, double) {
    Best<V> best{a.item[0], a.item[1]};
    best.take(b.item[0], b.item[1]);
    return {{best.value, best.index}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> finish(Tuple<V, 2> a, double, const Number*) {
    return a;
  }
};
// The index alone.
template <bool Largest>
struct IndexOfExtreme : ExtremeIndex<Largest> {
  static constexpr int outputs = 1;
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> finish(Tuple<V, 2> a, double, const Number*) {
    return {{a.item[1]}};
  }
};

// x - center, and its square.
template <class V>
struct Distance {
  static constexpr bool light = true;
  V center;
  FASTGRAD_FORMULA Tuple<V, 2> operator()(V x) const {
    const V d = x - center;
    return {{d, d * d}};
  }
};

// Mean m and sum of squared distances M from it. A block gives a number near its mean, and the sums of distances from
// that and of their squares, which correct both m and M for what it lies off. It is the mean of some of the elements;
// if that is so far off that M loses more than a bit to cancellation, or overflows, it is the mean, by a pass of its
// own. Blocks merge by Chan, Golub and LeVeque's formula.
struct Moments {
  static constexpr int partials = 3, fields = 2, outputs = 2;
  static constexpr bool ordered = false;
  template <class S, class V>
  static FASTGRAD_FORMULA Tuple<V, 3> about(const S& source, V center) {
    const auto d = source.template reduce<2>(V(0), center, Distance<V>{center}, Plus());
    return {{center, d.item[0], d.item[1]}};
  }
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    using V = typename S::Value;
    const V n(scalar_t<V>(source.count()));
    if constexpr (requires { source.sample(); })
      if (source.is_long()) {
        const auto near = about(source, source.sample());
        const V shift = near.item[1] * (V(1) / n), infinity = V(scalar_t<V>(__builtin_inf()));
        const auto off = V(2) * shift * near.item[1] > near.item[2], overflowed = near.item[2] == infinity;
        if (!source.holds_anywhere(off | overflowed)) return near;
      }
    return about(source, source.template reduce<1>(V(0), V(0), Itself(), Plus()).item[0] / n);
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> widen(Tuple<V, 3> p, double count, int64_t) {
    const V shift = p.item[1] * V(scalar_t<V>(1 / count));
    return {{p.item[0] + shift, max(p.item[2] - shift * p.item[1], V(0))}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> merge(Tuple<V, 2> a, Tuple<V, 2> b, double na, double nb) {
    using T = scalar_t<V>;
    const double weight = nb / (na + nb);
    const V d = b.item[0] - a.item[0];
    return {{fma(d, V(T(weight)), a.item[0]), a.item[1] + b.item[1] + d * d * V(T(na * weight))}};
  }
};
// Outputs: M / (n - correction), or its root, and the mean.
struct Var : Moments {
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> finish(Tuple<V, 2> a, double count, const Number* parameter) {
    const double divisor = count - parameter[0].real;
    return {{a.item[1] / V(scalar_t<V>(divisor > 0 ? divisor : 0)), a.item[0]}};
  }
};
struct Std : Moments {
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> finish(Tuple<V, 2> a, double count, const Number* parameter) {
    const Tuple<V, 2> r = Var::finish(a, count, parameter);
    return {{sqrt(r.item[0]), r.item[1]}};
  }
};

// The maximum m, and the sum of exp(x - m). An infinite m is subtracted as 0, so that no inf - inf arises.
struct LogSumExp {
  static constexpr int partials = 2, fields = 2, outputs = 1;
  static constexpr bool ordered = false;
  template <class V>
  static FASTGRAD_FORMULA V finite(V m) {
    return select(abs(m) == V(scalar_t<V>(__builtin_inf())), V(0), m);
  }
  template <class S>
  static FASTGRAD_FORMULA auto block(const S& source) {
    using V = typename S::Value;
    const V none = worst<true, V>();
    const V m = source.template reduce<1>(none, none, Itself(), Extreme<true>()).item[0], shift = finite(m);
    const auto sum =
        source.template reduce<1>(V(0), none, [shift](V x) { return Tuple<V, 1>{{exp(x - shift)}}; }, Plus());
    return Tuple<V, 2>{{m, sum.item[0]}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> widen(Tuple<V, 2> p, double, int64_t) {
    return p;
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 2> merge(Tuple<V, 2> a, Tuple<V, 2> b, double, double) {
    const V m = max(a.item[0], b.item[0]), shift = finite(m);
    return {{m, a.item[1] * exp(a.item[0] - shift) + b.item[1] * exp(b.item[0] - shift)}};
  }
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> finish(Tuple<V, 2> a, double, const Number*) {
    return {{log(a.item[1]) + finite(a.item[0])}};
  }
};

// Formulas of the gradients.

// 1 where x equals y, else 0; with a flag, NaN equals NaN.
struct Equal {
  Number nan_equal;
  explicit Equal(const Number* p) : nan_equal(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V x, V y) const {
    return select((x == y) | ((x != x) & (y != y) & (value<V>(nan_equal) != V(0))), V(1), V(0));
  }
};
// grad / count where x equals y, else 0; 0 / 0 if nothing does.
struct SelectEqual : Equal {
  using Equal::Equal;
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V y, V count) const {
    return select(Equal::operator()(x, y) != V(0), grad, V(0)) / count;
  }
};
struct NonzeroOrOne {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return select(x == V(0), V(1), x);
  }
};
struct IsZero {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return select(x == V(0), V(1), V(0));
  }
};
// grad times the product of the other elements; `product` is that of the nonzero ones.
struct ProdBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V product, V zeros) const {
    const V alone = select((zeros == V(1)) & (x == V(0)), grad * product, V(0));
    return select(zeros == V(0), grad * product / x, alone);
  }
};
// grad (x - mean) factor
struct VarBackward {
  Number factor;
  explicit VarBackward(const Number* p) : factor(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V mean) const {
    return grad * (x - mean) * value<V>(factor);
  }
};
// The gradient of max(a, b) by a, and of min(a, b) by b: a tie halves it, as in torch, and NaN lets it pass to both.
struct MaximumBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V a, V b) const {
    return select(a < b, V(0), select(a == b, V(0.5) * grad, grad));
  }
};
struct LogSumExpBackward : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V y) const {
    return grad * exp(x - y);
  }
};

}  // namespace fastgrad::math
