#include "coroutine.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace mock {
namespace {

std::mutex idle_mutex;

}  // namespace

struct Coroutine::Thread {
  enum class Turn { kCaller, kBody, kEnded };
  std::mutex mutex;
  std::condition_variable condition;
  Turn turn = Turn::kCaller;
  Coroutine* running = nullptr;

  void hand_over(Turn to) {
    std::unique_lock<std::mutex> lock(mutex);
    const Turn own = turn;
    turn = to;
    condition.notify_all();
    condition.wait(lock, [&] { return turn == own || (own == Turn::kCaller && turn == Turn::kEnded); });
  }

  void loop() {
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        condition.wait(lock, [&] { return turn == Turn::kBody; });
      }
      running->body_(*running);
      std::unique_lock<std::mutex> lock(mutex);
      turn = Turn::kEnded;
      condition.notify_all();
    }
  }

  static std::vector<Thread*>& idle() {
    static auto* threads = new std::vector<Thread*>;
    return *threads;
  }
};

Coroutine::Coroutine(std::function<void(Coroutine&)> body) : body_(std::move(body)) {}

Coroutine::Thread& Coroutine::idle_thread() {
  std::lock_guard<std::mutex> guard(idle_mutex);
  auto& idle = Thread::idle();
  if (idle.empty()) {
    auto* made = new Thread;  // lives as long as the process
    std::thread([made] { made->loop(); }).detach();
    return *made;
  }
  Thread* thread = idle.back();
  idle.pop_back();
  return *thread;
}

bool Coroutine::resume() {
  if (!thread_) {
    thread_ = &idle_thread();
    thread_->running = this;
  }
  Thread& thread = *thread_;
  thread.hand_over(Thread::Turn::kBody);
  if (thread.turn != Thread::Turn::kEnded) return false;
  thread.turn = Thread::Turn::kCaller;
  thread_ = nullptr;
  std::lock_guard<std::mutex> guard(idle_mutex);
  Thread::idle().push_back(&thread);
  return true;
}

void Coroutine::stall() { thread_->hand_over(Thread::Turn::kCaller); }

}  // namespace mock
