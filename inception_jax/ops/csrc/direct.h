// Convolutions of any kernel and stride, and their gradients by the kernel.
//
// In NHWC the values that one row of a window sees are contiguous, so a convolution is a sum over the rows of a window
// of matrix products with overlapping rows. A task copies a band of rows with its borders. What belongs to which task
// depends on the shapes alone, so results do not depend on the number of threads.
#pragma once

#include "tiles.h"

namespace kernels {

constexpr int64_t kBandBytes = 96 << 10;  // rows that a task copies; they and its weights should fit the L2 cache
constexpr int64_t kPixelsOfPart = 4096;   // that are summed before the parts of a gradient are added up
constexpr int64_t kMostParts = 16;
constexpr int64_t kFewTasks = 8;

// Rows of the output whose windows see a band; a row of no channels takes no bytes.
inline int64_t most_band_rows(const Shape& s) {
  return std::max<int64_t>(kBandBytes / std::max<int64_t>(s.row() * s.stride * int64_t{sizeof(float)}, 1), 1);
}

struct Direct {
  Shape shape;
  Maps maps;
  const float* kernel;
  Finish finish;
  float* out;
  int64_t band_rows, bands, shares;  // bands of rows, shares of the blocks of features
  Buffer weights;                    // [blocks, kh * kw * C, kBlock]

  Direct(const Shape& s, const Maps& maps, const float* kernel, const Finish& finish, float* out)
      : shape(s), maps(maps), kernel(kernel), finish(finish), out(out), weights(blocks() * values() * kBlock) {
    bands = ceil_div(s.out_height, most_band_rows(s));
    band_rows = ceil_div(s.out_height, bands);
    bands = ceil_div(s.out_height, band_rows);
    shares = std::min(blocks(), ceil_div(kFewTasks, s.batch * bands));
  }
  int64_t blocks() const { return ceil_div(shape.features, kBlock); }
  int64_t values() const { return shape.kernel_height * shape.window_row(); }
  int64_t tasks() const { return shape.batch * bands * shares; }
  int64_t image(int64_t task) const { return task / shares / bands; }

  INLINE void pack(int64_t block) const {
    int64_t seen = std::min(kBlock, shape.features - block * kBlock);
    for (int64_t i = 0; i < values(); ++i) {
      float* packed = weights.data() + (block * values() + i) * kBlock;
      std::copy_n(kernel + i * shape.features + block * kBlock, seen, packed);
      std::fill_n(packed + seen, kBlock - seen, 0.0f);
    }
  }
};

template <int W, int P>
INLINE void pack_direct(const Direct& job, int64_t block) {
  job.pack(block);
}

FORMS(pack_direct, Direct)

template <int W, int P>
INLINE void direct(const Direct& job, int64_t task) {
  const Shape& s = job.shape;
  int64_t share = task % job.shares, band = task / job.shares % job.bands, image = job.image(task);
  int64_t first = band * job.band_rows, count = std::min(job.band_rows, s.out_height - first);
  Buffer rows(s.rows(count) * s.row());
  copy_rows(s, job.maps, image, first * s.stride - s.top, s.rows(count), s.padded_width(), rows.data());
  for (int64_t block = job.blocks() * share / job.shares; block < job.blocks() * (share + 1) / job.shares; ++block) {
    const float* weights = job.weights.data() + block * job.values() * kBlock;
    for (int64_t r = 0; r < count; ++r) {
      float* out = job.out + (image * s.out_height + first + r) * s.out_width * s.features + block * kBlock;
      multiply_block<W, P>(s.out_width, rows.data() + r * s.stride * s.row(), s.pixel_step(), s.row(), s.kernel_height,
                           s.window_row(), weights, out, s.features, s.features - block * kBlock);
      for (int64_t x = 0; x < s.out_width; ++x) {
        job.finish.apply(out + x * s.features, block * kBlock, std::min(kBlock, s.features - block * kBlock));
      }
    }
  }
}

FORMS(direct, Direct)

// Copies a chunk of the features of gradients to [pixels, kChunk].
inline void copy_chunk(const Shape& s, const float* grads, int64_t pixels, int64_t chunk, float* copied) {
  int64_t seen = std::min(kChunk, s.features - chunk * kChunk);
  for (int64_t i = 0; i < pixels; ++i, grads += s.features, copied += kChunk) {
    std::copy_n(grads + chunk * kChunk, seen, copied);
    std::fill_n(copied + seen, kChunk - seen, 0.0f);
  }
}

struct DirectGradient {
  Shape shape;
  Maps maps;
  const float* grads;
  int64_t parts, chunks, band_rows;  // parts of the batch, chunks of the features
  Buffer sums;                       // [parts, chunks, kh * kw * C, kChunk]

  DirectGradient(const Shape& s, const Maps& maps, const float* grads)
      : shape(s),
        maps(maps),
        grads(grads),
        parts(std::clamp<int64_t>(s.batch * s.out_height * s.out_width / kPixelsOfPart, 1,
                                  std::min(kMostParts, std::max<int64_t>(s.batch, 1)))),
        chunks(ceil_div(s.features, kChunk)),
        sums(parts * chunks * values() * kChunk) {
    band_rows = ceil_div(s.out_height, ceil_div(s.out_height, most_band_rows(s)));
  }
  int64_t values() const { return shape.kernel_height * shape.window_row(); }
  int64_t tasks() const { return parts * chunks; }

  // Writes the sum of the parts of a chunk. Returns true: there is nothing to compute in another way.
  bool add_up(float* out, int64_t chunk) const {
    int64_t seen = std::min(kChunk, shape.features - chunk * kChunk), part_size = chunks * values() * kChunk;
    for (int64_t i = 0; i < values(); ++i) {
      const float* first = sums.data() + (chunk * values() + i) * kChunk;
      for (int64_t f = 0; f < seen; ++f) {
        float sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += first[part * part_size + f];
        out[i * shape.features + chunk * kChunk + f] = sum;
      }
    }
    return true;
  }
};

template <int W, int P>
INLINE void direct_gradient(const DirectGradient& job, int64_t task) {
  const Shape& s = job.shape;
  int64_t chunk = task % job.chunks, part = task / job.chunks;
  float* sums = job.sums.data() + task * job.values() * kChunk;
  std::fill_n(sums, job.values() * kChunk, 0.0f);
  Buffer rows(s.rows(job.band_rows) * s.row()), grads(job.band_rows * s.out_width * kChunk);
  for (int64_t image = s.batch * part / job.parts; image < s.batch * (part + 1) / job.parts; ++image) {
    for (int64_t first = 0; first < s.out_height; first += job.band_rows) {
      int64_t count = std::min(job.band_rows, s.out_height - first);
      int64_t pixel = (image * s.out_height + first) * s.out_width;
      copy_rows(s, job.maps, image, first * s.stride - s.top, s.rows(count), s.padded_width(), rows.data());
      copy_chunk(s, job.grads + pixel * s.features, count * s.out_width, chunk, grads.data());
      for (int64_t y = 0; y < s.kernel_height; ++y) {
        accumulate_chunk<W, P>(s.window_row(), rows.data() + y * s.row(), s.pixel_step(), s.stride * s.row(), count,
                               s.out_width, grads.data(), sums + y * s.window_row() * kChunk,
                               std::min(kChunk, s.features - chunk * kChunk));
      }
    }
  }
}

FORMS(direct_gradient, DirectGradient)

}  // namespace kernels
