// Raw outputs of a detector to detections in image pixels, on the device, without host synchronization.
//
// The rules are those of families.py. Kernels run one after the other on one stream:
//
//   decode_reset                    sets the numbers of candidates to 0
//   decode_filter_planes or _rows   scores of all cells; a key for each candidate whose score passes
//   decode_select                   the best CAPACITY keys over all, sorted; only these boxes are decoded
//   decode_overlaps or _rotated     which candidates suppress which; not for heads without suppression
//   decode_emit                     sweep, letterbox undone, boxes outside of the image dropped
//
// What may change from call to call is read from `Parameters`, so that captured launches can be replayed. Compile with
// -fmad=false, as nms.cu.
#include "../suppression/rotated.cuh"

constexpr int OUTPUTS = 4;
constexpr int LEVELS = 4;
constexpr int ANCHORS = 9;
constexpr int GROUPS = 8;     // threads per cell in decode_filter_planes
constexpr int ROW_WARPS = 8;  // warps per block in decode_filter_rows
// Blocks of decode_overlaps_rotated per multiprocessor: left to itself, ptxas fits more, and spills registers for them.
constexpr int ROTATED_BLOCKS = 10;
constexpr float MAX_EXPONENT = 16.0f;
constexpr float MAX_ROOT = 1000.0f;
constexpr float MAX_CLASS = 16777216.0f;
constexpr float LOGIT_SLACK = 1e-3f;

enum Family { YOLOV1, YOLOV2, YOLOV3, CENTERS, YOLOX, END2END, DETR, END2END_CENTERS };
enum Activation { NONE, SIGMOID, SOFTMAX };

// Cells in a grid, row by row, for each anchor.
struct Level {
  int first;    // number of its first cell
  int columns;
  int area;     // cells of an anchor
  int boxes;    // anchors, or boxes per cell
  float stride;
  float sides[2 * ANCHORS];
};

struct Head {
  long long elements[OUTPUTS];  // values of an image in each output
  int family;
  int activation;
  int cells;
  int classes;         // of a cell; 0 if its score has a channel of its own
  int slots;           // classes and background
  int first_class;     // slot of the first class
  int channels;        // values per cell in the output with the boxes, or per anchor
  int class_channels;  // values per cell in the output with the classes
  int class_channel;   // the first slot's
  int class_output;
  int angle_channel;   // -1 if there is none
  int objectness;      // 1 if channel 4 has one
  int multi_label;
  int channels_last;
  int levels;
  int half_boxes, half_classes;  // outputs are FP16
  int overlap;
  int limit;           // detections that an image has room for
  int fast;            // a better candidate suppresses, kept or not
  float width, height;  // of the input
  Level level[LEVELS];
};

struct Parameters {
  double iou_threshold;
  double pixels[2];  // of the image per pixel of the input: a product is much cheaper than a division in float64
  double offset[2], size[2];
  float score_threshold;
  int max_detections;
  int keeps_angle;  // rotated boxes are not turned with the image
  int unused;
};

struct Detection {
  float box[4];
  float score;
  int kind;
  int index;
  float angle;
};

struct Decoded {
  Box box;  // corners; or center and sides
  float angle;
  int kind;  // only if the model gives it
};

// The raw outputs; a head with one output has it four times.
struct Outputs {
  const void* data[OUTPUTS];
};

// Where the values of a cell are: channel c of its box is boxes[box + c * step].
struct Place {
  const void* boxes;
  const void* classes;
  size_t box, objectness, slot;
  size_t step;
  int level, anchor, position;
};

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

// FP16 to float: shifting the bits gives the number divided by 2^112, also if it is denormal.
__device__ inline float widened(unsigned short bits) {
  const unsigned magnitude = static_cast<unsigned>(bits & 0x7FFF) << 13;
  float value = __uint_as_float(magnitude) * 5192296858534827628530496329220096.0f;
  if (magnitude >= 0x0F800000u) value = __uint_as_float(magnitude | 0x7F800000u);  // infinite or NaN
  return bits & 0x8000 ? -value : value;
}

