// Compiles each task for several vector instruction sets (ISAs), and picks one when the program runs.
//
//   ISA       processors that take it                    kLanes: floats in    kRows: rows of a
//                                                        a vector             register tile
//   avx512    x86-64 with AVX-512 F, BW, DQ and VL       16                   14
//   avx2      x86-64 with AVX2 and FMA                    8                    6
//   baseline  any other; what the compiler assumes        4                    6
//
// The arithmetic is written once, as a template TASK<kLanes, kRows> on GCC's vector types. Everything that a task calls
// is ALWAYS_INLINE: only so is it compiled for the ISA of the task.
#pragma once

#include <cstdint>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace native_ops {

// Runs the unit of work number `task` of an operation.
template <typename Operation>
using Task = void (*)(const Operation& operation, int64_t task);

}  // namespace native_ops

// DEFINE_TASK(TASK, OPERATION) defines TASK_for_this_cpu(), which returns TASK compiled for the best ISA here.
#define DEFINE_TASK_FOR(ISA, ATTRIBUTE, LANES, ROWS, TASK, OPERATION) \
  ATTRIBUTE inline void TASK##_##ISA(const OPERATION& operation, int64_t task) { TASK<LANES, ROWS>(operation, task); }
#if defined(__x86_64__)
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define DEFINE_TASK(TASK, OPERATION)                                                                               \
  DEFINE_TASK_FOR(baseline, , 4, 6, TASK, OPERATION)                                                               \
  DEFINE_TASK_FOR(avx2, TARGET_AVX2, 8, 6, TASK, OPERATION)                                                        \
  DEFINE_TASK_FOR(avx512, TARGET_AVX512, 16, 14, TASK, OPERATION)                                                  \
  inline Task<OPERATION> TASK##_for_this_cpu() {                                                                   \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&                                \
        __builtin_cpu_supports("avx512vl")) return TASK##_avx512;                                                  \
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? TASK##_avx2 : TASK##_baseline;        \
  }
#else
#define DEFINE_TASK(TASK, OPERATION)                 \
  DEFINE_TASK_FOR(baseline, , 4, 6, TASK, OPERATION) \
  inline Task<OPERATION> TASK##_for_this_cpu() { return TASK##_baseline; }
#endif
