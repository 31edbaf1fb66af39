#include "stats.h"

namespace simacc {

namespace {

struct Records {
  std::mutex mutex;
  std::map<std::string, int64_t> counters;
  std::vector<TraceEntry> entries;
};

Records& records() {
  static auto* the_records = new Records();
  return *the_records;
}

}  // namespace

void count(const std::string& name, int64_t by) {
  std::lock_guard lock(records().mutex);
  records().counters[name] += by;
}

void raise_to(const std::string& name, int64_t at_least) {
  std::lock_guard lock(records().mutex);
  auto& value = records().counters[name];
  value = std::max(value, at_least);
}

std::map<std::string, int64_t> stats() {
  std::lock_guard lock(records().mutex);
  return records().counters;
}

void trace(TraceEntry entry) {
  std::lock_guard lock(records().mutex);
  records().entries.push_back(std::move(entry));
}

std::vector<TraceEntry> traced() {
  std::lock_guard lock(records().mutex);
  return records().entries;
}

void reset_stats() {
  std::lock_guard lock(records().mutex);
  auto& counters = records().counters;
  std::map<std::string, int64_t> kept;
  for (auto name : {"live_bytes", "pinned_live_bytes", "pinned_reserved_bytes"}) {
    if (counters.count(name)) kept[name] = counters[name];
  }
  if (kept.count("live_bytes")) kept["peak_bytes"] = kept["live_bytes"];
  counters = std::move(kept);
  records().entries.clear();
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace simacc
