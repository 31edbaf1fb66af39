// Race detector: every access to tracked memory, and those pairs that nothing orders.
//
// Tasks are checked when they are queued, against the clocks of that moment. So what is reported does not depend on
// how fast anything runs, nor on whether the wrong order really came about.
#pragma once

#include "clock.h"

namespace simacc {

struct Range {
  uintptr_t low;
  uintptr_t high;
  bool write;
};

// Check these accesses by `actor` against all earlier ones, and remember them. Memory that is neither of a device nor
// pinned is not tracked. Needs world().
void record_accesses(Actor actor, const VectorClock& clock, const std::vector<Range>& ranges, const std::string& label);

// Forget what was done to a block up to `clock`: what follows is ordered after it by other means. Needs world().
void forget_accesses(uintptr_t block, const VectorClock& clock);
void forget_block(uintptr_t block);
void forget_all_accesses();

// The races found since the last call.
std::vector<std::string> take_races();

}  // namespace simacc
