// Class-aware greedy non-maximum suppression of a batch, on the device, without host synchronization.
//
// The rules are those of reference.py: descending score, ties by lower index; a box that overlaps a better box of its
// class by more than the threshold is dropped; overlaps are computed in float64. If more than CAPACITY candidates pass
// the score threshold, the best CAPACITY are used, chosen over all candidates, so that the result is deterministic.
//
// Three kernels run one after the other on one stream: nms_select, nms_overlaps, nms_sweep. Compile with -fmad=false:
// a fused multiply-add rounds once where float64 arithmetic of the reference rounds twice.

typedef unsigned long long Word;

constexpr int CAPACITY = 2048;           // candidates per image; a power of two
constexpr int BITS = 64;                 // candidates per word of the overlap matrix
constexpr int WORDS = CAPACITY / BITS;   // words per row of the overlap matrix
constexpr int SELECT_THREADS = 1024;
constexpr int RADIX_BITS = 8;
constexpr int RADIX = 1 << RADIX_BITS;

struct Box {
  float x1, y1, x2, y2;
};

// Sorts by score, then by lower index; 0 if the candidate does not pass. The bits of positive floats have their order.
__device__ inline Word key_of(const Box* boxes, const float* scores, int index, float threshold) {
  const float score = scores[index];
  if (!(score > threshold)) return 0;
  const Box box = boxes[index];
  if (!isfinite(box.x1) || !isfinite(box.y1) || !isfinite(box.x2) || !isfinite(box.y2)) return 0;
  return (static_cast<Word>(__float_as_uint(score)) << 32) | (0xFFFFFFFFu - static_cast<unsigned>(index));
}

__device__ inline double area_of(const Box& box) {
  return fmax(static_cast<double>(box.x2) - box.x1, 0.0) * fmax(static_cast<double>(box.y2) - box.y1, 0.0);
}

__device__ inline bool overlaps(const Box& a, const Box& b, double threshold) {
  const double width = static_cast<double>(fminf(a.x2, b.x2)) - fmaxf(a.x1, b.x1);
  const double height = static_cast<double>(fminf(a.y2, b.y2)) - fmaxf(a.y1, b.y1);
  const double intersection = fmax(width, 0.0) * fmax(height, 0.0);
  if (!(intersection > 0.0)) return false;
  return intersection / (area_of(a) + area_of(b) - intersection) > threshold;
}

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
  __shared__ Word keys[CAPACITY];
  __shared__ unsigned histogram[RADIX];
  __shared__ unsigned total, cursor, remaining;
  __shared__ Word prefix;
  const int image = blockIdx.x, thread = threadIdx.x;
  const Box* boxes = all_boxes + static_cast<size_t>(image) * stride;
  const float* scores = all_scores + static_cast<size_t>(image) * stride;
  const int count = min(counts[image], stride);

  if (thread == 0) {
    total = cursor = 0;
    remaining = CAPACITY;
    prefix = 0;
  }
  for (int i = thread; i < CAPACITY; i += SELECT_THREADS) keys[i] = 0;
  __syncthreads();
  unsigned own = 0;
  for (int i = thread; i < count; i += SELECT_THREADS) own += key_of(boxes, scores, i, threshold) != 0;
  atomicAdd(&total, own);
  __syncthreads();

  if (total > CAPACITY) {
    // Radix selection: after each step, `prefix` has the leading digits of the key with rank CAPACITY.
    Word known = 0;
    for (int shift = 64 - RADIX_BITS; shift >= 0; shift -= RADIX_BITS) {
      for (int i = thread; i < RADIX; i += SELECT_THREADS) histogram[i] = 0;
      __syncthreads();
      for (int i = thread; i < count; i += SELECT_THREADS) {
        const Word key = key_of(boxes, scores, i, threshold);
        if (key != 0 && (key & known) == prefix) atomicAdd(&histogram[(key >> shift) & (RADIX - 1)], 1u);
      }
      __syncthreads();
      if (thread == 0) {
        int digit = RADIX - 1;
        while (histogram[digit] < remaining) remaining -= histogram[digit--];
        prefix |= static_cast<Word>(digit) << shift;
      }
      known |= static_cast<Word>(RADIX - 1) << shift;
      __syncthreads();
    }
  }
  const Word least = total > CAPACITY ? prefix : 1;
  for (int i = thread; i < count; i += SELECT_THREADS) {
    const Word key = key_of(boxes, scores, i, threshold);
    if (key >= least) keys[atomicAdd(&cursor, 1u)] = key;
  }
  __syncthreads();

  // Bitonic sort, descending; the order in which keys came does not matter, since all are different.
  const int length = min(static_cast<int>(total), CAPACITY);
  int padded = 1;
  while (padded < length) padded *= 2;
  for (int size = 2; size <= padded; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = thread; i < padded; i += SELECT_THREADS) {
        const int other = i ^ step;
        if (other > i) {
          const Word a = keys[i], b = keys[other];
          if ((a < b) == ((i & size) == 0)) {
            keys[i] = b;
            keys[other] = a;
          }
        }
      }
      __syncthreads();
    }
  }
  for (int i = thread; i < length; i += SELECT_THREADS) {
    order[image * CAPACITY + i] = static_cast<int>(0xFFFFFFFFu - static_cast<unsigned>(keys[i] & 0xFFFFFFFFu));
  }
  if (thread == 0) found[image] = length;
}

