/* The emulation's own C interface: device memory, tensor maps, launches. Used by the tests. */
#ifndef SEQPAR_EMU_API_H
#define SEQPAR_EMU_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EmuDevice EmuDevice;

enum { EMU_ASYNC_LATE, EMU_ASYNC_AT_ONCE, EMU_ASYNC_RANDOM };
enum { EMU_ORDER_ASCENDING, EMU_ORDER_DESCENDING, EMU_ORDER_RANDOM };

typedef struct EmuOptions {
  uint64_t seed;
  int32_t async;          /* when asynchronous results land: as late as legal, at once, at random */
  int32_t order;          /* of lanes and warps */
  int32_t check;          /* races, bounds, uninitialised reads */
  int32_t strict_war;     /* a generic read before an async write needs a proxy fence too */
  int32_t resident;       /* blocks that run side by side */
  int32_t registers;      /* of a thread at launch; 0: setmaxnreg's pool is not checked */
  int32_t max_messages;
  int32_t dependent;      /* nothing of earlier launches may be touched before griddepcontrol.wait */
  /* Called when every thread waits or polls: another agent of the machine may act (emu_external_*).
   * Returns 1 if it did something. */
  int32_t (*external)(void* context);
  void* context;
  uint64_t now_ns;        /* what the global timer says when the launch starts */
} EmuOptions;

typedef struct EmuResult {
  uint64_t errors, blocks, switches, accesses;
  uint64_t matrix_rows, matrix_conflicts; /* ldmatrix and stmatrix: 8-row phases, extra passes */
  uint64_t mma, wgmma, tma, shared_high;  /* shared_high: highest byte of shared memory touched + 1 */
  int32_t deadlock, reserved;
  uint64_t now_ns; /* what the global timer says at the end: it moves where a kernel reads it, sleeps or waits in vain */
} EmuResult;

EmuDevice* emu_device_new(void);
void emu_device_free(EmuDevice* device);
/* Makes device memory a file that other processes can map, before anything is allocated in it: its
 * descriptor, or -1. What lies in a range of it is at the same offset from emu_arena. */
int32_t emu_share(EmuDevice* device);
uint64_t emu_arena(EmuDevice* device);
/* Device memory, 256-byte aligned between red zones, uninitialised. */
uint64_t emu_alloc(EmuDevice* device, uint64_t bytes, const char* name);
/* Ends what emu_alloc returned; its addresses are never used again. */
void emu_free(EmuDevice* device, uint64_t address);
/* Declares bytes written (1) or undefined (0, and fills them with NaN patterns) by the host. */
void emu_mark(EmuDevice* device, uint64_t address, uint64_t bytes, int32_t initialised);
/* Bytes of [address, address + bytes) that the kernels have not written and the host has not marked. */
uint64_t emu_unwritten_bytes(EmuDevice* device, uint64_t address, uint64_t bytes);
/* From EmuOptions.external: writes by another agent, and a flag that releases all of them so far. */
void emu_external_write(EmuDevice* device, uint64_t address, const void* data, uint64_t bytes);
void emu_external_release(EmuDevice* device, uint64_t address, uint32_t value);

/* cuTensorMapEncodeTiled's arguments; 0, or -1 with emu_last_error. swizzle: 0 none, 1 32, 2 64, 3 128 bytes. */
int32_t emu_encode_tensor_map(void* map, uint32_t elem_bytes, uint32_t rank, uint64_t address, const uint64_t* dims,
                              const uint64_t* strides_bytes, const uint32_t* box, uint32_t swizzle);

/* What kernels do to device memory, as it happens: plain accesses, and flags (words) acquired and released. */
enum { EMU_READ, EMU_WRITE, EMU_ACQUIRE, EMU_RELEASE };
typedef void (*EmuObserver)(void* context, uint64_t address, uint64_t bytes, int32_t kind);
/* Of the launches of this OS thread from now on; NULL: none. */
void emu_observe(EmuObserver observer, void* context);

/* Launches by symbol. Another OS thread may be in the middle of a launch on the same device if it stands
 * still in EmuOptions.external meanwhile; what orders the two is the caller's business. 0: ran (see result->errors); -1: could not start (emu_last_error). */
int32_t emu_launch(EmuDevice* device, const char* symbol, const uint32_t grid[3], const uint32_t block[3],
                   uint32_t shared_bytes, const void* params, uint64_t param_bytes, const EmuOptions* options,
                   EmuResult* result);
/* Message `index` of the last launch of this OS thread, with source lines, or NULL. */
const char* emu_message(uint32_t index);
const char* emu_last_error(void);
/* Symbol `index` of the registered kernels, or NULL. */
const char* emu_symbol(uint32_t index);
/* Size of a kernel's parameters and its launch bound; 0: no kernel of that name. */
uint64_t emu_param_bytes(const char* symbol);
uint32_t emu_thread_bound(const char* symbol);

#ifdef __cplusplus
}
#endif

#endif
