// Device memory: an address range that the host cannot touch, and the caching allocator that hands it out.
#pragma once

#include "stream.h"

namespace simacc {

// Reserve the address range. Call once, before anything else here.
void reserve_device_memory();

bool is_device_pointer(const void* pointer);

// Where kernels find the byte that the host knows at `pointer`; the host may not dereference `pointer` itself.
void* kernel_address(const void* pointer);

// The start of the block that holds this address, if one does. Needs world().
std::optional<uintptr_t> device_block(uintptr_t address);

int device_of(const void* pointer);

c10::DeviceAllocator& device_allocator();

// Give a storage new memory of this size, with what fits of the old bytes.
void resize_storage(const c10::Storage& storage, size_t size);

}  // namespace simacc
