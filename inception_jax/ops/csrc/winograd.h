// 3x3 convolutions of stride 1, and their gradients by the kernel, in 16 multiplications where the direct form takes
// 36: F(2x2, 3x3) of arXiv 1509.09308. A tile of 4x4 values gives 2x2 outputs; transformed, tiles are 16 products.
//
// Sums of values of a tile make NaN of one infinity in all four outputs, and of large values infinities. What is not
// finite in the end is noticed, for the direct form to compute it again; what is finite never was infinite in between.
#pragma once

#include "tiles.h"

namespace kernels {

constexpr int64_t kTiles = 56;           // that a task transforms at a time: four times the rows of the widest `Tile`
constexpr int64_t kTilesOfPart = 1024;   // that are summed before the parts of a gradient are added up
constexpr int64_t kFewestTiles = 128;    // fewer are not worth the transformation of the kernel
constexpr int64_t kFewestChannels = 16;  // and features: a vector of AVX-512

// The rows of tiles of all images, one after the other.
struct Tiling {
  Shape shape;
  int64_t width, height, rows, rows_at_once;

  explicit Tiling(const Shape& s)
      : shape(s),
        width(ceil_div(s.out_width, 2)),
        height(ceil_div(s.out_height, 2)),
        rows(s.batch * height),
        rows_at_once(std::clamp<int64_t>(kTiles / width, 1, rows)) {}
  int64_t padded_width() const { return 2 * width + 2; }
  int64_t size() const { return rows_at_once * width; }  // tiles at once
};

inline bool suits_winograd(const Shape& s) {
  int64_t tiles = s.batch * ceil_div(s.out_width, 2) * ceil_div(s.out_height, 2);
  return s.kernel_height == 3 && s.kernel_width == 3 && s.stride == 1 && tiles >= kFewestTiles &&
         s.channels >= kFewestChannels && s.features >= kFewestChannels;
}

// Transforms rows of tiles of the maps to [16, count * width, C]; `copied` holds 4 rows with borders.
template <int W>
INLINE void transform_maps(const Tiling& t, const Maps& maps, int64_t first, int64_t count, float* copied, float* out) {
  using Vector = typename VectorOf<W>::type;
  const Shape& s = t.shape;
  int64_t plane = count * t.width * s.channels, line = t.padded_width() * s.channels;
  for (int64_t r = 0; r < count; ++r) {
    int64_t image = (first + r) / t.height, row = (first + r) % t.height;
    copy_rows(s, maps, image, 2 * row - s.top, 4, t.padded_width(), copied);
    for (int64_t x = 0; x < t.width; ++x) {
      float* target = out + (r * t.width + x) * s.channels;
      for (int64_t begin = 0; begin < s.channels; begin += W) {
        int64_t c = std::min(begin, s.channels - W);  // the last vector may overlap the one before it
        const float* tile = copied + 2 * x * s.channels + c;
        Vector rows[4][4];
        UNROLL for (int j = 0; j < 4; ++j) {
          const float* column = tile + j * s.channels;
          Vector a = as_vector<W>(column), b = as_vector<W>(column + line), d = as_vector<W>(column + 3 * line);
          Vector e = as_vector<W>(column + 2 * line);
          rows[0][j] = a - e, rows[1][j] = b + e, rows[2][j] = e - b, rows[3][j] = b - d;
        }
        UNROLL for (int i = 0; i < 4; ++i) {
          float* at = target + i * 4 * plane + c;
          as_vector<W>(at) = rows[i][0] - rows[i][2];
          as_vector<W>(at + plane) = rows[i][1] + rows[i][2];
          as_vector<W>(at + 2 * plane) = rows[i][2] - rows[i][1];
          as_vector<W>(at + 3 * plane) = rows[i][1] - rows[i][3];
        }
      }
    }
  }
}

struct Winograd {
  Tiling tiling;
  Maps maps;
  const float* kernel;
  Finish finish;
  float* out;
  uint8_t* infinite;  // [batch], zeros; set for images whose output is not finite everywhere
  int64_t shares;     // of the blocks of features
  Buffer weights;     // [blocks, 16, C, kBlock]

