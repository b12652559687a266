// A thread of a block is a fiber: a stack of its own, switched to by hand.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emu {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 4096;

// Saves the running fiber's stack pointer and goes on where `load` was saved.
void switch_stack(void** save, void* load);
// Stacks for `count` threads, each above a guard page. Null if there is no memory.
uint8_t* new_stacks(int count);
void free_stacks(uint8_t* stacks, int count);
// A stack pointer that, switched to, runs fiber_main.
void* first_stack_pointer(uint8_t* stacks, int thread);
// schedule.cpp: what a fiber runs; never returns.
[[noreturn]] void fiber_main();

}  // namespace emu
