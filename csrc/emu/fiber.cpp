#include "fiber.h"

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>

#include <map>
#endif

namespace emu {

#if defined(__x86_64__)
extern "C" void seqpar_emu_switch(void** save, void* load);
extern "C" void seqpar_emu_start();
extern "C" void seqpar_emu_main() { fiber_main(); }
// Six callee-saved registers and the stack pointer are all that a switch must keep.
asm(R"(
.text
.globl seqpar_emu_switch
.hidden seqpar_emu_switch
.type seqpar_emu_switch, @function
seqpar_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size seqpar_emu_switch, .-seqpar_emu_switch
.globl seqpar_emu_start
.hidden seqpar_emu_start
.type seqpar_emu_start, @function
seqpar_emu_start:
  xorl %ebp, %ebp
  call seqpar_emu_main
  ud2
.size seqpar_emu_start, .-seqpar_emu_start
)");

void switch_stack(void** save, void* load) { seqpar_emu_switch(save, load); }
#else
// Elsewhere a saved "stack pointer" is a ucontext at the low end of the fiber's stack; the main
// stack's is on the heap of the OS thread.
namespace {
thread_local ucontext_t main_context;
void start() { fiber_main(); }
}  // namespace
void switch_stack(void** save, void* load) {
  if (!*save) *save = &main_context;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}
#endif

uint8_t* new_stacks(int count) {
  const size_t each = kStackBytes + kGuardBytes;
  void* memory = mmap(nullptr, each * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* stacks = static_cast<uint8_t*>(memory);
  for (int i = 0; i < count; i++) mprotect(stacks + each * i, kGuardBytes, PROT_NONE);
  return stacks;
}

void free_stacks(uint8_t* stacks, int count) { munmap(stacks, (kStackBytes + kGuardBytes) * count); }

void* first_stack_pointer(uint8_t* stacks, int thread) {
  const size_t each = kStackBytes + kGuardBytes;
  uint8_t* low = stacks + each * thread + kGuardBytes;
  // Staggered, so that the stacks of a warp do not share cache sets.
  uintptr_t top = reinterpret_cast<uintptr_t>(stacks + each * (thread + 1) - 64 - (thread % 61) * 320) & ~uintptr_t{63};
#if defined(__x86_64__)
  (void)low;
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = nullptr;  // the call in seqpar_emu_start finds the stack as the ABI wants it
  *--sp = reinterpret_cast<void*>(seqpar_emu_start);
  for (int i = 0; i < 6; i++) *--sp = nullptr;
  return sp;
#else
  auto* context = reinterpret_cast<ucontext_t*>(low);
  getcontext(context);
  context->uc_stack.ss_sp = low + sizeof(ucontext_t);
  context->uc_stack.ss_size = top - reinterpret_cast<uintptr_t>(low) - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, start, 0);
  return context;
#endif
}

}  // namespace emu
