// Compiles the function of each task for several vector instruction sets (ISAs), and picks one when the program runs.
//
//   ISA       processors that take it                    kLanes: floats in    kRows: rows of a
//                                                        a vector             register tile
//   avx512    x86-64 with AVX-512 F, BW, DQ and VL       16                   14
//   avx2      x86-64 with AVX2 and FMA                    8                    6
//   baseline  any other; what the compiler assumes        4                    6
//
// The arithmetic is written once, as a template FUNCTION<kLanes, kRows> on GCC's vector types. Everything that it calls
// is ALWAYS_INLINE: only so is it compiled for the same ISA.
#pragma once

#include <cstdint>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace native_ops {

// Runs task number `index` of an operation.
template <typename Operation>
using TaskFn = void (*)(const Operation& operation, int64_t index);

}  // namespace native_ops

// DEFINE_TASK(FUNCTION, OPERATION) defines FUNCTION_for_this_cpu(), which returns FUNCTION compiled for the best ISA of
// this processor.
#define DEFINE_TASK_FOR(ISA, ATTRIBUTE, LANES, ROWS, FUNCTION, OPERATION)             \
  ATTRIBUTE inline void FUNCTION##_##ISA(const OPERATION& operation, int64_t index) { \
    FUNCTION<LANES, ROWS>(operation, index);                                          \
  }
#if defined(__x86_64__)
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define DEFINE_TASK(FUNCTION, OPERATION)                                                                            \
  DEFINE_TASK_FOR(baseline, , 4, 6, FUNCTION, OPERATION)                                                            \
  DEFINE_TASK_FOR(avx2, TARGET_AVX2, 8, 6, FUNCTION, OPERATION)                                                     \
  DEFINE_TASK_FOR(avx512, TARGET_AVX512, 16, 14, FUNCTION, OPERATION)                                               \
  inline TaskFn<OPERATION> FUNCTION##_for_this_cpu() {                                                              \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&                                 \
        __builtin_cpu_supports("avx512vl")) return FUNCTION##_avx512;                                               \
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? FUNCTION##_avx2 : FUNCTION##_baseline; \
  }
#else
#define DEFINE_TASK(FUNCTION, OPERATION)                 \
  DEFINE_TASK_FOR(baseline, , 4, 6, FUNCTION, OPERATION) \
  inline TaskFn<OPERATION> FUNCTION##_for_this_cpu() { return FUNCTION##_baseline; }
#endif
