#include "objects.h"

#include <algorithm>
#include <unordered_set>

namespace mock {
namespace {

std::unordered_set<const void*>& handles() {
  static std::unordered_set<const void*> all;
  return all;
}

}  // namespace

std::vector<Object*>& objects() {
  static std::vector<Object*> all;
  return all;
}

void add(Object* object, CUcontext context) {
  object->context = context;
  objects().push_back(object);
  handles().insert(object);
}

void forget_dead() {
  auto& all = objects();
  all.erase(std::remove_if(all.begin(), all.end(), [](const Object* object) { return !object->alive; }), all.end());
}

bool known(const void* handle) { return handles().count(handle) != 0; }

std::vector<CUstream> streams_of(CUcontext context) {
  std::vector<CUstream> found;
  for (Object* object : objects()) {
    if (object->kind == CUstream_st::kKind && object->alive && object->context == context) {
      found.push_back(static_cast<CUstream>(object));
    }
  }
  return found;
}

}  // namespace mock
