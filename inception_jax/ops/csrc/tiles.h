// What the kernels share: threads, shapes, buffers, and matrix products of tiles that stay in registers.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

#include "xla/ffi/api/ffi.h"

#define INLINE inline __attribute__((always_inline))  // into a function that is compiled for a set of instructions
#define UNROLL _Pragma("GCC unroll 16")

// Defines `pick_NAME()`, which returns the form of the template NAME<W, P>(const JOB&, int64_t task) for the best
// instructions that the processor has. W is the number of floats in a vector, P the rows of a tile.
#define FORM(NAME, JOB, SUFFIX, W, P, ATTRIBUTES) \
  ATTRIBUTES inline void NAME##_##SUFFIX(const JOB& job, int64_t task) { NAME<W, P>(job, task); }
#if defined(__x86_64__)
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#define FORMS(NAME, JOB)                                                                                     \
  FORM(NAME, JOB, plain, 4, 6, )                                                                             \
  FORM(NAME, JOB, avx2, 8, 6, __attribute__((target("avx2,fma"))))                                           \
  FORM(NAME, JOB, avx512, 16, 14, __attribute__((target(AVX512))))                                           \
  inline void (*pick_##NAME())(const JOB&, int64_t) {                                                        \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&                          \
        __builtin_cpu_supports("avx512vl")) return NAME##_avx512;                                            \
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NAME##_avx2 : NAME##_plain;     \
  }
