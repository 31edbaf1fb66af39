// Stats: named counters. Trace: when each task of a stream was queued, began and ended.
#pragma once

#include "pytorch.h"

namespace simacc {

void count(const std::string& name, int64_t by = 1);
void raise_to(const std::string& name, int64_t at_least);
std::map<std::string, int64_t> stats();

struct TraceEntry {
  std::string kind;
  std::string name;
  int device;
  int64_t stream;
  int64_t bytes;
  double enqueued;
  double began;
  double ended;
};

void trace(TraceEntry entry);
std::vector<TraceEntry> traced();

// Counters start at zero again, but for those that say how much memory is in use; the trace is emptied.
void reset_stats();

// Seconds on the monotonic clock.
double now();

}  // namespace simacc
