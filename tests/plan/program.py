"""Programs written by hand, as the compiler for TPUs prints them, and the sums of one."""

TEXT = """HloModule jit_step, is_scheduled=true

%region_0.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y)
}

%fused (p.0: bf16[16,128]) -> bf16[16,128] {
  %p.0 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %add.2 = bf16[16,128]{1,0:T(8,128)(2,1)} add(%p.0, %p.0)
}

ENTRY %main (a: bf16[16,128], b: f32[20,130]) -> (bf16[16,128], f32[3]) {
  %a = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0), sharding={replicated}
  %b = f32[20,130]{1,0:T(8,128)} parameter(1)
  %copy-start = (bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %fusion.1 = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%copy-done), kind=kLoop, calls=%fused
  %slice-start = ((f32[20,130]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%b)
  %slice-done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %joined = f32[8,128]{1,0:T(8,128)S(1)} custom-call(%slice-done), custom_call_target="ConcatBitcast"
  %small = f32[3]{0:T(128)} constant({1, 2, 3})
  %all-reduce.1 = (f32[3]{0:T(128)}, /*index=1*/bf16[16,128]{1,0:T(8,128)(2,1)}) all-reduce(%small, %fusion.1)
  %reduced = f32[3]{0:T(128)} get-tuple-element(%all-reduce.1), index=0
  %kept = bf16[16,128]{1,0:T(8,128)(2,1)} get-tuple-element(%all-reduce.1), index=1
  ROOT %tuple = (bf16[16,128]{1,0:T(8,128)(2,1)}, f32[3]{0:T(128)}) tuple(%kept, %reduced)
}
"""
A = 16 * 128 * 2  # bytes of bf16[16,128], which fills its tiles
SMALL = 128 * 4  # of f32[3] in a tile of 128
TOTAL = 2 * A + 2 * A + 2 * 8 * 128 * 4 + 2 * (A + SMALL)  # copy, fusion, slice, all-reduce
COUNTED = TOTAL + 2 * A + 8 * 128 * 4  # the copy twice as much, the slice half more
IN_HBM = A + A + 8 * 128 * 4 + 2 * (A + SMALL)  # read; written; read; read and written

SLICED = """
%inner (p: bf16[16,128]) -> bf16[8,128] {
  %p = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %part = bf16[8,128]{1,0:T(8,128)(2,1)} slice(%p), slice={[8:16], [0:128]}
}

%outer (x: bf16[16,128], y: bf16[16,128], k: bf16[128,128]) -> bf16[8,128] {
  %x = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(2)
  %slice.1 = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kLoop, calls=%inner
  %slice.2 = bf16[8,128]{1,0:T(8,128)(2,1)} slice(%y), slice={[0:8], [0:128]}
  %whole = bf16[16,128]{1,0:T(8,128)(2,1)} negate(%y)
  ROOT %made = bf16[8,128]{1,0:T(8,128)(2,1)} convolution(%slice.1, %k), dim_labels=bf_io->bf
}

ENTRY %main (a: bf16[16,128], k: bf16[128,128]) -> bf16[8,128] {
  %a = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %k.1 = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(1)
  %b = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} negate(%a), metadata={op_name="jit(f)/InceptionNet/conv1/neg"}
  ROOT %fusion = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%a, %b, %k.1), kind=kOutput, calls=%outer, \
metadata={op_name="jit(f)/transpose(jvp(InceptionNet))/conv1/conv"}, backend_config={"estimated_cycles":"77"}
}
""".replace("\\\n", "")
SLICED_NEGATION = 2 * A  # reads and writes
SLICED_CONVOLUTION = A // 2 + A + 128 * 128 * 2 + A // 2  # half of a, all of b, the kernel; written

START = """
ENTRY %main (a: f32[4]) -> f32[16] {
  %a = f32[4]{0:T(128)} parameter(0)
  %ar = f32[4]{0:T(128)} all-reduce-start(%a), to_apply=%sum
  %ar.done = f32[4]{0:T(128)} all-reduce-done(%ar)
  %ag = (f32[4]{0:T(128)}, f32[16]{0:T(128)}) all-gather-start(%ar.done), dimensions={0}
  %ag.done = f32[16]{0:T(128)} all-gather-done(%ag)
  %rs = f32[4]{0:T(128)} reduce-scatter(%ag.done), to_apply=%sum
  %cp = (f32[4]{0:T(128)}, f32[4]{0:T(128)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%rs)
  ROOT %cp.done = f32[4]{0:T(128)} collective-permute-done(%cp)
}
"""
LOOP = """
%body (x: f32[4]) -> f32[4] {
  %x = f32[4]{0:T(128)} parameter(0)
  ROOT %ar.1 = f32[4]{0:T(128)} all-reduce(%x), to_apply=%sum
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0:T(128)} parameter(0)
  ROOT %loop = f32[4]{0:T(128)} while(%a), condition=%condition, body=%body
}
"""
