// Clock: who has seen what. An actor is a stream or a host thread; each counts its own epochs.
//
// What an actor did in epoch e happens before what another does, if the other's vector clock is at e or later.
#pragma once

#include "pytorch.h"

namespace simacc {

using Actor = int64_t;  // streams from 0 up (device << 32 | id), host threads from -1 down

inline bool is_host(Actor actor) { return actor < 0; }

class VectorClock {
 public:
  void join(const VectorClock& other) {
    for (auto& [actor, epoch] : other.epochs_) {
      auto& mine = epochs_[actor];
      mine = std::max(mine, epoch);
    }
  }
  void tick(Actor actor) { epochs_[actor]++; }
  // Drop what was seen of others: threads that have ended would stay in every clock for good.
  void forget_others(Actor own) {
    std::erase_if(epochs_, [own](const auto& entry) { return entry.first != own; });
  }
  uint64_t at(Actor actor) const {
    auto found = epochs_.find(actor);
    return found == epochs_.end() ? 0 : found->second;
  }

 private:
  std::map<Actor, uint64_t> epochs_;
};

// One lock for clocks, accesses and allocators. Never wait for device work, nor for the GIL, while holding it.
std::recursive_mutex& world();
using WorldLock = std::lock_guard<std::recursive_mutex>;

// A thread of the host. Threads of autograd act for the thread that called backward(), which waits for them.
struct HostThread : c10::DebugInfoBase {
  explicit HostThread(Actor actor) : id(actor) { clock.tick(actor); }

  // What this thread has done and seen until now; what it does from now on is not part of it.
  VectorClock publish() {
    VectorClock seen = clock;
    clock.tick(id);
    return seen;
  }

  const Actor id;
  VectorClock clock;  // under world()
};

HostThread& this_host_thread();

}  // namespace simacc