  Winograd(const Shape& s, const Maps& maps, const float* kernel, const Finish& finish, float* out, uint8_t* infinite)
      : tiling(s),
        maps(maps),
        kernel(kernel),
        finish(finish),
        out(out),
        infinite(infinite),
        weights(blocks() * 16 * s.channels * kBlock) {
    shares = std::min(blocks(), ceil_div(8, steps()));
  }
  int64_t blocks() const { return ceil_div(tiling.shape.features, kBlock); }
  int64_t steps() const { return ceil_div(tiling.rows, tiling.rows_at_once); }
  int64_t tasks() const { return steps() * shares; }

  // Transforms the kernel of a block of features.
  INLINE void pack(int64_t block) const {
    const Shape& s = tiling.shape;
    int64_t seen = std::min(kBlock, s.features - block * kBlock), tap = s.channels * s.features;
    for (int64_t c = 0; c < s.channels; ++c) {
      float rows[4][3][kBlock] = {};
      for (int j = 0; j < 3; ++j) {
        const float* k = kernel + j * tap + c * s.features + block * kBlock;
        for (int64_t f = 0; f < seen; ++f) {
          float sum = k[f] + k[6 * tap + f], middle = k[3 * tap + f];
          rows[0][j][f] = k[f], rows[1][j][f] = (sum + middle) / 2;
          rows[2][j][f] = (sum - middle) / 2, rows[3][j][f] = k[6 * tap + f];
        }
      }
      for (int i = 0; i < 4; ++i) {
        float* at = weights.data() + ((block * 16 + i * 4) * s.channels + c) * kBlock;
        int64_t plane = s.channels * kBlock;
        for (int64_t f = 0; f < kBlock; ++f) {
          float sum = rows[i][0][f] + rows[i][2][f], middle = rows[i][1][f];
          at[f] = rows[i][0][f], at[plane + f] = (sum + middle) / 2;
          at[2 * plane + f] = (sum - middle) / 2, at[3 * plane + f] = rows[i][2][f];
        }
      }
    }
  }
};

template <int W, int P>
INLINE void pack_winograd(const Winograd& job, int64_t block) {
  job.pack(block);
}

FORMS(pack_winograd, Winograd)

// Turns products [16, tiles, kBlock] into the outputs of rows of tiles.
template <int W>
INLINE void transform_products(const Winograd& job, const float* products, int64_t first, int64_t count,
                               int64_t block) {
  using Vector = typename VectorOf<W>::type;
  const Tiling& t = job.tiling;
  const Shape& s = t.shape;
  int64_t plane = count * t.width * kBlock, seen = std::min(kBlock, s.features - block * kBlock);
  for (int64_t r = 0; r < count; ++r) {
    int64_t image = (first + r) / t.height, y = 2 * ((first + r) % t.height);
    Vector zeros = {};
    for (int64_t x = 0; x < s.out_width; x += 2) {
      const float* tile = products + (r * t.width + x / 2) * kBlock;
      float* out = job.out + ((image * s.out_height + y) * s.out_width + x) * s.features + block * kBlock;
      for (int64_t f = 0; f < seen; f += W) {
        Vector rows[2][4];
        UNROLL for (int j = 0; j < 4; ++j) {
          const float* at = tile + j * plane + f;
          Vector a = as_vector<W>(at), b = as_vector<W>(at + 4 * plane), c = as_vector<W>(at + 8 * plane);
          rows[0][j] = a + b + c, rows[1][j] = b - c - as_vector<W>(at + 12 * plane);
        }
        UNROLL for (int i = 0; i < 2; ++i) {
          if (y + i >= s.out_height) continue;
          Vector pair[2] = {rows[i][0] + rows[i][1] + rows[i][2], rows[i][1] - rows[i][2] - rows[i][3]};
          UNROLL for (int j = 0; j < 2; ++j) {
            if (x + j >= s.out_width) continue;
            zeros += pair[j] * 0.0f;
            float* target = out + (i * s.out_width + j) * s.features + f;
            if (seen - f >= W) {
              as_vector<W>(target) = pair[j];
            } else {
              std::memcpy(target, &pair[j], (seen - f) * sizeof(float));
            }
            job.finish.apply(target, block * kBlock + f, std::min<int64_t>(W, seen - f));
          }
        }
      }
    }
    if (!are_zeros(zeros, W)) __atomic_store_n(job.infinite + image, 1, __ATOMIC_RELAXED);  // other tasks may, too
  }
}

template <int W, int P>
INLINE void winograd(const Winograd& job, int64_t task) {
  const Tiling& t = job.tiling;
  int64_t share = task % job.shares, first = task / job.shares * t.rows_at_once, channels = t.shape.channels;
  int64_t count = std::min(t.rows_at_once, t.rows - first), tiles = count * t.width;
  Buffer copied(4 * t.padded_width() * channels), transformed(16 * tiles * channels), products(16 * tiles * kBlock);
  transform_maps<W>(t, job.maps, first, count, copied.data(), transformed.data());
  for (int64_t block = job.blocks() * share / job.shares; block < job.blocks() * (share + 1) / job.shares; ++block) {
    for (int64_t i = 0; i < 16; ++i) {
      multiply_block<W, P>(tiles, transformed.data() + i * tiles * channels, channels, 0, 1, channels,
                           job.weights.data() + (block * 16 + i) * channels * kBlock,
                           products.data() + i * tiles * kBlock, kBlock, kBlock);
    }
    transform_products<W>(job, products.data(), first, count, block);
  }
}

FORMS(winograd, Winograd)

struct WinogradGradient {
  Tiling tiling;
  Maps maps;
  const float* grads;
  int64_t parts, chunks;  // parts of the rows of tiles, chunks of the features
  Buffer sums;            // [parts, chunks, 16, C, kChunk]

