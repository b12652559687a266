// What the driver's handles point to. An object is never freed: a stale handle is recognised.
#pragma once
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../engine/engine.h"
#include "types.h"

namespace mock {

struct Object {
  explicit Object(std::string_view kind) : kind(kind) {}
  const std::string_view kind;  // compared by its text: libraries have texts of their own
  CUcontext context = nullptr;
  bool alive = true;
};

// A node of a graph: an operation to be copied at every launch.
struct Node {
  Operation pattern;
  std::vector<int> after;
  int branch;
};

struct Capture {
  CUgraph graph;
  CUstream origin;
  CUstreamCaptureMode mode;
  std::thread::id thread;
  std::vector<CUstream> members;
  bool invalid = false;
};

}  // namespace mock

struct CUctx_st : mock::Object {
  static constexpr const char* kKind = "context";
  CUctx_st() : Object(kKind) {}
  CUdevice device = 0;
  int references = 0;
  mock::Domain domain;
  CUstream default_stream = nullptr;
  std::set<CUcontext> peers;
  std::vector<mock::OperationPtr> leaving;  // last operations of destroyed streams
};

struct CUstream_st : mock::Object {
  static constexpr const char* kKind = "stream";
  CUstream_st() : Object(kKind) {}
  mock::Queue* queue = nullptr;
  unsigned flags = 0;
  int priority = 0;
  // While it is captured: after which nodes the next one comes, and its branch of the graph.
  std::shared_ptr<mock::Capture> capture;
  std::vector<int> frontier;
  int branch = 0;
};

struct CUevent_st : mock::Object {
  static constexpr const char* kKind = "event";
  CUevent_st() : Object(kKind) {}
  unsigned flags = 0;
  mock::OperationPtr recorded;
  // Recorded in a capture: the nodes it stands for.
  std::shared_ptr<mock::Capture> capture;
  std::vector<int> frontier;
};

struct CUmod_st : mock::Object {
  static constexpr const char* kKind = "module";
  CUmod_st() : Object(kKind) {}
};

struct CUfunc_st : mock::Object {
  static constexpr const char* kKind = "function";
  CUfunc_st() : Object(kKind) {}
  std::string symbol;
  CUmodule module = nullptr;
  int shared_limit = 48 * 1024;
};

struct CUgraph_st : mock::Object {
  static constexpr const char* kKind = "graph";
  CUgraph_st() : Object(kKind) {}
  std::vector<mock::Node> nodes;
  std::vector<std::string> branches;
};

struct CUgraphExec_st : mock::Object {
  static constexpr const char* kKind = "graph instance";
  CUgraphExec_st() : Object(kKind) {}
  std::vector<mock::Node> nodes;
  std::vector<mock::Queue*> queues;  // of the branches
  mock::OperationPtr last;
};

namespace mock {

// All objects ever made, in the order of their making: never by address, so that runs repeat.
std::vector<Object*>& objects();
void add(Object* object, CUcontext context);
bool known(const void* handle);
// Dead ones are no longer listed; their handles stay known as dead.
void forget_dead();

template <class T>
T* make(CUcontext context) {
  auto* object = new T;
  add(object, context);
  return object;
}

// Whether `handle` is an object of that type and was not destroyed.
template <class T>
bool alive(const T* handle) {
  return known(handle) && handle->alive && handle->kind == T::kKind;
}

// Streams of a context that were not destroyed, its default stream among them.
std::vector<CUstream> streams_of(CUcontext context);

}  // namespace mock
