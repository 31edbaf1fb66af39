#include "clock.h"

namespace simacc {

std::recursive_mutex& world() {
  static auto* mutex = new std::recursive_mutex();
  return *mutex;
}

namespace {

constexpr std::string_view kSlotName = "SIMACC_HOST_THREAD";
const c10::DebugInfoKind kSlot(&kSlotName);

std::shared_ptr<HostThread> new_host_thread() {
  static std::atomic<Actor> last{0};
  return std::make_shared<HostThread>(--last);
}

}  // namespace

HostThread& this_host_thread() {
  // Autograd runs a device's part of backward() in a thread of its own, with the caller's "debug info". That is how
  // such a thread finds for whom it works: queueing and joining inside the engine is then program order.
  if (auto* known = static_cast<HostThread*>(c10::ThreadLocalDebugInfo::get(kSlot))) return *known;
  static thread_local std::shared_ptr<HostThread> own = new_host_thread();
  c10::ThreadLocalDebugInfo::_push(kSlot, own);
  return *own;
}

}  // namespace simacc
