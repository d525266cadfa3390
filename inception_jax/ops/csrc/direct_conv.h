// Convolutions of any kernel size and stride, and their kernel gradients, as matrix products.
//
// A task copies a band of padded rows and multiplies the windows that lie in it (see ConvShape and RegisterTile). Which
// rows and features a task computes depends on the shapes alone, so results do not depend on the number of threads.
//
// The gradient with respect to the input needs no code here. For stride 1 it is a convolution too: of the output
// gradient, by the kernel turned by 180 degrees with its two channel axes exchanged, with the padding kernel size - 1 -
// padding. For stride s it is s x s of them, one for each position of an input pixel relative to the stride, by every
// s-th row and column of the kernel. ops/cpu_xla.py composes them.
#pragma once

#include "padded_input.h"
#include "register_tile.h"

namespace native_ops {

constexpr int64_t kBandBytes = 96 << 10;   // of padded rows: with the weights they should fit the L2 cache
constexpr int64_t kPixelsPerSplit = 4096;  // of the output: a split has about as many, or more

// Output rows per band; a row without channels takes no bytes.
inline int64_t max_band_rows(const ConvShape& s) {
  int64_t bytes = s.padded_row_size() * s.stride * int64_t{sizeof(float)};
  return std::max<int64_t>(kBandBytes / std::max<int64_t>(bytes, 1), 1);
}

struct DirectConv {
  ConvOperands operands;
  int64_t band_rows, bands;  // of the output, per image
  int64_t block_ranges;      // per band: 1, or more if images and bands alone make fewer than kFewTasks tasks
  FloatBuffer weights;       // the packed kernel, [blocks, window size, kBlockFeatures]

  explicit DirectConv(const ConvOperands& operands)
      : operands(operands), weights(blocks() * operands.shape.window_size() * kBlockFeatures) {
    const ConvShape& s = operands.shape;
    bands = ceil_div(s.out_height, max_band_rows(s));
    band_rows = ceil_div(s.out_height, bands);
    bands = ceil_div(s.out_height, band_rows);
    block_ranges = std::min(blocks(), ceil_div(kFewTasks, s.batch * bands));
  }
  int64_t blocks() const { return ceil_div(operands.shape.features, kBlockFeatures); }
  int64_t tasks() const { return operands.shape.batch * bands * block_ranges; }
  int64_t image_of(int64_t index) const { return index / block_ranges / bands; }
};

// Copies a block of the kernel's features to `weights`, so that each step of a register tile reads consecutive values.
template <int kLanes, int kRows>
ALWAYS_INLINE void pack_kernel(const DirectConv& op, int64_t block) {
  const ConvShape& s = op.operands.shape;
  int64_t first = block * kBlockFeatures, count = std::min(kBlockFeatures, s.features - first);
  for (int64_t i = 0; i < s.window_size(); ++i) {
    float* packed = op.weights.data() + (block * s.window_size() + i) * kBlockFeatures;
    std::copy_n(op.operands.kernel + i * s.features + first, count, packed);
    std::fill_n(packed + count, kBlockFeatures - count, 0.0f);
  }
}

DEFINE_TASK(pack_kernel, DirectConv)

template <int kLanes, int kRows>
ALWAYS_INLINE void direct_conv(const DirectConv& op, int64_t index) {
  const ConvShape& s = op.operands.shape;
  int64_t block_range = index % op.block_ranges, image = op.image_of(index);
  int64_t band = index / op.block_ranges % op.bands;
  int64_t first = band * op.band_rows, count = std::min(op.band_rows, s.out_height - first);
  RowRange range{.image = image,
                 .first = first * s.stride - s.pad_top,
                 .count = s.padded_height(count),
                 .padded_width = s.padded_width()};
  FloatBuffer padded(range.count * s.padded_row_size());
  copy_padded_rows(s, op.operands.input, range, padded.data());
  int64_t last_block = op.blocks() * (block_range + 1) / op.block_ranges;
  for (int64_t block = op.blocks() * block_range / op.block_ranges; block < last_block; ++block) {
    const float* weights = op.weights.data() + block * s.window_size() * kBlockFeatures;
    int64_t first_feature = block * kBlockFeatures, features = s.features - first_feature;
    for (int64_t y = 0; y < count; ++y) {
      float* out = op.operands.out + (image * s.out_height + first + y) * s.out_width * s.features + first_feature;
      WindowMatrix windows{.values = padded.data() + y * s.stride * s.padded_row_size(),
                           .row_step = s.window_step(),
                           .runs = s.kernel_height,
                           .run_step = s.padded_row_size(),
                           .run_length = s.window_row_size()};
      multiply_block<kLanes, kRows>(s.out_width, windows, weights, {out, s.features, features});
      for (int64_t x = 0; x < s.out_width; ++x) {
        op.operands.epilogue.apply(out + x * s.features, first_feature, std::min(kBlockFeatures, features));
      }
    }
  }
}

DEFINE_TASK(direct_conv, DirectConv)

// The kernel gradient is the sum, over the output pixels, of the window's values times the pixel's gradient. The batch
// is divided into splits of consecutive images. A task sums one slice of the features over one split; then the sums of
// the splits are added up in order.
struct DirectKernelGradient {
  KernelGradientOperands operands;
  int64_t splits;     // of the batch
  int64_t slices;     // of the features
  int64_t band_rows;  // of the output, that are copied at a time
  FloatBuffer sums;   // [splits, slices, window size, kSliceFeatures]