// Computes which candidates suppress which. Grid: (WORDS, WORDS, images). Block: BITS.
//
// classes [images][stride]
// matrix  [images][CAPACITY][WORDS]   bit j of word c of row i: candidate i suppresses candidate 64 c + j, which is worse
extern "C" __global__ void __launch_bounds__(BITS)
    nms_overlaps(const Box* all_boxes, const int* all_classes, const int* order, const int* found, int stride,
                 double threshold, Word* matrix) {
  __shared__ Box boxes[BITS];
  __shared__ int classes[BITS];
  const int image = blockIdx.z, column = blockIdx.x, row = blockIdx.y, thread = threadIdx.x;
  const int length = found[image];
  if (column < row || column * BITS >= length || row * BITS >= length) return;
  const size_t first = static_cast<size_t>(image) * stride;
  const int* sorted = order + image * CAPACITY;
  const int columns = min(BITS, length - column * BITS);
  if (thread < columns) {
    const size_t index = first + sorted[column * BITS + thread];
    boxes[thread] = all_boxes[index];
    classes[thread] = all_classes[index];
  }
  __syncthreads();
  const int own = row * BITS + thread;
  if (own < length) {
    const size_t index = first + sorted[own];
    const Box box = all_boxes[index];
    const int kind = all_classes[index];
    Word bits = 0;
    for (int j = column == row ? thread + 1 : 0; j < columns; ++j) {
      if (classes[j] == kind && overlaps(box, boxes[j], threshold)) bits |= static_cast<Word>(1) << j;
    }
    matrix[(static_cast<size_t>(image) * CAPACITY + own) * WORDS + column] = bits;
  }
}

// Keeps boxes greedily. Grid: images. Block: BITS.
//
// kept    [images][limit]   indices of the kept candidates, best first
// number  [images]          how many are kept; entries of `kept` behind them are not written
extern "C" __global__ void __launch_bounds__(BITS)
    nms_sweep(const Word* matrix, const int* order, const int* found, int limit, int* kept, int* number) {
  __shared__ Word removed[WORDS], diagonal[BITS], chosen;
  __shared__ int total;
  const int image = blockIdx.x, thread = threadIdx.x;
  const int length = found[image], blocks = (length + BITS - 1) / BITS;
  const Word* rows = matrix + static_cast<size_t>(image) * CAPACITY * WORDS;
  if (thread < WORDS) removed[thread] = 0;
  if (thread == 0) total = 0;
  __syncthreads();
  for (int block = 0; block < blocks; ++block) {
    const int size = min(BITS, length - block * BITS);
    if (thread < size) diagonal[thread] = rows[static_cast<size_t>(block * BITS + thread) * WORDS + block];
    __syncthreads();
    if (thread == 0) {
      Word gone = removed[block];
      chosen = 0;
      for (int i = 0; i < size && total < limit; ++i) {
        if ((gone >> i) & 1) continue;
        chosen |= static_cast<Word>(1) << i;
        gone |= diagonal[i];
        kept[static_cast<size_t>(image) * limit + total++] = order[image * CAPACITY + block * BITS + i];
      }
    }
    __syncthreads();
    if (total >= limit) break;
    for (int word = block + 1 + thread; word < blocks; word += BITS) {
      Word gone = 0;
      for (int i = 0; i < size; ++i) {
        if ((chosen >> i) & 1) gone |= rows[static_cast<size_t>(block * BITS + i) * WORDS + word];
      }
      removed[word] |= gone;
    }
    __syncthreads();
  }
  if (thread == 0) number[image] = total;
}
