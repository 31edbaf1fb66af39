// Stream: a queue of tasks and the thread that runs them in order. Completion: that one of them has run.
#pragma once

#include "clock.h"
#include "race_detector.h"

namespace simacc {

class Completion {
 public:
  explicit Completion(VectorClock seen = {}) : clock(std::move(seen)) {}

  void complete();
  void wait();  // keeps the GIL: see host_wait
  bool is_complete();
  double completed_at();

  const VectorClock clock;  // what has happened once this is complete

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool complete_ = false;
  double completed_at_ = 0;
};

using CompletionPtr = std::shared_ptr<Completion>;

// What a stream is to do. A task must hold no tensor alive: how long memory lives is what a test is about.
struct Task {
  std::string kind;  // the counter to raise; empty for what is no work of its own
  std::string name;
  int64_t bytes = 0;
  std::vector<Range> ranges;
  std::function<void()> run;
};

class Stream {
 public:
  Stream(int device, int64_t id);

  Actor actor() const { return (static_cast<Actor>(device) << 32) | id; }

  const int device;
  const int64_t id;
  VectorClock clock;  // after the last task queued; under world()

 private:
  friend CompletionPtr enqueue(Stream&, Task);
  friend void wait_on_stream(Stream&, CompletionPtr, const char*);
  friend bool is_idle(Stream&);

  struct Entry {
    Task task;
    CompletionPtr completion;
    CompletionPtr awaited;
    double enqueued;
    bool is_traced;
  };

  void push(Entry entry);
  void work();
  void run(Entry& entry);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> queue_;
  bool is_busy_ = false;
};

// Append a task to a stream, check its accesses, and return at once.
CompletionPtr enqueue(Stream& stream, Task task);

// A completion of all that is on the stream now, as an event records it.
CompletionPtr mark(Stream& stream);

// What is queued from now on runs after `completion`; the host goes on.
void wait_on_stream(Stream& stream, CompletionPtr completion, const char* why = "wait_event");

// Block the calling thread, without the GIL; what has completed is then known to this thread, and to no other.
void host_wait(const CompletionPtr& completion);

// As host_wait where it is complete; returns whether it is.
bool host_query(const CompletionPtr& completion);

bool is_idle(Stream& stream);
void synchronize(Stream& stream);
void synchronize_device(int device);

// Throw the first error that a task has met, once.
void throw_asynchronous_error();

// -- which streams there are --

int device_count();
Stream& default_stream(int device);
Stream& stream_of(const c10::Stream& stream);
c10::Stream as_c10(const Stream& stream);

// One of the device's 32 pooled streams, in turn: the 33rd is the first again, as on CUDA.
Stream& pooled_stream(int device);

int current_device();                 // of this thread
void set_current_device(int device);  // throws for one that is not there
Stream& current_stream(int device);
void set_current_stream(Stream& stream);

// Forget all accesses, and what the streams and this thread have seen of others. For between two tests.
void forget_past();

// Let running tasks end and begin no more; what is to be called before the process ends.
void stop_streams();

// Blocks go without the GIL, or a task that needs it could never end.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

}  // namespace simacc
