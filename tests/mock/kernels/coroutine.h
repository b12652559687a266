// A function on an OS thread of its own (the emulation's state is a thread's): of it and its
// caller only one runs. Threads are used again.
#pragma once
#include <functional>
#include <memory>

namespace mock {

class Coroutine {
 public:
  explicit Coroutine(std::function<void(Coroutine&)> body);
  // Runs the body until it stalls (false) or has ended (true).
  bool resume();
  // By the body: back to whoever resumed it.
  void stall();

 private:
  struct Thread;
  static Thread& idle_thread();
  std::function<void(Coroutine&)> body_;
  Thread* thread_ = nullptr;
};

}  // namespace mock
