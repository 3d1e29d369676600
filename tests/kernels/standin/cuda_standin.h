// Runs CUDA kernels on the CPU, for tests: one fiber per thread, one block after the other.
//
// Between two barriers the threads of a block run one at a time in random order, so a missing barrier shows as a result
// that depends on the seed. A barrier that only some threads reach ends the process with a message. Shared memory holds
// garbage when a block begins, as on a GPU. Races within a warp, tensor cores and hardware FP16 are not modelled.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace standin {

constexpr size_t STACK_BYTES = 64 * 1024;

struct Fiber {
  ucontext_t context;
  char* stack;
  dim3 index;
  bool done, waiting;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline Fiber* current = nullptr;
inline std::function<void()> kernel;
inline dim3 block_index, block_size, grid_size;
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_bytes = 0;

inline void enter(Fiber& fiber) {
  current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, STACK_BYTES);
  swapcontext(&scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  swapcontext(&scheduler, &fiber.context);
#endif
}

inline void leave(bool for_good) {
  Fiber* own = current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&own->context, &scheduler);
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
#else
  (void)for_good;
  swapcontext(&own->context, &scheduler);
#endif
}

inline void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  kernel();
  current->done = true;
  leave(true);
}

inline void run_block(std::mt19937& random) {
  std::vector<Fiber*> order;
  for (Fiber& fiber : fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    fiber.done = fiber.waiting = false;
    makecontext(&fiber.context, run_thread, 0);
    order.push_back(&fiber);
  }
  while (true) {
    std::shuffle(order.begin(), order.end(), random);
    size_t done = 0, waiting = 0;
    for (Fiber* fiber : order) {
      if (!fiber->done) enter(*fiber);
      done += fiber->done;
      waiting += fiber->waiting;
      fiber->waiting = false;
    }
    if (done == fibers.size()) return;
    if (waiting != fibers.size()) {
      std::fprintf(stderr, "%zu of %zu threads wait at a barrier that the others do not reach\n", waiting,
                   fibers.size());
      std::abort();
    }
  }
}

template <typename Function>
void launch(dim3 grid, dim3 block, unsigned seed, Function function) {
  std::mt19937 random(seed);
  grid_size = grid;
  block_size = block;
  kernel = function;
  const size_t count = static_cast<size_t>(block.x) * block.y * block.z;
  const size_t before = fibers.size();
  if (before < count) {
    fibers.resize(count);
    for (size_t i = before; i < count; ++i) {
      fibers[i].stack = static_cast<char*>(
          mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
  } else {
    for (size_t i = count; i < before; ++i) munmap(fibers[i].stack, STACK_BYTES);
    fibers.resize(count);
  }
  for (size_t i = 0; i < count; ++i) {
    fibers[i].index = {static_cast<unsigned>(i % block.x), static_cast<unsigned>(i / block.x % block.y),
                       static_cast<unsigned>(i / block.x / block.y)};
  }
  std::vector<dim3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (const dim3& index : blocks) {
    block_index = index;
    run_block(random);
  }
}

// Launches a kernel as cuLaunchKernel does: with an array of the addresses of its arguments.
template <typename... Types, size_t... Indices>
void launch_with(void (*function)(Types...), const unsigned* grid, const unsigned* block, void** arguments,
                 std::index_sequence<Indices...>) {
  const std::tuple<Types...> values(*static_cast<Types*>(arguments[Indices])...);
  launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, 0, [&] { std::apply(function, values); });
}

template <typename... Types>
void launch_with(void (*function)(Types...), const unsigned* grid, const unsigned* block, void** arguments) {
  launch_with(function, grid, block, arguments, std::index_sequence_for<Types...>());
}

}  // namespace standin

// Exports `standin_NAME(grid, block, arguments)`.
#define STANDIN_KERNEL(name)                                                                         \
  extern "C" void standin_##name(const unsigned* grid, const unsigned* block, void** arguments) { \
    standin::launch_with(name, grid, block, arguments);                                              \
  }

#define threadIdx (standin::current->index)
#define blockIdx (standin::block_index)
#define blockDim (standin::block_size)
#define gridDim (standin::grid_size)

inline void __syncthreads() {
  standin::current->waiting = true;
  standin::leave(false);
}

template <typename T>
T atomicAdd(T* address, T value) {
  T old = *address;
  *address = old + value;
  return old;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

using std::isfinite;
using std::max;
using std::min;
