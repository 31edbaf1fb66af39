// Guard: streams, events and current devices, as the rest of PyTorch asks for them.
#include "config.h"
#include "device_memory.h"
#include "stats.h"

namespace simacc {

namespace {

// An event is what was recorded last. Who waits takes the completion of that moment along: recording again does not
// move a wait, as with cudaEvent_t.
struct Event {
  CompletionPtr recorded;
  bool has_timing;
};

int index_of(c10::Device device) { return device.index() < 0 ? current_device() : device.index(); }

c10::Device as_device(int index) { return {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(index)}; }

Event* as_event(void* event) { return static_cast<Event*>(event); }

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }

  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return as_device(current_device()); }
  void setDevice(c10::Device device) const override {
    if (device.index() >= 0) set_current_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override { setDevice(device); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(device_count()); }

  c10::Stream getStream(c10::Device device) const override { return as_c10(current_stream(index_of(device))); }
  c10::Stream getDefaultStream(c10::Device device) const override { return as_c10(default_stream(index_of(device))); }
  c10::Stream getNewStream(c10::Device device, int = 0) const override {
    return as_c10(pooled_stream(index_of(device)));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool = false) const override { return getNewStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = as_c10(current_stream(stream.device_index()));
    set_current_stream(stream_of(stream));
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override { return is_idle(stream_of(stream)); }
  void synchronizeStream(const c10::Stream& stream) const override { synchronize(stream_of(stream)); }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    synchronize_device(device < 0 ? current_device() : device);
  }
  bool isStreamCapturing(const c10::Stream&) const override { return config().capturing != 0; }
  void recordDataPtrOnStream(const c10::DataPtr& pointer, const c10::Stream& stream) const override {
    device_allocator().recordStream(pointer, stream);
  }

  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete as_event(event); }
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag flag) const override {
    if (!*event) *event = new Event{nullptr, flag == c10::EventFlag::BACKEND_DEFAULT};
    as_event(*event)->recorded = mark(stream_of(stream));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event) wait_on_stream(stream_of(stream), as_event(event)->recorded);
  }
  bool queryEvent(void* event) const override { return !event || host_query(as_event(event)->recorded); }
  void synchronizeEvent(void* event) const override {
    if (!event) return;
    refuse_while_capturing("a synchronize");
    count("host_syncs");
    host_wait(CompletionPtr(as_event(event)->recorded));
    throw_asynchronous_error();
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    auto *from = as_event(first), *to = as_event(second);
    TORCH_CHECK(from && to && from->has_timing && to->has_timing, "simacc: both events need enable_timing=True");
    TORCH_CHECK(from->recorded->is_complete() && to->recorded->is_complete(), "simacc: an event has not happened yet");
    return (to->recorded->completed_at() - from->recorded->completed_at()) * 1e3;  // milliseconds, as everywhere
  }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}  // namespace simacc
