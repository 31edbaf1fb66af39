#include "stream.h"

#include "config.h"
#include "stats.h"

namespace simacc {

// -- completion --

void Completion::complete() {
  std::lock_guard lock(mutex_);
  complete_ = true;
  completed_at_ = now();
  changed_.notify_all();
}

void Completion::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return complete_; });
}

bool Completion::is_complete() {
  std::lock_guard lock(mutex_);
  return complete_;
}

double Completion::completed_at() {
  std::lock_guard lock(mutex_);
  return completed_at_;
}

// -- asynchronous errors --

namespace {

struct AsynchronousError {
  std::mutex mutex;
  std::string first;
};

AsynchronousError& asynchronous_error() {
  static auto* error = new AsynchronousError();
  return *error;
}

void note_error(const std::string& task, const std::exception& error) {
  std::lock_guard lock(asynchronous_error().mutex);
  auto& first = asynchronous_error().first;
  if (first.empty()) first = task + ": " + error.what();
}

}  // namespace

void throw_asynchronous_error() {
  std::lock_guard lock(asynchronous_error().mutex);
  auto error = std::exchange(asynchronous_error().first, {});
  TORCH_CHECK(error.empty(), "simacc: a task failed: ", error);
}

// -- the thread of a stream --

namespace {

struct Running {
  std::mutex mutex;
  std::condition_variable changed;
  int tasks = 0;
  bool stopped = false;
};

Running& running() {
  static auto* the_running = new Running();
  return *the_running;
}

void begin_task() {
  std::unique_lock lock(running().mutex);
  running().changed.wait(lock, [] { return !running().stopped; });
  running().tasks++;
}

void end_task() {
  std::lock_guard lock(running().mutex);
  running().tasks--;
  running().changed.notify_all();
}

}  // namespace

void stop_streams() {
  WithoutGil without_gil;
  std::unique_lock lock(running().mutex);
  running().stopped = true;
  // A task may itself wait for what never comes, such as another rank: then the process ends beside it.
  running().changed.wait_for(lock, std::chrono::seconds(2), [] { return running().tasks == 0; });
}

Stream::Stream(int device_index, int64_t stream_id) : device(device_index), id(stream_id) {
  // Detached and never joined: a test may end the process while a stream is held.
  std::thread([this] { work(); }).detach();
}

void Stream::push(Entry entry) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(entry));
  changed_.notify_all();
}

void Stream::work() {
  at::AutoDispatchBelowAutograd below_autograd;
  c10::NoGradGuard no_grad;
  for (;;) {
    Entry entry;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !queue_.empty(); });
      entry = std::move(queue_.front());
      queue_.pop_front();
      is_busy_ = true;
    }
    run(entry);
    std::lock_guard lock(mutex_);
    is_busy_ = false;
    if (entry.completion) entry.completion->complete();  // within the lock: who was woken by it finds the stream idle
  }
}

void Stream::run(Entry& entry) {
  if (entry.awaited) return entry.awaited->wait();
  begin_task();
  double began = now();
  try {
    if (entry.task.run) entry.task.run();
  } catch (const std::exception& error) {
    note_error(entry.task.name, error);
  }
  auto& task = entry.task;
  task.run = nullptr;  // before anyone is told: what the task captured is gone by then
  if (entry.is_traced) {
    trace({task.kind, task.name, device, id, task.bytes, entry.enqueued, began, now()});
  }
  end_task();
}

// -- tasks --

CompletionPtr enqueue(Stream& stream, Task task) {
  WorldLock lock(world());
  stream.clock.join(this_host_thread().publish());
  stream.clock.tick(stream.actor());
  record_accesses(stream.actor(), stream.clock, task.ranges, task.name);
  count("tasks");
  if (!task.kind.empty()) {
    count(task.kind);
    count(task.kind + "_bytes", task.bytes);
  }
  auto completion = std::make_shared<Completion>(stream.clock);
  bool is_traced = config().trace != 0 && !task.kind.empty();
  stream.push({std::move(task), completion, nullptr, now(), is_traced});
  return completion;
}

CompletionPtr mark(Stream& stream) { return enqueue(stream, {.kind = "", .name = "mark"}); }

void wait_on_stream(Stream& stream, CompletionPtr completion, const char* why) {
  WorldLock lock(world());
  stream.clock.join(completion->clock);
  stream.push({{.kind = "", .name = why}, nullptr, std::move(completion), now(), false});
}

// -- what the host learns --

void host_wait(const CompletionPtr& completion) {
  {
    WithoutGil without_gil;
    completion->wait();
  }
  WorldLock lock(world());
  this_host_thread().clock.join(completion->clock);
}

bool host_query(const CompletionPtr& completion) {
  refuse_while_capturing("a query");
  if (!completion->is_complete()) return false;
  WorldLock lock(world());
  this_host_thread().clock.join(completion->clock);
  return true;
}

bool is_idle(Stream& stream) {
  refuse_while_capturing("a query");
  WorldLock world_lock(world());  // so that nothing is queued between the look and the clock
  {
    std::lock_guard lock(stream.mutex_);
    if (!stream.queue_.empty() || stream.is_busy_) return false;
  }
  this_host_thread().clock.join(stream.clock);
  return true;
}

void synchronize(Stream& stream) {
  refuse_while_capturing("a synchronize");
  count("host_syncs");
  host_wait(mark(stream));
  throw_asynchronous_error();
}

WithoutGil::WithoutGil() {
  if (Py_IsInitialized() && PyGILState_Check()) state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  if (state_) PyEval_RestoreThread(state_);
}

}  // namespace simacc
