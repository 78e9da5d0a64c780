// Arithmetic, comparisons and elementary functions, on floating-point and integer values.
#pragma once
#include "value.h"

namespace fastgrad::math {

// a + alpha b
struct Add {
  Number alpha;
  explicit Add(const Number* p) : alpha(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return fma(value<V>(alpha), b, a);
  }
};
// a - alpha b
struct Sub {
  Number alpha;
  explicit Sub(const Number* p) : alpha(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return fma(V(V(0) - value<V>(alpha)), b, a);
  }
};
struct Mul {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return a * b;
  }
};
struct Div {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    return a / b;
  }
};

// The integer quotient rounded to zero. A zero divisor gives 0 here (the glue has raised before, where torch
// raises), and a divisor of -1 is a negation, since the hardware traps on the smallest integer over -1.
template <class V>
FASTGRAD_FORMULA V integer_quotient(V a, V b) {
  if constexpr (std::is_unsigned_v<scalar_t<V>>) {
    return select(b == V(0), V(0), V(a / select(b == V(0), V(1), b)));
  } else {
    const V safe = select(b == V(0), V(1), select(b == V(-1), V(1), b));
    const V q = a / safe;
    return select(b == V(0), V(0), select(b == V(-1), V(V(0) - a), q));
  }
}

struct DivTrunc {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    if constexpr (is_integer<V>)
      return integer_quotient(a, b);
    else
      return trunc(a / b);
  }
};

// Floating point follows Python's floor division: the quotient is derived from the exact remainder fmod(a, b), so
// that it is right where a / b rounds up to an integer; see CPython's float_floor_div.
struct DivFloor : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    if constexpr (is_integer<V>) {
      const V q = integer_quotient(a, b), r = a - q * b;
      const V one_less = select(r != V(0), select(is_negative(r) != is_negative(b), V(1), V(0)), V(0));
      return select(b == V(0), V(0), V(q - one_less));
    } else {
      const V mod = fmod(a, b);
      V q = (a - mod) / b;
      q = select(mod != V(0), select((b < V(0)) != (mod < V(0)), q - V(1), q), q);
      V f = floor(q);
      f = select(q - f > V(0.5), f + V(1), f);
      f = select(q == V(0), copysign(V(0), a / b), f);
      return select(b == V(0), a / b, f);
    }
  }
};

// Integers by repeated squaring, wrapping; a negative exponent gives the truncated reciprocal: 0 unless |a| is 1.
struct Pow : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V b) const {
    if constexpr (is_integer<V>) {
      constexpr int bits = 8 * sizeof(scalar_t<V>) - std::is_signed_v<scalar_t<V>>;
      V result(1), base = a;
      for (int i = 0; i < bits; ++i) {
        result = select((b & V(1)) != V(0), V(result * base), result);
        base = base * base;
        b = b >> 1;
      }
      // b is now -1 for a negative exponent, and the low bits have given a^(its low bits): right for |a| = 1.
      const V unit = select(a == V(1), V(1), select(a == V(-1), result, V(0)));
      return select(is_negative(b), unit, result);
    } else {
      return pow(a, b);
    }
  }
};

// a^exponent for the exponents that torch computes without a power: the second operand is not read.
enum class Exponent { one, two, three, minus_one, minus_two, half, minus_half };
template <Exponent E>
struct PowConstant {
  template <class V>
  FASTGRAD_FORMULA V operator()(V a, V) const {
    if constexpr (E == Exponent::one)
      return a;
    else if constexpr (E == Exponent::two)
      return a * a;
    else if constexpr (E == Exponent::three)
      return a * a * a;
    else if constexpr (E == Exponent::minus_one)
      return V(1) / a;
    else if constexpr (E == Exponent::minus_two)
      return V(1) / (a * a);
    else if constexpr (E == Exponent::half)
      return sqrt(a);
    else
      return V(1) / sqrt(a);
  }
};

// The gradient of y = a^b by a, grad b a^(b-1), and 0 where b = 0; Power gives a^(b-1).
template <class Power>
struct PowBaseBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V a, V b) const {
    return select(b == V(0), V(0), grad * (b * Power()(a, b - V(1))));
  }
};
// By b, grad y log a, and 0 where a = 0 and b >= 0.
struct PowExponentBackward : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V a, V b, V y) const {
    return select(a == V(0), select(b >= V(0), V(0), grad * (y * log(a))), grad * (y * log(a)));
  }
};

#define FASTGRAD_COMPARISON(Name, op)               \
  struct Name {                                     \
    template <class V>                              \
    FASTGRAD_FORMULA V operator()(V a, V b) const { \
      return select(a op b, V(1), V(0));            \
    }                                               \
  };
FASTGRAD_COMPARISON(Eq, ==)
FASTGRAD_COMPARISON(Ne, !=)
FASTGRAD_COMPARISON(Lt, <)
FASTGRAD_COMPARISON(Le, <=)
FASTGRAD_COMPARISON(Gt, >)
FASTGRAD_COMPARISON(Ge, >=)
#undef FASTGRAD_COMPARISON

struct Neg {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    if constexpr (is_integer<V>)
      return V(0) - x;
    else
      return -x;
  }
};
struct Abs {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return abs(x);
  }
};
// grad sign(x), with sign(0) = 0
struct AbsBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x) const {
    return grad * select(x > V(0), V(1), select(x < V(0), V(-1), V(0)));
  }
};
struct Sqrt {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return sqrt(x);
  }
};
struct SqrtBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V y) const {
    return grad / (V(2) * y);
  }
};
struct Exp : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return exp(x);
  }
};
struct Log : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return log(x);
  }
};

}  // namespace fastgrad::math
