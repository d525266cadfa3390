/* Resizes by the arithmetic of Pillow: first along x, then along y, with weights of 22 bits, and 8 bits in between.

   Output i of a pass is a weighted sum of inputs. The filters, of x in inputs from the centre of the output:

     nearest   the input at the centre
     area      1 for -1/2 < x <= 1/2
     bilinear  1 - |x| for |x| < 1
     bicubic   Keys' cubic with a = -1/2, for |x| < 2

   In a reduction the filter is as many times wider as the output is smaller. Weights are divided by their sum.
*/
#include "resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

enum { WEIGHT_BITS = 22, HALF = 1 << (WEIGHT_BITS - 1), PIXEL = 4 };
typedef int32_t Pixel __attribute__((vector_size(16), aligned(4))); /* red, green, blue and padding */

/* ---- weights ---- */

/* Output i is the sum of weight[i * stride + t] times input first[i] + t, over t < count[i] <= taps <= stride. */
typedef struct {
    int *first, *count;
    int32_t *weight;
    int taps, stride;
} Weights;

static const double SUPPORT[] = {0.0, 0.5, 1.0, 2.0};

static double response(Filter filter, double x) {
    if (filter == AREA) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    x = fabs(x);
    if (filter == BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
    const double a = -0.5;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static void free_weights(Weights *weights) {
    free(weights->first);
    free(weights->count);
    free(weights->weight);
}

/* Fills in the weights of output i. `window` is scratch. */
static void fill_weights(Weights *weights, int i, int in, double scale, Filter filter, double *window) {
    double width = scale < 1.0 ? 1.0 : scale, reach = SUPPORT[filter] * width, centre = (i + 0.5) * scale, sum = 0.0;
    int first = (int)(centre - reach + 0.5), end = (int)(centre + reach + 0.5);
    first = first < 0 ? 0 : first;
    end = end > in ? in : end;
    for (int t = 0; t < end - first; t++) {
        window[t] = response(filter, (first + t - centre + 0.5) * (1.0 / width));
        sum += window[t];
    }
    weights->first[i] = first;
    weights->count[i] = end - first;
    for (int t = 0; t < end - first; t++) {
        double weight = (sum != 0.0 ? window[t] / sum : window[t]) * (1 << WEIGHT_BITS);
        weights->weight[i * weights->stride + t] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

/* Returns 0 if memory ran out. */
static int make_weights(Weights *weights, int in, int out, Filter filter) {
    double scale = (double)in / out, centre = scale * 0.5;
    weights->stride = filter == NEAREST ? 1 : (int)ceil(SUPPORT[filter] * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    weights->first = malloc(sizeof(int) * out);
    weights->count = malloc(sizeof(int) * out);
    weights->weight = calloc((size_t)out * weights->stride, sizeof(int32_t));
    double *window = malloc(sizeof(double) * weights->stride);
    int ok = weights->first && weights->count && weights->weight && window;
    for (int i = 0; ok && i < out; i++, centre += scale) {
        if (filter == NEAREST) {
            weights->first[i] = (int)centre < in ? (int)centre : in - 1;
            weights->count[i] = 1;
            weights->weight[i] = 1 << WEIGHT_BITS;
        } else {
            fill_weights(weights, i, in, scale, filter, window);
        }
        if (weights->count[i] > weights->taps) weights->taps = weights->count[i];
    }
    free(window);
    return ok;
}

static void reverse(Weights *weights, int out) {
    for (int i = 0, j = out - 1; i < j; i++, j--) {
        int first = weights->first[i];
        weights->first[i] = weights->first[j];
        weights->first[j] = first;
        for (int t = 0; t < weights->stride; t++) {
            int32_t weight = weights->weight[i * weights->stride + t];
            weights->weight[i * weights->stride + t] = weights->weight[j * weights->stride + t];
            weights->weight[j * weights->stride + t] = weight;
        }
    }
}

/* ---- the two passes ---- */

struct Resampler {
    int width, size, row; /* row: bytes of a row of the result */
    Weights along_x, along_y;
    uint8_t *rows, *out_row; /* all input rows, resized along x; a row of the result */
    int32_t *in_row, *sums;
};

/* These loops are simple enough for compilers to vectorise. */
FOR_EACH_CPU static void to_bytes(const int32_t *restrict sums, uint8_t *restrict out, int count) {
    for (int i = 0; i < count; i++) {
        int32_t value = sums[i] >> WEIGHT_BITS;
        value = value < 0 ? 0 : value; /* in two steps, for which there are vector instructions */
        out[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

FOR_EACH_CPU static void widen(const uint8_t *restrict in, int32_t *restrict out, int count) {
    for (int i = 0; i < count; i++) out[i] = in[i];
}

FOR_EACH_CPU static void set_weighted(const uint8_t *restrict in, int32_t *restrict sums, int32_t weight, int count) {
    for (int i = 0; i < count; i++) sums[i] = HALF + in[i] * weight;
}

FOR_EACH_CPU static void add_weighted(const uint8_t *restrict in, int32_t *restrict sums, int32_t weight, int count) {
    for (int i = 0; i < count; i++) sums[i] += in[i] * weight;
}

INLINE void resample(const int32_t *in, int32_t *sums, int size, const Weights *weights, int taps) {
    for (int x = 0; x < size; x++) {
        const Pixel *from = (const Pixel *)(in + PIXEL * weights->first[x]);
        const int32_t *weight = weights->weight + x * weights->stride;
        Pixel sum = {HALF, HALF, HALF, HALF};
        for (int t = 0; t < taps; t++) sum += from[t] * weight[t];
        *(Pixel *)(sums + PIXEL * x) = sum;
    }
}

/* Resizes a row, of 32 bits a value, to `size` sums. All taps are added: those after the last weight have weight 0. */
FOR_EACH_CPU static void resample_row(const int32_t *restrict in, int32_t *restrict sums, int size,
                                      const Weights *weights) {
    if (weights->taps == 2) resample(in, sums, size, weights, 2); /* the usual numbers, with unrolled inner loops */
    else if (weights->taps == 3) resample(in, sums, size, weights, 3);
    else if (weights->taps == 4) resample(in, sums, size, weights, 4);
    else resample(in, sums, size, weights, weights->taps);
}

Resampler *open_resampler(int width, int height, int size, Filter filter, int mirror) {
    Resampler *r = calloc(1, sizeof(Resampler));
    if (!r) return NULL;
    r->width = width;
    r->size = size;
    r->row = size * PIXEL;
    if (make_weights(&r->along_x, width, size, filter) && make_weights(&r->along_y, height, size, filter)) {
        r->rows = malloc((size_t)height * r->row);
        r->out_row = malloc(r->row);
        r->sums = malloc((size_t)r->row * sizeof(int32_t));
        r->in_row = calloc(width + r->along_x.taps, PIXEL * sizeof(int32_t));
        if (mirror) reverse(&r->along_x, size);
        if (r->rows && r->out_row && r->sums && r->in_row) return r;
    }
    close_resampler(r);
    return NULL;
}

void close_resampler(Resampler *r) {
    free_weights(&r->along_x);
    free_weights(&r->along_y);
    free(r->rows);
    free(r->out_row);
    free(r->in_row);
    free(r->sums);
    free(r);
}

void add_row(Resampler *r, int y, const uint8_t *row) {
    widen(row, r->in_row, PIXEL * r->width);
    resample_row(r->in_row, r->sums, r->size, &r->along_x);
    to_bytes(r->sums, r->rows + (size_t)y * r->row, r->size * PIXEL);
}

static void copy_without_padding(const uint8_t *in, uint8_t *out, int size) {
    for (int x = 0; x < size - 1; x++) memcpy(out + 3 * x, in + PIXEL * x, PIXEL); /* the next overwrites the padding */
    memcpy(out + 3 * (size - 1), in + PIXEL * (size - 1), 3);
}

void finish_image(Resampler *r, uint8_t *out) {
    const Weights *weights = &r->along_y;
    for (int y = 0; y < r->size; y++) {
        const uint8_t *row = r->rows + (size_t)weights->first[y] * r->row;
        const int32_t *weight = weights->weight + y * weights->stride;
        set_weighted(row, r->sums, weight[0], r->row);
        for (int t = 1; t < weights->count[y]; t++) add_weighted(row + (size_t)t * r->row, r->sums, weight[t], r->row);
        to_bytes(r->sums, r->out_row, r->row);
        copy_without_padding(r->out_row, out + (size_t)y * r->size * 3, r->size);
    }
}
