// Config: the knobs that a test turns. Times are in seconds, sizes in bytes, bandwidths in bytes per second.
#pragma once

#include "pytorch.h"

namespace simacc {

// What happens to the bytes of a freed block.
constexpr double kPoisonOff = 0;
constexpr double kPoisonAtReuse = 1;  // they may be overwritten once it is handed out again: CUDA's own hazard
constexpr double kPoisonAtFree = 2;   // stricter: nothing may touch them after the free

struct Config {
  std::atomic<double> d2h_bw{0};  // 0: as fast as memcpy
  std::atomic<double> h2d_bw{0};
  std::atomic<double> copy_latency{0};
  std::atomic<double> kernel_latency{0};
  std::atomic<double> pinned_alloc_latency{0};
  std::atomic<double> chunk{1 << 20};  // a slow copy moves this many bytes between two pauses
  std::atomic<double> poison{kPoisonAtReuse};
  std::atomic<double> pageable_async{0};      // device-to-host into pageable memory returns early
  std::atomic<double> pinned_alloc_syncs{0};  // a new pinned block waits for all devices, as cudaHostAlloc may
  std::atomic<double> capturing{0};           // the current streams claim to be capturing a graph
  std::atomic<double> available{1};           // 0: as on a machine without such devices
  std::atomic<double> trace{0};
  std::atomic<double> capacity{-1};           // of each device; -1: the whole arena
  std::atomic<double> fail_pinned_after{-1};  // allocations and registrations before one fails; -1: none fails
  std::atomic<double> fail_copy_after{-1};    // device-to-host copies that succeed before one fails; -1: none fails
};

Config& config();

// Set one knob. Throws c10::ValueError for a name that is none.
void set_knob(const std::string& name, double value);

std::map<std::string, double> knobs();

// Count a fault down; true for the one call that is to fail.
bool should_fail(std::atomic<double>& successes_left);

// Throws where a graph capture would make the call fail on real devices.
void refuse_while_capturing(const char* what);

void pause(double seconds);

}  // namespace simacc
