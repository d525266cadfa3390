// Kernel gradients of 3x3 convolutions of stride 1, by the transpose of Winograd's F(2x2, 3x3); winograd_tiles.h has
// the formulas.
#pragma once

#include "winograd_tiles.h"

namespace native_ops {

constexpr int64_t kTilesPerSplit = 1024;  // a split has about as many, or more

// The rows of tiles are divided into splits. A task sums one slice of the features over one split; then the sums of the
// splits are added up in order, and transformed back to 3x3.
struct WinogradKernelGradient {
  KernelGradientOperands operands;
  WinogradTiles tiles;
  int64_t splits;    // of the rows of tiles
  int64_t slices;    // of the features
  FloatBuffer sums;  // [splits, slices, kPositions, channels, kSliceFeatures]

  explicit WinogradKernelGradient(const KernelGradientOperands& operands)
      : operands(operands),
        tiles(operands.shape),
        splits(std::clamp<int64_t>(tiles.rows * tiles.width / kTilesPerSplit, 1, kMaxSplits)),
        slices(ceil_div(operands.shape.features, kSliceFeatures)),
        sums(splits * slices * sums_size()) {}
  int64_t sums_size() const { return kPositions * operands.shape.channels * kSliceFeatures; }  // of a split and slice
  int64_t tasks() const { return splits * slices; }

  // Adds up the splits, which gives m, and writes a slice of the kernel gradient, dg = G^T m G. Returns whether the
  // direct algorithm has to compute it again, because a value is not finite.
  bool reduce_splits(float* out, int64_t slice) const {
    float nan_probe[kSliceFeatures] = {};
    const ConvShape& s = operands.shape;
    int64_t features = std::min(kSliceFeatures, s.features - slice * kSliceFeatures);
    int64_t tap_step = s.channels * s.features;
    for (int64_t c = 0; c < s.channels; ++c) {
      float m[4][4][kSliceFeatures] = {};
      for (int64_t split = 0; split < splits; ++split) {
        const float* from = sums.data() + (split * slices + slice) * sums_size() + c * kSliceFeatures;
        for (int i = 0; i < kPositions; ++i) {
          for (int64_t f = 0; f < kSliceFeatures; ++f) {
            m[i / 4][i % 4][f] += from[i * s.channels * kSliceFeatures + f];
          }
        }
      }
      float* dg = out + c * s.features + slice * kSliceFeatures;
      for (int64_t f = 0; f < features; ++f) {
        float columns[4][3];  // column j of G^T m
        for (int j = 0; j < 4; ++j) times_G_transposed(m[0][j][f], m[1][j][f], m[2][j][f], m[3][j][f], columns[j]);
        for (int i = 0; i < 3; ++i) {
          float row[3];
          times_G_transposed(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
          for (int j = 0; j < 3; ++j) {
            dg[(3 * i + j) * tap_step + f] = row[j];
            nan_probe[f] += row[j] * 0.0f;
          }
        }
      }
    }
    return !all_finite(nan_probe, kSliceFeatures);
  }
};

// Computes A dY A^T of a slice of the features, for a band of tiles, to [kPositions, count * width, kSliceFeatures].
// Outputs beyond the edge have no gradient.
template <int kLanes>
ALWAYS_INLINE void transform_out_gradient(const WinogradKernelGradient& op, const TileBand& band, int64_t slice,
                                          float* out) {
  using Vector = typename VectorOf<kLanes>::type;
  const WinogradTiles& t = op.tiles;
  const ConvShape& s = t.shape;
  int64_t position_step = band.count * t.width * kSliceFeatures, first_feature = slice * kSliceFeatures;
  int64_t features = std::min(kSliceFeatures, s.features - first_feature);
  for (int64_t r = 0; r < band.count; ++r) {
    int64_t image = (band.first + r) / t.height, y = 2 * ((band.first + r) % t.height);
    for (int64_t x = 0; x < s.out_width; x += 2) {
      int64_t pixel = (image * s.out_height + y) * s.out_width + x;
      const float* gradient = op.operands.out_gradient + pixel * s.features + first_feature;
      float* tile = out + (r * t.width + x / 2) * kSliceFeatures;
      for (int64_t f = 0; f < features; f += kLanes) {
        Vector dy[2][2] = {};
        UNROLL for (int i = 0; i < 2; ++i) {
          UNROLL for (int j = 0; j < 2; ++j) {
            if (y + i >= s.out_height || x + j >= s.out_width) continue;
            const float* from = gradient + (i * s.out_width + j) * s.features + f;
            if (features - f >= kLanes) {
              dy[i][j] = load_lanes<kLanes>(from);
            } else {
              std::memcpy(&dy[i][j], from, (features - f) * sizeof(float));
            }
          }
        }
        Vector columns[2][4];  // column j of A dY
        UNROLL for (int j = 0; j < 2; ++j) times_A(dy[0][j], dy[1][j], columns[j]);
        UNROLL for (int i = 0; i < 4; ++i) {
          Vector row[4];
          times_A(columns[0][i], columns[1][i], row);
          UNROLL for (int j = 0; j < 4; ++j) store_lanes<kLanes>(tile + (i * 4 + j) * position_step + f, row[j]);
        }
      }
    }
  }
}

template <int kLanes, int kRows>
ALWAYS_INLINE void winograd_kernel_gradient(const WinogradKernelGradient& op, int64_t index) {
  const WinogradTiles& t = op.tiles;
  int64_t slice = index % op.slices, split = index / op.slices, channels = t.shape.channels;
  int64_t features = std::min(kSliceFeatures, t.shape.features - slice * kSliceFeatures);
  float* sums = op.sums.data() + index * op.sums_size();
  std::fill_n(sums, op.sums_size(), 0.0f);
  FloatBuffer padded(t.padded_size()), input(kPositions * t.band_tiles() * channels);
  FloatBuffer gradient(kPositions * t.band_tiles() * kSliceFeatures);
  std::fill_n(gradient.data(), kPositions * t.band_tiles() * kSliceFeatures, 0.0f);
  int64_t last = t.rows * (split + 1) / op.splits;
  for (int64_t first = t.rows * split / op.splits; first < last; first += t.band_rows) {
    TileBand band{first, std::min(t.band_rows, last - first)};
    int64_t tiles = band.count * t.width;
    transform_input<kLanes>(t, op.operands.input, band, padded.data(), input.data());
    transform_out_gradient<kLanes>(op, band, slice, gradient.data());
    for (int64_t i = 0; i < kPositions; ++i) {
      TransposedWindows x{.values = input.data() + i * tiles * channels,
                          .rows = 1,
                          .row_step = 0,
                          .columns = tiles,
                          .column_step = channels};
      accumulate_slice<kLanes, kRows>(channels, x, gradient.data() + i * tiles * kSliceFeatures,
                                      sums + i * channels * kSliceFeatures, features);
    }
  }
}

DEFINE_TASK(winograd_kernel_gradient, WinogradKernelGradient)

}  // namespace native_ops
