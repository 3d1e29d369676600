// Parts of greedy suppression that nms.cu and decode.cu share: the best candidates of an image, which of them overlap,
// and which are kept.
#pragma once

typedef unsigned long long Word;

constexpr int CAPACITY = 2048;          // candidates per image; a power of two
constexpr int BITS = 64;                // candidates per word of the overlap matrix
constexpr int WORDS = CAPACITY / BITS;  // words per row of the overlap matrix
constexpr int TILES = WORDS * (WORDS + 1) / 2;
constexpr int SELECT_THREADS = 1024;
constexpr int SWEEP_THREADS = 256;
constexpr int RADIX_BITS = 8;
constexpr int RADIX = 1 << RADIX_BITS;
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

struct alignas(16) Box {
  float x1, y1, x2, y2;
};

// Sorts by score, then by lower index. The bits of positive floats have the order of the numbers.
__device__ inline Word key_of(float score, unsigned index) {
  return (static_cast<Word>(__float_as_uint(score)) << 32) | (0xFFFFFFFFu - index);
}

__device__ inline unsigned index_of(Word key) { return 0xFFFFFFFFu - static_cast<unsigned>(key & 0xFFFFFFFFu); }

__device__ inline bool is_finite(const Box& box) {
  return isfinite(box.x1) && isfinite(box.y1) && isfinite(box.x2) && isfinite(box.y2);
}

struct Selection {
  Word keys[CAPACITY];
  unsigned histogram[RADIX];
  unsigned total, cursor, remaining;
  Word prefix;
  bool found;
};

// Finds the digit of the key with rank `remaining` among those that the histogram counts. Called by the first warp.
__device__ inline void choose_digit(Selection& shared, int lane, int shift) {
  constexpr int OWN = RADIX / WARP;
  const unsigned remaining = shared.remaining;
  const int highest = RADIX - 1 - lane * OWN;  // lane 0 has the largest digits
  unsigned sum = 0;
  for (int i = 0; i < OWN; ++i) sum += shared.histogram[highest - i];
  unsigned before = sum;
  for (int step = 1; step < WARP; step *= 2) {
    const unsigned other = __shfl_up_sync(ALL_LANES, before, step);
    if (lane >= step) before += other;
  }
  before -= sum;
  if (before < remaining && remaining <= before + sum) {
    unsigned left = remaining - before;
    int digit = highest;
    while (shared.histogram[digit] < left) left -= shared.histogram[digit--];
    shared.prefix |= static_cast<Word>(digit) << shift;
    shared.remaining = left;
    shared.found = shared.histogram[digit] == left;  // all keys with this prefix are among the best
  }
}

// Leaves the best keys in `shared.keys`, in descending order, and returns their number. Block: SELECT_THREADS.
//
// `source(i)` is the key of candidate i < count, or 0 if it is none. All keys are different, so neither the order in
// which they come nor that in which threads run changes the result.
template <typename Source>
__device__ int select_best(Selection& shared, Source source, int count) {
  const int thread = threadIdx.x;
  if (thread == 0) {
    shared.total = shared.cursor = 0;
    shared.remaining = CAPACITY;
    shared.prefix = 0;
    shared.found = false;
  }
  for (int i = thread; i < CAPACITY; i += SELECT_THREADS) shared.keys[i] = 0;
  __syncthreads();
  if (count > CAPACITY) {
    unsigned own = 0;
    for (int i = thread; i < count; i += SELECT_THREADS) own += source(i) != 0;
    atomicAdd(&shared.total, own);
    __syncthreads();
  }
  if (shared.total > CAPACITY) {
    // Radix selection: after each step, `prefix` has the leading digits of the key with rank CAPACITY.
    Word known = 0;
    for (int shift = 64 - RADIX_BITS; shift >= 0; shift -= RADIX_BITS) {
      for (int i = thread; i < RADIX; i += SELECT_THREADS) shared.histogram[i] = 0;
      __syncthreads();
      for (int i = thread; i < count; i += SELECT_THREADS) {
        const Word key = source(i);
        if (key != 0 && (key & known) == shared.prefix) {
          atomicAdd(&shared.histogram[(key >> shift) & (RADIX - 1)], 1u);
        }
      }
      __syncthreads();
      if (thread < WARP) choose_digit(shared, thread, shift);
      known |= static_cast<Word>(RADIX - 1) << shift;
      __syncthreads();
      if (shared.found) break;
    }
  }
  const Word least = shared.total > CAPACITY ? shared.prefix : 1;
  for (int i = thread; i < count; i += SELECT_THREADS) {
    const Word key = source(i);
    if (key >= least) shared.keys[atomicAdd(&shared.cursor, 1u)] = key;
  }
  __syncthreads();

  // Bitonic sort.
  const int length = static_cast<int>(shared.cursor);
  int padded = 1;
  while (padded < length) padded *= 2;
  for (int size = 2; size <= padded; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = thread; i < padded; i += SELECT_THREADS) {
        const int other = i ^ step;
        if (other > i) {
          const Word a = shared.keys[i], b = shared.keys[other];
          if ((a < b) == ((i & size) == 0)) {
            shared.keys[i] = b;
            shared.keys[other] = a;
          }
        }
      }
      __syncthreads();
    }
  }
  return length;
}

__device__ inline double area_of(const Box& box) {
  return fmax(static_cast<double>(box.x2) - box.x1, 0.0) * fmax(static_cast<double>(box.y2) - box.y1, 0.0);
}

