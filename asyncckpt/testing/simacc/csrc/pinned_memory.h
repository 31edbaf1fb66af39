// Pinned memory: host memory that a stream can copy to and from while the host goes on.
#pragma once

#include "stream.h"

namespace simacc {

at::HostAllocator& pinned_allocator();

bool is_pinned(const void* pointer);

// The start of the pinned block that holds this address, if one does. Needs world().
std::optional<uintptr_t> pinned_block(uintptr_t address);

// A copy of `stream` uses this memory: it is not handed out again before that is done.
void note_use(const void* pointer, Stream& stream);

// Treat memory of the caller's as pinned. It is not tracked by the allocator: waiting for copies is up to the caller.
void register_host_memory(uintptr_t start, size_t size);

// Throws for what was not registered. A copy that is not known to be done is reported as a race.
void unregister_host_memory(uintptr_t start);

}  // namespace simacc
