#include "race_detector.h"

#include "device_memory.h"
#include "pinned_memory.h"

namespace simacc {

namespace {

struct Access {
  Range range;
  Actor actor;
  uint64_t epoch;
  std::string label;

  bool is_before(const VectorClock& clock) const { return clock.at(actor) >= epoch; }
  bool overlaps(const Range& other) const { return range.low < other.high && other.low < range.high; }
  bool is_within(const Range& other) const { return other.low <= range.low && range.high <= other.high; }
};

struct Detector {
  std::map<uintptr_t, std::vector<Access>> by_block;
  std::vector<std::string> races;
};

Detector& detector() {
  static auto* the_detector = new Detector();
  return *the_detector;
}

std::string described(const Range& range, Actor actor, const std::string& label) {
  std::string what = range.write ? "write by " : "read by ";
  if (is_host(actor)) return what + "HOST (" + label + ")";
  return what + "stream " + std::to_string(actor & 0xffffffff) + " (" + label +
         ") on sim:" + std::to_string(actor >> 32);
}

// Whether every access that would race with `old` would race with `later` too, so that `old` may go.
bool stands_for(const Access& later, const Access& old, const VectorClock& clock) {
  if (!old.is_within(later.range)) return false;
  if (old.actor == later.actor) return later.range.write || !old.range.write;
  return later.range.write && old.is_before(clock);
}

void record(uintptr_t block, Access access, const VectorClock& clock) {
  auto& known = detector().by_block[block];
  for (auto& old : known) {
    bool conflicts = old.overlaps(access.range) && (old.range.write || access.range.write);
    // An actor's own accesses are always before: a stream is a queue, and a thread is a sequence.
    if (!conflicts || old.is_before(clock)) continue;
    detector().races.push_back(described(access.range, access.actor, access.label) + " races with earlier " +
                               described(old.range, old.actor, old.label));
  }
  std::erase_if(known, [&](const Access& old) { return stands_for(access, old, clock); });
  known.push_back(std::move(access));
}

std::optional<uintptr_t> tracked_block(uintptr_t address) {
  auto block = device_block(address);
  return block ? block : pinned_block(address);
}

}  // namespace

void record_accesses(Actor actor, const VectorClock& clock, const std::vector<Range>& ranges,
                     const std::string& label) {
  for (auto& range : ranges) {
    if (auto block = tracked_block(range.low)) record(*block, {range, actor, clock.at(actor), label}, clock);
  }
}

void forget_accesses(uintptr_t block, const VectorClock& clock) {
  auto found = detector().by_block.find(block);
  if (found == detector().by_block.end()) return;
  std::erase_if(found->second, [&](const Access& old) { return old.is_before(clock); });
}

void forget_block(uintptr_t block) { detector().by_block.erase(block); }

void forget_all_accesses() {
  WorldLock lock(world());
  detector().by_block.clear();
}

std::vector<std::string> take_races() {
  WorldLock lock(world());
  return std::exchange(detector().races, {});
}

}  // namespace simacc