__device__ inline bool overlaps_exactly(const Box& a, const Box& b, double threshold) {
  const double width = static_cast<double>(fminf(a.x2, b.x2)) - fmaxf(a.x1, b.x1);
  const double height = static_cast<double>(fminf(a.y2, b.y2)) - fmaxf(a.y1, b.y1);
  const double intersection = width * height;
  return intersection / (area_of(a) + area_of(b) - intersection) > threshold;
}

// Whether two boxes overlap by more than the threshold, as float64 arithmetic decides it.
//
// Most GPUs have few units for float64. In float32 the error of `excess` is at most about 10 roundings, 6e-7 of the
// areas, so float64 is needed only for what is closer to the threshold than `slack`. Sums outside of the two limits
// could have overflowed or lost digits.
__device__ inline bool overlaps(const Box& a, const Box& b, double threshold) {
  const float width = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1);
  const float height = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1);
  if (!(width > 0.0f && height > 0.0f)) return false;
  const float intersection = width * height;
  const float areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1);
  const float excess = intersection - static_cast<float>(threshold) * (areas - intersection);
  const float slack = 1e-5f * areas;
  if (areas > 1e-25f && areas < 1e30f && fabsf(excess) > slack) return excess > 0.0f;
  return overlaps_exactly(a, b, threshold);
}

// Computes one tile of the overlap matrix of an image. Grid: (TILES, 1, images). Block: BITS.
//
// `fetch(i)` is candidate i < length, best first; `a.suppresses(b, threshold)` says what the bits mean. Bit j of word c
// of row i: candidate i suppresses candidate 64 c + j, which is worse.
template <typename Candidate, typename Fetch>
__device__ void overlap_tile(Fetch fetch, int length, double threshold, Word* rows) {
  __shared__ Candidate staged[BITS];
  const int tile = blockIdx.x, thread = threadIdx.x;
  const int words = (length + BITS - 1) / BITS;
  if (tile >= words * (words + 1) / 2) return;
  // Tiles are numbered column by column: column c has rows 0 to c.
  int column = static_cast<int>((sqrtf(8.0f * tile + 1.0f) - 1.0f) / 2.0f);
  while (column * (column + 1) / 2 > tile) --column;
  while ((column + 1) * (column + 2) / 2 <= tile) ++column;
  const int row = tile - column * (column + 1) / 2;
  const int columns = min(BITS, length - column * BITS);
  if (thread < columns) staged[thread] = fetch(column * BITS + thread);
  __syncthreads();
  const int own = row * BITS + thread;
  if (own < length) {
    const Candidate candidate = fetch(own);
    Word bits = 0;
    for (int j = column == row ? thread + 1 : 0; j < columns; ++j) {
      if (candidate.suppresses(staged[j], threshold)) bits |= static_cast<Word>(1) << j;
    }
    rows[static_cast<size_t>(own) * WORDS + column] = bits;
  }
}

struct Upright {
  Box box;
  int kind;

  __device__ bool suppresses(const Upright& other, double threshold) const {
    return kind == other.kind && overlaps(box, other.box, threshold);
  }
};

struct Sweep {
  Word diagonal[CAPACITY];
  Word removed[WORDS];
  Word chosen;
  unsigned short kept[CAPACITY];
  int total;
};

// Keeps candidates greedily: leaves their ranks in `shared.kept` and returns their number. Block: SWEEP_THREADS.
//
// One thread goes through the 64 candidates of a word; then all remove what these suppress. The rows of the next word
// are read meanwhile.
__device__ inline int sweep(Sweep& shared, const Word* rows, int length, int limit) {
  constexpr int PARTS = SWEEP_THREADS / WORDS, OWN = BITS / PARTS;
  const int thread = threadIdx.x, word = thread % WORDS, part = thread / WORDS;
  const int words = (length + BITS - 1) / BITS;
  for (int i = thread; i < length; i += SWEEP_THREADS) {
    shared.diagonal[i] = rows[static_cast<size_t>(i) * WORDS + i / BITS];
  }
  if (thread < WORDS) shared.removed[thread] = 0;
  if (thread == 0) shared.total = 0;
  Word own[OWN];
  const auto read = [&](int block) {
    for (int j = 0; j < OWN; ++j) {
      const int row = block * BITS + part + PARTS * j;
      own[j] = block < word && word < words && row < length ? rows[static_cast<size_t>(row) * WORDS + word] : 0;
    }
  };
  read(0);
  __syncthreads();
  for (int block = 0; block < words; ++block) {
    if (thread == 0) {
      const int size = min(BITS, length - block * BITS);
      Word alive = ~shared.removed[block];
      if (size < BITS) alive &= (static_cast<Word>(1) << size) - 1;
      Word chosen = 0;
      int total = shared.total;
      while (alive != 0 && total < limit) {
        const int i = __ffsll(static_cast<long long>(alive)) - 1;
        const Word bit = static_cast<Word>(1) << i;
        chosen |= bit;
        alive &= ~(shared.diagonal[block * BITS + i] | bit);
        shared.kept[total++] = static_cast<unsigned short>(block * BITS + i);
      }
      shared.chosen = chosen;
      shared.total = total;
    }
    __syncthreads();
    if (shared.total >= limit) break;
    Word gone = 0;
    for (int j = 0; j < OWN; ++j) {
      if ((shared.chosen >> (part + PARTS * j)) & 1) gone |= own[j];
    }
    if (gone != 0) atomicOr(&shared.removed[word], gone);
    read(block + 1);
    __syncthreads();
  }
  return shared.total;
}