#else
#define FORMS(NAME, JOB)         \
  FORM(NAME, JOB, plain, 4, 6, ) \
  inline void (*pick_##NAME())(const JOB&, int64_t) { return NAME##_plain; }
#endif

namespace kernels {

constexpr int64_t kBlock = 32;  // features of a block of weights: two vectors of AVX-512
constexpr int64_t kChunk = 64;  // features of a task of a gradient

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs tasks 0 ... count - 1 on the threads of XLA and on this one. It never waits for a task that no thread has
// begun, so it cannot hang when all threads of the pool are here. What a task throws, it throws when no thread runs a
// task any more: tasks read what the caller's frame holds. Those that have not begun by then are left out.
inline void run(xla::ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> task) {
  struct Work {
    std::function<void(int64_t)> task;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of the first task that failed
    std::mutex mutex;
    std::condition_variable finished;

    void help() noexcept {
      for (int64_t i; (i = next.fetch_add(1)) < count;) {
        try {
          if (!failed.load()) task(i);
        } catch (...) {
          if (!failed.exchange(true)) error = std::current_exception();
        }
        if (done.fetch_add(1) + 1 == count) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }
  };
  auto work = std::make_shared<Work>();
  work->task = std::move(task);
  work->count = count;
  try {
    for (int64_t i = 1; i < std::min<int64_t>(count, pool.num_threads()); ++i) pool.Schedule([work] { work->help(); });
  } catch (const std::bad_alloc&) {  // fewer threads help
  }
  work->help();
  {
    std::unique_lock<std::mutex> lock(work->mutex);
    work->finished.wait(lock, [&] { return work->done.load() == count; });
  }
  if (work->error) std::rethrow_exception(work->error);
}

// Whether sums of values times zero are finite: so are the values then.
template <typename Values>
INLINE bool are_zeros(const Values& sums, int64_t count) {
  bool all = true;
  for (int64_t i = 0; i < count; ++i) all &= sums[i] == 0;
  return all;
}

// Floats, aligned for vectors.
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<float*>(std::aligned_alloc(64, ceil_div(std::max<int64_t>(count, 1), 16) * 64))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  float* data() const { return data_; }

 private:
  float* data_;
};

struct Shape {
  int64_t batch, height, width, channels;         // of the maps
  int64_t kernel_height, kernel_width, features;  // of the kernel
  int64_t out_height, out_width;                  // of the output
  int64_t stride, top, left;

  int64_t image() const { return height * width * channels; }
  int64_t padded_width() const { return (out_width - 1) * stride + kernel_width; }
  int64_t row() const { return padded_width() * channels; }       // values of a row with its borders
  int64_t pixel_step() const { return stride * channels; }        // between the windows of neighbours
  int64_t window_row() const { return kernel_width * channels; }  // values of one row of a window: they are contiguous
  int64_t rows(int64_t out_rows) const { return (out_rows - 1) * stride + kernel_height; }
};

// What maps are still to be turned into while they are read: (x - mean) * scale + bias of their channel and group of
// images, and not below `low`. Without groups they are read as they are.
struct Norm {
  const float* values;  // [3, groups, channels]: mean, scale, bias
  int64_t groups, channels, batch;
  float low;

  const float* of(int64_t image) const {
    return groups == 0 ? nullptr : values + image * groups / batch * channels;
  }

  INLINE void apply(const float* norm, const float* pixels, int64_t count, float* out) const {
    const float *scale = norm + groups * channels, *bias = scale + groups * channels;
    for (int64_t i = 0; i < count; ++i, pixels += channels, out += channels) {
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) {
        float value = (pixels[c] - norm[c]) * scale[c] + bias[c];
        out[c] = value < low ? low : value;
      }
    }
  }
};

struct Maps {
  const float* data;
  Norm norm;
};

// Copies `count` rows of an image from row `first` on, with borders of zeros: what `padded_width` pixels see.
INLINE void copy_rows(const Shape& s, const Maps& maps, int64_t image, int64_t first, int64_t count,
                      int64_t padded_width, float* copied) {
  const float* norm = maps.norm.of(image);
  const float* pixels = maps.data + image * s.image();
  int64_t begin = std::clamp<int64_t>(s.left, 0, padded_width), skipped = std::max<int64_t>(-s.left, 0);
  int64_t seen = std::max<int64_t>(std::min(s.width - skipped, padded_width - begin), 0);
  int64_t row = padded_width * s.channels;
  for (int64_t y = first; y < first + count; ++y, copied += row) {
    if (y < 0 || y >= s.height) {
      std::fill_n(copied, row, 0.0f);
      continue;
    }
    std::fill_n(copied, begin * s.channels, 0.0f);
    const float* row_pixels = pixels + (y * s.width + skipped) * s.channels;
    if (norm == nullptr) {
      std::copy_n(row_pixels, seen * s.channels, copied + begin * s.channels);
    } else {
      maps.norm.apply(norm, row_pixels, seen, copied + begin * s.channels);
    }
    std::fill_n(copied + (begin + seen) * s.channels, row - (begin + seen) * s.channels, 0.0f);
  }
}

template <int W>
struct VectorOf {
  typedef float type __attribute__((vector_size(W * sizeof(float)), aligned(sizeof(float)), may_alias));
};

template <int W>
INLINE typename VectorOf<W>::type& as_vector(float* values) {
  return *reinterpret_cast<typename VectorOf<W>::type*>(values);
}

template <int W>
INLINE typename VectorOf<W>::type as_vector(const float* values) {
  return *reinterpret_cast<const typename VectorOf<W>::type*>(values);
}

// What an output is still to be turned into: its bias added, if there is one, and not below `low`.
struct Finish {
  const float* bias;
  float low;

  INLINE void apply(float* out, int64_t feature, int64_t count) const {
    for (int64_t f = 0; f < count; ++f) {
      float value = bias == nullptr ? out[f] : out[f] + bias[feature + f];
      out[f] = value < low ? low : value;
    }
  }
};

// A tile of P rows and N vectors of W columns.
template <int W, int P, int N>
struct Tile {
  using Vector = typename VectorOf<W>::type;

  // Stores `columns` of a product: rows of x start `step` values apart, and are `lines` runs of `length` values that
  // start `line_step` apart; weights are [lines * length, kBlock].
  static INLINE void multiply(const float* x, int64_t step, int64_t line_step, int64_t lines, int64_t length,
                              const float* weights, float* out, int64_t out_step, int64_t columns) {
    Vector sums[P][N] = {};
    for (int64_t line = 0; line < lines; ++line, x += line_step) {
      for (int64_t i = 0; i < length; ++i, weights += kBlock) {
        Vector factors[N];
        UNROLL for (int n = 0; n < N; ++n) factors[n] = as_vector<W>(weights + n * W);
        UNROLL for (int p = 0; p < P; ++p) {
          float value = x[p * step + i];
          UNROLL for (int n = 0; n < N; ++n) sums[p][n] += value * factors[n];
        }
      }
    }
    UNROLL for (int p = 0; p < P; ++p) {
      UNROLL for (int n = 0; n < N; ++n) {
        if (columns >= (n + 1) * W) {
          as_vector<W>(out + p * out_step + n * W) = sums[p][n];
        } else if (columns > n * W) {
          std::memcpy(out + p * out_step + n * W, &sums[p][n], (columns - n * W) * sizeof(float));
        }
      }
    }
  }

  // Adds to [P, kChunk] the product of P consecutive values and [kChunk], over `lines` runs of `length` places.
  static INLINE void accumulate(const float* x, int64_t step, int64_t line_step, int64_t lines, int64_t length,
                                const float* grads, float* out) {
    Vector sums[P][N];
    UNROLL for (int p = 0; p < P; ++p)
      UNROLL for (int n = 0; n < N; ++n) sums[p][n] = as_vector<W>(out + p * kChunk + n * W);
    for (int64_t line = 0; line < lines; ++line, x += line_step) {
      const float* values = x;
      for (int64_t i = 0; i < length; ++i, values += step, grads += kChunk) {
        Vector factors[N];
        UNROLL for (int n = 0; n < N; ++n) factors[n] = as_vector<W>(grads + n * W);
        UNROLL for (int p = 0; p < P; ++p) {
          float value = values[p];
          UNROLL for (int n = 0; n < N; ++n) sums[p][n] += value * factors[n];
        }
      }
    }
    UNROLL for (int p = 0; p < P; ++p)
      UNROLL for (int n = 0; n < N; ++n) as_vector<W>(out + p * kChunk + n * W) = sums[p][n];
  }

  // The same, of the first `rows` rows if there are fewer than P.
  template <typename... Arguments>
  static INLINE void multiply_some(int64_t rows, Arguments... arguments) {
    if (rows >= P) {
      multiply(arguments...);
    } else if constexpr (P > 1) {
      Tile<W, P - 1, N>::multiply_some(rows, arguments...);
    }
  }

  template <typename... Arguments>
  static INLINE void accumulate_some(int64_t rows, Arguments... arguments) {
    if (rows >= P) {
      accumulate(arguments...);
    } else if constexpr (P > 1) {
      Tile<W, P - 1, N>::accumulate_some(rows, arguments...);
    }
  }
};

// Stores the product of `rows` rows of x and a block of weights, `columns` columns of it.
template <int W, int P>
INLINE void multiply_block(int64_t rows, const float* x, int64_t step, int64_t line_step, int64_t lines, int64_t length,
                           const float* weights, float* out, int64_t out_step, int64_t columns) {
  constexpr int kVectors = std::min<int>(kBlock / W, 2);
  for (int64_t column = 0; column < std::min(columns, kBlock); column += kVectors * W) {
    for (int64_t row = 0; row < rows; row += P) {
      const float* begin = x + row * step;
      float* target = out + row * out_step + column;
      if (columns - column > W) {
        Tile<W, P, kVectors>::multiply_some(rows - row, begin, step, line_step, lines, length, weights + column, target,
                                            out_step, columns - column);
      } else {
        Tile<W, P, 1>::multiply_some(rows - row, begin, step, line_step, lines, length, weights + column, target,
                                     out_step, columns - column);
      }
    }
  }
}

// Adds to [rows, kChunk] the products of `rows` consecutive values and `features` of [kChunk] gradients.
template <int W, int P>
INLINE void accumulate_chunk(int64_t rows, const float* x, int64_t step, int64_t line_step, int64_t lines,
                             int64_t length, const float* grads, float* out, int64_t features) {
  for (int64_t row = 0; row < rows; row += P) {
    for (int64_t feature = 0; feature < features; feature += 2 * W) {
      Tile<W, P, 2>::accumulate_some(rows - row, x + row, step, line_step, lines, length, grads + feature,
                                     out + row * kChunk + feature);
    }
  }
}

}  // namespace kernels
