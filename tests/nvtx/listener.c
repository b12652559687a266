/* A profiler's library as NVTX 3 loads it, which writes down what it is told. The declarations are
 * those of nvtx3/nvtxDetail/nvtxTypes.h, so far as they are used. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef void (*Function)(void);
typedef const void* (*GetExportTable)(uint32_t id);

typedef struct {
  size_t struct_size;
  int (*module_table)(int module, Function*** table, unsigned int* count);
} Callbacks;

typedef struct {
  size_t struct_size;
  uint32_t version, reserved;
  void (*set_injection_version)(uint32_t version);
} VersionInfo;

typedef struct {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  union {
    uint64_t u64;
    double f64;
  } payload;
  int32_t message_type;
  union {
    const char* ascii;
    const void* registered;
  } message;
} Attributes;

enum { kCuda = 2, kCore2 = 5 };
enum { kMessageAscii = 1, kMessageRegistered = 3 };

static char log_text[1 << 20];
static size_t log_bytes;
static int domain;
static char strings[4096][128];
static int string_count;

static void say(const char* what, const char* text) {
  log_bytes += (size_t)snprintf(log_text + log_bytes, sizeof log_text - log_bytes, "%s %s\n", what, text);
}

static void* create_domain(const char* name) {
  say("domain", name);
  return &domain;
}

static void* register_string(void* of, const char* text) {
  if (of != &domain) say("wrong domain for", text);
  strncpy(strings[string_count], text, sizeof strings[0] - 1);
  return strings[string_count++];
}

static int push(void* of, const Attributes* attributes) {
  if (of != &domain || attributes->version != 3 || attributes->size != sizeof(Attributes)) say("wrong", "attributes");
  say(attributes->message_type == kMessageRegistered ? "push" : "push unregistered", attributes->message.ascii);
  return 0;
}

static int pop(void* of) {
  say(of == &domain ? "pop" : "pop of a wrong domain", "");
  return 0;
}

static void name_stream(void* stream, const char* name) { say(stream ? "stream" : "no stream", name); }

static void set(const Callbacks* callbacks, int module, unsigned int id, unsigned int size, Function function) {
  Function** table = NULL;
  unsigned int count = 0;
  if (!callbacks->module_table(module, &table, &count) || count != size || table[0] || table[count]) {
    say("wrong", "table");
    return;
  }
  *table[id] = function;
}

int InitializeInjectionNvtx2(GetExportTable get) {
  const Callbacks* callbacks = (const Callbacks*)get(1);
  const VersionInfo* version = (const VersionInfo*)get(3);
  if (!callbacks || callbacks->struct_size < sizeof *callbacks) return 0;
  if (!version || version->struct_size < sizeof *version || version->version != 3) return 0;
  version->set_injection_version(3);
  if (get(99) || callbacks->module_table(99, NULL, NULL) || callbacks->module_table(0, NULL, NULL)) return 0;
  set(callbacks, kCore2, 12, 16, (Function)create_domain);
  set(callbacks, kCore2, 10, 16, (Function)register_string);
  set(callbacks, kCore2, 4, 16, (Function)push);
  set(callbacks, kCore2, 5, 16, (Function)pop);
  set(callbacks, kCuda, 5, 9, (Function)name_stream);
  say("attached", "");
  return 1;
}

/* What was said so far, and nothing any more. */
size_t listener_told(char* text, size_t bytes) {
  const size_t n = log_bytes < bytes ? log_bytes : bytes;
  memcpy(text, log_text, n);
  log_bytes = 0;
  return n;
}
