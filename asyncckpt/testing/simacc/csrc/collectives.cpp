#include "collectives.h"

#include "config.h"
#include "stats.h"

namespace simacc {

namespace {

using c10d::OpType;
using Tensors = std::vector<at::Tensor>;
using TensorLists = std::vector<Tensors>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

class StreamWork final : public c10d::Work {
 public:
  StreamWork(int rank, OpType type, Stream& stream, CompletionPtr done, Tensors outputs)
      : Work(rank, type), stream_(stream), done_(std::move(done)), outputs_(std::move(outputs)) {}

  bool isCompleted() override { return host_query(done_); }
  bool isSuccess() const override { return true; }
  Tensors result() override { return outputs_; }
  void synchronize() override { wait_on_stream(current_stream(stream_.device), done_); }

  bool wait(std::chrono::milliseconds) override {
    synchronize();
    if (opType_ == OpType::BARRIER) {
      count("host_syncs");
      host_wait(done_);  // a barrier is for the host
      throw_asynchronous_error();
    }
    return true;
  }

  // Complete already, on the stream of the collective: who waits for it makes its own stream wait.
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto device = as_c10(stream_).device();
    auto type = c10::ListType::create(c10::TensorType::get());
    auto future = c10::make_intrusive<c10::ivalue::Future>(type, std::vector<c10::Device>{device});
    c10::StreamGuard on_its_stream(as_c10(stream_));
    future->markCompleted(c10::IValue(outputs_));
    return future;
  }

