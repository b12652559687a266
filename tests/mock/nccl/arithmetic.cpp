// Reductions as NCCL's kernels do them: in the type itself, rounded after every step.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "meeting.h"

namespace mock {
namespace {

// A float of 16 or 8 bits. FINITE: no infinity, and NaN where all bits but the sign are set.
template <class Word, int EXPONENT, int MANTISSA, bool FINITE>
struct Small {
  Word bits;
  static constexpr int kBias = (1 << (EXPONENT - 1)) - 1;
  static constexpr int kTop = (1 << EXPONENT) - 1;

  explicit operator double() const {
    const int exponent = bits >> MANTISSA & kTop, mantissa = bits & ((1 << MANTISSA) - 1);
    const double sign = bits >> (EXPONENT + MANTISSA) & 1 ? -1.0 : 1.0;
    const bool special = exponent == kTop && (!FINITE || mantissa == (1 << MANTISSA) - 1);
    if (special) return !FINITE && !mantissa ? sign * INFINITY : NAN;
    if (!exponent) return sign * std::ldexp(mantissa, 1 - kBias - MANTISSA);
    return sign * std::ldexp(mantissa + (1 << MANTISSA), exponent - kBias - MANTISSA);
  }

  // To the nearest, ties to even. What is too large becomes infinity, or NaN where there is none.
  static Small of(double value) {
    const auto sign = static_cast<Word>(std::signbit(value) << (EXPONENT + MANTISSA));
    constexpr int kQuiet = FINITE ? (1 << MANTISSA) - 1 : 1 << (MANTISSA - 1);
    const auto nan = static_cast<Word>(sign | kTop << MANTISSA | kQuiet);
    if (std::isnan(value)) return {nan};
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return {sign};
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    exponent = std::max(exponent - 1, 1 - kBias);
    const double steps = std::isinf(magnitude) ? 0 : std::nearbyint(std::ldexp(magnitude, MANTISSA - exponent));
    // Steps of one exponent end where those of the next begin, so a carry needs no care.
    const double word = steps + std::ldexp(exponent - 1 + kBias, MANTISSA);
    const double limit = std::ldexp(kTop, MANTISSA) + (FINITE ? (1 << MANTISSA) - 1 : 0);
    if (std::isinf(magnitude) || word >= limit) {
      return {FINITE ? nan : static_cast<Word>(sign | kTop << MANTISSA)};
    }
    return {static_cast<Word>(sign | static_cast<int>(word))};
  }
};

using Half = Small<uint16_t, 5, 10, false>;
using Bfloat16 = Small<uint16_t, 8, 7, false>;
using E4m3 = Small<uint8_t, 4, 3, true>;
using E5m2 = Small<uint8_t, 5, 2, false>;

template <class T>
constexpr bool kSmall = !std::is_arithmetic_v<T>;

template <class T>
T combine(T a, T b, ncclRedOp_t op) {
  if constexpr (kSmall<T>) {
    // One rounding: a double holds every sum and product of two of them.
    return T::of(combine(static_cast<double>(a), static_cast<double>(b), op));
  } else if constexpr (std::is_integral_v<T>) {
    using Wrapped = std::make_unsigned_t<T>;
    const auto x = static_cast<Wrapped>(a), y = static_cast<Wrapped>(b);
    switch (op) {
      case ncclProd: return static_cast<T>(static_cast<uint64_t>(x) * y);
      case ncclMax: return std::max(a, b);
      case ncclMin: return std::min(a, b);
      default: return static_cast<T>(x + y);
    }
  } else {
    switch (op) {
      case ncclProd: return a * b;
      case ncclMax: return std::fmax(a, b);
      case ncclMin: return std::fmin(a, b);
      default: return a + b;
    }
  }
}

// An average of floats scales what goes in, one of integers what comes out.
template <class T>
T scaled(T value, double ranks) {
  if constexpr (kSmall<T>) {
    return T::of(static_cast<double>(value) * static_cast<double>(T::of(1 / ranks)));
  } else {
    return value * static_cast<T>(1 / ranks);
  }
}

template <class T>
void reduce_as(ncclRedOp_t op, size_t count, const std::vector<const char*>& inputs, char* output) {
  const auto ranks = static_cast<double>(inputs.size());
  for (size_t i = 0; i < count; i++) {
    T all{};
    for (size_t from = 0; from < inputs.size(); from++) {
      T next;
      memcpy(&next, inputs[from] + i * sizeof(T), sizeof(T));
      if constexpr (!std::is_integral_v<T>) {
        if (op == ncclAvg) next = scaled(next, ranks);
      }
      all = from ? combine(all, next, op) : next;
    }
    if constexpr (std::is_integral_v<T>) {
      if (op == ncclAvg) all = static_cast<T>(all / static_cast<T>(inputs.size()));
    }
    memcpy(output + i * sizeof(T), &all, sizeof(T));
  }
}

}  // namespace

size_t elem_bytes(ncclDataType_t type) {
  static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return bytes[type];
}

const char* name_of(ncclDataType_t type) {
  static const char* names[] = {"int8",    "uint8",   "int32",   "uint32",   "int64",      "uint64",
                                "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2"};
  return names[type];
}

void reduce(ncclDataType_t type, ncclRedOp_t op, size_t count, const std::vector<const char*>& inputs, char* output) {
  switch (type) {
    case ncclInt8: return reduce_as<int8_t>(op, count, inputs, output);
    case ncclUint8: return reduce_as<uint8_t>(op, count, inputs, output);
    case ncclInt32: return reduce_as<int32_t>(op, count, inputs, output);
    case ncclUint32: return reduce_as<uint32_t>(op, count, inputs, output);
    case ncclInt64: return reduce_as<int64_t>(op, count, inputs, output);
    case ncclUint64: return reduce_as<uint64_t>(op, count, inputs, output);
    case ncclFloat16: return reduce_as<Half>(op, count, inputs, output);
    case ncclFloat32: return reduce_as<float>(op, count, inputs, output);
    case ncclFloat64: return reduce_as<double>(op, count, inputs, output);
    case ncclBfloat16: return reduce_as<Bfloat16>(op, count, inputs, output);
    case ncclFloat8e4m3: return reduce_as<E4m3>(op, count, inputs, output);
    default: return reduce_as<E5m2>(op, count, inputs, output);
  }
}

}  // namespace mock
