// Bulk copies: tensor maps in 2 to 5 dimensions, plain bytes.
#include "probe.cuh"

PTX_FN void load_box(const Probe& p, uint32_t to, uint32_t bar) {
  const int *c = p.arg + 1;
  switch (p.arg[0]) {
    case 2: ptx::tma_load_2d(to, &p.map, bar, c[0], c[1]); break;
    case 3: ptx::tma_load_3d(to, &p.map, bar, c[0], c[1], c[2]); break;
    case 4: ptx::tma_load_4d(to, &p.map, bar, c[0], c[1], c[2], c[3]); break;
    case 5: ptx::tma_load_5d(to, &p.map, bar, c[0], c[1], c[2], c[3], c[4]); break;
    default: ptx::bulk_load(to, p.in + p.arg[1] / 4, p.bytes, bar); break;
  }
}
PTX_FN void store_box(const Probe& p, uint32_t from) {
  const int *c = p.arg + 1;
  switch (p.arg[0]) {
    case 2: ptx::tma_store_2d(&p.map, from, c[0], c[1]); break;
    case 3: ptx::tma_store_3d(&p.map, from, c[0], c[1], c[2]); break;
    case 4: ptx::tma_store_4d(&p.map, from, c[0], c[1], c[2], c[3]); break;
    case 5: ptx::tma_store_5d(&p.map, from, c[0], c[1], c[2], c[3], c[4]); break;
    default: ptx::bulk_store(p.out + p.arg[1] / 4, from, p.bytes); break;
  }
}

// The box as it lies in shared memory.
PROBE(load, 64) {
  SMEM_EXTERN(window);
  unsigned char* box = align_1024(window);
  const uint32_t to = ptx::smem_u32(box) + (p.fault == 8 ? 16 : 0), bar = to + p.bytes + 16;
  if (threadIdx.x == 0) {
    if (p.fault != 9) ptx::mbar_init(bar, 1);
    if (p.fault != 4) ptx::fence_mbar_init();
    if (p.arg[0] >= 2) ptx::tma_prefetch_map(&p.map);
  }
  if (p.fault != 6) __syncthreads();
  if (threadIdx.x == 0) {
    if (p.fault == 7) ptx::mbar_arrive(bar);
    const int expected = p.bytes + (p.fault == 2 ? -16 : p.fault == 3 ? 16 : 0);
    if (p.fault == 10) {
      ptx::mbar_expect_tx(bar, p.bytes);
      ptx::mbar_arrive(bar);
      ptx::mbar_arrive(bar);
    } else if (p.arg[5] % 2) {
      ptx::mbar_expect_tx(bar, expected);
      ptx::mbar_arrive(bar);
    } else {
      ptx::mbar_arrive_expect_tx(bar, expected);
    }
    load_box(p, to, bar);
  }
  if (p.fault == 5) mbar_wait(bar, 1);
  else if (p.fault != 1) mbar_wait(bar, 0);
  copy_words(p.out, reinterpret_cast<const uint32_t*>(box), p.bytes);
  if (p.fault == 11 && threadIdx.x == 0) {  // the stage is filled again before the others have read it
    ptx::mbar_arrive_expect_tx(bar, p.bytes);
    load_box(p, to, bar);
    mbar_wait(bar, 1);
  }
  if (p.fault == 1) mbar_wait(bar, 0);
}

// Words of `in` as a box.
PROBE(store, 64) {
  SMEM_EXTERN(window);
  unsigned char* box = align_1024(window);
  copy_words(reinterpret_cast<uint32_t*>(box), p.in, p.bytes);
  if (p.fault != 1 && p.fault != 6) ptx::fence_proxy_async();
  if (p.fault == 7) ptx::fence_proxy_async_global();
  if (p.fault != 3) __syncthreads();
  if (threadIdx.x == 0) {
    if (p.fault == 6) ptx::fence_proxy_async_global();  // the other space
    store_box(p, ptx::smem_u32(box));
    if (p.fault != 5) ptx::bulk_commit();
    if (p.fault == 4) *reinterpret_cast<volatile uint32_t*>(box) = 7;
    if (p.fault == 2) return;
    ptx::bulk_wait_read<0>();
    *reinterpret_cast<volatile uint32_t*>(box) = 8;
    if (p.arg[5] == 0) ptx::bulk_wait<0>();
  }
}

// A block stores in bulk and sets a flag; another one reads what it stored.
PROBE(store_then_flag, 32) {
  SMEM_EXTERN(window);
  unsigned char* box = align_1024(window);
  if (blockIdx.x == 0) {
    copy_words(reinterpret_cast<uint32_t*>(box), p.in, p.bytes);
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x == 0) {
      ptx::bulk_store(p.out, ptx::smem_u32(box), p.bytes);
      ptx::bulk_commit();
      if (p.fault == 1) {
        ptx::bulk_wait_read<0>();
      } else {
        ptx::bulk_wait<0>();
      }
      if (p.fault != 2) ptx::st_release_gpu(p.flag, 1);
      ptx::bulk_wait<0>();
    }
  } else {
    if (threadIdx.x == 0 && p.fault != 2) {
      while (ptx::ld_acquire_gpu(p.flag) == 0) ptx::sleep_ns(20);
    }
    __syncwarp();
    copy_words(p.out + p.bytes / 4, p.out, p.bytes);
  }
}

// A chunk that another agent writes, read in bulk once its flag is set.
PROBE(gated_load, 32) {
  SMEM_EXTERN(window);
  unsigned char* box = align_1024(window);
  const uint32_t to = ptx::smem_u32(box), bar = to + p.bytes;
  if (threadIdx.x == 0) {
    ptx::mbar_init(bar, 1);
    ptx::fence_mbar_init();
    if (p.fault != 2) {
      while (ptx::ld_acquire_sys(p.flag) == 0) ptx::sleep_ns(20);
    }
    if (p.fault == 3) ptx::fence_proxy_async();
    if (p.fault != 1 && p.fault != 3) ptx::fence_proxy_async_global();
    ptx::mbar_arrive_expect_tx(bar, p.bytes);
    ptx::bulk_load(to, p.in, p.bytes, bar);
  }
  __syncwarp();
  mbar_wait(bar, 0);
  copy_words(p.out, reinterpret_cast<const uint32_t*>(box), p.bytes);
}
