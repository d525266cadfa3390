// Matrix products whose sums stay in vector registers.
//
// A register tile holds kRows x kVectors sums. Each step i loads kVectors vectors of weights and, for each row, one
// value of x, which is multiplied with all of them:
//
//                               weights[i]:   | vector 0       | vector 1       |     kLanes features each
//                                             +----------------+----------------+
//     x[row 0][i], broadcast  ->              | sums[0][0]     | sums[0][1]     |
//     x[row 1][i], broadcast  ->              | sums[1][0]     | sums[1][1]     |
//        ...                                  |    ...         |    ...         |
//                                             +----------------+----------------+
//
// AVX-512 has 32 registers: 14 rows x 2 vectors of sums, 2 of weights and 1 for the broadcast value are 31. AVX2 has
// 16: 6 x 2 + 2 + 1 are 15.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vector_isa.h"

namespace native_ops {

constexpr int64_t kBlockFeatures = 32;  // features of a block of packed weights: two vectors of AVX-512
constexpr int64_t kSliceFeatures = 64;  // features of a slice of an output gradient, which one task reads
constexpr int64_t kFewTasks = 8;        // if bands alone make fewer, tasks divide the feature blocks as well
constexpr int64_t kMaxSplits = 16;      // of a kernel gradient: bounds the memory of its sums

// A vector of kLanes floats, and the same in memory, where it may start at any float.
template <int kLanes>
struct VectorOf {
  typedef float type __attribute__((vector_size(kLanes * sizeof(float))));
  typedef float in_memory __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
};

template <int kLanes>
ALWAYS_INLINE typename VectorOf<kLanes>::type load_lanes(const float* values) {
  return *reinterpret_cast<const typename VectorOf<kLanes>::in_memory*>(values);
}

template <int kLanes>
ALWAYS_INLINE void store_lanes(float* out, const typename VectorOf<kLanes>::type& vector) {
  *reinterpret_cast<typename VectorOf<kLanes>::in_memory*>(out) = vector;
}

// Stores the first `count` lanes, or all of them if `count` is larger.
template <int kLanes>
ALWAYS_INLINE void store_lanes(float* out, const typename VectorOf<kLanes>::type& vector, int64_t count) {
  if (count >= kLanes) {
    store_lanes<kLanes>(out, vector);
  } else if (count > 0) {
    std::memcpy(out, &vector, count * sizeof(float));
  }
}

// The left factor of a convolution, read where it lies in the padded input (see ConvShape). Its row r is the r-th
// window: `runs` runs of `run_length` contiguous values; run k starts at values + r * row_step + k * run_step.
struct WindowMatrix {
  const float* values;
  int64_t row_step;
  int64_t runs, run_step, run_length;

  ALWAYS_INLINE WindowMatrix from_row(int64_t row) const {
    return {values + row * row_step, row_step, runs, run_step, run_length};
  }
};

// The left factor of a kernel gradient: the transpose of such a matrix, for one run of each window. Its column (y, x)
// is the run of the window at output row y and column x; it starts at values + y * row_step + x * column_step.
struct TransposedWindows {
  const float* values;
  int64_t rows, row_step;
  int64_t columns, column_step;

  ALWAYS_INLINE TransposedWindows from_value(int64_t value) const {
    return {values + value, rows, row_step, columns, column_step};
  }
};

// Where a product goes: rows of `columns` features, `row_step` values apart.
struct OutputBlock {
  float* values;
  int64_t row_step, columns;

  ALWAYS_INLINE OutputBlock from(int64_t row, int64_t column) const {
    return {values + row * row_step + column, row_step, columns - column};
  }
};

template <int kLanes, int kRows, int kVectors>
struct RegisterTile {
  using Vector = typename VectorOf<kLanes>::type;

  // Stores kRows rows of x times weights [runs * run_length, kBlockFeatures].
  static ALWAYS_INLINE void multiply(const WindowMatrix& x, const float* weights, const OutputBlock& out) {
    Vector sums[kRows][kVectors] = {};
    const float* run = x.values;
    for (int64_t k = 0; k < x.runs; ++k, run += x.run_step) {
      for (int64_t i = 0; i < x.run_length; ++i, weights += kBlockFeatures) {
        Vector factors[kVectors];
        UNROLL for (int v = 0; v < kVectors; ++v) factors[v] = load_lanes<kLanes>(weights + v * kLanes);
        UNROLL for (int row = 0; row < kRows; ++row) {
          float value = run[row * x.row_step + i];
          UNROLL for (int v = 0; v < kVectors; ++v) sums[row][v] += value * factors[v];
        }
      }
    }
    UNROLL for (int row = 0; row < kRows; ++row) {
      UNROLL for (int v = 0; v < kVectors; ++v) {
        store_lanes<kLanes>(out.values + row * out.row_step + v * kLanes, sums[row][v], out.columns - v * kLanes);
      }
    }
  }

