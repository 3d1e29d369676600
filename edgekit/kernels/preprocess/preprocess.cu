// Images in device memory -> a model's input, in one pass: color conversion, resizing, padding, normalization, layout.
//
// The rules are those of reference.py. Pixels are resized in integer arithmetic, so results are equal to the reference
// bit for bit. The normalized value is (pixel / divisor - mean) / std in float32, each step rounded; float16 is rounded
// once from it. Compile with -fmad=false: a fused multiply-add rounds once where the reference rounds twice.
//
// All that may change from frame to frame is in `Parameters`, in device memory, because a CUDA graph keeps a launch's
// arguments.
//
// One kernel per interpolation. Grid: (ceil(width / COLUMNS), ceil(height / ROWS), images). Block: (COLUMNS, ROWS).

constexpr int COLUMNS = 32;
constexpr int ROWS = 8;
constexpr int PRECISION_BITS = 22;  // Pillow's fixed-point weights of 8-bit images
constexpr int LINEAR_BITS = 11;     // OpenCV's fixed-point weights of 8-bit images

// Blocks are averaged first if an image shrinks more than six-fold, so a triangle is at most 6 px wide on each side.
constexpr int TAPS = 13;
constexpr int SOURCE_COLUMNS = 6 * (COLUMNS - 1) + TAPS + 1;
constexpr int SOURCE_ROWS = 6 * (ROWS - 1) + TAPS + 1;
constexpr int BETWEEN = SOURCE_ROWS * COLUMNS;  // pixels of a block between the two axes
static_assert(SOURCE_COLUMNS * ROWS <= BETWEEN, "either axis may be first");

enum Format : int { RGB = 0, BGR = 1, GRAY = 2, NV12 = 3, RGBA = 4, BGRA = 5 };

// One image: where it is, where it lies in the output, and what the model determines.
struct Parameters {
  unsigned long long address;         // upper left pixel; NV12: of the luma plane
  unsigned long long chroma_address;  // NV12: interleaved U and V
  double step_x, step_y;              // nearest, bilinear: px of the image per px of the resized image
  int pitch_bytes, chroma_pitch_bytes;
  int width, height;
  int format;
  int left, top, inner_width, inner_height;  // rectangle of the output that the image fills; the rest is padding
  int skipped_x, skipped_y;                  // nearest, bilinear: px of the resized image that a crop cuts off
  // Antialiased: blocks of factor_x x factor_y px of the part are averaged; then the box, in px of the result, is
  // resized to the rectangle.
  int part_left, part_top, part_right, part_bottom;
  int factor_x, factor_y;
  float box_left, box_top, box_right, box_bottom;
  int vertical_first;  // the axis that is resized first; its result is rounded to 8 bits
  int out_width, out_height;
  int gray, bgr, nhwc, half;  // 1 channel instead of 3; order of 3 channels; layout; float16 instead of float32
  int pad;                    // pixel value of the padding
  float divisor, mean[3], std[3];
};

// A pixel of the output.
struct Output {
  void* data;
  int image, x, y;
};

// Rounds to the nearest float16, ties to even.
__device__ inline unsigned short half_of(float value) {
  const unsigned bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<unsigned short>(sign | 0x7E00u);   // NaN
  if (magnitude >= 0x47800000u) return static_cast<unsigned short>(sign | 0x7C00u);  // 2^16 and more: infinity
  if (magnitude < 0x33000000u) return static_cast<unsigned short>(sign);             // less than 2^-25: zero
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  // A normal number loses 13 bits of its significand, a subnormal one more.
  const int shift = exponent >= -14 ? 13 : -1 - exponent;
  const unsigned significand = (magnitude & 0x7FFFFFu) | 0x800000u;
  const unsigned kept = significand >> shift, rest = significand & ((1u << shift) - 1u), tie = 1u << (shift - 1);
  const unsigned up = rest > tie || (rest == tie && (kept & 1u) != 0u);
  // The leading bit of `kept` adds 1 to the exponent, and so does a carry.
  const unsigned base = exponent >= -14 ? static_cast<unsigned>(exponent + 14) << 10 : 0u;
  return static_cast<unsigned short>(sign | (base + kept + up));
}

