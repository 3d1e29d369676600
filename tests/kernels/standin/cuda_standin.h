// Runs CUDA kernels on the CPU, for tests: one fiber per thread, one block after the other.
//
// Between two barriers the threads of a block run one at a time in random order, so a missing barrier shows as a result
// that depends on the seed. A barrier that only some threads reach ends the process with a message, and so do votes and
// shuffles that not all lanes of their mask reach. Shared memory holds garbage when a block begins, as on a GPU. Races
// within a warp, tensor cores and hardware FP16 are not modelled.
#pragma once

#include <setjmp.h>
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
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace standin {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr size_t LANES = 32;

enum State { READY, AT_BARRIER, AT_VOTE, DONE };

struct Fiber {
  ucontext_t context;
  jmp_buf place;  // where it goes on; switching by jumps needs no system call
  char* stack;
  dim3 index;
  size_t number;
  State state;
  bool started;
  unsigned mask;            // lanes that take part in the vote or shuffle
  uint64_t given;           // its own value
  uint64_t values[LANES];   // the values of all lanes of its warp, when all have given theirs
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline jmp_buf scheduler_place;
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
  if (_setjmp(scheduler_place) == 0) {
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }
#endif
}

inline void leave() {
  Fiber* own = current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&own->context, &scheduler);
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
#else
  if (_setjmp(own->place) == 0) _longjmp(scheduler_place, 1);
#endif
}

// A fiber runs the thread of its number of one block after the other.
inline void run_threads() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  while (true) {
    kernel();
    current->state = DONE;
    leave();
  }
}

// Lets the lanes of each vote go on that all lanes of its mask have reached.
inline void finish_votes() {
  for (size_t first = 0; first < fibers.size(); first += LANES) {
    const size_t lanes = std::min(LANES, fibers.size() - first);
    for (size_t lane = 0; lane < lanes; ++lane) {
      const unsigned mask = fibers[first + lane].mask;
      if (fibers[first + lane].state != AT_VOTE) continue;
      bool complete = true;
      for (size_t other = 0; other < lanes; ++other) {
        const Fiber& fiber = fibers[first + other];
        if (mask >> other & 1) complete = complete && fiber.state == AT_VOTE && fiber.mask == mask;
      }
      if (!complete) continue;
      uint64_t values[LANES] = {};
      for (size_t other = 0; other < lanes; ++other) {
        if (mask >> other & 1) values[other] = fibers[first + other].given;
      }
      for (size_t other = 0; other < lanes; ++other) {
        Fiber& fiber = fibers[first + other];
        if (!(mask >> other & 1)) continue;
        std::copy(values, values + LANES, fiber.values);
        fiber.state = READY;
      }
    }
  }
}

inline void run_block(std::mt19937& random) {
  std::vector<Fiber*> order;
  for (Fiber& fiber : fibers) {
    fiber.state = READY;
    order.push_back(&fiber);
  }
  while (true) {
    std::shuffle(order.begin(), order.end(), random);
    for (Fiber* fiber : order) {
      if (fiber->state == READY) enter(*fiber);
    }
    size_t counts[4] = {};
    for (const Fiber& fiber : fibers) ++counts[fiber.state];
    if (counts[DONE] == fibers.size()) return;
    if (counts[AT_BARRIER] == fibers.size()) {
      for (Fiber& fiber : fibers) fiber.state = READY;
      continue;
    }
    finish_votes();
    if (std::any_of(fibers.begin(), fibers.end(), [](const Fiber& fiber) { return fiber.state == READY; })) continue;
    if (counts[AT_VOTE] > 0) {
      std::fprintf(stderr, "%zu of %zu threads wait at a vote or shuffle that other lanes do not reach\n",
                   counts[AT_VOTE], fibers.size());
    } else {
      std::fprintf(stderr, "%zu of %zu threads wait at a barrier that the others do not reach\n", counts[AT_BARRIER],
                   fibers.size());
    }
    std::abort();
  }
}

// The values that all lanes of the mask give, for each of them.
template <typename T>
const uint64_t* exchanged(unsigned mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (!(mask >> (current->number % LANES) & 1)) {
    std::fprintf(stderr, "a thread calls a vote or shuffle whose mask does not have its lane\n");
    std::abort();
  }
  current->given = 0;
  std::memcpy(&current->given, &value, sizeof value);
  current->mask = mask;
  current->state = AT_VOTE;
  leave();
  return current->values;
}

template <typename T>
T shuffled(unsigned mask, T value, unsigned lane) {
  const uint64_t* values = exchanged(mask, value);
  T result;
  std::memcpy(&result, &values[lane], sizeof result);
  return result;
}

template <typename Function>
void launch(dim3 grid, dim3 block, unsigned seed, Function function) {
  std::mt19937 random(seed);
  grid_size = grid;
  block_size = block;
  kernel = function;
  const size_t count = static_cast<size_t>(block.x) * block.y * block.z;
  const size_t before = fibers.size();
  for (size_t i = count; i < before; ++i) munmap(fibers[i].stack, STACK_BYTES);
  fibers.resize(count);
  for (size_t i = before; i < count; ++i) {
    fibers[i].stack = static_cast<char*>(
        mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  for (size_t i = 0; i < count; ++i) {
    // Contexts refer to themselves, so they are made where the vector has its final place.
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = fibers[i].stack;
    fibers[i].context.uc_stack.ss_size = STACK_BYTES;
    fibers[i].context.uc_link = nullptr;
    makecontext(&fibers[i].context, run_threads, 0);
    fibers[i].started = false;
    fibers[i].number = i;
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

inline unsigned launch_seed = 0;  // of what `launch_with` runs

// Launches a kernel as cuLaunchKernel does: with an array of the addresses of its arguments.
template <typename... Types, size_t... Indices>
void launch_with(void (*function)(Types...), const unsigned* grid, const unsigned* block, void** arguments,
                 std::index_sequence<Indices...>) {
  const std::tuple<Types...> values(*static_cast<Types*>(arguments[Indices])...);
  launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, launch_seed,
         [&] { std::apply(function, values); });
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
  standin::current->state = standin::AT_BARRIER;
  standin::leave();
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

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T atomicOr(T* address, T value) {
  T old = *address;
  *address = old | value;
  return old;
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint64_t* values = standin::exchanged(mask, vote);
  unsigned bits = 0;
  for (size_t lane = 0; lane < standin::LANES; ++lane) bits |= static_cast<unsigned>(values[lane] != 0) << lane;
  return bits;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return standin::shuffled(mask, value, static_cast<unsigned>(lane) % standin::LANES);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return standin::shuffled(mask, value, static_cast<unsigned>(standin::current->number % standin::LANES) ^ lanes);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const unsigned own = static_cast<unsigned>(standin::current->number % standin::LANES);
  return standin::shuffled(mask, value, own >= lanes ? own - lanes : own);
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }

using std::isfinite;
using std::max;
using std::min;
