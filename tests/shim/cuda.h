// CUDA on a CPU, as far as kernels/cuda needs it: every thread of a block is a fiber on one core, one block after another.
//
// Fibers take turns in a given order and change at shuffles and barriers only, so that a missing barrier shows under one order or
// another. Shared memory and arrays begin as NaN. What cannot go on (a shuffle that some lanes never reach) ends the launch with
// an error. Roots and reciprocals are as inexact as the GPU's, by a fixed function of their argument.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#ifndef __x86_64__
#error "the fibers below are written for x86-64"
#endif

#define KR_ON_CPU
#define __global__
#define __device__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define SHARED(type, name, size) type *const name = static_cast<type *>(shim::shared((size) * sizeof(type)))
#define DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(shim::shared(shim::dynamic_bytes))
#define threadIdx (shim::Index{shim::current->thread, 0, 0})
#define blockIdx (shim::block_index)
#define blockDim (shim::Index{shim::threads, 1, 1})
#define gridDim (shim::grid)

namespace shim {

struct Index {
    unsigned x, y, z;
};
struct Fiber {
    void *stack_pointer;
    char *stack;
    unsigned thread, next; // in the order of turns
    size_t shared_used;    // declarations passed, each at the same place for all threads
    bool done;
};
struct Meeting { // of a warp or a block
    unsigned arrived = 0, generation = 0;
};

constexpr size_t STACK = 256 << 10, SHARED_MOST = 256 << 10;
constexpr unsigned MOST = 1024;
inline Fiber fibers[MOST], *current;
inline Meeting warps[MOST / 32], block;
inline uint64_t slots[MOST / 32][2][32]; // two, so that one meeting a shuffle is enough
inline unsigned threads, live, idle;
inline Index grid, block_index;
inline size_t dynamic_bytes;
inline void *main_stack;
inline const char *error;
inline void (*kernel)(void **);
inline void **kernel_arguments;
alignas(16) inline char shared_memory[SHARED_MOST];

__attribute__((naked, noinline)) static void swap(void **, void *) {
    asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}

inline void leave(const char *why) {
    error = why;
    void *forgotten;
    swap(&forgotten, main_stack);
}

inline void yield() {
    Fiber *from = current;
    if (++idle > 4 * MOST) leave("deadlock: a shuffle or a barrier that some threads do not reach");
    unsigned next = from->next;
    while (fibers[next].done) next = fibers[next].next;
    if (&fibers[next] == from) return;
    current = &fibers[next];
    swap(&from->stack_pointer, current->stack_pointer);
}

inline void meet(Meeting &meeting, unsigned all) {
    const unsigned generation = meeting.generation;
    if (++meeting.arrived == all) meeting.arrived = 0, meeting.generation++, idle = 0;
    else
        while (meeting.generation == generation) yield();
}

inline void run_fiber() {
    kernel(kernel_arguments);
    current->done = true, idle = 0;
    if (--live == 0) leave(nullptr);
    yield();
    abort();
}

inline void *shared(size_t bytes) {
    const size_t at = current->shared_used;
    current->shared_used += (bytes + 15) / 16 * 16;
    if (current->shared_used > SHARED_MOST) leave("more shared memory than a block has");
    return shared_memory + at;
}

// order: 0 forwards, 1 backwards, else a stride
inline const char *launch(Index blocks, unsigned count, size_t bytes, unsigned order, void (*function)(void **), void **arguments) {
    grid = blocks, threads = count, dynamic_bytes = bytes, kernel = function, kernel_arguments = arguments;
    if (count > MOST || count % 32) return "a block must be whole warps, at most 1024 threads";
    for (unsigned y = 0; y < blocks.y; y++)
        for (unsigned x = 0; x < blocks.x; x++) {
            block_index = {x, y, 0}, error = nullptr, live = count, idle = 0, block = {};
            memset(shared_memory, 0xff, SHARED_MOST); // NaN, as float and as double
            for (auto &warp : warps) warp = {};
            for (unsigned t = 0; t < count; t++) {
                Fiber &fiber = fibers[t];
                if (!fiber.stack)
                    fiber.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                const unsigned step = order == 0 ? 1 : order == 1 ? count - 1 : 37 % count;
                fiber.thread = t, fiber.next = (t + step) % count, fiber.done = false, fiber.shared_used = 0;
                void **top = (void **)(fiber.stack + STACK);
                *--top = nullptr; // the alignment that a call leaves
                *--top = (void *)run_fiber;
                for (int k = 0; k < 6; k++) *--top = nullptr;
                fiber.stack_pointer = top;
            }
            current = &fibers[order == 1 ? count - 1 : 0];
            swap(&main_stack, current->stack_pointer);
            if (error) return error;
        }
    return nullptr;
}

template <class T> T exchange(T value, unsigned source) {
    const unsigned warp = current->thread / 32, side = warps[warp].generation & 1;
    memcpy(&slots[warp][side][current->thread % 32], &value, sizeof value);
    meet(warps[warp], 32);
    memcpy(&value, &slots[warp][side][source], sizeof value);
    return value;
}

// 1 ± 2⁻²³, as a function of the bits of a: the documented error of the approximate instructions
inline float inexact(float exact, float a) {
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits = (bits * 2654435761u) >> 30;
    return exact == 0 || std::isinf(exact) ? exact : exact * (1 + (int(bits) - 1) * 5.9e-8f);
}

} // namespace shim

inline void __syncthreads() { shim::meet(shim::block, shim::threads); }
inline void __syncwarp() { shim::meet(shim::warps[shim::current->thread / 32], 32); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return shim::exchange(value, lane & 31); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::exchange(value, (shim::current->thread % 32) ^ mask);
}
template <class T> T __shfl_down_sync(unsigned, T value, unsigned by) {
    const unsigned lane = shim::current->thread % 32;
    return shim::exchange(value, lane + by < 32 ? lane + by : lane);
}
inline float root(float a) { return shim::inexact(sqrtf(a), a); }
inline float inverse_root(float a) { return shim::inexact(1 / sqrtf(a), a); }
inline float inverse(float a) { return shim::inexact(1 / a, a); }
inline double inverse_root_seed(double a) { return (1 + 9e-7) / sqrt(a); }
