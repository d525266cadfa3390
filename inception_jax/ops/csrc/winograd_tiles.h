// Winograd's algorithm for 3x3 convolutions of stride 1: its matrices, its tiles, and the transform of the input.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section 4.1: F(2x2, 3x3). The
// 4x4 input values d that 2x2 outputs Y depend on, and the 3x3 kernel g, give
//
//     Y = A^T [ (G g G^T) * (B^T d B) ] A         * is elementwise: 16 products instead of 2 x 2 x 9 = 36
//
//           | 1   0  -1   0 |           |  1    0    0  |
//     B^T = | 0   1   1   0 |       G = | 1/2  1/2  1/2 |       A^T = | 1   1   1   0 |
//           | 0  -1   1   0 |           | 1/2 -1/2  1/2 |             | 0   1  -1  -1 |
//           | 0   1   0  -1 |           |  0    0    1  |
//
//     input transform               kernel transform            output transform
//
// The output transform is linear, so the sum over input channels is taken before it. Then each of the 16 positions of
// a transformed tile is a matrix product, [tiles, channels] x [channels, features], which register tiles compute.
//
// Tiles start every 2 pixels and overlap by 2. A row of five pixels, with one pixel of padding on either side, gives
// five outputs:
//
//     padded input   0  a  b  c  d  e  0  .       out_width = 5 takes 3 tiles; the last reads beyond the padding
//     tile 0         |--------|
//     tile 1               |--------|
//     tile 2                     |--------|
//     outputs        0  1  2  3  4  -             the second output of tile 2 is not stored
//
// The kernel gradient. Y is linear in g, so the gradient dg is the transpose of that map, applied to dY: each factor
// transposed, in reverse order.
//
//     dg = G^T [ sum over all tiles of (A dY A^T) * (B^T d B) ] G
//
// The sum over tiles is taken before G^T, so each of the 16 positions is again a matrix product,
// [channels, tiles] x [tiles, features].
//
// The gradient with respect to the input is a convolution (see direct_conv.h), so it takes this algorithm as well.
//
// Values that are not finite. B^T d B adds up values of a tile. One infinity makes all four outputs NaN, and values
// near the largest float32 overflow. So each task checks that what it wrote is finite; if not, the direct algorithm
// computes it again. No check of the input is needed: a sum that was infinite or NaN once never becomes finite.
#pragma once

#include "padded_input.h"
#include "register_tile.h"

namespace native_ops {

constexpr int kPositions = 16;           // of a transformed tile
constexpr int64_t kBandTiles = 56;       // at most, unless one row has more: 4x the rows of the largest register tile
constexpr int64_t kFewestTiles = 128;    // fewer are not worth the kernel transform
constexpr int64_t kFewestChannels = 16;  // of the input and of the output: a vector of AVX-512

inline bool suits_winograd(const ConvShape& s) {
  int64_t tiles = s.batch * ceil_div(s.out_width, 2) * ceil_div(s.out_height, 2);
  return s.kernel_height == 3 && s.kernel_width == 3 && s.stride == 1 && tiles >= kFewestTiles &&
         s.channels >= kFewestChannels && s.features >= kFewestChannels;
}

// times_M computes M v, for the matrices above and a column v of values: floats or vectors.
template <typename T>
ALWAYS_INLINE void times_B_transposed(const T& d0, const T& d1, const T& d2, const T& d3, T (&out)[4]) {
  out[0] = d0 - d2, out[1] = d1 + d2, out[2] = d2 - d1, out[3] = d1 - d3;
}

template <typename T>
ALWAYS_INLINE void times_G(const T& g0, const T& g1, const T& g2, T (&out)[4]) {
  T sum = g0 + g2;
  out[0] = g0, out[1] = (sum + g1) / 2, out[2] = (sum - g1) / 2, out[3] = g2;
}

template <typename T>
ALWAYS_INLINE void times_A_transposed(const T& m0, const T& m1, const T& m2, const T& m3, T (&out)[2]) {
  out[0] = m0 + m1 + m2, out[1] = m1 - m2 - m3;
}

template <typename T>
ALWAYS_INLINE void times_A(const T& y0, const T& y1, T (&out)[4]) {
  out[0] = y0, out[1] = y0 + y1, out[2] = y0 - y1, out[3] = -y1;
}

template <typename T>
ALWAYS_INLINE void times_G_transposed(const T& m0, const T& m1, const T& m2, const T& m3, T (&out)[3]) {
  T sum = (m1 + m2) / 2;
  out[0] = m0 + sum, out[1] = (m1 - m2) / 2, out[2] = sum + m3;
}

// Whether all values that went into nan_probe [count] are finite. It holds sums of value * 0: a finite value adds 0,
// any other makes the sum NaN.
template <typename Sums>
ALWAYS_INLINE bool all_finite(const Sums& nan_probe, int64_t count) {
  bool all = true;
  for (int64_t i = 0; i < count; ++i) all &= nan_probe[i] == 0;
  return all;
}

// The tiles of a batch. Rows of tiles are numbered through all images. A band is a few whole rows of tiles that are
// transformed at once.
struct WinogradTiles {
  ConvShape shape;
  int64_t width, height;    // tiles of an image
  int64_t rows, band_rows;  // of tiles: in the batch, and in a band

