// What only tests call, found by dlsym. Texts are lists of lines; each function returns the number
// of lines and writes as much as `bytes` holds.
#include <algorithm>
#include <cstring>
#include <sstream>

#include "driver/call.h"

using namespace mock;

namespace {

size_t lines(const std::vector<std::string>& list, char* text, size_t bytes) {
  std::string all;
  for (const std::string& line : list) all += line + "\n";
  if (bytes) {
    const size_t n = std::min(bytes - 1, all.size());
    memcpy(text, all.data(), n);
    text[n] = 0;
  }
  return list.size();
}

}  // namespace

extern "C" {

// Words as in Options::apply, and "reset": abandons queued work, forgets reports, faults, counts.
// 0: all were understood.
int mock_configure(const char* text) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.seen_host();
  std::istringstream words(text);
  std::string word;
  int unknown = 0;
  while (words >> word) {
    if (word == "reset") {
      engine.reset(lock);
      forget_dead();
      engine.memory.forget_dead();
    } else {
      unknown += !engine.options.apply(word);
      if (engine.options.processes_s > 0) unknown += !engine.memory.share();
    }
  }
  engine.changed();
  if (engine.by_threads()) engine.start_workers();
  return unknown;
}

// Races, deadlocks, misuse, leaks, and what kernels did wrong.
size_t mock_reports(char* text, size_t bytes) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  return lines(engine.reports.texts(), text, bytes);
}

// "NAME COUNT" for each function called, "run.LABEL COUNT" for each operation run, since the last reset.
size_t mock_calls(char* text, size_t bytes) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  std::vector<std::string> list;
  for (const auto& [name, count] : engine.options.occurrences) list.push_back(name + " " + std::to_string(count));
  return lines(list, text, bytes);
}

// What was made and not given back; functions go with their module.
size_t mock_leaks(char* text, size_t bytes) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  std::vector<std::string> list;
  for (const Object* object : objects()) {
    const bool implicit = object->kind == CUfunc_st::kKind ||
                          (object->context && object == object->context->default_stream);
    if (object->alive && !implicit) list.emplace_back(object->kind);
  }
  for (const auto& [address, allocation] : engine.memory.all()) {
    if (allocation.live) list.push_back(allocation.name);
  }
  return lines(list, text, bytes);
}

// With record=1: "ID LABEL" of each operation that ran since the last reset, by submission.
size_t mock_ran(char* text, size_t bytes) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  std::vector<std::string> list;
  for (const auto& [id, label] : engine.ran()) list.push_back(std::to_string(id) + " " + label);
  return lines(list, text, bytes);
}

// With record=1: four words for each range that an operation touched: its id, address, bytes, kind
// (read, write, acquire, release). Writes at most `most` ranges, returns how many there are.
size_t mock_touched(uint64_t* words, size_t most) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  const auto& all = engine.touched();
  for (size_t i = 0; i < std::min(most, all.size()); i++) {
    const uint64_t of[4] = {all[i].operation, all[i].address, all[i].bytes, all[i].kind};
    std::copy(of, of + 4, words + 4 * i);
  }
  return all.size();
}

// A hash of the order in which operations ran since the last reset, and how many ran at all.
uint64_t mock_order(void) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  return engine.order();
}

// `count` threads will enter; they alone act until they have left, so that a wait which none of them
// can end is found at once. 0: nothing is known of the threads.
void mock_hosts(int count) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.hosts(count);
}

void mock_host_entered(void) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.seen_host();
  engine.host_entered();
}

void mock_host_left(void) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.host_left();
}

// The calling thread learns what all threads know, as when it joins them.
void mock_handoff(void) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.handoff();
}

uint64_t mock_executed(void) {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  return engine.executed();
}

}  // extern "C"
