/* From coefficients to colours, by the arithmetic of libjpeg-turbo; plain loops, which compilers turn into vectors. */
#include <string.h>

#include "jpeg.h"

typedef int32_t Lanes __attribute__((vector_size(32)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));

/* ---- inverse DCT: Loeffler, Ligtenberg and Moschytz (ICASSP 1989), constants of 13 bits ---- */

/* Of 8 columns at once, from frequencies, of which the first `count` are not 0, to values; `bits` are rounded off. */
INLINE void transform(Shorts *values, int count, int bits) {
    Lanes v[8] = {{0}};
    for (int i = 0; i < count; i++) v[i] = __builtin_convertvector(values[i], Lanes);
    const int32_t half = 1 << (bits - 1);
    Lanes turned = (v[2] + v[6]) * 4433, low = turned + v[2] * 6270, high = turned - v[6] * 15137;
    Lanes sum = ((v[0] + v[4]) << 13) + half, difference = ((v[0] - v[4]) << 13) + half;
    Lanes even[4] = {sum + low, difference + high, difference - high, sum - low};
    Lanes a = v[7] + v[3], b = v[5] + v[1], both = (a + b) * 9633;
    a = both - a * 16069;
    b = both - b * 3196;
    Lanes outer = (v[7] + v[1]) * -7373, inner = (v[5] + v[3]) * -20995;
    Lanes odd[4] = {v[1] * 12299 + outer + b, v[3] * 25172 + inner + a, v[5] * 16819 + inner + b,
                    v[7] * 2446 + outer + a};
    for (int i = 0; i < 4; i++) {
        values[i] = __builtin_convertvector((even[i] + odd[i]) >> bits, Shorts);
        values[7 - i] = __builtin_convertvector((even[i] - odd[i]) >> bits, Shorts);
    }
}


/* Elements of two vectors in turn, of their lower and upper halves. After three such rounds over eight rows of eight,
   these are the columns. */
#ifdef __clang__
#define LOWER(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define UPPER(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOWER(a, b) __builtin_shuffle(a, b, (Shorts){0, 8, 1, 9, 2, 10, 3, 11})
#define UPPER(a, b) __builtin_shuffle(a, b, (Shorts){4, 12, 5, 13, 6, 14, 7, 15})
#endif

INLINE void transpose(Shorts *v) {
    Shorts mixed[8];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            mixed[2 * i] = LOWER(v[i], v[i + 4]);
            mixed[2 * i + 1] = UPPER(v[i], v[i + 4]);
        }
        memcpy(v, mixed, sizeof(mixed));
    }
}

INLINE void invert(const int16_t *block, const int16_t *steps, int count, uint8_t *out, ptrdiff_t stride) {
    Shorts v[8], step[8];
    memcpy(v, block, sizeof(v));
    memcpy(step, steps, sizeof(step));
    for (int i = 0; i < count; i++) v[i] *= step[i];
    transform(v, count, 11);
    transpose(v);
    transform(v, count, 18);
    transpose(v);
    for (int y = 0; y < 8; y++) {
        Shorts row = v[y] + 128, over = row > 255;
        row = (row & ~(row < 0) & ~over) | (over & 255);
        Bytes bytes = __builtin_convertvector(row, Bytes);
        memcpy(out + y * stride, &bytes, sizeof(bytes));
    }
}

FOR_EACH_CPU void inverse_dct(const int16_t *block, int count, const int16_t *steps, uint8_t *out, ptrdiff_t stride) {
    if (count <= 10) invert(block, steps, 4, out, stride); /* four diagonals: no more rows and columns than that */
    else invert(block, steps, 8, out, stride);
}

void fill_block(int dc, uint8_t *out, ptrdiff_t stride) {
    int value = clamp(((dc * 4 + 16) >> 5) + 128);
    for (int y = 0; y < 8; y++) memset(out + y * stride, value, 8);
}

/* ---- colours, which may be stored at half the width and height ---- */

FOR_EACH_CPU void widen(const uint8_t *restrict in, uint8_t *restrict out, int count) {
    for (int i = 0; i < count; i++) {
        out[2 * i] = (uint8_t)((3 * in[i] + in[i - 1] + 1) >> 2);
        out[2 * i + 1] = (uint8_t)((3 * in[i] + in[i + 1] + 2) >> 2);
    }
}

FOR_EACH_CPU void widen_between(const uint8_t *restrict near, const uint8_t *restrict far, uint8_t *restrict out,
                                int count) {
    for (int i = 0; i < count; i++) {
        int left = 3 * near[i - 1] + far[i - 1], here = 3 * near[i] + far[i], right = 3 * near[i + 1] + far[i + 1];
        out[2 * i] = (uint8_t)((3 * here + left + 8) >> 4);
        out[2 * i + 1] = (uint8_t)((3 * here + right + 7) >> 4);
    }
}

/* Constants of 16 bits. */
FOR_EACH_CPU void to_rgb(const uint8_t *restrict y, const uint8_t *restrict blue, const uint8_t *restrict red,
                         uint32_t *restrict out, int count) {
    for (int i = 0; i < count; i++) {
        int32_t b = blue[i] - 128, r = red[i] - 128;
        uint32_t red_byte = clamp(y[i] + ((91881 * r + 32768) >> 16));
        uint32_t green_byte = clamp(y[i] + ((-22554 * b - 46802 * r + 32768) >> 16));
        uint32_t blue_byte = clamp(y[i] + ((116130 * b + 32768) >> 16));
        out[i] = red_byte | green_byte << 8 | blue_byte << 16;
    }
}

FOR_EACH_CPU void grey_to_rgb(const uint8_t *restrict y, uint32_t *restrict out, int count) {
    for (int i = 0; i < count; i++) out[i] = y[i] * 0x010101u;
}
