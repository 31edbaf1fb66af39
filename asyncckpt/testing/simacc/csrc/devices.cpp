// Devices and their streams; which of them are this thread's current ones.
#include "config.h"
#include "stats.h"
#include "stream.h"

namespace simacc {

namespace {

constexpr int kPooledStreams = 32;  // kStreamsPerPool of c10/cuda/CUDAStream.cpp

struct DeviceStreams {
  std::vector<Stream*> streams;  // the default stream, then the pooled ones made so far
  int64_t handed_out = 0;
};

std::vector<DeviceStreams>& devices() {
  static auto* the_devices = [] {
    auto* made = new std::vector<DeviceStreams>(device_count());
    for (int index = 0; index < device_count(); index++) (*made)[index].streams.push_back(new Stream(index, 0));
    return made;
  }();
  return *the_devices;
}

thread_local int this_device = 0;
thread_local std::map<int, Stream*> these_streams;

DeviceStreams& streams_of(int index) {
  TORCH_CHECK(0 <= index && index < device_count(), "simacc: there is no sim:", index, "; there are ", device_count());
  return devices()[index];
}

}  // namespace

int device_count() {
  static const int number = [] {
    auto* given = std::getenv("SIMACC_DEVICES");
    return given ? std::atoi(given) : 2;
  }();
  return number;
}

Stream& default_stream(int device) { return *streams_of(device).streams[0]; }

Stream& stream_of(const c10::Stream& stream) {
  WorldLock lock(world());
  return *streams_of(stream.device_index()).streams.at(stream.id());
}

c10::Stream as_c10(const Stream& stream) {
  return c10::Stream(c10::Stream::UNSAFE, {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(stream.device)}, stream.id);
}

Stream& pooled_stream(int device) {
  WorldLock lock(world());
  auto& [streams, handed_out] = streams_of(device);
  size_t id = 1 + handed_out++ % kPooledStreams;
  count("streams");
  if (id == streams.size()) streams.push_back(new Stream(device, static_cast<int64_t>(id)));
  return *streams[id];
}

int current_device() { return this_device; }

void set_current_device(int device) {
  streams_of(device);
  this_device = device;
}

Stream& current_stream(int device) {
  auto found = these_streams.find(device);
  return found == these_streams.end() ? default_stream(device) : *found->second;
}

void set_current_stream(Stream& stream) { these_streams[stream.device] = &stream; }

void synchronize_device(int device) {
  std::vector<Stream*> streams;
  {
    WorldLock lock(world());
    streams = streams_of(device).streams;
  }
  for (auto* stream : streams) synchronize(*stream);
}

void forget_past() {
  WorldLock lock(world());
  forget_all_accesses();
  auto& host = this_host_thread();
  host.clock.forget_others(host.id);
  for (auto& [streams, _] : devices()) {
    for (auto* stream : streams) stream->clock.forget_others(stream->actor());
  }
}

}  // namespace simacc
