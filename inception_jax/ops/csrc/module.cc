// inception_jax.ops._native: convolutions, max pools and batch norm on CPUs, as functions that XLA calls.
//
// They take and return float32, activations in NHWC and kernels in HWIO. ops/cpu_native.py registers them as
// "inception_jax.<call>" by XLA's foreign function interface (FFI) and describes what each computes.
//
//   call                    arguments                          results               attributes
//   conv                    input, kernel, norm, bias          output                placement, relu_input, relu
//   conv_kernel_gradient    input, output gradient, norm       kernel gradient       placement, relu_input
//   moments                 activations, origin [C]            means [2, G, C]
//   deferred_norm_gradient  input, output gradient, norm       gradient, sums        relu
//   max_pool                input                              output                placement, window
//   max_pool_with_argmax    input                              output, argmax int8   placement, window
//   max_pool_gradient       argmax int8, output gradient       gradient              placement, window
//
//   placement  of the windows: stride, pad_top and pad_left
//   window     height and width of a pool's window
//   norm       a deferred batch norm [3, G, C]: mean, scale and bias for each of G groups of images; [3, 0, 0] for none
//   bias       [features], or [0] for none
//
// What the names mean. Sizes and steps count float32 values, unless they say pixels.
//   operation    what a call computes; it is cut into tasks
//   task         a piece of an operation, numbered by `index`; one thread runs it
//   group        consecutive images of a batch that batch norm treats alike
//   chunk        at most 512 consecutive pixels of a group, summed in float32
//   window       the input pixels, padding included, that one output pixel is computed from
//   run          contiguous values of a window: one of its rows
//   tile         in Winograd's algorithm, 4x4 input pixels or the 2x2 outputs computed from them
//   position     one of the 16 values of a transformed tile
//   band         consecutive rows, of output pixels or of tiles, whose input is copied and multiplied at once
//   block        32 output features of a convolution, whose weights are packed together
//   block range  consecutive blocks, computed by one task
//   slice        64 output features of a kernel gradient
//   split        consecutive images, or rows of tiles, that one task sums over for a kernel gradient
//   step         the distance in memory from one row, run or position to the next
//
// Where to read on:
//   conv_operands.h             the padding of an input, as a picture; the deferred norm, as a formula
//   register_tile.h             the matrix product that everything else is reduced to
//   direct_conv.h               any kernel size and stride, and the kernel gradient
//   winograd_tiles.h            3x3 of stride 1: the matrices of Winograd's algorithm
//   winograd_conv.h, winograd_kernel_gradient.h
//   max_pool.h, batch_norm.h
//   parallel_for.h              tasks on XLA's thread pool
//   vector_isa.h                AVX-512, AVX2 or the compiler's baseline, chosen by the processor that runs a call
//   operations.h                the calls above, from XLA's buffers to tasks
//
// What holds for every call:
// - An operation is cut into tasks by its shapes alone, and no two tasks write the same value. Sums over tasks are
//   added up in a fixed order. So results do not depend on the number of threads. They may differ in the last bits
//   between instruction sets.
// - A task that cannot allocate its buffers ends the call with RESOURCE_EXHAUSTED, once all other tasks have ended. The
//   process goes on, and so does XLA.
// - Infinities and NaN appear where XLA's own operations give them.
// - Empty arrays give what XLA gives: empty results, zeros for a sum, NaN for a mean.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>
#include <stdexcept>

#include "operations.h"
#include "xla/ffi/api/ffi.h"

#ifndef JAXLIB_VERSION
#error "JAXLIB_VERSION is not defined: setup.py passes the version of jaxlib whose headers are used"
#endif

