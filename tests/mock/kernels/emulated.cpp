#include "../../../csrc/emu/api.h"
#include "../engine/engine.h"
#include "coroutine.h"
#include "kernel.h"
#include "memo.h"
#include "touched.h"

namespace mock {
namespace {

constexpr int kLaunchFailed = 719;

struct Run {
  Run(std::shared_ptr<const KernelLaunch> launch, Operation& op)
      : launch(std::move(launch)), op(op), coroutine([this](Coroutine&) { emulate(); }) {}

  std::shared_ptr<const KernelLaunch> launch;
  Operation& op;
  Coroutine coroutine;
  Touched touched;
  bool alone = true;  // nothing came from others while it ran
  bool hopeless = false;
  int error = 0;

  void emulate();
  // Everything touched so far, before anything else can happen or be learned.
  void tell() { tell(touched.take()); }
  void tell(const std::vector<Access>& ranges) {
    if (ranges.empty()) return;
    Engine& engine = Engine::shared();
    Lock lock(engine.mutex);
    for (const Access& range : ranges) engine.observe(lock, op, range);
  }
};

// Under `effects`.
Memo memo;

void observe(void* context, uint64_t address, uint64_t bytes, int32_t kind) {
  Run& run = *static_cast<Run*>(context);
  if (kind == EMU_READ || kind == EMU_WRITE) {
    run.touched.add(address, bytes, kind == EMU_WRITE);
    return;
  }
  run.alone = false;
  run.tell();
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  const AccessKind flag = kind == EMU_ACQUIRE ? AccessKind::kAcquire : AccessKind::kRelease;
  engine.observe(lock, run.op, {address, bytes, flag});
}

// Every thread of the kernel waits: other streams go on. 0: nothing will come, time passes.
int32_t wait_for_others(void* context) {
  Run& run = *static_cast<Run*>(context);
  run.alone = false;
  if (run.hopeless) return 0;
  run.tell();
  run.coroutine.stall();
  return !run.hopeless;
}

void Run::emulate() {
  Engine& engine = Engine::shared();
  EmuOptions options{};
  Memo::Launch same;
  {
    Lock lock(engine.mutex);
    options.seed = engine.options.seed * 1009 + op.sequence;
    options.resident = engine.options.resident;
    options.check = engine.options.check;
    if (!options.check) same = Memo::launch(*launch, engine.memory);
  }
  std::vector<Access> ranges;
  if (!options.check && memo.repeat(same, engine.memory, ranges)) return tell(ranges);
  if (!options.resident) options.resident = 1 + static_cast<int32_t>(options.seed % 3);
  options.async = options.seed % 2 ? EMU_ASYNC_LATE : EMU_ASYNC_RANDOM;
  options.order = EMU_ORDER_RANDOM;
  options.dependent = launch->dependent;
  options.max_messages = 4;
  options.now_ns = static_cast<uint64_t>(op.begin_ns);
  options.external = wait_for_others;
  options.context = this;
  emu_observe(observe, this);
  EmuResult result{};
  const KernelLaunch& of = *launch;
  const int32_t code = emu_launch(engine.memory.emulated(), of.symbol.c_str(), of.grid, of.block, of.shared_bytes,
                                  of.params.data(), of.params.size(), &options, &result);
  emu_observe(nullptr, nullptr);
  ranges = touched.take();
  tell(ranges);
  // A wait by the clock lasts.
  op.end_ns = std::max(op.end_ns, static_cast<double>(result.now_ns));
  error = code || result.errors ? kLaunchFailed : 0;
  Lock lock(engine.mutex);
  if (!error) {
    const bool timeless = result.now_ns == options.now_ns;
    if (!options.check && alone && timeless) memo.learn(same, ranges, engine.memory);
    return;
  }
  auto say = [&](const std::string& text) {
    engine.reports.add("kernel" + of.symbol + text, "KERNEL " + of.symbol + ": " + text);
  };
  if (code) say(emu_last_error());
  const char* message = nullptr;
  for (uint32_t i = 0; !code && (message = emu_message(i)); i++) say(message);
}

}  // namespace

KernelInfo kernel(const std::string& symbol) {
  KernelInfo info;
  // Code for sm_90a runs on nothing else.
  const bool fits = symbol.find("sm90") == std::string::npos || Engine::shared().options.capability == 90;
  info.param_bytes = emu_param_bytes(symbol.c_str());
  info.threads = emu_thread_bound(symbol.c_str());
  info.exists = fits && info.threads;
  return info;
}

Outcome run_kernel(const std::shared_ptr<const KernelLaunch>& launch, Operation& op) {
  if (!op.running) op.running = std::make_shared<Run>(launch, op);
  auto& run = *static_cast<Run*>(op.running.get());
  run.hopeless = op.hopeless;
  const bool done = run.coroutine.resume();
  return {done, run.error};
}

}  // namespace mock