template <int CHANNELS>
__device__ inline void store(const Parameters& frame, const Output& output, const int* pixel) {
  const size_t width = frame.out_width, height = frame.out_height;
  for (int channel = 0; channel < CHANNELS; ++channel) {
    const int value = CHANNELS == 3 && frame.bgr ? pixel[CHANNELS - 1 - channel] : pixel[channel];
    const float normalized = (static_cast<float>(value) / frame.divisor - frame.mean[channel]) / frame.std[channel];
    const size_t index = frame.nhwc ? ((output.image * height + output.y) * width + output.x) * CHANNELS + channel
                                    : ((output.image * CHANNELS + channel) * height + output.y) * width + output.x;
    if (frame.half) {
      static_cast<unsigned short*>(output.data)[index] = half_of(normalized);
    } else {
      static_cast<float*>(output.data)[index] = normalized;
    }
  }
}

template <int CHANNELS>
__device__ inline void store_padding(const Parameters& frame, const Output& output) {
  const int pad[3] = {frame.pad, frame.pad, frame.pad};
  store<CHANNELS>(frame, output, pad);
}

__device__ inline int clamped(int value) { return min(max(value, 0), 255); }

// ITU-R BT.601, limited range, in fixed point, as OpenCV's COLOR_YUV2RGB_NV12.
__device__ inline void rgb_of_yuv(int luma, int u, int v, int* rgb) {
  constexpr int BITS = 20, HALF = 1 << (BITS - 1);
  const int y = max(luma - 16, 0) * 1220542;
  u -= 128;
  v -= 128;
  rgb[0] = clamped((y + HALF + 1673527 * v) >> BITS);
  rgb[1] = clamped((y + HALF - 852492 * v - 409993 * u) >> BITS);
  rgb[2] = clamped((y + HALF + 2116026 * u) >> BITS);
}

// Reads a pixel as RGB, or as gray: ITU-R 601-2 luma in fixed point, as Pillow's "L".
template <int CHANNELS>
__device__ inline void load(const Parameters& frame, int x, int y, int* pixel) {
  const unsigned char* row =
      reinterpret_cast<const unsigned char*>(frame.address) + static_cast<size_t>(y) * frame.pitch_bytes;
  const int format = frame.format;
  int rgb[3];
  if (format == GRAY) {
    rgb[0] = rgb[1] = rgb[2] = row[x];
  } else if (format == NV12) {
    const unsigned char* chroma = reinterpret_cast<const unsigned char*>(frame.chroma_address) +
                                  static_cast<size_t>(y / 2) * frame.chroma_pitch_bytes + x / 2 * 2;
    rgb_of_yuv(row[x], chroma[0], chroma[1], rgb);
  } else {
    const unsigned char* samples = row + x * (format >= RGBA ? 4 : 3);
    const bool reversed = format == BGR || format == BGRA;
    rgb[0] = samples[reversed ? 2 : 0];
    rgb[1] = samples[1];
    rgb[2] = samples[reversed ? 0 : 2];
  }
  if (CHANNELS == 1) {
    pixel[0] = (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16;
  } else {
    for (int channel = 0; channel < CHANNELS; ++channel) pixel[channel] = rgb[channel];
  }
}

// Whether the output pixel belongs to the image; `column` and `row` are its place in the image's rectangle.
__device__ inline bool inside(const Parameters& frame, const Output& output, int* column, int* row) {
  *column = output.x - frame.left;
  *row = output.y - frame.top;
  return *column >= 0 && *column < frame.inner_width && *row >= 0 && *row < frame.inner_height;
}

template <int CHANNELS>
__device__ inline void nearest(const Parameters& frame, const Output& output) {
  int column, row, pixel[CHANNELS];
  if (!inside(frame, output, &column, &row)) return store_padding<CHANNELS>(frame, output);
  const int x = min(static_cast<int>((column + frame.skipped_x) * frame.step_x), frame.width - 1);
  const int y = min(static_cast<int>((row + frame.skipped_y) * frame.step_y), frame.height - 1);
  load<CHANNELS>(frame, x, y, pixel);
  store<CHANNELS>(frame, output, pixel);
}

// The left of the two neighbors of a resized image's pixel (or the upper one), and the distance from it, 0 to 1.
__device__ inline int neighbor(int index, double step, float* distance) {
  const float position = static_cast<float>((index + 0.5) * step - 0.5);
  const float first = floorf(position);
  *distance = position - first;
  return static_cast<int>(first);
}

__device__ inline void linear_weights(float distance, int* weights) {
  weights[0] = static_cast<int>(rintf((1.0f - distance) * (1 << LINEAR_BITS)));
  weights[1] = static_cast<int>(rintf(distance * (1 << LINEAR_BITS)));
}

template <int CHANNELS>
__device__ inline void bilinear(const Parameters& frame, const Output& output) {
  int column, row;
  if (!inside(frame, output, &column, &row)) return store_padding<CHANNELS>(frame, output);
  float distance;
  int x = neighbor(column + frame.skipped_x, frame.step_x, &distance), across[2], down[2];
  // Outside the outermost columns OpenCV takes the column alone, outside the outermost rows it weights the row twice.
  if (x < 0 || x >= frame.width - 1) {
    x = x < 0 ? 0 : frame.width - 1;
    distance = 0.0f;
  }
  linear_weights(distance, across);
  const int y = neighbor(row + frame.skipped_y, frame.step_y, &distance);
  linear_weights(distance, down);
  int total[CHANNELS] = {}, left[CHANNELS], right[CHANNELS];
  for (int i = 0; i < 2; ++i) {
    const int source = min(max(y + i, 0), frame.height - 1);
    load<CHANNELS>(frame, x, source, left);
    load<CHANNELS>(frame, min(x + 1, frame.width - 1), source, right);
    for (int channel = 0; channel < CHANNELS; ++channel) {
      const int between = left[channel] * across[0] + right[channel] * across[1];
      total[channel] += (down[i] * (between >> 4)) >> 16;
    }
  }
  for (int channel = 0; channel < CHANNELS; ++channel) total[channel] = (total[channel] + 2) >> 2;
  store<CHANNELS>(frame, output, total);
}

// Reads a pixel of the image whose blocks of factor_x x factor_y px are averaged, as Pillow's `reduce`.
template <int CHANNELS>
__device__ inline void load_block(const Parameters& frame, int x, int y, int* pixel) {
  const int factor_x = frame.factor_x, factor_y = frame.factor_y;
  const int left = frame.part_left + x * factor_x, top = frame.part_top + y * factor_y;
  if (factor_x == 1 && factor_y == 1) return load<CHANNELS>(frame, left, top, pixel);
  const int right = min(left + factor_x, frame.part_right), bottom = min(top + factor_y, frame.part_bottom);
  const unsigned count = static_cast<unsigned>(right - left) * static_cast<unsigned>(bottom - top);
  unsigned sums[CHANNELS];
  for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] = count / 2;
  for (int row = top; row < bottom; ++row) {
    for (int column = left; column < right; ++column) {
      load<CHANNELS>(frame, column, row, pixel);
      for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] += static_cast<unsigned>(pixel[channel]);
    }
  }
  const unsigned multiplier = static_cast<unsigned>(4294967296.0f / static_cast<float>(count << 8));
  for (int channel = 0; channel < CHANNELS; ++channel) {
    pixel[channel] = static_cast<int>((sums[channel] * multiplier) >> 24);
  }
}

