// Kernel: any operator, run by PyTorch's CPU code on the thread of a stream.
#pragma once

#include "tensors.h"

namespace simacc {

using Values = std::vector<c10::IValue>;

// Run `op` as a kernel of the device that its arguments are on: infer the results' shapes, make them, queue the work,
// and return. The host waits only where a shape or a returned number depends on data, or no shape can be inferred.
Values run_kernel(const c10::OperatorHandle& op, Values arguments);

}  // namespace simacc