  // Adds to sums [kRows, kSliceFeatures] kRows rows of x times gradients [rows * columns, kSliceFeatures].
  static ALWAYS_INLINE void accumulate(const TransposedWindows& x, const float* gradients, float* out) {
    Vector sums[kRows][kVectors];
    UNROLL for (int row = 0; row < kRows; ++row) {
      UNROLL for (int v = 0; v < kVectors; ++v) {
        sums[row][v] = load_lanes<kLanes>(out + row * kSliceFeatures + v * kLanes);
      }
    }
    const float* first = x.values;
    for (int64_t y = 0; y < x.rows; ++y, first += x.row_step) {
      const float* values = first;
      for (int64_t i = 0; i < x.columns; ++i, values += x.column_step, gradients += kSliceFeatures) {
        Vector factors[kVectors];
        UNROLL for (int v = 0; v < kVectors; ++v) factors[v] = load_lanes<kLanes>(gradients + v * kLanes);
        UNROLL for (int row = 0; row < kRows; ++row) {
          float value = values[row];
          UNROLL for (int v = 0; v < kVectors; ++v) sums[row][v] += value * factors[v];
        }
      }
    }
    UNROLL for (int row = 0; row < kRows; ++row) {
      UNROLL for (int v = 0; v < kVectors; ++v) {
        store_lanes<kLanes>(out + row * kSliceFeatures + v * kLanes, sums[row][v]);
      }
    }
  }

  // The same for the last rows: `rows` of them if that is fewer than kRows. Each number of rows is a tile of its own,
  // so that its sums stay in registers too.
  static ALWAYS_INLINE void multiply_at_most(int64_t rows, const WindowMatrix& x, const float* weights,
                                             const OutputBlock& out) {
    if (rows >= kRows) {
      multiply(x, weights, out);
    } else if constexpr (kRows > 1) {
      RegisterTile<kLanes, kRows - 1, kVectors>::multiply_at_most(rows, x, weights, out);
    }
  }

  static ALWAYS_INLINE void accumulate_at_most(int64_t rows, const TransposedWindows& x, const float* gradients,
                                               float* out) {
    if (rows >= kRows) {
      accumulate(x, gradients, out);
    } else if constexpr (kRows > 1) {
      RegisterTile<kLanes, kRows - 1, kVectors>::accumulate_at_most(rows, x, gradients, out);
    }
  }
};

// Stores `rows` rows of x times a block of weights [runs * run_length, kBlockFeatures].
template <int kLanes, int kRows>
ALWAYS_INLINE void multiply_block(int64_t rows, const WindowMatrix& x, const float* weights, const OutputBlock& out) {
  constexpr int kVectors = std::min<int>(kBlockFeatures / kLanes, 2);
  for (int64_t column = 0; column < std::min(out.columns, kBlockFeatures); column += kVectors * kLanes) {
    for (int64_t row = 0; row < rows; row += kRows) {
      WindowMatrix left = x.from_row(row);
      OutputBlock target = out.from(row, column);
      if (target.columns > kLanes) {
        RegisterTile<kLanes, kRows, kVectors>::multiply_at_most(rows - row, left, weights + column, target);
      } else {
        RegisterTile<kLanes, kRows, 1>::multiply_at_most(rows - row, left, weights + column, target);
      }
    }
  }
}

// Adds to sums [rows, kSliceFeatures] the product of x and the first `features` columns of gradients
// [x.rows * x.columns, kSliceFeatures].
template <int kLanes, int kRows>
ALWAYS_INLINE void accumulate_slice(int64_t rows, const TransposedWindows& x, const float* gradients, float* sums,
                                    int64_t features) {
  for (int64_t row = 0; row < rows; row += kRows) {
    for (int64_t feature = 0; feature < features; feature += 2 * kLanes) {
      RegisterTile<kLanes, kRows, 2>::accumulate_at_most(rows - row, x.from_value(row), gradients + feature,
                                                         sums + row * kSliceFeatures + feature);
    }
  }
}

}  // namespace native_ops
