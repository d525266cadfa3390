// Convolutions, max pools and batch norm of float32 maps NHWC on CPUs, as functions that XLA calls; kernels are HWIO.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits>

#include "direct.h"
#include "maps.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace kernels {
namespace {

template <size_t kRank>
using Array = ffi::Buffer<ffi::F32, kRank>;
template <size_t kRank>
using Result = ffi::ResultBuffer<ffi::F32, kRank>;
using Places = ffi::Buffer<ffi::S8, 4>;
using Dimensions = ffi::Span<const int64_t>;

struct Window {
  int64_t stride, top, left;
};

Shape shape_of(Dimensions maps, Dimensions kernel, Dimensions out, Window window) {
  return {maps[0], maps[1], maps[2],      maps[3],    kernel[0], kernel[1], kernel[3],
          out[1],  out[2],  window.stride, window.top, window.left};
}

Shape shape_of_pool(Dimensions maps, Dimensions out, int64_t size, Window window) {
  int64_t kernel[] = {size, size, 1, maps[3]};
  return shape_of(maps, Dimensions(kernel, 4), out, window);
}

float low(bool relu) { return relu ? 0.0f : -std::numeric_limits<float>::infinity(); }

Maps pending(Array<4> maps, Array<3> norm, bool relu) {
  auto n = norm.dimensions();
  return {maps.typed_data(), {norm.typed_data(), n[1], n[2], maps.dimensions()[0], low(relu)}};
}

template <typename Job>
using Form = void (*)(const Job&, int64_t);

template <typename Job>
void convolve(ffi::ThreadPool& pool, const Job& job, Form<Job> pack, Form<Job> form) {
  run(pool, job.blocks(), [&](int64_t block) { pack(job, block); });
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
}

ffi::Error conv(ffi::ThreadPool pool, Array<4> maps, Array<4> kernel, Array<3> norm, Array<1> bias, Result<4> out,
                int64_t stride, int64_t top, int64_t left, bool relu_maps, bool relu) {
  if (out->element_count() == 0) return ffi::Error::Success();
  Shape s = shape_of(maps.dimensions(), kernel.dimensions(), out->dimensions(), {stride, top, left});
  Maps read = pending(maps, norm, relu_maps);
  Finish finish{bias.element_count() == 0 ? nullptr : bias.typed_data(), low(relu)};
  if (suits_winograd(s)) {
    convolve(pool, Winograd(s, read, kernel.typed_data(), finish, out->typed_data()), pick_pack_winograd(),
             pick_winograd());
  } else {
    convolve(pool, Direct(s, read, kernel.typed_data(), finish, out->typed_data()), pick_pack_direct(),
             pick_direct());
  }
  return ffi::Error::Success();
}

template <typename Job>
void differentiate(ffi::ThreadPool& pool, const Job& job, Form<Job> form, float* out) {
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
  run(pool, job.chunks, [&](int64_t chunk) { job.add_up(out, chunk); });
}

ffi::Error conv_kernel_gradient(ffi::ThreadPool pool, Array<4> maps, Array<4> grads, Array<3> norm, Result<4> out,
                                int64_t stride, int64_t top, int64_t left, bool relu_maps) {
  Shape s = shape_of(maps.dimensions(), out->dimensions(), grads.dimensions(), {stride, top, left});
  Maps read = pending(maps, norm, relu_maps);
  const float* given = grads.typed_data();
  if (suits_winograd(s)) {
    differentiate(pool, WinogradGradient(s, read, given), pick_winograd_gradient(), out->typed_data());
  } else {
    differentiate(pool, DirectGradient(s, read, given), pick_direct_gradient(), out->typed_data());
  }
  return ffi::Error::Success();
}

ffi::Error moments_of(ffi::ThreadPool pool, Array<4> maps, Array<1> origin, Result<3> out) {
  auto m = maps.dimensions();
  int64_t groups = out->dimensions()[1], pixels = m[0] / groups * m[1] * m[2];
  Sums sums(groups, pixels, m[3]);
  Moments job{maps.typed_data(), origin.typed_data(), &sums};
  auto form = pick_moments();
  run(pool, sums.tasks(), [&](int64_t task) { form(job, task); });
  sums.add_up(1.0 / static_cast<double>(pixels), out->typed_data());
  return ffi::Error::Success();
}

ffi::Error pending_gradient(ffi::ThreadPool pool, Array<4> maps, Array<4> grads, Array<3> norm, Result<4> out,
                            Result<3> totals, bool relu) {
  auto m = maps.dimensions();
  Maps read = pending(maps, norm, relu);
  Sums sums(read.norm.groups, m[0] / read.norm.groups * m[1] * m[2], m[3]);
  Unsettle job{read, grads.typed_data(), out->typed_data(), &sums};
  auto form = pick_unsettle();
  run(pool, sums.tasks(), [&](int64_t task) { form(job, task); });
  sums.add_up(1.0, totals->typed_data());
  return ffi::Error::Success();
}

ffi::Error pool_maps(ffi::ThreadPool& pool, Array<4> maps, Result<4> out, int8_t* winners, int64_t size,
                     Window window) {
  Shape s = shape_of_pool(maps.dimensions(), out->dimensions(), size, window);
  MaxPool job{s, maps.typed_data(), out->typed_data(), winners};
  auto form = pick_max_pool();
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
  return ffi::Error::Success();
}

ffi::Error pool_only(ffi::ThreadPool pool, Array<4> maps, Result<4> out, int64_t size, int64_t stride, int64_t top,
                     int64_t left) {
  return pool_maps(pool, maps, out, nullptr, size, {stride, top, left});
}

ffi::Error pool_with_winners(ffi::ThreadPool pool, Array<4> maps, Result<4> out, ffi::Result<Places> winners,
                             int64_t size, int64_t stride, int64_t top, int64_t left) {
  return pool_maps(pool, maps, out, winners->typed_data(), size, {stride, top, left});
}

ffi::Error pool_gradient(ffi::ThreadPool pool, Places winners, Array<4> grads, Result<4> out, int64_t size,
                         int64_t stride, int64_t top, int64_t left) {
  Shape s = shape_of_pool(out->dimensions(), grads.dimensions(), size, {stride, top, left});
  MaxPoolGradient job{s, winners.typed_data(), grads.typed_data(), out->typed_data()};
  auto form = pick_max_pool_gradient();
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
  return ffi::Error::Success();
}

#define CALL ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define WINDOW Attr<int64_t>("stride").Attr<int64_t>("top").Attr<int64_t>("left")

XLA_FFI_DEFINE_HANDLER(kConv, conv,
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Arg<Array<1>>().Ret<Array<4>>().WINDOW
                           .Attr<bool>("relu_maps").Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kConvKernelGradient, conv_kernel_gradient,
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>().WINDOW
                           .Attr<bool>("relu_maps"));
XLA_FFI_DEFINE_HANDLER(kMoments, moments_of, CALL.Arg<Array<4>>().Arg<Array<1>>().Ret<Array<3>>());
XLA_FFI_DEFINE_HANDLER(kPendingGradient, pending_gradient,
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>().Ret<Array<3>>()
                           .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kMaxPool, pool_only, CALL.Arg<Array<4>>().Ret<Array<4>>().Attr<int64_t>("size").WINDOW);
XLA_FFI_DEFINE_HANDLER(kMaxPoolWinners, pool_with_winners,
                       CALL.Arg<Array<4>>().Ret<Array<4>>().Ret<Places>().Attr<int64_t>("size").WINDOW);
XLA_FFI_DEFINE_HANDLER(kMaxPoolGradient, pool_gradient,
                       CALL.Arg<Places>().Arg<Array<4>>().Ret<Array<4>>().Attr<int64_t>("size").WINDOW);

constexpr struct {
  const char* name;
  XLA_FFI_Handler* handler;
} kHandlers[] = {
    {"conv", kConv},
    {"conv_kernel_gradient", kConvKernelGradient},
    {"moments", kMoments},
    {"pending_gradient", kPendingGradient},
    {"max_pool", kMaxPool},
    {"max_pool_winners", kMaxPoolWinners},
    {"max_pool_gradient", kMaxPoolGradient},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace kernels

// The module holds a dict `handlers`, of capsules by name.
PyMODINIT_FUNC PyInit__kernels(void) {
  PyObject* handlers = PyDict_New();
  for (const auto& each : kernels::kHandlers) {
    PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(each.handler), nullptr, nullptr);
    if (capsule == nullptr || PyDict_SetItemString(handlers, each.name, capsule) < 0) return nullptr;
    Py_DECREF(capsule);
  }
  PyObject* module = PyModule_Create(&kernels::definition);
  return module != nullptr && PyModule_AddObject(module, "handlers", handlers) == 0 ? module : nullptr;
}
