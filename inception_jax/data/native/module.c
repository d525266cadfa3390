/* inception_jax.data._jpeg: decodes a region of a JPEG and resizes it, to the same bytes as Pillow gives.

   It returns None for what it leaves to Pillow: files other than JPEGs of 8 bits, CMYK, and damaged data.
     jpeg_region.c  decodes the rows of the region, by libjpeg-turbo
     huffman.c      replaces libjpeg-turbo's decoder of Huffman codes
     resample.c     resizes the rows as they come
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "huffman.h"
#include "jpeg_region.h"
#include "resample.h"

static void take_row(void *resampler, int y, const uint8_t *row) { add_row(resampler, y, row); }

/* Fills `out` [size, size, 3]. Returns 0 if the file is left to Pillow, or memory ran out. */
static int crop_resize(const Py_buffer *data, Box box, int size, Filter filter, int mirror, uint8_t *out) {
    Jpeg *jpeg = open_jpeg(data->buf, data->len);
    Resampler *resampler = NULL;
    if (jpeg && box.right <= width_of(jpeg) && box.bottom <= height_of(jpeg))
        resampler = open_resampler(box.right - box.left, box.bottom - box.top, size, filter, mirror);
    int done = resampler && decode_box(jpeg, box, take_row, resampler);
    if (done) finish_image(resampler, out);
    if (resampler) close_resampler(resampler);
    if (jpeg) close_jpeg(jpeg);
    return done;
}

static PyObject *py_size(PyObject *module, PyObject *args) {
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    Jpeg *jpeg = open_jpeg(data.buf, data.len);
    PyObject *size = jpeg ? Py_BuildValue("(ii)", width_of(jpeg), height_of(jpeg)) : Py_NewRef(Py_None);
    if (jpeg) close_jpeg(jpeg);
    PyBuffer_Release(&data);
    return size;
}

static PyObject *py_crop_resize(PyObject *module, PyObject *args) {
    Py_buffer data;
    Box box;
    int size, filter, mirror, done;
    if (!PyArg_ParseTuple(args, "y*(iiii)iip", &data, &box.left, &box.top, &box.right, &box.bottom, &size, &filter,
                          &mirror))
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
        done = crop_resize(&data, box, size, (Filter)filter, mirror, out);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&data);
    if (!pixels || done) return pixels;
    Py_DECREF(pixels);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"size", py_size, METH_VARARGS,
     "size(encoded) -> (width, height), or None if it is no JPEG of which a region can be decoded."},
    {"crop_resize", py_crop_resize, METH_VARARGS,
     "crop_resize(encoded, (left, top, right, bottom), size, filter, mirror) -> bytearray of [size, size, 3], or None."
     "\n\nfilter: 0 nearest, 1 area, 2 bilinear, 3 bicubic."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "SPEEDS_UP", FAST_HUFFMAN)) Py_CLEAR(module);
    return module;
}
