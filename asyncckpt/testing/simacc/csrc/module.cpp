// Module: what Python sees.
#include "collectives.h"
#include "config.h"
#include "generator.h"
#include "hooks.h"
#include "host_function.h"
#include "pinned_memory.h"
#include "stats.h"

namespace simacc {

namespace {

// Carries what one host thread has seen to another; a lock, a queue or a thread's end has one of these.
class Handover {
 public:
  void publish() {
    WorldLock lock(world());
    clock_.join(this_host_thread().publish());
  }
  void receive() {
    WorldLock lock(world());
    this_host_thread().clock.join(clock_);
  }

 private:
  VectorClock clock_;
};

void bind_tests(py::module_& module) {
  module.def("set_knob", &set_knob);
  module.def("knobs", &knobs);
  module.def("stats", &stats);
  module.def("reset_stats", &reset_stats);
  module.def("take_races", &take_races);
  module.def("forget_past", &forget_past);
  module.def("trace", [] {
    py::list entries;
    for (auto& entry : traced()) {
      entries.append(py::make_tuple(entry.kind, entry.name, entry.device, entry.stream, entry.bytes, entry.enqueued,
                                    entry.began, entry.ended));
    }
    return entries;
  });
  module.def("hold", [](int device, int64_t id) {
    auto stream = c10::Stream(c10::Stream::UNSAFE, {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)}, id);
    return hold(stream_of(stream));
  });
  module.def("launch", &launch);
  module.def("host_access", &host_access);
  module.def("register_host_memory", &register_host_memory);
  module.def("unregister_host_memory", &unregister_host_memory);
  py::class_<Completion, CompletionPtr>(module, "Gate").def("open", &Completion::complete);
  py::class_<Handover>(module, "Handover")
      .def(py::init<>())
      .def("publish", &Handover::publish)
      .def("receive", &Handover::receive);
}

void bind_device(py::module_& module) {
  module.def("current_device", &current_device);
  module.def("set_device", &set_current_device);
  module.def("device_count", &device_count);
  module.def("stop_streams", &stop_streams);
  module.def("memory", [](int device) {
    auto [free, total] = device_allocator().getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    return py::make_tuple(free, total);
  });
  module.def("get_rng_state", [](int device) {
    auto generator = default_generator(device);
    std::scoped_lock lock(generator.mutex());
    return generator.get_state();
  });
  module.def("set_rng_state", [](int device, const at::Tensor& state) {
    auto generator = default_generator(device);
    std::scoped_lock lock(generator.mutex());
    generator.set_state(state);
  });
  module.def("manual_seed", [](int device, uint64_t seed) {
    auto generator = default_generator(device);
    std::scoped_lock lock(generator.mutex());
    generator.set_current_seed(seed);
  });
  module.def("initial_seed", [](int device) { return default_generator(device).current_seed(); });
  module.def("stream_backend", &stream_backend);
}

}  // namespace

}  // namespace simacc

PYBIND11_MODULE(_C, module) {
  simacc::reserve_device_memory();
  simacc::register_hooks();
  simacc::this_host_thread();  // now: the profiler wants its own "debug info" to be the last that was pushed
  simacc::bind_tests(module);
  simacc::bind_device(module);
}
