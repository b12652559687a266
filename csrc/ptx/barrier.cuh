// Named barriers of a block: id 0 to 15 (0 is __syncthreads), n threads, a multiple of 32.
#pragma once

namespace ptx {

PTX_FN void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
PTX_FN void bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }

// Waits until the kernels before it in the stream have ended and their writes are visible. On
// sm_80 a kernel does not start before that.
PTX_FN void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel of the stream start up to its own wait.
PTX_FN void grid_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ptx
