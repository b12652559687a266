// Named barriers of a block: id 0 to 15 (0 is __syncthreads), n threads, a multiple of 32.
#pragma once

namespace ptx {

PTX_FN void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
PTX_FN void bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }

// Starts when the kernels before it in the stream have ended and their writes are visible.
PTX_FN void grid_dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Lets the next kernel of the stream start its prologue.
PTX_FN void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace ptx