template <bool HALF>
__device__ inline float load(const void* data, size_t index) {
  if (HALF) return widened(static_cast<const unsigned short*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

__device__ inline float load(const void* data, size_t index, int half) {
  return half ? load<true>(data, index) : load<false>(data, index);
}

__device__ inline float sigmoid(float x) {
  const float small = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : small) / (1.0f + small);
}

__device__ inline float at_most(float x, float limit) { return x > limit ? limit : x; }  // NaN stays NaN

__device__ inline float clipped(float x, float limit) { return x < -limit ? -limit : at_most(x, limit); }

__device__ inline Place locate(const Head& head, const Outputs& outputs, int image, int cell) {
  Place place;
  place.level = 0;
  for (int i = 1; i < head.levels; ++i) place.level += cell >= head.level[i].first;
  const Level& level = head.level[place.level];
  const int local = cell - level.first;
  place.anchor = level.area > 0 ? local / level.area : 0;
  place.position = local - place.anchor * level.area;
  if (head.family <= YOLOV3) {
    const void* low = place.level == 0 ? outputs.data[0] : outputs.data[1];
    const void* high = place.level == 2 ? outputs.data[2] : outputs.data[3];
    place.boxes = place.classes = place.level < 2 ? low : high;
    place.step = static_cast<size_t>(level.area);
    const size_t first = static_cast<size_t>(image) * static_cast<size_t>(head.elements[place.level]) +
                         static_cast<size_t>(place.position);
    if (head.family == YOLOV1) {
      place.slot = first;
      place.objectness = first + static_cast<size_t>(head.classes + place.anchor) * place.step;
      place.box = first + static_cast<size_t>(head.classes + level.boxes + 4 * place.anchor) * place.step;
    } else {
      place.box = first + static_cast<size_t>(place.anchor) * static_cast<size_t>(head.channels) * place.step;
      place.objectness = place.box + 4 * place.step;
      place.slot = place.box + 5 * place.step;
    }
    return place;
  }
  place.boxes = outputs.data[0];
  place.classes = head.class_output ? outputs.data[1] : outputs.data[0];
  const size_t first = static_cast<size_t>(image) * static_cast<size_t>(head.elements[0]);
  const size_t first_slot = static_cast<size_t>(image) * static_cast<size_t>(head.elements[head.class_output]);
  const size_t own = static_cast<size_t>(cell);
  place.step = head.channels_last ? 1 : static_cast<size_t>(head.cells);
  place.box = first + (head.channels_last ? own * static_cast<size_t>(head.channels) : own);
  place.objectness = place.box + 4 * place.step;
  place.slot = first_slot + (head.channels_last ? own * static_cast<size_t>(head.class_channels) : own) +
               static_cast<size_t>(head.class_channel) * place.step;
  return place;
}

__device__ inline Box box_around(float x, float y, float width, float height) {
  const float half_width = width / 2.0f, half_height = height / 2.0f;
  return {x - half_width, y - half_height, x + half_width, y + half_height};
}

__device__ inline Decoded decoded(const Head& head, const Place& place) {
  float t[4];
  for (int i = 0; i < 4; ++i) {
    t[i] = load(place.boxes, place.box + static_cast<size_t>(i) * place.step, head.half_boxes);
  }
  Decoded result{{t[0], t[1], t[2], t[3]}, 0.0f, 0};
  const Level& level = head.level[place.level];
  const float column = static_cast<float>(level.columns > 0 ? place.position % level.columns : 0);
  const float row = static_cast<float>(level.columns > 0 ? place.position / level.columns : 0);
  if (head.angle_channel >= 0) {
    result.angle = load(place.boxes, place.box + static_cast<size_t>(head.angle_channel) * place.step, head.half_boxes);
  }
  switch (head.family) {
    case YOLOV1: {
      const float w = clipped(t[2], MAX_ROOT), h = clipped(t[3], MAX_ROOT);
      const float columns = static_cast<float>(level.columns), rows = static_cast<float>(level.area / level.columns);
      result.box = box_around((t[0] + column) * level.stride, (t[1] + row) * level.stride,
                              w * w * columns * level.stride, h * h * rows * level.stride);
      break;
    }
    case YOLOV2:
    case YOLOV3:
      result.box = box_around((sigmoid(t[0]) + column) * level.stride, (sigmoid(t[1]) + row) * level.stride,
                              level.sides[2 * place.anchor] * expf(at_most(t[2], MAX_EXPONENT)),
                              level.sides[2 * place.anchor + 1] * expf(at_most(t[3], MAX_EXPONENT)));
      break;
    case YOLOX:
      result.box = box_around((t[0] + column) * level.stride, (t[1] + row) * level.stride, expf(t[2]) * level.stride,
                              expf(t[3]) * level.stride);
      break;
    case DETR:
      result.box = box_around(t[0] * head.width, t[1] * head.height, t[2] * head.width, t[3] * head.height);
      break;
    case CENTERS:
      if (head.angle_channel < 0) result.box = box_around(t[0], t[1], t[2], t[3]);
      break;
    case END2END_CENTERS:
      result.box = box_around(t[0] * head.width, t[1] * head.height, t[2] * head.width, t[3] * head.height);
      [[fallthrough]];
    case END2END:
      result.kind = static_cast<int>(load(place.boxes, place.box + 5, head.half_boxes));
      break;
  }
  return result;
}

__device__ inline bool is_box(const Head& head, const Place& place) {
  const Decoded found = decoded(head, place);
  return is_finite(found.box) && isfinite(found.angle);
}

// A logit that is not greater cannot have a score above the threshold; saves exponentials.
__device__ inline float least_of(const Head& head, float threshold) {
  if (head.activation != SIGMOID) return minus_infinity();
  return logf(threshold / (1.0f - threshold)) - LOGIT_SLACK;
}

__device__ inline float activated(const Head& head, float value) {
  return head.activation == SIGMOID ? sigmoid(value) : value;
}

__device__ inline float objectness_of(const Head& head, const Place& place) {
  const float value = load(place.classes, place.objectness, head.half_classes);
  return head.family == YOLOV2 || head.family == YOLOV3 ? sigmoid(value) : activated(head, value);
}

struct Softmax {
  float largest, sum;
};

__device__ inline float score_of(const Head& head, float value, float objectness, const Softmax& softmax) {
  const float probability =
      head.activation == SOFTMAX ? expf(value - softmax.largest) / softmax.sum : activated(head, value);
  return objectness * probability;
}

// Appends a key for each lane that has one. Called by all lanes of a warp. `index` is that of cell and class.
__device__ inline void append(bool passes, float score, unsigned index, int lane, Word* list, unsigned* counter) {
  const unsigned voters = __ballot_sync(ALL_LANES, passes);
  if (voters == 0) return;
  const int leader = __ffs(static_cast<int>(voters)) - 1;
  unsigned first = 0;
  if (lane == leader) first = atomicAdd(counter, static_cast<unsigned>(__popc(voters)));
  first = __shfl_sync(ALL_LANES, first, leader);
  if (passes) list[first + static_cast<unsigned>(__popc(voters & ((1u << lane) - 1u)))] = key_of(score, index);
}

__device__ inline bool is_better(float value, int kind, float best, int best_kind) {
  return value > best || (value == best && kind < best_kind);
}

// One lane per cell, and one warp for each of GROUPS shares of the classes: neighbours read neighbouring values.
template <bool HALF>
__device__ void filter_planes(const Outputs& outputs, const Head& head, float threshold, Word* list,
                              unsigned* counter) {
  __shared__ float values[GROUPS][WARP], sums[GROUPS][WARP];
  __shared__ int kinds[GROUPS][WARP];
  const int lane = threadIdx.x, group = threadIdx.y, image = blockIdx.y;
  const int cell = blockIdx.x * WARP + lane;
  const bool inside = cell < head.cells;
  const Place place = locate(head, outputs, image, inside ? cell : 0);
  float objectness = 1.0f;
  bool possible = inside;
  if (head.objectness && inside) {
    objectness = objectness_of(head, place);
    possible = head.family == YOLOV1 || objectness > threshold;  // YOLOv1's class values may be greater than 1
  }
  if (__ballot_sync(ALL_LANES, possible) == 0) return;  // the same for all warps of the block: these are its cells

  Softmax softmax{0.0f, 1.0f};
  float largest = 0.0f;
  int only = head.classes;
  if (!head.multi_label || head.activation == SOFTMAX) {
    float best = minus_infinity();
    int best_kind = head.classes;
    if (possible) {
      for (int kind = group; kind < head.classes; kind += GROUPS) {
        const float value = load<HALF>(place.classes, place.slot + static_cast<size_t>(kind) * place.step);
        if (value > best) {
          best = value;
          best_kind = kind;
        }
      }
    }
    values[group][lane] = best;
    kinds[group][lane] = best_kind;
    __syncthreads();
    for (int i = 0; i < GROUPS; ++i) {
      if (is_better(values[i][lane], kinds[i][lane], best, best_kind)) {
        best = values[i][lane];
        best_kind = kinds[i][lane];
      }
    }
    if (head.activation == SOFTMAX) {
      softmax = {best, 0.0f};
      if (possible) {
        for (int kind = group; kind < head.classes; kind += GROUPS) {
          softmax.sum += expf(load<HALF>(place.classes, place.slot + static_cast<size_t>(kind) * place.step) - best);
        }
      }
      sums[group][lane] = softmax.sum;
      __syncthreads();
      softmax.sum = 0.0f;
      for (int i = 0; i < GROUPS; ++i) softmax.sum += sums[i][lane];
    }
    largest = best;
    only = best_kind;
    if (!head.multi_label && group != 0) return;
  }
  const float least = least_of(head, threshold);
  const int last = head.multi_label ? head.classes : 1;
  for (int i = group; i < last; i += GROUPS) {
    const int kind = head.multi_label ? i : only;
    bool passes = false;
    float score = 0.0f;
    if (possible && kind < head.classes) {
      const float value =
          head.multi_label ? load<HALF>(place.classes, place.slot + static_cast<size_t>(kind) * place.step) : largest;
      if (value > least) {
        score = score_of(head, value, objectness, softmax);
        passes = score > threshold && is_box(head, place);
      }
    }
    append(passes, score, static_cast<unsigned>(cell * head.classes + kind), lane, list, counter);
  }
}

// One warp per cell, one lane per class; before, one lane per cell looks at its objectness.
template <bool HALF>
__device__ void filter_rows(const Outputs& outputs, const Head& head, int rows, float threshold, Word* list,
                            unsigned* counter) {
  const int lane = threadIdx.x % WARP, image = blockIdx.y;
  const int first = (blockIdx.x * ROW_WARPS + threadIdx.x / WARP) * rows;
  const int own = first + lane;
  bool possible = lane < rows && own < head.cells;
  float own_objectness = 1.0f;
  if (head.objectness && possible) {
    own_objectness = objectness_of(head, locate(head, outputs, image, own));
    possible = own_objectness > threshold;
  }
  const float least = least_of(head, threshold);
  unsigned waiting = __ballot_sync(ALL_LANES, possible);
  while (waiting != 0) {
    const int row = __ffs(static_cast<int>(waiting)) - 1;
    waiting &= waiting - 1;
    const int cell = first + row;
    const float objectness = __shfl_sync(ALL_LANES, own_objectness, row);
    const Place place = locate(head, outputs, image, cell);
    const size_t classes = place.slot + static_cast<size_t>(head.first_class) * place.step;
    Softmax softmax{minus_infinity(), 0.0f};
    if (head.activation == SOFTMAX) {
      for (int slot = lane; slot < head.slots; slot += WARP) {
        softmax.largest = fmaxf(softmax.largest, load<HALF>(place.classes, place.slot + static_cast<size_t>(slot)));
      }
      for (int step = WARP / 2; step > 0; step /= 2) {
        softmax.largest = fmaxf(softmax.largest, __shfl_xor_sync(ALL_LANES, softmax.largest, step));
      }
      for (int slot = lane; slot < head.slots; slot += WARP) {
        softmax.sum += expf(load<HALF>(place.classes, place.slot + static_cast<size_t>(slot)) - softmax.largest);
      }
      for (int step = WARP / 2; step > 0; step /= 2) {
        softmax.sum += __shfl_xor_sync(ALL_LANES, softmax.sum, step);
      }
    }
    float best = minus_infinity();
    int best_kind = head.classes;
    if (!head.multi_label) {
      for (int kind = lane; kind < head.classes; kind += WARP) {
        const float value = load<HALF>(place.classes, classes + static_cast<size_t>(kind));
        if (value > best) {
          best = value;
          best_kind = kind;
        }
      }
      for (int step = WARP / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, best, step);
        const int other_kind = __shfl_xor_sync(ALL_LANES, best_kind, step);
        if (is_better(other, other_kind, best, best_kind)) {
          best = other;
          best_kind = other_kind;
        }
      }
    }
    const int last = head.multi_label ? head.classes : 1;
    for (int start = 0; start < last; start += WARP) {
      const int kind = head.multi_label ? start + lane : lane == 0 ? best_kind : head.classes;
      bool passes = false;
      float score = 0.0f;
      if (kind < head.classes) {
        const float value = head.multi_label ? load<HALF>(place.classes, classes + static_cast<size_t>(kind)) : best;
        if (value > least) {
          score = score_of(head, value, objectness, softmax);
          passes = score > threshold && is_box(head, place);
        }
      }
      append(passes, score, static_cast<unsigned>(cell * head.classes + kind), lane, list, counter);
    }
  }
}

