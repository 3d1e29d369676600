// preprocess.cu on the CPU.
#include <cstddef>
#include <string>

#include "cuda_standin.h"

#include "../../../edgekit/kernels/preprocess/preprocess.cu"

STANDIN_KERNEL(preprocess_nearest)
STANDIN_KERNEL(preprocess_bilinear)
STANDIN_KERNEL(preprocess_antialiased)

extern "C" void preprocess_batch(const char* interpolation, const Parameters* parameters, void* data, int images,
                                 unsigned seed) {
  const auto blocks = [](int size, int block) { return static_cast<unsigned>((size + block - 1) / block); };
  const dim3 grid = {blocks(parameters->out_width, COLUMNS), blocks(parameters->out_height, ROWS),
                     static_cast<unsigned>(images)};
  const std::string name = interpolation;
  const auto kernel = name == "nearest"    ? preprocess_nearest
                      : name == "bilinear" ? preprocess_bilinear
                                           : preprocess_antialiased;
  standin::launch(grid, {COLUMNS, ROWS, 1}, seed, [&] { kernel(parameters, data); });
}

extern "C" unsigned short preprocess_half(float value) { return half_of(value); }

#define FIELD(name) {#name, offsetof(Parameters, name)}

struct Field {
  const char* name;
  size_t offset;
};

const Field FIELDS[] = {
    FIELD(address), FIELD(chroma_address), FIELD(step_x), FIELD(step_y), FIELD(pitch_bytes),
    FIELD(chroma_pitch_bytes), FIELD(width), FIELD(height), FIELD(format), FIELD(left), FIELD(top),
    FIELD(inner_width), FIELD(inner_height), FIELD(skipped_x), FIELD(skipped_y), FIELD(part_left), FIELD(part_top),
    FIELD(part_right), FIELD(part_bottom), FIELD(factor_x), FIELD(factor_y), FIELD(box_left), FIELD(box_top),
    FIELD(box_right), FIELD(box_bottom), FIELD(vertical_first), FIELD(out_width), FIELD(out_height), FIELD(gray),
    FIELD(bgr), FIELD(nhwc), FIELD(half), FIELD(pad), FIELD(divisor), FIELD(mean), FIELD(std),
};

extern "C" const Field* preprocess_fields(int* count, size_t* size) {
  *count = static_cast<int>(sizeof FIELDS / sizeof *FIELDS);
  *size = sizeof(Parameters);
  return FIELDS;
}
