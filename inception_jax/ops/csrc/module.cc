// Convolutions, max pools and batch norm of float32 maps NHWC on CPUs, as functions that XLA calls; kernels are HWIO.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <vector>

#include "direct.h"
#include "maps.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

#ifndef JAXLIB_VERSION
#error "JAXLIB_VERSION is not defined: setup.py passes the version of jaxlib whose headers are used"
#endif

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

bool any(const std::vector<uint8_t>& flags) {
  return std::any_of(flags.begin(), flags.end(), [](uint8_t flag) { return flag != 0; });
}

// Convolves the images that `chosen` [batch] is set for.
void convolve(ffi::ThreadPool& pool, const Direct& job, const std::vector<uint8_t>& chosen) {
  auto pack = pick_pack_direct();
  auto form = pick_direct();
  run(pool, job.blocks(), [&](int64_t block) { pack(job, block); });
  run(pool, job.tasks(), [&](int64_t task) {
    if (chosen[job.image(task)]) form(job, task);
  });
}

void convolve(ffi::ThreadPool& pool, const Winograd& job) {
  auto pack = pick_pack_winograd();
  auto form = pick_winograd();
  run(pool, job.blocks(), [&](int64_t block) { pack(job, block); });
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
}

ffi::Error conv(ffi::ThreadPool pool, Array<4> maps, Array<4> kernel, Array<3> norm, Array<1> bias, Result<4> out,
                int64_t stride, int64_t top, int64_t left, bool relu_maps, bool relu) {
  if (out->element_count() == 0) return ffi::Error::Success();
  Shape s = shape_of(maps.dimensions(), kernel.dimensions(), out->dimensions(), {stride, top, left});
  Maps read = pending(maps, norm, relu_maps);
  Finish finish{bias.element_count() == 0 ? nullptr : bias.typed_data(), low(relu)};
  std::vector<uint8_t> rest(s.batch, 1);  // images for the direct form
  if (suits_winograd(s)) {
    rest.assign(s.batch, 0);
    convolve(pool, Winograd(s, read, kernel.typed_data(), finish, out->typed_data(), rest.data()));
  }
  if (any(rest)) convolve(pool, Direct(s, read, kernel.typed_data(), finish, out->typed_data()), rest);
  return ffi::Error::Success();
}

// Returns whether the gradient is finite, or is left to no other form.
template <typename Job>
bool differentiate(ffi::ThreadPool& pool, const Job& job, Form<Job> form, float* out) {
  run(pool, job.tasks(), [&](int64_t task) { form(job, task); });
  std::vector<uint8_t> infinite(job.chunks);
  run(pool, job.chunks, [&](int64_t chunk) { infinite[chunk] = !job.add_up(out, chunk); });
  return !any(infinite);
}

ffi::Error conv_kernel_gradient(ffi::ThreadPool pool, Array<4> maps, Array<4> grads, Array<3> norm, Result<4> out,
                                int64_t stride, int64_t top, int64_t left, bool relu_maps) {
  if (grads.element_count() == 0) std::fill_n(out->typed_data(), out->element_count(), 0.0f);
  if (grads.element_count() == 0 || out->element_count() == 0) return ffi::Error::Success();
  Shape s = shape_of(maps.dimensions(), out->dimensions(), grads.dimensions(), {stride, top, left});
  Maps read = pending(maps, norm, relu_maps);
  const float* given = grads.typed_data();
  bool is_done = suits_winograd(s) && differentiate(pool, WinogradGradient(s, read, given), pick_winograd_gradient(),
                                                    out->typed_data());
  if (!is_done) differentiate(pool, DirectGradient(s, read, given), pick_direct_gradient(), out->typed_data());
  return ffi::Error::Success();
}

ffi::Error wrong_groups(int64_t images, int64_t groups) {
  return ffi::Error::InvalidArgument(std::to_string(images) + " images are no " + std::to_string(groups) + " groups");
}