// One lane per row: score and class are two of its values.
__device__ inline void filter_scored(const Outputs& outputs, const Head& head, int rows, float threshold, Word* list,
                                     unsigned* counter) {
  const int lane = threadIdx.x % WARP, image = blockIdx.y;
  const int own = (blockIdx.x * ROW_WARPS + threadIdx.x / WARP) * rows + lane;
  bool passes = lane < rows && own < head.cells;
  float score = 0.0f;
  if (passes) {
    const Place place = locate(head, outputs, image, own);
    score = load(place.boxes, place.objectness, head.half_boxes);
    const float kind = load(place.boxes, place.box + 5, head.half_boxes);
    passes = score > threshold && kind >= 0.0f && kind < MAX_CLASS && is_box(head, place);
  }
  append(passes, score, static_cast<unsigned>(own), lane, list, counter);
}

__device__ inline size_t candidates_of(const Head& head) {
  return static_cast<size_t>(head.cells) * static_cast<size_t>(head.multi_label ? head.classes : 1);
}

// Sets the counters to 0. Grid: 1. Block: any.
extern "C" __global__ void decode_reset(unsigned* counters, int images) {
  for (int i = threadIdx.x; i < images; i += blockDim.x) counters[i] = 0;
}

// Finds candidates in outputs whose channels come first. Grid: (cells / WARP, images). Block: (WARP, GROUPS).
//
// parameters  [images]
// lists       [images][cells * classes, or cells]   a key for each candidate, in any order; see key_of
// counters    [images]                              numbers of keys; must be 0 before
extern "C" __global__ void __launch_bounds__(WARP* GROUPS)
    decode_filter_planes(const void* a, const void* b, const void* c, const void* d, const Parameters* parameters,
                         Word* lists, unsigned* counters, const __grid_constant__ Head head) {
  const int image = blockIdx.y;
  const Outputs outputs{{a, b, c, d}};
  const float threshold = parameters[image].score_threshold;
  Word* list = lists + static_cast<size_t>(image) * candidates_of(head);
  if (head.half_classes) {
    filter_planes<true>(outputs, head, threshold, list, counters + image);
  } else {
    filter_planes<false>(outputs, head, threshold, list, counters + image);
  }
}

