// A libnccl.so.2 that does what a test tells it to, and counts what no program may do to the real
// one: two threads in one communicator, a call on one that has ended, an end inside a group.
// WITHOUT_name leaves a function out.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char bytes[128];
} Id;

typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cga, min_ctas, max_ctas;
    const char *net_name;
    int split_share, traffic_class;
    const char *name;
    int collnet, policy, shrink_share, nvls, channels, nvlink;
} Config;

typedef struct Comm {
    int rank, world;
    atomic_int inside, ended, grouped;
    atomic_long polls;
    // What is written when it has settled.
    void **slot, *made;
} Comm;

enum { NAMES = 32 };
static struct {
    char name[64];
    atomic_long value;
} numbers[NAMES];
static atomic_int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char hanging[64], failing[64], written[1 << 14];
static _Thread_local int depth;
static _Thread_local Comm *in_group[64];
static _Thread_local int in_groups;

static atomic_long *number(const char *name) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < used && strcmp(numbers[i].name, name)) i++;
    if (i == used) {
        snprintf(numbers[i].name, sizeof numbers[i].name, "%s", name);
        used++;
    }
    pthread_mutex_unlock(&lock);
    return &numbers[i].value;
}

void fake_set(const char *name, long value) { *number(name) = value; }
long fake_get(const char *name) { return *number(name); }

// This function fails with `code` from now on.
void fake_fail(const char *function, long code) {
    snprintf(failing, sizeof failing, "%s", function);
    fake_set("code", code);
}

// This function does not return until `released` is set.
void fake_hang(const char *function) { snprintf(hanging, sizeof hanging, "%s", function); }

const char *fake_written(void) { return written; }

static void violated(const char *what) {
    fprintf(stderr, "violation: %s\n", what);
    ++*number("violations");
}

static void write_line(const char *line) {
    pthread_mutex_lock(&lock);
    strncat(written, line, sizeof written - strlen(written) - 1);
    pthread_mutex_unlock(&lock);
}

static int act(const char *function) {
    ++*number(function);
    while (!strcmp(hanging, function) && !fake_get("released")) usleep(1000);
    return strcmp(failing, function) ? 0 : (int)fake_get("code");
}

static int call(const char *function, Comm *comm) {
    if (comm->ended) violated(function);
    if (++comm->inside > 1) violated(function);
    int code = act(function);
    comm->inside--;
    return code;
}

static int begin(Comm *comm) {
    comm->polls = fake_get("polls");
    return comm->polls ? 7 : 0;
}