  explicit DirectKernelGradient(const KernelGradientOperands& operands)
      : operands(operands),
        splits(count_splits(operands.shape)),
        slices(ceil_div(operands.shape.features, kSliceFeatures)),
        sums(splits * slices * operands.shape.window_size() * kSliceFeatures) {
    const ConvShape& s = operands.shape;
    band_rows = ceil_div(s.out_height, ceil_div(s.out_height, max_band_rows(s)));
  }
  static int64_t count_splits(const ConvShape& s) {
    int64_t wanted = s.batch * s.out_height * s.out_width / kPixelsPerSplit;
    return std::clamp<int64_t>(wanted, 1, std::min(kMaxSplits, std::max<int64_t>(s.batch, 1)));
  }
  int64_t tasks() const { return splits * slices; }

  // Adds up the splits and writes a slice of the kernel gradient. Returns whether the direct algorithm has to compute
  // it again: never, because this is the direct algorithm.
  bool reduce_splits(float* out, int64_t slice) const {
    const ConvShape& s = operands.shape;
    int64_t features = std::min(kSliceFeatures, s.features - slice * kSliceFeatures);
    int64_t split_size = slices * s.window_size() * kSliceFeatures;
    for (int64_t i = 0; i < s.window_size(); ++i) {
      const float* first = sums.data() + (slice * s.window_size() + i) * kSliceFeatures;
      for (int64_t f = 0; f < features; ++f) {
        float sum = 0;
        for (int64_t split = 0; split < splits; ++split) sum += first[split * split_size + f];
        out[i * s.features + slice * kSliceFeatures + f] = sum;
      }
    }
    return false;
  }
};

// Copies a slice of the features of gradients [pixels, features] to [pixels, kSliceFeatures], padded with zeros.
inline void copy_slice(const ConvShape& s, const float* gradients, int64_t pixels, int64_t slice, float* copied) {
  int64_t count = std::min(kSliceFeatures, s.features - slice * kSliceFeatures);
  for (int64_t i = 0; i < pixels; ++i, gradients += s.features, copied += kSliceFeatures) {
    std::copy_n(gradients + slice * kSliceFeatures, count, copied);
    std::fill_n(copied + count, kSliceFeatures - count, 0.0f);
  }
}

template <int kLanes, int kRows>
ALWAYS_INLINE void direct_kernel_gradient(const DirectKernelGradient& op, int64_t index) {
  const ConvShape& s = op.operands.shape;
  int64_t slice = index % op.slices, split = index / op.slices;
  float* sums = op.sums.data() + index * s.window_size() * kSliceFeatures;
  std::fill_n(sums, s.window_size() * kSliceFeatures, 0.0f);
  FloatBuffer padded(s.padded_height(op.band_rows) * s.padded_row_size());
  FloatBuffer gradients(op.band_rows * s.out_width * kSliceFeatures);
  int64_t last_image = s.batch * (split + 1) / op.splits;
  for (int64_t image = s.batch * split / op.splits; image < last_image; ++image) {
    for (int64_t first = 0; first < s.out_height; first += op.band_rows) {
      int64_t count = std::min(op.band_rows, s.out_height - first);
      int64_t pixel = (image * s.out_height + first) * s.out_width;
      RowRange range{.image = image,
                     .first = first * s.stride - s.pad_top,
                     .count = s.padded_height(count),
                     .padded_width = s.padded_width()};
      copy_padded_rows(s, op.operands.input, range, padded.data());
      copy_slice(s, op.operands.out_gradient + pixel * s.features, count * s.out_width, slice, gradients.data());
      for (int64_t i = 0; i < s.kernel_height; ++i) {
        TransposedWindows windows{.values = padded.data() + i * s.padded_row_size(),
                                  .rows = count,
                                  .row_step = s.stride * s.padded_row_size(),
                                  .columns = s.out_width,
                                  .column_step = s.window_step()};
        accumulate_slice<kLanes, kRows>(s.window_row_size(), windows, gradients.data(),
                                        sums + i * s.window_row_size() * kSliceFeatures,
                                        std::min(kSliceFeatures, s.features - slice * kSliceFeatures));
      }
    }
  }
}

DEFINE_TASK(direct_kernel_gradient, DirectKernelGradient)

}  // namespace native_ops
