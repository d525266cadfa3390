/* inception_jax.data._jpeg: a part of a JPEG, decoded and resized, with the same bytes as Pillow gives.

   Only the units that the part needs are turned into pixels, and none behind it is read. What this does not do it
   declines by returning None, for Pillow to judge.
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "jpeg.h"
#include "resample.h"

static void take_row(void *resampler, int y, const uint8_t *row) { narrow_row(resampler, y, row); }

/* Fills `out` [size, size, 3]; returns 0 if the file is not for us, or memory ran out. */
static int crop_resize(const Py_buffer *data, Box box, int size, Filter filter, int mirror, uint8_t *out) {
    Header header;
    if (!read_header(&header, data->buf, data->len) || box.right > header.width || box.bottom > header.height) return 0;
    Resampler *resampler = open_resampler(box.right - box.left, box.bottom - box.top, size, filter, mirror);
    if (!resampler) return 0;
    int done = decode_box(&header, box, take_row, resampler);
    if (done) finish(resampler, out);
    close_resampler(resampler);
    return done;
}

static PyObject *py_size(PyObject *module, PyObject *args) {
    Py_buffer data;
    Header header;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    int done = read_header(&header, data.buf, data.len);
    PyBuffer_Release(&data);
    if (!done) Py_RETURN_NONE;
    return Py_BuildValue("(ii)", header.width, header.height);
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
    {"size", py_size, METH_VARARGS, "size(encoded) -> (width, height), or None if it is no JPEG that can be read in part."},
    {"crop_resize", py_crop_resize, METH_VARARGS,
     "crop_resize(encoded, (left, top, right, bottom), size, filter, mirror) -> bytearray of [size, size, 3], or None.\n\n"
     "filter: 0 nearest, 1 area, 2 bilinear, 3 bicubic."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&definition); }