// Finds candidates in outputs whose channels come last. Grid: (cells / (ROW_WARPS * rows), images).
// Block: WARP * ROW_WARPS. `rows`: cells per warp, at most WARP.
extern "C" __global__ void __launch_bounds__(WARP* ROW_WARPS)
    decode_filter_rows(const void* a, const void* b, const Parameters* parameters, Word* lists, unsigned* counters,
                       const __grid_constant__ Head head, int rows) {
  const int image = blockIdx.y;
  const Outputs outputs{{a, b, b, b}};
  const float threshold = parameters[image].score_threshold;
  Word* list = lists + static_cast<size_t>(image) * candidates_of(head);
  if (head.family == END2END || head.family == END2END_CENTERS) {
    filter_scored(outputs, head, rows, threshold, list, counters + image);
  } else if (head.half_classes) {
    filter_rows<true>(outputs, head, rows, threshold, list, counters + image);
  } else {
    filter_rows<false>(outputs, head, rows, threshold, list, counters + image);
  }
}

// Selects and decodes the best candidates of each image. Grid: images. Block: SELECT_THREADS.
//
// keys, boxes, angles, kinds   [images][CAPACITY]   best first
// found                        [images]             their number
extern "C" __global__ void __launch_bounds__(SELECT_THREADS)
    decode_select(const void* a, const void* b, const void* c, const void* d, const Word* lists,
                  const unsigned* counters, Word* keys, Box* boxes, float* angles, int* kinds, int* found,
                  const __grid_constant__ Head head) {
  __shared__ Selection shared;
  const int image = blockIdx.x, thread = threadIdx.x;
  const Outputs outputs{{a, b, c, d}};
  const Word* list = lists + static_cast<size_t>(image) * candidates_of(head);
  const int length = select_best(shared, [&](int i) { return list[i]; }, static_cast<int>(counters[image]));
  const int classes = max(head.classes, 1);
  for (int i = thread; i < length; i += SELECT_THREADS) {
    const Word key = shared.keys[i];
    const int candidate = static_cast<int>(index_of(key));
    const Decoded box = decoded(head, locate(head, outputs, image, candidate / classes));
    const int place = image * CAPACITY + i;
    keys[place] = key;
    boxes[place] = box.box;
    angles[place] = box.angle;
    kinds[place] = head.classes > 0 ? candidate % classes : box.kind;
  }
  if (thread == 0) found[image] = length;
}