ffi::Error moments_of(ffi::ThreadPool pool, Array<4> maps, Array<1> origin, Result<3> out) {
  auto m = maps.dimensions();
  if (out->element_count() == 0) return ffi::Error::Success();
  int64_t groups = out->dimensions()[1], pixels = m[0] / groups * m[1] * m[2];
  if (m[0] % groups != 0) return wrong_groups(m[0], groups);
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
  if (m[3] == 0) return ffi::Error::Success();
  if (read.norm.groups == 0 || m[0] % read.norm.groups != 0) return wrong_groups(m[0], read.norm.groups);
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

ffi::Error no_memory() {
  try {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "inception_jax: no memory for what a kernel copies");
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory");  // short: it takes none
  }
}

// Calls a function above. XLA is handed an error of its own where memory runs out, and nothing is thrown at it.
template <auto kFunction, typename Type>
struct Guarded;

template <auto kFunction, typename... Arguments>
struct Guarded<kFunction, ffi::Error (*)(Arguments...)> {
  static ffi::Error call(Arguments... arguments) {
    try {
      return kFunction(arguments...);
    } catch (const std::bad_alloc&) {
    } catch (const std::length_error&) {  // a vector that no memory is large enough for
    }
    return no_memory();
  }
};

#define GUARDED(FUNCTION) (Guarded<FUNCTION, decltype(&FUNCTION)>::call)
#define CALL ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define WINDOW Attr<int64_t>("stride").Attr<int64_t>("pad_top").Attr<int64_t>("pad_left")

XLA_FFI_DEFINE_HANDLER(kConv, GUARDED(conv),
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Arg<Array<1>>().Ret<Array<4>>().WINDOW
                           .Attr<bool>("relu_input").Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kConvKernelGradient, GUARDED(conv_kernel_gradient),
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>().WINDOW
                           .Attr<bool>("relu_input"));
XLA_FFI_DEFINE_HANDLER(kMoments, GUARDED(moments_of), CALL.Arg<Array<4>>().Arg<Array<1>>().Ret<Array<3>>());
XLA_FFI_DEFINE_HANDLER(kPendingGradient, GUARDED(pending_gradient),
                       CALL.Arg<Array<4>>().Arg<Array<4>>().Arg<Array<3>>().Ret<Array<4>>().Ret<Array<3>>()
                           .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kMaxPool, GUARDED(pool_only),
                       CALL.Arg<Array<4>>().Ret<Array<4>>().Attr<int64_t>("window").WINDOW);
XLA_FFI_DEFINE_HANDLER(kMaxPoolWinners, GUARDED(pool_with_winners),
                       CALL.Arg<Array<4>>().Ret<Array<4>>().Ret<Places>().Attr<int64_t>("window").WINDOW);
XLA_FFI_DEFINE_HANDLER(kMaxPoolGradient, GUARDED(pool_gradient),
                       CALL.Arg<Places>().Arg<Array<4>>().Ret<Array<4>>().Attr<int64_t>("window").WINDOW);

constexpr struct {
  const char* name;
  XLA_FFI_Handler* handler;
} kHandlers[] = {
    {"conv", kConv},
    {"conv_kernel_gradient", kConvKernelGradient},
    {"moments", kMoments},
    {"deferred_norm_gradient", kPendingGradient},
    {"max_pool", kMaxPool},
    {"max_pool_with_argmax", kMaxPoolWinners},
    {"max_pool_gradient", kMaxPoolGradient},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace kernels

// The module holds `handlers`, a dict of capsules by name, and `jaxlib`, the version whose headers it was compiled with.
PyMODINIT_FUNC PyInit__native(void) {
  PyObject* handlers = PyDict_New();
  if (handlers == nullptr) return nullptr;
  for (const auto& each : kernels::kHandlers) {
    PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(each.handler), nullptr, nullptr);
    if (capsule == nullptr || PyDict_SetItemString(handlers, each.name, capsule) < 0) return nullptr;
    Py_DECREF(capsule);
  }
  PyObject* module = PyModule_Create(&kernels::definition);
  if (module == nullptr || PyModule_AddStringConstant(module, "jaxlib", JAXLIB_VERSION) < 0 ||
      PyModule_AddObject(module, "handlers", handlers) < 0) return nullptr;
  return module;
}