// The pixels that make one resized pixel along an axis, and their weights, whose sum is 2^PRECISION_BITS up to rounding.
struct Taps {
  int first, count, weights[TAPS];
};

// Computes them for one pixel, as Pillow does: a triangle as wide as two resized pixels, or two px when enlarging.
__device__ inline void triangle(int index, int outputs, float begin, float end, int size, Taps* taps) {
  const double scale = static_cast<double>(end - begin) / outputs;
  const double support = fmax(scale, 1.0), inverse = 1.0 / support;
  const double center = begin + (index + 0.5) * scale;
  const int first = max(static_cast<int>(center - support + 0.5), 0);
  const int count = min(min(static_cast<int>(center + support + 0.5), size) - first, TAPS);
  double total = 0.0;
  for (int i = 0; i < count; ++i) total += fmax(1.0 - fabs((i + first - center + 0.5) * inverse), 0.0);
  for (int i = 0; i < count; ++i) {
    double weight = fmax(1.0 - fabs((i + first - center + 0.5) * inverse), 0.0);
    if (total != 0.0) weight /= total;
    taps->weights[i] = static_cast<int>(0.5 + weight * (1 << PRECISION_BITS));
  }
  taps->first = first;
  taps->count = count;
}

// Number of blocks along an axis; the last one may be smaller.
__device__ inline int blocks_of(int length, int factor) { return (length + factor - 1) / factor; }

// A range along one axis of the averaged image.
struct Range {
  int first, length;
};

// The pixels that a block needs along an axis. `start` is the place of the image's rectangle in the block, in px.
__device__ inline Range needed(const Taps* taps, int start, int length, int block, int most) {
  const int begin = max(start, 0), end = min(start + length, block);
  if (begin >= end) return {0, 0};
  return {taps[begin].first, min(taps[end - 1].first + taps[end - 1].count - taps[begin].first, most)};
}

