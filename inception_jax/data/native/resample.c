/* Resizing by the arithmetic of Pillow: along x, then along y, weights of 22 bits, and 8 bits between the two. */
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

/* Output i is the sum of weight[i * room + t] times input first[i] + t, over t < count[i] <= taps <= room. */
typedef struct {
    int *first, *count;
    int32_t *weight;
    int taps, room;
} Kernel;

static const double SUPPORT[] = {0.0, 0.5, 1.0, 2.0};

static double response(Filter filter, double x) {
    if (filter == AREA) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    x = fabs(x);
    if (filter == BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
    const double a = -0.5;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static void free_kernel(Kernel *kernel) {
    free(kernel->first);
    free(kernel->count);
    free(kernel->weight);
}

/* Widened by the reduction, so that no input is passed over. */
static void fill_window(Kernel *kernel, int i, int in, double scale, Filter filter, double *window) {
    double width = scale < 1.0 ? 1.0 : scale, reach = SUPPORT[filter] * width, centre = (i + 0.5) * scale, sum = 0.0;
    int first = (int)(centre - reach + 0.5), end = (int)(centre + reach + 0.5);
    first = first < 0 ? 0 : first;
    end = end > in ? in : end;
    for (int t = 0; t < end - first; t++) {
        window[t] = response(filter, (first + t - centre + 0.5) * (1.0 / width));
        sum += window[t];
    }
    kernel->first[i] = first;
    kernel->count[i] = end - first;
    for (int t = 0; t < end - first; t++) {
        double weight = (sum != 0.0 ? window[t] / sum : window[t]) * (1 << WEIGHT_BITS);
        kernel->weight[i * kernel->room + t] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

/* Returns 0 if memory ran out. */
static int make_kernel(Kernel *kernel, int in, int out, Filter filter) {
    double scale = (double)in / out, place = scale * 0.5;
    kernel->room = filter == NEAREST ? 1 : (int)ceil(SUPPORT[filter] * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    kernel->first = malloc(sizeof(int) * out);
    kernel->count = malloc(sizeof(int) * out);
    kernel->weight = calloc((size_t)out * kernel->room, sizeof(int32_t));
    double *window = malloc(sizeof(double) * kernel->room);
    int whole = kernel->first && kernel->count && kernel->weight && window;
    for (int i = 0; whole && i < out; i++, place += scale) {
        if (filter == NEAREST) {
            kernel->first[i] = (int)place < in ? (int)place : in - 1;
            kernel->count[i] = 1;
            kernel->weight[i] = 1 << WEIGHT_BITS;
        } else {
            fill_window(kernel, i, in, scale, filter, window);
        }
        if (kernel->count[i] > kernel->taps) kernel->taps = kernel->count[i];
    }
    free(window);
    return whole;
}

static void reverse(Kernel *kernel, int out) {
    for (int i = 0, j = out - 1; i < j; i++, j--) {
        int first = kernel->first[i];
        kernel->first[i] = kernel->first[j];
        kernel->first[j] = first;
        for (int t = 0; t < kernel->room; t++) {
            int32_t weight = kernel->weight[i * kernel->room + t];
            kernel->weight[i * kernel->room + t] = kernel->weight[j * kernel->room + t];
            kernel->weight[j * kernel->room + t] = weight;
        }
    }
}

/* ---- the two passes ---- */

struct Resampler {
    int width, size, row; /* row: bytes of one of the result */
    Kernel along_x, along_y;
    uint8_t *narrow, *mixed; /* all rows, as wide as the result; a row of the result */
    int32_t *wide, *sums;
};

/* The loops are plain, so that compilers turn them into vectors. */
FOR_EACH_CPU static void to_bytes(const int32_t *restrict sums, uint8_t *restrict out, int count) {
    for (int i = 0; i < count; i++) {
        int32_t value = sums[i] >> WEIGHT_BITS;
        value = value < 0 ? 0 : value; /* in two steps, which compilers know as instructions */
        out[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

FOR_EACH_CPU static void spread(const uint8_t *restrict in, int32_t *restrict out, int count) {
    for (int i = 0; i < count; i++) out[i] = in[i];
}

FOR_EACH_CPU static void weigh(const uint8_t *restrict in, int32_t *restrict sums, int32_t weight, int count) {
    for (int i = 0; i < count; i++) sums[i] = HALF + in[i] * weight;
}

FOR_EACH_CPU static void add_weighted(const uint8_t *restrict in, int32_t *restrict sums, int32_t weight, int count) {
    for (int i = 0; i < count; i++) sums[i] += in[i] * weight;
}

INLINE void resample(const int32_t *in, int32_t *sums, int size, const Kernel *kernel, int taps) {
    for (int x = 0; x < size; x++) {
        const Pixel *from = (const Pixel *)(in + PIXEL * kernel->first[x]);
        const int32_t *weight = kernel->weight + x * kernel->room;
        Pixel sum = {HALF, HALF, HALF, HALF};
        for (int t = 0; t < taps; t++) sum += from[t] * weight[t];
        *(Pixel *)(sums + PIXEL * x) = sum;
    }
}

/* Pixels of a row, 32 bits each value, to `size` sums. Behind its window a pixel weighs 0. */
FOR_EACH_CPU static void resample_row(const int32_t *restrict in, int32_t *restrict sums, int size,
                                      const Kernel *kernel) {
    if (kernel->taps == 2) resample(in, sums, size, kernel, 2); /* the usual numbers, without inner loops */
    else if (kernel->taps == 3) resample(in, sums, size, kernel, 3);
    else if (kernel->taps == 4) resample(in, sums, size, kernel, 4);
    else resample(in, sums, size, kernel, kernel->taps);
}

Resampler *open_resampler(int width, int height, int size, Filter filter, int mirror) {
    Resampler *r = calloc(1, sizeof(Resampler));
    if (!r) return NULL;
    r->width = width;
    r->size = size;
    r->row = size * PIXEL;
    if (make_kernel(&r->along_x, width, size, filter) && make_kernel(&r->along_y, height, size, filter)) {
        r->narrow = malloc((size_t)height * r->row);
        r->mixed = malloc(r->row);
        r->sums = malloc((size_t)r->row * sizeof(int32_t));
        r->wide = calloc(width + r->along_x.taps, PIXEL * sizeof(int32_t));
        if (mirror) reverse(&r->along_x, size);
        if (r->narrow && r->mixed && r->sums && r->wide) return r;
    }
    close_resampler(r);
    return NULL;
}

void close_resampler(Resampler *r) {
    free_kernel(&r->along_x);
    free_kernel(&r->along_y);
    free(r->narrow);
    free(r->mixed);
    free(r->wide);
    free(r->sums);
    free(r);
}

void narrow_row(Resampler *r, int y, const uint8_t *row) {
    spread(row, r->wide, PIXEL * r->width);
    resample_row(r->wide, r->sums, r->size, &r->along_x);
    to_bytes(r->sums, r->narrow + (size_t)y * r->row, r->size * PIXEL);
}

static void drop_padding(const uint8_t *in, uint8_t *out, int size) {
    for (int x = 0; x < size - 1; x++) memcpy(out + 3 * x, in + PIXEL * x, PIXEL); /* the next covers the padding */
    memcpy(out + 3 * (size - 1), in + PIXEL * (size - 1), 3);
}

void finish(Resampler *r, uint8_t *out) {
    const Kernel *kernel = &r->along_y;
    for (int y = 0; y < r->size; y++) {
        const uint8_t *row = r->narrow + (size_t)kernel->first[y] * r->row;
        const int32_t *weight = kernel->weight + y * kernel->room;
        weigh(row, r->sums, weight[0], r->row);
        for (int t = 1; t < kernel->count[y]; t++) add_weighted(row + (size_t)t * r->row, r->sums, weight[t], r->row);
        to_bytes(r->sums, r->mixed, r->row);
        drop_padding(r->mixed, out + (size_t)y * r->size * 3, r->size);
    }
}
