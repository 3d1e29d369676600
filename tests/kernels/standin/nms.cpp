// nms.cu on the CPU: runs the three kernels for a batch, as the driver launches them.
#include "cuda_standin.h"

#include "../../../edgekit/kernels/suppression/nms.cu"

STANDIN_KERNEL(nms_select)
STANDIN_KERNEL(nms_overlaps)
STANDIN_KERNEL(nms_sweep)

extern "C" int nms_capacity() { return CAPACITY; }

extern "C" void nms_batch(const float* boxes, const float* scores, const int* classes, const int* counts, int images,
                          int stride, float score_threshold, double iou_threshold, int limit, unsigned seed, int* kept,
                          int* number) {
  const Box* corners = reinterpret_cast<const Box*>(boxes);
  // Memory on a device holds garbage too.
  std::vector<int> order(static_cast<size_t>(images) * CAPACITY, -7), found(images, -7);
  std::vector<Word> matrix(static_cast<size_t>(images) * CAPACITY * WORDS, ~static_cast<Word>(0));
  const unsigned batch = static_cast<unsigned>(images);
  standin::launch({batch, 1, 1}, {SELECT_THREADS, 1, 1}, seed,
                  [&] { nms_select(corners, scores, counts, stride, score_threshold, order.data(), found.data()); });
  standin::launch({TILES, 1, batch}, {BITS, 1, 1}, seed + 1, [&] {
    nms_overlaps(corners, classes, order.data(), found.data(), stride, iou_threshold, matrix.data());
  });
  standin::launch({batch, 1, 1}, {SWEEP_THREADS, 1, 1}, seed + 2,
                  [&] { nms_sweep(matrix.data(), order.data(), found.data(), limit, kept, number); });
}
