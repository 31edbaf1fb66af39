// Copies between host and device, and between devices.
#include "config.h"
#include "pinned_memory.h"
#include "stats.h"
#include "tensors.h"

namespace simacc {

namespace {

enum class Direction { kToHost, kToDevice, kWithin };

struct Copy {
  at::Tensor source;
  at::Tensor destination;
  Direction direction;

  const at::Tensor& host() const { return direction == Direction::kToHost ? destination : source; }
  const char* name() const {
    static const char* const names[] = {"d2h", "h2d", "d2d"};
    return names[static_cast<int>(direction)];
  }
};

bool has_same_layout(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes() || a.is_conj() != b.is_conj()) return false;
  if (a.is_neg() != b.is_neg()) return false;
  return (a.is_contiguous() && b.is_contiguous()) || (a.strides() == b.strides() && a.is_non_overlapping_and_dense());
}

// Whether the engine can copy to or from the host's own bytes. Where it cannot, PyTorch goes through a pageable
// temporary, and the copy is no longer asynchronous although the tensor is pinned.
bool takes_bytes_as_they_are(const Copy& copy) {
  if (has_same_layout(copy.source, copy.destination)) return true;
  // A device casts and packs for a destination on the host. A source on the host is cast and packed there.
  return copy.direction == Direction::kToHost && copy.destination.is_contiguous() && !copy.destination.is_conj() &&
         !copy.destination.is_neg();
}

// There is one engine for each direction of a device, so that copies of two streams take turns.
std::mutex& engine(int device, Direction direction) {
  static auto* engines = new std::map<std::pair<int, Direction>, std::mutex>();
  WorldLock lock(world());
  return (*engines)[{device, direction}];
}

void move_bytes(char* destination, const char* source, int64_t size, double bandwidth) {
  auto chunk = bandwidth > 0 ? static_cast<int64_t>(config().chunk) : size;
  for (int64_t done = 0; done < size; done += chunk) {
    auto part = std::min(chunk, size - done);
    memcpy(destination + done, source + done, part);
    if (bandwidth > 0) pause(part / bandwidth);
  }
}

void transfer(const at::Tensor& source, const at::Tensor& destination, double bandwidth) {
  auto size = static_cast<int64_t>(destination.nbytes());
  if (has_same_layout(source, destination)) {
    return move_bytes(static_cast<char*>(destination.data_ptr()), static_cast<const char*>(source.data_ptr()), size,
                      bandwidth);
  }
  if (bandwidth > 0) pause(size / bandwidth);
  destination.copy_(source);
}

std::function<void()> work_of(const Copy& copy, int device, at::Tensor source, at::Tensor destination) {
  auto direction = copy.direction;
  if (direction == Direction::kWithin) return [=] { destination.copy_(source); };
  bool fails = direction == Direction::kToHost && should_fail(config().fail_copy_after);
  double bandwidth = direction == Direction::kToHost ? config().d2h_bw : config().h2d_bw;
  return [=, latency = config().copy_latency.load(), &turn = engine(device, direction)] {
    TORCH_CHECK(!fails, "injected failure of a device-to-host copy");
    std::lock_guard lock(turn);
    pause(latency);
    transfer(source, destination, bandwidth);
  };
}

std::vector<Range> ranges_of(const Copy& copy) {
  std::vector<Range> ranges;
  add_range(ranges, copy.source, false);
  add_range(ranges, copy.destination, true);
  return ranges;
}

// The two ends of a copy between devices wait for each other, as cudaMemcpyPeerAsync has it in PyTorch.
void copy_between_devices(const Copy& copy) {
  auto& source = current_stream(copy.source.device().index());
  auto& destination = current_stream(copy.destination.device().index());
  wait_on_stream(source, mark(destination));
  auto done = enqueue(source, {.kind = "d2d",
                               .name = "copy_",
                               .bytes = static_cast<int64_t>(copy.destination.nbytes()),
                               .ranges = ranges_of(copy),
                               .run = work_of(copy, source.device, raw_view(copy.source), raw_view(copy.destination))});
  wait_on_stream(destination, done);
}

void copy_on_current_stream(const Copy& copy, bool non_blocking) {
  bool has_host = copy.direction != Direction::kWithin;
  bool pinned = has_host && is_pinned(copy.host().data_ptr()) && takes_bytes_as_they_are(copy);
  auto source = raw_view(copy.source);
  auto destination = raw_view(copy.destination);
  if (copy.direction == Direction::kToDevice && !pinned) source = source.clone();  // staged before the call returns
  auto& stream = current_stream((is_on_device(copy.source) ? copy.source : copy.destination).device().index());
  auto run = work_of(copy, stream.device, source, destination);
  bool returns_early = non_blocking;
  if (copy.direction == Direction::kToHost && !pinned) {
    returns_early = non_blocking && config().pageable_async != 0;
    if (returns_early) run = [run, kept = copy.destination] { run(); };  // the host may free it: not the point here
  }
  if (has_host && !returns_early) refuse_while_capturing("a blocking copy");
  auto kind = std::string(copy.name()) + (!has_host ? "" : pinned ? "_pinned" : "_pageable");
  auto done = enqueue(stream, {.kind = kind,
                               .name = "copy_",
                               .bytes = static_cast<int64_t>(copy.destination.nbytes()),
                               .ranges = ranges_of(copy),
                               .run = std::move(run)});
  if (!has_host) return;
  if (pinned) note_use(copy.host().data_ptr(), stream);
  if (returns_early) return;
  host_wait(done);
  throw_asynchronous_error();
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& destination, bool non_blocking) {
  if (destination.numel() == 0) return destination;
  auto direction = source.is_cpu()        ? Direction::kToDevice
                   : destination.is_cpu() ? Direction::kToHost
                                          : Direction::kWithin;
  Copy copy{source.sizes() == destination.sizes() ? source : source.expand_as(destination), destination, direction};
  c10::DeviceGuard guard((is_on_device(source) ? source : destination).device());
  if (direction == Direction::kWithin && source.device() != destination.device()) {
    copy_between_devices(copy);
  } else {
    copy_on_current_stream(copy, non_blocking);
  }
  return destination;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& destination) {
  destination.resize_(source.sizes());
  return copy_from(source, destination, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  refuse_while_capturing("item()");
  std::vector<Range> ranges;
  add_range(ranges, self, false);
  auto done =
      enqueue(current_stream(self.device().index()),
              {.kind = "item", .name = "item", .bytes = static_cast<int64_t>(self.itemsize()), .ranges = ranges});
  count("host_syncs");
  host_wait(done);
  throw_asynchronous_error();
  return at::native::_local_scalar_dense_cpu(kernel_view(self));
}

}  // namespace

}  // namespace simacc

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("_copy_from", &simacc::copy_from);
  library.impl("_copy_from_and_resize", &simacc::copy_from_and_resize);
  library.impl("_local_scalar_dense", &simacc::local_scalar);
}

// A copy resolves conjugated and negated views itself. Without this PyTorch would, by a copy, and so on for ever.
TORCH_LIBRARY_IMPL(aten, Conjugate, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