template <int CHANNELS>
__device__ inline void antialiased(const Parameters& frame, const Output& output, Taps* across, Taps* down,
                                   unsigned char (*between)[CHANNELS]) {
  const int thread_x = threadIdx.x, thread_y = threadIdx.y;
  int column, row;
  const bool is_inside = inside(frame, output, &column, &row);
  const bool in_columns = column >= 0 && column < frame.inner_width, in_rows = row >= 0 && row < frame.inner_height;
  if (thread_y == 0 && in_columns) {
    triangle(column, frame.inner_width, frame.box_left, frame.box_right,
             blocks_of(frame.part_right - frame.part_left, frame.factor_x), &across[thread_x]);
  }
  if (thread_x == 0 && in_rows) {
    triangle(row, frame.inner_height, frame.box_top, frame.box_bottom,
             blocks_of(frame.part_bottom - frame.part_top, frame.factor_y), &down[thread_y]);
  }
  __syncthreads();

  // The first axis: each thread keeps its output column (or row) and walks along the other axis of the source.
  const bool vertical = frame.vertical_first;
  const Range other = vertical ? needed(across, thread_x - column, frame.inner_width, COLUMNS, SOURCE_COLUMNS)
                               : needed(down, thread_y - row, frame.inner_height, ROWS, SOURCE_ROWS);
  const int step = vertical ? 1 : COLUMNS, start = vertical ? thread_y * SOURCE_COLUMNS : thread_x;
  if (vertical ? in_rows : in_columns) {
    const Taps& taps = vertical ? down[thread_y] : across[thread_x];
    for (int source = vertical ? thread_x : thread_y; source < other.length; source += vertical ? COLUMNS : ROWS) {
      int sums[CHANNELS], pixel[CHANNELS];
      for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] = 1 << (PRECISION_BITS - 1);
      for (int i = 0; i < taps.count; ++i) {
        const int along = taps.first + i, beside = other.first + source;
        load_block<CHANNELS>(frame, vertical ? beside : along, vertical ? along : beside, pixel);
        for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] += pixel[channel] * taps.weights[i];
      }
      // No sum exceeds 255.5 * 2^PRECISION_BITS: weights are not negative.
      for (int channel = 0; channel < CHANNELS; ++channel) {
        between[start + source * step][channel] = static_cast<unsigned char>(sums[channel] >> PRECISION_BITS);
      }
    }
  }
  __syncthreads();

  if (output.x >= frame.out_width || output.y >= frame.out_height) return;
  if (!is_inside) return store_padding<CHANNELS>(frame, output);
  const Taps& taps = vertical ? across[thread_x] : down[thread_y];
  int sums[CHANNELS];
  for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] = 1 << (PRECISION_BITS - 1);
  for (int i = 0; i < taps.count; ++i) {
    const unsigned char* pixel = between[start + (taps.first - other.first + i) * step];
    for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] += pixel[channel] * taps.weights[i];
  }
  for (int channel = 0; channel < CHANNELS; ++channel) sums[channel] >>= PRECISION_BITS;
  store<CHANNELS>(frame, output, sums);
}

__device__ inline Output output_here(void* data) {
  return {data, static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.x * COLUMNS + threadIdx.x),
          static_cast<int>(blockIdx.y * ROWS + threadIdx.y)};
}

// parameters  [images]
// data        [images][channels][height][width], or [images][height][width][channels]; float32 or float16
extern "C" __global__ void __launch_bounds__(COLUMNS* ROWS)
    preprocess_nearest(const Parameters* __restrict__ parameters, void* data) {
  const Parameters& frame = parameters[blockIdx.z];
  const Output output = output_here(data);
  if (output.x >= frame.out_width || output.y >= frame.out_height) return;
  frame.gray ? nearest<1>(frame, output) : nearest<3>(frame, output);
}

extern "C" __global__ void __launch_bounds__(COLUMNS* ROWS)
    preprocess_bilinear(const Parameters* __restrict__ parameters, void* data) {
  const Parameters& frame = parameters[blockIdx.z];
  const Output output = output_here(data);
  if (output.x >= frame.out_width || output.y >= frame.out_height) return;
  frame.gray ? bilinear<1>(frame, output) : bilinear<3>(frame, output);
}

extern "C" __global__ void __launch_bounds__(COLUMNS* ROWS)
    preprocess_antialiased(const Parameters* __restrict__ parameters, void* data) {
  __shared__ Taps across[COLUMNS], down[ROWS];
  __shared__ unsigned char gray[BETWEEN][1], rgb[BETWEEN][3];
  const Parameters& frame = parameters[blockIdx.z];
  const Output output = output_here(data);
  if (frame.gray) {
    antialiased<1>(frame, output, across, down, gray);
  } else {
    antialiased<3>(frame, output, across, down, rgb);
  }
}