#define PLACEMENT StructMember<int64_t>("stride"), StructMember<int64_t>("pad_top"), StructMember<int64_t>("pad_left")
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(native_ops::ConvAttributes, PLACEMENT, StructMember<bool>("relu_input"),
                                      StructMember<bool>("relu"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(native_ops::KernelGradientAttributes, PLACEMENT,
                                      StructMember<bool>("relu_input"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(native_ops::PoolAttributes, PLACEMENT, StructMember<int64_t>("window"));

namespace native_ops {
namespace {

ffi::Error out_of_memory() {
  try {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "inception_jax: no memory for the buffers of a native operation");
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory");  // short enough to need no allocation
  }
}

// Calls an operation, and turns a lack of memory into an error: no exception may reach XLA.
template <auto kOperation, typename Type>
struct Guarded;

template <auto kOperation, typename... Arguments>
struct Guarded<kOperation, ffi::Error (*)(Arguments...)> {
  static ffi::Error call(Arguments... arguments) {
    try {
      return kOperation(arguments...);
    } catch (const std::bad_alloc&) {
    } catch (const std::length_error&) {  // a std::vector larger than any memory
    }
    return out_of_memory();
  }
};

#define GUARDED(OPERATION) (Guarded<OPERATION, decltype(&OPERATION)>::call)
#define BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

XLA_FFI_DEFINE_HANDLER(kConv, GUARDED(calls::conv),
                       BIND.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Arg<Array<1>>().Ret<Array<4>>()
                           .Attrs<ConvAttributes>());
XLA_FFI_DEFINE_HANDLER(kConvKernelGradient, GUARDED(calls::conv_kernel_gradient),
                       BIND.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>()
                           .Attrs<KernelGradientAttributes>());
XLA_FFI_DEFINE_HANDLER(kMoments, GUARDED(calls::moments), BIND.Arg<Array<4>>().Arg<Array<1>>().Ret<Array<3>>());
XLA_FFI_DEFINE_HANDLER(kDeferredNormGradient, GUARDED(calls::deferred_norm_gradient),
                       BIND.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>().Ret<Array<3>>()
                           .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kMaxPool, GUARDED(calls::max_pool),
                       BIND.Arg<Array<4>>().Ret<Array<4>>().Attrs<PoolAttributes>());
XLA_FFI_DEFINE_HANDLER(kMaxPoolWithArgmax, GUARDED(calls::max_pool_with_argmax),
                       BIND.Arg<Array<4>>().Ret<Array<4>>().Ret<ArgmaxArray>().Attrs<PoolAttributes>());
XLA_FFI_DEFINE_HANDLER(kMaxPoolGradient, GUARDED(calls::max_pool_gradient),
                       BIND.Arg<ArgmaxArray>().Arg<Array<4>>().Ret<Array<4>>().Attrs<PoolAttributes>());

constexpr struct {
  const char* name;
  XLA_FFI_Handler* handler;
} kHandlers[] = {
    {"conv", kConv},
    {"conv_kernel_gradient", kConvKernelGradient},
    {"moments", kMoments},
    {"deferred_norm_gradient", kDeferredNormGradient},
    {"max_pool", kMaxPool},
    {"max_pool_with_argmax", kMaxPoolWithArgmax},
    {"max_pool_gradient", kMaxPoolGradient},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace native_ops

// The module holds `handlers`, a dict from call to capsule, and `jaxlib`, the version whose headers it was compiled
// with: XLA refuses handlers whose headers are newer than itself.
PyMODINIT_FUNC PyInit__native(void) {
  PyObject* handlers = PyDict_New();
  if (handlers == nullptr) return nullptr;
  for (const auto& each : native_ops::kHandlers) {
    PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(each.handler), nullptr, nullptr);
    if (capsule == nullptr || PyDict_SetItemString(handlers, each.name, capsule) < 0) return nullptr;
    Py_DECREF(capsule);
  }
  PyObject* module = PyModule_Create(&native_ops::definition);
  if (module == nullptr || PyModule_AddStringConstant(module, "jaxlib", JAXLIB_VERSION) < 0 ||
      PyModule_AddObject(module, "handlers", handlers) < 0) return nullptr;
  return module;
}