  explicit WinogradTiles(const ConvShape& s)
      : shape(s),
        width(ceil_div(s.out_width, 2)),
        height(ceil_div(s.out_height, 2)),
        rows(s.batch * height),
        band_rows(std::clamp<int64_t>(kBandTiles / width, 1, rows)) {}
  int64_t padded_width() const { return 2 * width + 2; }  // pixels
  int64_t padded_size() const { return 4 * padded_width() * shape.channels; }  // values of the input of a row of tiles
  int64_t band_tiles() const { return band_rows * width; }
};

struct TileBand {
  int64_t first, count;  // rows of tiles
};

// Computes B^T d B of a band of tiles, to [kPositions, count * width, channels]. `padded` is scratch of padded_size().
// Needs channels >= kLanes, which suits_winograd ensures, because kFewestChannels >= kLanes.
template <int kLanes>
ALWAYS_INLINE void transform_input(const WinogradTiles& t, const Input& input, const TileBand& band, float* padded,
                                   float* out) {
  static_assert(kLanes <= kFewestChannels, "a pixel must hold at least one vector");
  using Vector = typename VectorOf<kLanes>::type;
  const ConvShape& s = t.shape;
  int64_t position_step = band.count * t.width * s.channels, row_size = t.padded_width() * s.channels;
  for (int64_t r = 0; r < band.count; ++r) {
    int64_t image = (band.first + r) / t.height, y = 2 * ((band.first + r) % t.height);
    RowRange range{.image = image, .first = y - s.pad_top, .count = 4, .padded_width = t.padded_width()};
    copy_padded_rows(s, input, range, padded);
    for (int64_t x = 0; x < t.width; ++x) {
      float* tile = out + (r * t.width + x) * s.channels;
      for (int64_t begin = 0; begin < s.channels; begin += kLanes) {
        int64_t c = std::min(begin, s.channels - kLanes);  // the last vector may overlap the one before it
        const float* d = padded + 2 * x * s.channels + c;
        Vector columns[4][4];  // column j of B^T d
        UNROLL for (int j = 0; j < 4; ++j) {
          const float* column = d + j * s.channels;
          Vector d0 = load_lanes<kLanes>(column), d1 = load_lanes<kLanes>(column + row_size);
          Vector d2 = load_lanes<kLanes>(column + 2 * row_size), d3 = load_lanes<kLanes>(column + 3 * row_size);
          times_B_transposed(d0, d1, d2, d3, columns[j]);
        }
        UNROLL for (int i = 0; i < 4; ++i) {
          Vector row[4];
          times_B_transposed(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
          UNROLL for (int j = 0; j < 4; ++j) store_lanes<kLanes>(tile + (i * 4 + j) * position_step + c, row[j]);
        }
      }
    }
  }
}

}  // namespace native_ops