#ifndef WITHOUT_ncclGetVersion
int ncclGetVersion(int *version) {
    *version = VERSION;
    return act("ncclGetVersion");
}
#endif
const char *ncclGetLastError(void *comm) {
    (void)comm;
    return "words of the fake";
}
int ncclGetUniqueId(Id *id) {
    for (int i = 0; i < 128; i++) id->bytes[i] = (char)(i * 3 + 1);
    return act("ncclGetUniqueId");
}
int ncclCommInitRankConfig(Comm **made, int world, Id id, int rank, Config *config) {
    int code = act("ncclCommInitRankConfig");
    for (int i = 0; i < 128; i++)
        if (id.bytes[i] != (char)(i * 3 + 1)) violated("identity");
    char line[256];
    snprintf(line, sizeof line, "init %d of %d: %zu %x %u blocking %d cga %d ctas %d %d policy %d share %d class %d net %s name %s\n", rank, world,
             config->size, config->magic, config->version, config->blocking, config->cga, config->min_ctas, config->max_ctas, config->policy,
             config->split_share, config->traffic_class, config->net_name ? config->net_name : "-", config->name);
    write_line(line);
    if (fake_get("null_comm")) return 0;
    Comm *comm = calloc(1, sizeof *comm);
    comm->rank = rank;
    comm->world = world;
    if (!code) code = begin(comm);
    *made = code && code != 7 ? NULL : comm;
    return code;
}
#ifndef WITHOUT_ncclCommSplit
int ncclCommSplit(Comm *comm, int color, int key, Comm **made, Config *config) {
    (void)config;
    int code = call("ncclCommSplit", comm);
    comm->slot = (void **)made;
    comm->made = NULL;
    if (color >= 0) {
        Comm *part = calloc(1, sizeof *part);
        part->rank = key;
        part->world = comm->world - 1;
        comm->made = part;
    }
    if (code) return code;
    code = begin(comm);
    if (!code) *made = comm->made;
    return code;
}
#endif
int ncclCommShrink(Comm *comm, int *lost, int count, Comm **made, Config *config, int flags) {
    (void)config;
    for (int i = 1; i < count; i++)
        if (lost[i] <= lost[i - 1]) violated("ranks that are not in ascending order");
    if (flags != 1) violated("shrink without abort");
    Comm *rest = calloc(1, sizeof *rest);
    rest->world = comm->world - count;
    *made = rest;
    return call("ncclCommShrink", comm);
}
int ncclCommCount(Comm *comm, int *count) {
    *count = comm->world;
    return call("ncclCommCount", comm);
}
int ncclCommUserRank(Comm *comm, int *rank) {
    *rank = comm->rank;
    return call("ncclCommUserRank", comm);
}
int ncclCommGetAsyncError(Comm *comm, int *state) {
    int code = call("ncclCommGetAsyncError", comm);
    *state = (int)fake_get("state");
    if (comm->polls) {
        *state = 7;
        if (comm->polls > 0) comm->polls--;
    } else if (comm->slot) {
        *comm->slot = comm->made;
        comm->slot = NULL;
    }
    return code;
}
int ncclCommFinalize(Comm *comm) {
    int code = call("ncclCommFinalize", comm);
    return code ? code : begin(comm);
}
static int end(const char *function, Comm *comm) {
    int code = call(function, comm);
    if (comm->grouped) violated("an end inside a group");
    comm->ended = 1;
    return code;
}
int ncclCommDestroy(Comm *comm) { return end("ncclCommDestroy", comm); }
#ifndef WITHOUT_ncclCommAbort
int ncclCommAbort(Comm *comm) {
    int code = end("ncclCommAbort", comm);
    // As a thread of NCCL's that had begun before.
    if (comm->slot) *comm->slot = comm->made;
    return code;
}
#endif
#ifndef WITHOUT_ncclCommRevoke
int ncclCommRevoke(Comm *comm, int flags) {
    if (flags) violated("flags of revoke");
    int code = call("ncclCommRevoke", comm);
    return code ? code : begin(comm);
}
#endif
int ncclCommRegister(Comm *comm, void *buffer, size_t bytes, void **handle) {
    (void)bytes;
    *handle = fake_get("null_handle") ? NULL : buffer;
    return call("ncclCommRegister", comm);
}
int ncclCommDeregister(Comm *comm, void *handle) {
    if (!handle) violated("a null registration");
    return call("ncclCommDeregister", comm);
}
int ncclCommWindowRegister(Comm *comm, void *buffer, size_t bytes, void **window, int flags) {
    (void)bytes, (void)flags;
    int code = call("ncclCommWindowRegister", comm);
    if (!fake_get("null_window")) {
        comm->slot = window;
        comm->made = buffer;
    }
    return code ? code : begin(comm);
}
int ncclCommWindowDeregister(Comm *comm, void *window) {
    if (!window) violated("a null window");
    return call("ncclCommWindowDeregister", comm);
}
int ncclMemAlloc(void **address, size_t bytes) {
    *address = malloc(bytes);
    return act("ncclMemAlloc");
}
int ncclMemFree(void *address) {
    free(address);
    return act("ncclMemFree");
}
int ncclGroupStart(void) {
    depth++;
    return act("ncclGroupStart");
}
int ncclGroupEnd(void) {
    int code = act("ncclGroupEnd");
    if (--depth < 0) violated("an end without a start");
    int state = 0;
    for (int i = 0; i < in_groups; i++) {
        if (in_group[i]->ended) violated("a group of a communicator that has ended");
        in_group[i]->grouped = 0;
        state = begin(in_group[i]);
    }
    in_groups = 0;
    return code ? code : state;
}
static int op(const char *function, Comm *comm, const void *from, void *to, size_t count, int dtype, int other, void *stream) {
    int code = call(function, comm);
    char line[256];
    snprintf(line, sizeof line, "%s %lx %lx %zu %d %d %lx\n", function, (long)from, (long)to, count, dtype, other, (long)stream);
    write_line(line);
    if (!depth) violated("an op outside a group");
    comm->grouped = 1;
    if (in_groups < 64) in_group[in_groups++] = comm;
    return code;
}
int ncclSend(const void *from, size_t count, int dtype, int peer, Comm *comm, void *stream) {
    return op("ncclSend", comm, from, NULL, count, dtype, peer, stream);
}
int ncclRecv(void *to, size_t count, int dtype, int peer, Comm *comm, void *stream) {
    return op("ncclRecv", comm, NULL, to, count, dtype, peer, stream);
}
int ncclAllGather(const void *from, void *to, size_t count, int dtype, Comm *comm, void *stream) {
    return op("ncclAllGather", comm, from, to, count, dtype, -1, stream);
}
int ncclReduceScatter(const void *from, void *to, size_t count, int dtype, int reduction, Comm *comm, void *stream) {
    return op("ncclReduceScatter", comm, from, to, count, dtype, reduction, stream);
}
int ncclAllReduce(const void *from, void *to, size_t count, int dtype, int reduction, Comm *comm, void *stream) {
    return op("ncclAllReduce", comm, from, to, count, dtype, reduction, stream);
}
int ncclBroadcast(const void *from, void *to, size_t count, int dtype, int root, Comm *comm, void *stream) {
    return op("ncclBroadcast", comm, from, to, count, dtype, root, stream);
}
#ifndef WITHOUT_ncclAlltoAll
int ncclAlltoAll(const void *from, void *to, size_t count, int dtype, Comm *comm, void *stream) {
    return op("ncclAlltoAll", comm, from, to, count, dtype, -1, stream);
}
#endif