 private:
  Stream& stream_;
  CompletionPtr done_;
  Tensors outputs_;
};

Tensors raw_views(const Tensors& tensors) {
  Tensors seen;
  for (auto& tensor : tensors) seen.push_back(raw_view(tensor));
  return seen;
}

TensorLists raw_views(const TensorLists& lists) {
  TensorLists seen;
  for (auto& list : lists) seen.push_back(raw_views(list));
  return seen;
}

Tensors flat(const TensorLists& lists) {
  Tensors all;
  for (auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// Gloo has no mean: a sum, which is divided afterwards.
struct Reduction {
  Reduction(c10d::ReduceOp wanted, int64_t size) : divisor(1), op(wanted) {
    if (wanted != c10d::ReduceOp::AVG) return;
    divisor = size;
    op = c10d::ReduceOp::SUM;
  }

  void finish(const Tensors& outputs) const {
    if (divisor == 1) return;
    for (auto& output : outputs) output.div_(divisor);
  }

  int64_t divisor;
  c10d::ReduceOp op;
};

class StreamBackend final : public c10d::Backend {
 public:
  explicit StreamBackend(c10::intrusive_ptr<c10d::Backend> inner)
      : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)) {}

  const std::string getBackendName() const override { return "simccl"; }

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return queue(OpType::ALLREDUCE, {}, tensors, [this, given = raw_views(tensors), options = options]() mutable {
      Reduction reduction(options.reduceOp, getSize());
      options.reduceOp = reduction.op;
      inner_->allreduce(given, options)->wait();
      reduction.finish(given);
    });
  }

  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    return queue(OpType::ALLREDUCE_COALESCED, {}, tensors,
                 [this, given = raw_views(tensors), options = options]() mutable {
                   Reduction reduction(options.reduceOp, getSize());
                   options.reduceOp = reduction.op;
                   inner_->allreduce_coalesced(given, options)->wait();
                   reduction.finish(given);
                 });
  }

  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    return queue(OpType::REDUCE, {}, tensors, [this, given = raw_views(tensors), options = options]() mutable {
      Reduction reduction(options.reduceOp, getSize());
      options.reduceOp = reduction.op;
      inner_->reduce(given, options)->wait();
      if (options.rootRank == getRank()) reduction.finish(given);
    });
  }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    return queue(OpType::BROADCAST, {}, tensors,
                 [this, given = raw_views(tensors), options]() mutable { inner_->broadcast(given, options)->wait(); });
  }

  WorkPtr allgather(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    return queue(OpType::ALLGATHER, inputs, flat(outputs),
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   inner_->allgather(to, from, options)->wait();
                 });
  }

  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    return queue(OpType::_ALLGATHER_BASE, {input}, {output},
                 [this, to = raw_view(output), from = raw_view(input), options]() mutable {
                   inner_->_allgather_base(to, from, options)->wait();
                 });
  }

  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override {
    return queue(OpType::COALESCED, inputs, outputs,
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   for (size_t index = 0; index < to.size(); index++) {
                     inner_->_allgather_base(to[index], from[index], options)->wait();
                   }
                 });
  }

  WorkPtr reduce_scatter(Tensors& outputs, TensorLists& inputs, const c10d::ReduceScatterOptions& options) override {
    return queue(OpType::REDUCE_SCATTER, flat(inputs), outputs,
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   for (size_t index = 0; index < to.size(); index++) {
                     auto packed = at::stack(from[index]);
                     reduce_scatter_bytes(to[index], packed, options);
                   }
                 });
  }

  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    return queue(OpType::_REDUCE_SCATTER_BASE, {input}, {output},
                 [this, to = raw_view(output), from = raw_view(input), options]() mutable {
                   reduce_scatter_bytes(to, from, options);
                 });
  }

  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override {
    return queue(OpType::COALESCED, inputs, outputs,
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   for (size_t index = 0; index < to.size(); index++) {
                     reduce_scatter_bytes(to[index], from[index], options);
                   }
                 });
  }

  WorkPtr gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    return queue(OpType::GATHER, inputs, flat(outputs),
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   inner_->gather(to, from, options)->wait();
                 });
  }

  WorkPtr scatter(Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& options) override {
    return queue(OpType::SCATTER, flat(inputs), outputs,
                 [this, to = raw_views(outputs), from = raw_views(inputs), options]() mutable {
                   inner_->scatter(to, from, options)->wait();
                 });
  }

  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& to_sizes,
                        std::vector<int64_t>& from_sizes, const c10d::AllToAllOptions& options) override {
    return queue(OpType::ALLTOALL_BASE, {input}, {output},
                 [this, to = raw_view(output), from = raw_view(input), to_sizes, from_sizes, options]() mutable {
                   inner_->alltoall_base(to, from, to_sizes, from_sizes, options)->wait();
                 });
  }

  WorkPtr send(Tensors& tensors, int to, int tag) override {
    return queue(OpType::SEND, tensors, {},
                 [this, given = raw_views(tensors), to, tag]() mutable { inner_->send(given, to, tag)->wait(); });
  }

  WorkPtr recv(Tensors& tensors, int from, int tag) override {
    return queue(OpType::RECV, {}, tensors,
                 [this, given = raw_views(tensors), from, tag]() mutable { inner_->recv(given, from, tag)->wait(); });
  }

  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    return queue(OpType::BARRIER, {}, {}, [this, options] { inner_->barrier(options)->wait(); });
  }

  // Every rank counts the collectives that it has called; the monitors of PyTorch ask for it.
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return called_; }

 private:
  template <class Function>
  WorkPtr queue(OpType type, const Tensors& reads, const Tensors& writes, Function&& run) {
    called_++;
    auto& current = current_stream(device_for(reads, writes));
    auto& stream = stream_on(current.device);
    wait_on_stream(stream, mark(current));
    auto name = c10d::opTypeToString(type);
    // The group may be destroyed before its collectives have run.
    auto self = c10::intrusive_ptr<c10d::Backend>::unsafe_reclaim_from_nonowning(this);
    auto keeping = [self, run = std::forward<Function>(run)]() mutable { run(); };
    Task task{.kind = "collective", .name = name, .run = std::move(keeping)};
    for (auto& tensor : reads) declare(task, tensor, false, stream);
    for (auto& tensor : writes) declare(task, tensor, true, stream);
    auto done = enqueue(stream, std::move(task));
    return c10::make_intrusive<StreamWork>(getRank(), type, stream, std::move(done), writes);
  }

  // The caller may drop its tensors at once: their memory is not reused before the collective is done.
  static void declare(Task& task, const at::Tensor& tensor, bool write, Stream& stream) {
    task.bytes += static_cast<int64_t>(tensor.nbytes());
    add_range(task.ranges, tensor, write);
    device_allocator().recordStream(tensor.storage().data_ptr(), as_c10(stream));
  }

  static int device_for(const Tensors& reads, const Tensors& writes) {
    if (!reads.empty()) return reads[0].device().index();
    if (!writes.empty()) return writes[0].device().index();
    return current_device();
  }

  Stream& stream_on(int device) {
    auto& stream = streams_[device];
    if (!stream) stream = &pooled_stream(device);
    return *stream;
  }

  void reduce_scatter_bytes(at::Tensor& output, at::Tensor& input, c10d::ReduceScatterOptions options) {
    Reduction reduction(options.reduceOp, getSize());
    // All of it is reduced everywhere, and each rank keeps its part: simple, and as right.
    Tensors whole{input.contiguous().view(-1).clone()};
    c10d::AllreduceOptions all;
    all.reduceOp = reduction.op;
    all.timeout = options.timeout;
    inner_->allreduce(whole, all)->wait();
    reduction.finish(whole);
    output.copy_(whole[0].view({getSize(), -1})[getRank()].view(output.sizes()));
  }

  c10::intrusive_ptr<c10d::Backend> inner_;
  std::map<int, Stream*> streams_;
  uint64_t called_ = 0;
};

}  // namespace

c10::intrusive_ptr<c10d::Backend> stream_backend(c10::intrusive_ptr<c10d::Backend> inner) {
  return c10::make_intrusive<StreamBackend>(std::move(inner));
}

}  // namespace simacc
