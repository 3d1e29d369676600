// Class-aware greedy non-maximum suppression of a batch, on the device, without host synchronization.
//
// The rules are those of reference.py: descending score, ties by lower index; a box that overlaps a better box of its
// class by more than the threshold is dropped; overlaps are computed in float64. If more than CAPACITY candidates pass
// the score threshold, the best CAPACITY are used, chosen over all candidates, so that the result is deterministic.
//
// Three kernels run one after the other on one stream: nms_select, nms_overlaps, nms_sweep. Compile with -fmad=false:
// a fused multiply-add rounds once where float64 arithmetic of the reference rounds twice.
#include "suppression.cuh"

// Selects and sorts the best candidates of each image. Grid: images. Block: SELECT_THREADS.
//
// boxes   [images][stride]      corners x1 y1 x2 y2
// scores  [images][stride]      a candidate's score is greater than `threshold`, which is at least 0
// counts  [images]              number of candidates of each image, at most `stride`
// order   [images][CAPACITY]    indices of the best candidates, best first
// found   [images]              number of indices in `order`
extern "C" __global__ void __launch_bounds__(SELECT_THREADS)
    nms_select(const Box* all_boxes, const float* all_scores, const int* counts, int stride, float threshold,
               int* order, int* found) {
  __shared__ Selection shared;
  const int image = blockIdx.x, thread = threadIdx.x;
  const Box* boxes = all_boxes + static_cast<size_t>(image) * stride;
  const float* scores = all_scores + static_cast<size_t>(image) * stride;
  const auto source = [&](int i) -> Word {
    const float score = scores[i];
    return score > threshold && is_finite(boxes[i]) ? key_of(score, static_cast<unsigned>(i)) : 0;
  };
  const int length = select_best(shared, source, min(counts[image], stride));
  for (int i = thread; i < length; i += SELECT_THREADS) {
    order[image * CAPACITY + i] = static_cast<int>(index_of(shared.keys[i]));
  }
  if (thread == 0) found[image] = length;
}

// Computes which candidates suppress which. Grid: (TILES, 1, images). Block: BITS.
//
// classes [images][stride]
// matrix  [images][CAPACITY][WORDS]   see overlap_tile
extern "C" __global__ void __launch_bounds__(BITS)
    nms_overlaps(const Box* boxes, const int* classes, const int* order, const int* found, int stride,
                 double threshold, Word* matrix) {
  const int image = blockIdx.z;
  const auto fetch = [&](int i) {
    const size_t index = static_cast<size_t>(image) * stride + order[image * CAPACITY + i];
    return Upright{boxes[index], classes[index]};
  };
  overlap_tile<Upright>(fetch, found[image], threshold, matrix + static_cast<size_t>(image) * CAPACITY * WORDS);
}

// Keeps boxes greedily. Grid: images. Block: SWEEP_THREADS.
//
// kept    [images][limit]   indices of the kept candidates, best first
// number  [images]          how many are kept; entries of `kept` behind them are not written
extern "C" __global__ void __launch_bounds__(SWEEP_THREADS)
    nms_sweep(const Word* matrix, const int* order, const int* found, int limit, int* kept, int* number) {
  __shared__ Sweep shared;
  const int image = blockIdx.x, thread = threadIdx.x;
  const int total = sweep(shared, matrix + static_cast<size_t>(image) * CAPACITY * WORDS, found[image], limit);
  for (int i = thread; i < total; i += SWEEP_THREADS) {
    kept[static_cast<size_t>(image) * limit + i] = order[image * CAPACITY + shared.kept[i]];
  }
  if (thread == 0) number[image] = total;
}
