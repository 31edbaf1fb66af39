// Collectives: a process group's backend for device tensors, that gives their bytes to a backend for CPU tensors.
#pragma once

#include "tensors.h"

namespace simacc {

// As NCCL: a collective is queued on a stream of its own, after what the current stream has; waiting for it makes the
// current stream wait, and not the host. `inner` does the work, and is used on that stream's thread only.
c10::intrusive_ptr<c10d::Backend> stream_backend(c10::intrusive_ptr<c10d::Backend> inner);

}  // namespace simacc
