// decode.cu on the CPU.
#include "cuda_standin.h"

#include "../../../edgekit/kernels/decode/decode.cu"

STANDIN_KERNEL(decode_reset)
STANDIN_KERNEL(decode_filter_planes)
STANDIN_KERNEL(decode_filter_rows)
STANDIN_KERNEL(decode_select)
STANDIN_KERNEL(decode_overlaps)
STANDIN_KERNEL(decode_overlaps_rotated)
STANDIN_KERNEL(decode_emit)

extern "C" void decode_seed(unsigned seed) { standin::launch_seed = seed; }

extern "C" void decode_sizes(int* sizes) {
  sizes[0] = sizeof(Head);
  sizes[1] = sizeof(Parameters);
  sizes[2] = sizeof(Detection);
  sizes[3] = CAPACITY;
}

extern "C" float decode_widened(unsigned short bits) { return widened(bits); }

extern "C" int decode_overlap(const float* a, const float* b, double threshold) {
  const Box first{a[0], a[1], a[2], a[3]}, second{b[0], b[1], b[2], b[3]};
  return overlaps(first, second, threshold);
}
