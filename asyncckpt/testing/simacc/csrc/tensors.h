// Tensors of the device, seen from kernels.
#pragma once

#include "device_memory.h"

namespace simacc {

// A CPU tensor over the same bytes, for kernels, that keeps nothing alive. CPU tensors and undefined ones are returned
// as they are.
at::Tensor kernel_view(const at::Tensor& tensor);

// As kernel_view, but CPU tensors are not kept alive either.
at::Tensor raw_view(const at::Tensor& tensor);

// The bytes from a tensor's first element to its last; those of views that interleave overlap, by this measure.
void add_range(std::vector<Range>& ranges, const at::Tensor& tensor, bool write);

bool is_on_device(const at::Tensor& tensor);

}  // namespace simacc