  WinogradGradient(const Shape& s, const Maps& maps, const float* grads)
      : tiling(s),
        maps(maps),
        grads(grads),
        parts(std::clamp<int64_t>(tiling.rows * tiling.width / kTilesOfPart, 1, 16)),
        chunks(ceil_div(s.features, kChunk)),
        sums(parts * chunks * values() * kChunk) {}
  int64_t values() const { return 16 * tiling.shape.channels; }
  int64_t tasks() const { return parts * chunks; }

  // Writes the sum of the parts of a chunk, transformed back to 3x3. Returns whether all of it is finite.
  bool add_up(float* out, int64_t chunk) const {
    float zeros[kChunk] = {};
    const Shape& s = tiling.shape;
    int64_t seen = std::min(kChunk, s.features - chunk * kChunk), tap = s.channels * s.features;
    for (int64_t c = 0; c < s.channels; ++c) {
      float total[4][4][kChunk] = {};
      for (int64_t part = 0; part < parts; ++part) {
        const float* from = sums.data() + ((part * chunks + chunk) * values() + c) * kChunk;
        for (int i = 0; i < 16; ++i)
          for (int64_t f = 0; f < kChunk; ++f) total[i / 4][i % 4][f] += from[i * s.channels * kChunk + f];
      }
      float* at = out + c * s.features + chunk * kChunk;
      for (int64_t f = 0; f < seen; ++f) {
        float rows[3][4];
        for (int j = 0; j < 4; ++j) {
          float sum = (total[1][j][f] + total[2][j][f]) / 2, difference = (total[1][j][f] - total[2][j][f]) / 2;
          rows[0][j] = total[0][j][f] + sum, rows[1][j] = difference, rows[2][j] = sum + total[3][j][f];
        }
        for (int i = 0; i < 3; ++i) {
          float sum = (rows[i][1] + rows[i][2]) / 2, difference = (rows[i][1] - rows[i][2]) / 2;
          at[3 * i * tap + f] = rows[i][0] + sum, at[(3 * i + 1) * tap + f] = difference;
          at[(3 * i + 2) * tap + f] = sum + rows[i][3];
          for (int j = 0; j < 3; ++j) zeros[f] += at[(3 * i + j) * tap + f] * 0.0f;
        }
      }
    }
    return are_zeros(zeros, kChunk);
  }
};

// Transforms a chunk of gradients of rows of tiles to [16, count * width, kChunk].
template <int W>
INLINE void transform_grads(const WinogradGradient& job, int64_t first, int64_t count, int64_t chunk, float* out) {
  using Vector = typename VectorOf<W>::type;
  const Tiling& t = job.tiling;
  const Shape& s = t.shape;
  int64_t plane = count * t.width * kChunk, seen = std::min(kChunk, s.features - chunk * kChunk);
  for (int64_t r = 0; r < count; ++r) {
    int64_t image = (first + r) / t.height, y = 2 * ((first + r) % t.height);
    for (int64_t x = 0; x < s.out_width; x += 2) {
      const float* grads = job.grads + ((image * s.out_height + y) * s.out_width + x) * s.features + chunk * kChunk;
      float* target = out + (r * t.width + x / 2) * kChunk;
      for (int64_t f = 0; f < seen; f += W) {
        Vector g[2][2] = {};
        UNROLL for (int i = 0; i < 2; ++i) {
          UNROLL for (int j = 0; j < 2; ++j) {
            if (y + i >= s.out_height || x + j >= s.out_width) continue;
            const float* from = grads + (i * s.out_width + j) * s.features + f;
            if (seen - f >= W) {
              g[i][j] = as_vector<W>(from);
            } else {
              std::memcpy(&g[i][j], from, (seen - f) * sizeof(float));
            }
          }
        }
        Vector rows[4][2];
        UNROLL for (int j = 0; j < 2; ++j) {
          rows[0][j] = g[0][j], rows[1][j] = g[0][j] + g[1][j], rows[2][j] = g[0][j] - g[1][j], rows[3][j] = -g[1][j];
        }
        UNROLL for (int i = 0; i < 4; ++i) {
          float* at = target + i * 4 * plane + f;
          as_vector<W>(at) = rows[i][0];
          as_vector<W>(at + plane) = rows[i][0] + rows[i][1];
          as_vector<W>(at + 2 * plane) = rows[i][0] - rows[i][1];
          as_vector<W>(at + 3 * plane) = -rows[i][1];
        }
      }
    }
  }
}

template <int W, int P>
INLINE void winograd_gradient(const WinogradGradient& job, int64_t task) {
  const Tiling& t = job.tiling;
  int64_t chunk = task % job.chunks, part = task / job.chunks, channels = t.shape.channels;
  float* sums = job.sums.data() + task * job.values() * kChunk;
  std::fill_n(sums, job.values() * kChunk, 0.0f);
  Buffer copied(4 * t.padded_width() * channels), maps(16 * t.size() * channels), grads(16 * t.size() * kChunk);
  std::fill_n(grads.data(), 16 * t.size() * kChunk, 0.0f);
  int64_t last = t.rows * (part + 1) / job.parts;
  for (int64_t first = t.rows * part / job.parts; first < last; first += t.rows_at_once) {
    int64_t count = std::min(t.rows_at_once, last - first), tiles = count * t.width;
    transform_maps<W>(t, job.maps, first, count, copied.data(), maps.data());
    transform_grads<W>(job, first, count, chunk, grads.data());
    for (int64_t i = 0; i < 16; ++i) {
      accumulate_chunk<W, P>(channels, maps.data() + i * tiles * channels, channels, 0, 1, tiles,
                             grads.data() + i * tiles * kChunk, sums + i * channels * kChunk,
                             std::min(kChunk, t.shape.features - chunk * kChunk));
    }
  }
}

FORMS(winograd_gradient, WinogradGradient)

}  // namespace kernels