// Computes which candidates suppress which. Grid: (TILES, 1, images). Block: BITS.
//
// matrix   [images][CAPACITY][WORDS]   see overlap_tile
extern "C" __global__ void __launch_bounds__(BITS)
    decode_overlaps(const Box* boxes, const int* kinds, const int* found, const Parameters* parameters, Word* matrix) {
  const int image = blockIdx.z;
  const auto fetch = [&](int i) { return Upright{boxes[image * CAPACITY + i], kinds[image * CAPACITY + i]}; };
  overlap_tile<Upright>(fetch, found[image], parameters[image].iou_threshold,
                        matrix + static_cast<size_t>(image) * CAPACITY * WORDS);
}

// The same for rotated boxes. `overlap`: ROTATED or PROBIOU.
extern "C" __global__ void __launch_bounds__(BITS, ROTATED_BLOCKS)
    decode_overlaps_rotated(const Box* boxes, const float* angles, const int* kinds, const int* found,
                            const Parameters* parameters, Word* matrix, int overlap) {
  const int image = blockIdx.z;
  const double threshold = parameters[image].iou_threshold;
  const auto fetch = [&](int i) {
    const int place = image * CAPACITY + i;
    return rotated(boxes[place], angles[place], kinds[place], overlap, threshold);
  };
  overlap_tile<Rotated>(fetch, found[image], threshold, matrix + static_cast<size_t>(image) * CAPACITY * WORDS);
}

