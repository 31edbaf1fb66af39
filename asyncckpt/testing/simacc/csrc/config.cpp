#include "config.h"

namespace simacc {

Config& config() {
  static auto* the_config = new Config();  // leaked: stream threads outlive static destructors
  return *the_config;
}

static const std::map<std::string, std::atomic<double>*>& by_name() {
  auto& c = config();
  static const auto* names = new std::map<std::string, std::atomic<double>*>{
      {"d2h_bw", &c.d2h_bw},
      {"h2d_bw", &c.h2d_bw},
      {"copy_latency", &c.copy_latency},
      {"kernel_latency", &c.kernel_latency},
      {"pinned_alloc_latency", &c.pinned_alloc_latency},
      {"chunk", &c.chunk},
      {"poison", &c.poison},
      {"pageable_async", &c.pageable_async},
      {"pinned_alloc_syncs", &c.pinned_alloc_syncs},
      {"capturing", &c.capturing},
      {"available", &c.available},
      {"trace", &c.trace},
      {"capacity", &c.capacity},
      {"fail_pinned_after", &c.fail_pinned_after},
      {"fail_copy_after", &c.fail_copy_after},
  };
  return *names;
}

void set_knob(const std::string& name, double value) {
  auto found = by_name().find(name);
  TORCH_CHECK_VALUE(found != by_name().end(), "simacc has no knob ", name);
  *found->second = value;
}

std::map<std::string, double> knobs() {
  std::map<std::string, double> values;
  for (auto& [name, knob] : by_name()) values[name] = *knob;
  return values;
}

bool should_fail(std::atomic<double>& successes_left) {
  double left = successes_left;
  while (left >= 0 && !successes_left.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0;
}

void refuse_while_capturing(const char* what) {
  TORCH_CHECK(config().capturing == 0, "simacc: ", what, " is not permitted while a stream is capturing");
}

void pause(double seconds) {
  if (seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

}  // namespace simacc
