// 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3); winograd_tiles.h has the formulas.
#pragma once

#include "winograd_tiles.h"

namespace native_ops {

struct WinogradConv {
  ConvOperands operands;
  WinogradTiles tiles;
  uint8_t* needs_direct;  // [batch], zeros; set for the images whose output is not finite everywhere
  int64_t block_ranges;   // per band: 1, or more if bands alone make fewer than kFewTasks tasks
  FloatBuffer weights;    // G g G^T, [blocks, kPositions, channels, kBlockFeatures]

  WinogradConv(const ConvOperands& operands, uint8_t* needs_direct)
      : operands(operands),
        tiles(operands.shape),
        needs_direct(needs_direct),
        block_ranges(std::min(blocks(), ceil_div(kFewTasks, bands()))),
        weights(blocks() * kPositions * operands.shape.channels * kBlockFeatures) {}
  int64_t blocks() const { return ceil_div(operands.shape.features, kBlockFeatures); }
  int64_t bands() const { return ceil_div(tiles.rows, tiles.band_rows); }
  int64_t tasks() const { return bands() * block_ranges; }
};

// Computes G g G^T of a block of features.
template <int kLanes, int kRows>
ALWAYS_INLINE void transform_kernel(const WinogradConv& op, int64_t block) {
  const ConvShape& s = op.operands.shape;
  int64_t count = std::min(kBlockFeatures, s.features - block * kBlockFeatures), tap_step = s.channels * s.features;
  int64_t position_step = s.channels * kBlockFeatures;
  for (int64_t c = 0; c < s.channels; ++c) {
    float rows[4][3][kBlockFeatures] = {};  // G g
    for (int j = 0; j < 3; ++j) {
      const float* g = op.operands.kernel + j * tap_step + c * s.features + block * kBlockFeatures;
      for (int64_t f = 0; f < count; ++f) {
        float column[4];
        times_G(g[f], g[3 * tap_step + f], g[6 * tap_step + f], column);
        for (int i = 0; i < 4; ++i) rows[i][j][f] = column[i];
      }
    }
    for (int i = 0; i < 4; ++i) {
      float* out = op.weights.data() + ((block * kPositions + i * 4) * s.channels + c) * kBlockFeatures;
      for (int64_t f = 0; f < kBlockFeatures; ++f) {
        float row[4];
        times_G(rows[i][0][f], rows[i][1][f], rows[i][2][f], row);
        for (int j = 0; j < 4; ++j) out[j * position_step + f] = row[j];
      }
    }
  }
}

DEFINE_TASK(transform_kernel, WinogradConv)

// Computes Y = A^T m A of products [kPositions, count * width, kBlockFeatures], and stores a block of the output.
template <int kLanes>
ALWAYS_INLINE void transform_products(const WinogradConv& op, const float* products, const TileBand& band,
                                      int64_t block) {
  using Vector = typename VectorOf<kLanes>::type;
  const WinogradTiles& t = op.tiles;
  const ConvShape& s = t.shape;
  int64_t position_step = band.count * t.width * kBlockFeatures, first_feature = block * kBlockFeatures;
  int64_t features = std::min(kBlockFeatures, s.features - first_feature);
  for (int64_t r = 0; r < band.count; ++r) {
    int64_t image = (band.first + r) / t.height, y = 2 * ((band.first + r) % t.height);
    Vector nan_probe = {};
    for (int64_t x = 0; x < s.out_width; x += 2) {
      const float* tile = products + (r * t.width + x / 2) * kBlockFeatures;
      float* out = op.operands.out + ((image * s.out_height + y) * s.out_width + x) * s.features + first_feature;
      for (int64_t f = 0; f < features; f += kLanes) {
        Vector columns[4][2];  // column j of A^T m
        UNROLL for (int j = 0; j < 4; ++j) {
          const float* m = tile + j * position_step + f;
          Vector m0 = load_lanes<kLanes>(m), m1 = load_lanes<kLanes>(m + 4 * position_step);
          Vector m2 = load_lanes<kLanes>(m + 8 * position_step), m3 = load_lanes<kLanes>(m + 12 * position_step);
          times_A_transposed(m0, m1, m2, m3, columns[j]);
        }
        UNROLL for (int i = 0; i < 2; ++i) {
          if (y + i >= s.out_height) continue;
          Vector row[2];
          times_A_transposed(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
          UNROLL for (int j = 0; j < 2; ++j) {
            if (x + j >= s.out_width) continue;
            nan_probe += row[j] * 0.0f;
            float* target = out + (i * s.out_width + j) * s.features + f;
            store_lanes<kLanes>(target, row[j], features - f);
            op.operands.epilogue.apply(target, first_feature + f, std::min<int64_t>(kLanes, features - f));
          }
        }
      }
    }
    // Other tasks may set the same flag.
    if (!all_finite(nan_probe, kLanes)) __atomic_store_n(op.needs_direct + image, 1, __ATOMIC_RELAXED);
  }
}

template <int kLanes, int kRows>
ALWAYS_INLINE void winograd_conv(const WinogradConv& op, int64_t index) {
  const WinogradTiles& t = op.tiles;
  int64_t block_range = index % op.block_ranges, first = index / op.block_ranges * t.band_rows;
  int64_t channels = t.shape.channels;
  TileBand band{first, std::min(t.band_rows, t.rows - first)};
  int64_t tiles = band.count * t.width;
  FloatBuffer padded(t.padded_size()), transformed(kPositions * tiles * channels);
  FloatBuffer products(kPositions * tiles * kBlockFeatures);
  transform_input<kLanes>(t, op.operands.input, band, padded.data(), transformed.data());
  int64_t last_block = op.blocks() * (block_range + 1) / op.block_ranges;
  for (int64_t block = op.blocks() * block_range / op.block_ranges; block < last_block; ++block) {
    for (int64_t i = 0; i < kPositions; ++i) {
      WindowMatrix x{.values = transformed.data() + i * tiles * channels,
                     .row_step = channels,
                     .runs = 1,
                     .run_step = 0,
                     .run_length = channels};
      const float* weights = op.weights.data() + (block * kPositions + i) * channels * kBlockFeatures;
      float* product = products.data() + i * tiles * kBlockFeatures;
      multiply_block<kLanes, kRows>(tiles, x, weights, {product, kBlockFeatures, kBlockFeatures});
    }
    transform_products<kLanes>(op, products.data(), band, block);
  }
}

DEFINE_TASK(winograd_conv, WinogradConv)

}  // namespace native_ops