// Maps a box to the image; returns whether something of it is in the image.
__device__ inline bool to_image(const Parameters& at, const Box& box, Detection& detection) {
  const float corners[4] = {box.x1, box.y1, box.x2, box.y2};
  for (int i = 0; i < 4; ++i) {
    const double corner = (corners[i] - at.offset[i % 2]) * at.pixels[i % 2];
    detection.box[i] = static_cast<float>(fmin(fmax(corner, 0.0), at.size[i % 2]));
  }
  return detection.box[2] > detection.box[0] && detection.box[3] > detection.box[1];
}

// The same for a rotated box: its center, the lengths of its sides, and the angle of its width are mapped; with
// `keeps_angle`, the width like x, the height like y, and not the angle.
__device__ inline bool rotated_to_image(const Parameters& at, const Box& box, float angle, Detection& detection) {
  const double cosine = cos(static_cast<double>(angle)), sine = sin(static_cast<double>(angle));
  const double x = (box.x1 - at.offset[0]) * at.pixels[0], y = (box.y1 - at.offset[1]) * at.pixels[1];
  double width = box.x2 * at.pixels[0], height = box.y2 * at.pixels[1], turned = angle;
  if (!at.keeps_angle) {
    width = box.x2 * hypot(cosine * at.pixels[0], sine * at.pixels[1]);
    height = box.y2 * hypot(sine * at.pixels[0], cosine * at.pixels[1]);
    if (at.pixels[0] != at.pixels[1]) turned = atan2(sine * at.pixels[1], cosine * at.pixels[0]);
  }
  detection.box[0] = static_cast<float>(x);
  detection.box[1] = static_cast<float>(y);
  detection.box[2] = static_cast<float>(width);
  detection.box[3] = static_cast<float>(height);
  detection.angle = static_cast<float>(turned);
  const double c = fabs(cos(turned)), s = fabs(sin(turned));
  const double half_width = (width * c + height * s) / 2.0, half_height = (width * s + height * c) / 2.0;
  return width > 0.0 && height > 0.0 && x + half_width > 0.0 && x - half_width < at.size[0] &&
         y + half_height > 0.0 && y - half_height < at.size[1];
}

