/* Part of a JPEG, decoded and resized: the same bytes as decoding the whole with Pillow, cropping and resizing.

   libjpeg-turbo decodes the rows and columns of the part alone. Each row is resampled along x as it comes, the rows
   along y at the end, by the arithmetic of Pillow: weights of 22 bits, and 8 bits between the two passes.

   What this does not do it declines by returning None, for Pillow to judge: no JPEG of 8 bits, CMYK, damaged data.
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#ifndef JCS_EXTENSIONS
#error "needs libjpeg-turbo"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum { WEIGHT_BITS = 22, HALF = 1 << (WEIGHT_BITS - 1), PIXEL = 4 };
typedef int32_t Pixel __attribute__((vector_size(16), aligned(4))); /* red, green, blue and padding */

/* ---- weights ---- */

/* Output i is the sum of weight[i * taps + t] times input first[i] + t, over t < count[i]. */
typedef struct {
    int *first, *count;
    int32_t *weight;
    int taps;
} Kernel;

typedef enum { NEAREST, AREA, BILINEAR, BICUBIC } Filter;
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
        kernel->weight[i * kernel->taps + t] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

/* Returns 0 if memory ran out. */
static int make_kernel(Kernel *kernel, int in, int out, Filter filter) {
    double scale = (double)in / out, place = scale * 0.5;
    kernel->taps = filter == NEAREST ? 1 : (int)ceil(SUPPORT[filter] * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    kernel->first = malloc(sizeof(int) * out);
    kernel->count = malloc(sizeof(int) * out);
    kernel->weight = calloc((size_t)out * kernel->taps, sizeof(int32_t));
    double *window = malloc(sizeof(double) * kernel->taps);
    int whole = kernel->first && kernel->count && kernel->weight && window;
    for (int i = 0; whole && i < out; i++, place += scale) {
        if (filter == NEAREST) {
            kernel->first[i] = (int)place < in ? (int)place : in - 1;
            kernel->count[i] = 1;
            kernel->weight[i] = 1 << WEIGHT_BITS;
        } else {
            fill_window(kernel, i, in, scale, filter, window);
        }
    }
    free(window);
    return whole;
}

/* ---- the two passes ---- */

/* The loops are plain, so that compilers turn them into vectors. */
FOR_EACH_CPU static void to_bytes(const int32_t *restrict sums, uint8_t *restrict out, int count) {
    for (int i = 0; i < count; i++) {
        int32_t value = sums[i] >> WEIGHT_BITS;
        value = value < 0 ? 0 : value;
        out[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

FOR_EACH_CPU static void widen(const uint8_t *restrict in, int32_t *restrict out, int count) {
    for (int i = 0; i < count; i++) out[i] = in[i];
}

FOR_EACH_CPU static void add_weighted(const uint8_t *restrict in, int32_t *restrict sums, int32_t weight, int count) {
    for (int i = 0; i < count; i++) sums[i] += in[i] * weight;
}

/* Pixels of a row, widened, to `size` sums. */
FOR_EACH_CPU static void resample_row(const int32_t *restrict in, int32_t *restrict sums, int size,
                                      const Kernel *kernel) {
    for (int x = 0; x < size; x++) {
        const Pixel *from = (const Pixel *)(in + PIXEL * kernel->first[x]);
        const int32_t *weight = kernel->weight + x * kernel->taps;
        Pixel sum = {HALF, HALF, HALF, HALF};
        for (int t = 0; t < kernel->count[x]; t++) sum += from[t] * weight[t];
        *(Pixel *)(sums + PIXEL * x) = sum;
    }
}

static void drop_padding(const uint8_t *in, uint8_t *out, int size) {
    for (int x = 0; x < size - 1; x++) memcpy(out + 3 * x, in + PIXEL * x, PIXEL); /* the next covers the padding */
    memcpy(out + 3 * (size - 1), in + PIXEL * (size - 1), 3);
}

/* ---- decoding ---- */

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf escape;
} Trap;

static void leave(j_common_ptr decoder) { longjmp(((Trap *)decoder->err)->escape, 1); }

static void note(j_common_ptr decoder, int level) {
    if (level < 0) leave(decoder); /* a warning: the data are damaged */
}

static void open_decoder(struct jpeg_decompress_struct *decoder, Trap *trap) {
    decoder->err = jpeg_std_error(&trap->manager);
    trap->manager.error_exit = leave;
    trap->manager.emit_message = note;
}

static void read_header(struct jpeg_decompress_struct *decoder, const Py_buffer *data) {
    jpeg_create_decompress(decoder);
    jpeg_mem_src(decoder, (unsigned char *)data->buf, (unsigned long)data->len);
    jpeg_read_header(decoder, TRUE);
}

typedef struct {
    int left, top, right, bottom;
} Box;

/* Everything that must be freed, whichever way the decoder is left. */
typedef struct {
    struct jpeg_decompress_struct decoder;
    Trap trap;
    Kernel along_x, along_y;
    uint8_t *row, *narrow, *mixed; /* a row as decoded; all rows, as wide as the result; a row of the result */
    int32_t *wide, *sums;
} Work;

/* Decodes the box and resamples its rows along x, into work->narrow. */
static void decode_rows(Work *work, const Py_buffer *data, Box box, int size) {
    struct jpeg_decompress_struct *decoder = &work->decoder;
    read_header(decoder, data);
    J_COLOR_SPACE space = decoder->jpeg_color_space;
    if (space != JCS_YCbCr && space != JCS_GRAYSCALE && space != JCS_RGB) leave((j_common_ptr)decoder);
    if (box.right > (int)decoder->image_width || box.bottom > (int)decoder->image_height) leave((j_common_ptr)decoder);
    decoder->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(decoder);
    /* Colours are interpolated between neighbours, so the outermost columns decoded are not right. */
    JDIMENSION margin = decoder->max_h_samp_factor, right = box.right + margin;
    JDIMENSION first = (JDIMENSION)box.left > margin ? box.left - margin : 0;
    JDIMENSION width = (right < decoder->output_width ? right : decoder->output_width) - first;
    jpeg_crop_scanline(decoder, &first, &width);
    work->row = malloc((size_t)decoder->output_width * PIXEL + PIXEL);
    work->wide = malloc((size_t)decoder->output_width * PIXEL * sizeof(int32_t));
    if (!work->row || !work->wide) leave((j_common_ptr)decoder);
    uint8_t *row = work->row + PIXEL; /* an aligned row would be written past the cache, and is read next */
    if (box.top) jpeg_skip_scanlines(decoder, box.top);
    for (int y = 0; y < box.bottom - box.top; y++) {
        jpeg_read_scanlines(decoder, &row, 1);
        widen(row + (size_t)PIXEL * (box.left - first), work->wide, PIXEL * (box.right - box.left));
        resample_row(work->wide, work->sums, size, &work->along_x);
        to_bytes(work->sums, work->narrow + (size_t)y * size * PIXEL, size * PIXEL);
    }
}

static void finish_row(Work *work, int y, int size, uint8_t *out) {
    const Kernel *kernel = &work->along_y;
    for (int x = 0; x < size * PIXEL; x++) work->sums[x] = HALF;
    for (int t = 0; t < kernel->count[y]; t++)
        add_weighted(work->narrow + (size_t)(kernel->first[y] + t) * size * PIXEL, work->sums,
                     kernel->weight[y * kernel->taps + t], size * PIXEL);
    to_bytes(work->sums, work->mixed, size * PIXEL);
    drop_padding(work->mixed, out, size);
}

/* Fills `out` [size, size, 3]; returns 0 if the file is not for us, or memory ran out. */
static int crop_resize(const Py_buffer *data, Box box, int size, Filter filter, uint8_t *out) {
    Work *work = calloc(1, sizeof(Work));
    if (!work) return 0;
    int width = box.right - box.left, height = box.bottom - box.top;
    volatile int done = 0;
    open_decoder(&work->decoder, &work->trap);
    work->narrow = malloc((size_t)height * size * PIXEL);
    work->mixed = malloc((size_t)size * PIXEL);
    work->sums = malloc((size_t)size * PIXEL * sizeof(int32_t));
    if (work->narrow && work->mixed && work->sums && make_kernel(&work->along_x, width, size, filter) &&
        make_kernel(&work->along_y, height, size, filter) && !setjmp(work->trap.escape)) {
        decode_rows(work, data, box, size);
        for (int y = 0; y < size; y++) finish_row(work, y, size, out + (size_t)y * size * 3);
        done = 1;
    }
    jpeg_destroy_decompress(&work->decoder);
    free_kernel(&work->along_x);
    free_kernel(&work->along_y);
    free(work->row);
    free(work->narrow);
    free(work->mixed);
    free(work->wide);
    free(work->sums);
    free(work);
    return done;
}

static int header_size(const Py_buffer *data, int *width, int *height) {
    struct jpeg_decompress_struct decoder = {0};
    Trap trap;
    volatile int done = 0;
    open_decoder(&decoder, &trap);
    if (!setjmp(trap.escape)) {
        read_header(&decoder, data);
        *width = (int)decoder.image_width;
        *height = (int)decoder.image_height;
        done = 1;
    }
    jpeg_destroy_decompress(&decoder);
    return done;
}

/* ---- Python ---- */

static PyObject *py_size(PyObject *module, PyObject *args) {
    Py_buffer data;
    int width = 0, height = 0;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    int done = header_size(&data, &width, &height);
    PyBuffer_Release(&data);
    if (!done) Py_RETURN_NONE;
    return Py_BuildValue("(ii)", width, height);
}

static PyObject *py_crop_resize(PyObject *module, PyObject *args) {
    Py_buffer data;
    Box box;
    int size, filter, done;
    if (!PyArg_ParseTuple(args, "y*(iiii)ii", &data, &box.left, &box.top, &box.right, &box.bottom, &size, &filter))
        return NULL;
    if (box.left < 0 || box.top < 0 || box.right <= box.left || box.bottom <= box.top || size < 1 || size > 16384 ||
        filter < NEAREST || filter > BICUBIC) {
        PyBuffer_Release(&data);
        return PyErr_Format(PyExc_ValueError, "bad box (%d, %d, %d, %d), size %d or filter %d", box.left, box.top,
                            box.right, box.bottom, size, filter);
    }
    PyObject *pixels = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size * size * 3);
    if (pixels) {
        uint8_t *out = (uint8_t *)PyByteArray_AS_STRING(pixels);
        Py_BEGIN_ALLOW_THREADS;
        done = crop_resize(&data, box, size, (Filter)filter, out);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&data);
    if (!pixels || done) return pixels;
    Py_DECREF(pixels);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"size", py_size, METH_VARARGS, "size(encoded) -> (width, height), or None if it is no JPEG that can be read."},
    {"crop_resize", py_crop_resize, METH_VARARGS,
     "crop_resize(encoded, (left, top, right, bottom), size, filter) -> bytearray of [size, size, 3], or None.\n\n"
     "filter: 0 nearest, 1 area, 2 bilinear, 3 bicubic."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&definition); }