// Keeps boxes and writes those that are in the image. Grid: images. Block: SWEEP_THREADS.
//
// detections  [images][limit]   best first; entries behind `number` are not written
// number      [images]
extern "C" __global__ void __launch_bounds__(SWEEP_THREADS)
    decode_emit(const Word* matrix, const Word* keys, const Box* boxes, const float* angles, const int* kinds,
                const int* found, const Parameters* parameters, Detection* detections, int* number,
                const __grid_constant__ Head head) {
  constexpr int WARPS = SWEEP_THREADS / WARP;
  __shared__ Sweep shared;
  __shared__ int visible[WARPS];
  const int image = blockIdx.x, thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
  const Parameters& at = parameters[image];
  const int limit = min(at.max_detections, head.limit);
  int kept = min(found[image], limit);
  if (head.overlap != NO_OVERLAP) {
    const Word* rows = matrix + static_cast<size_t>(image) * CAPACITY * WORDS;
    kept = head.fast ? fast_sweep(shared, rows, found[image], limit) : sweep(shared, rows, found[image], limit);
  }
  int written = 0;
  for (int start = 0; start < kept; start += SWEEP_THREADS) {
    const int i = start + thread;
    bool shown = false;
    Detection detection{};
    if (i < kept) {
      const int place = image * CAPACITY + (head.overlap != NO_OVERLAP ? shared.kept[i] : i);
      const Word key = keys[place];
      detection.score = __uint_as_float(static_cast<unsigned>(key >> 32));
      detection.kind = kinds[place];
      detection.index = static_cast<int>(index_of(key)) / max(head.classes, 1);
      shown = head.angle_channel >= 0 ? rotated_to_image(at, boxes[place], angles[place], detection)
                                      : to_image(at, boxes[place], detection);
    }
    const unsigned voters = __ballot_sync(ALL_LANES, shown);
    if (lane == 0) visible[warp] = __popc(voters);
    __syncthreads();
    int before = written;
    for (int other = 0; other < WARPS; ++other) {
      before += other < warp ? visible[other] : 0;
      written += visible[other];
    }
    if (shown) {
      detections[static_cast<size_t>(image) * head.limit + before + __popc(voters & ((1u << lane) - 1u))] = detection;
    }
    __syncthreads();
  }
  if (thread == 0) number[image] = written;
}
