// Host function: a Python function in a stream's order, over CPU views of device tensors.
#pragma once

#include "tensors.h"

namespace simacc {

// Queue `function(*reads, *writes)` on the current stream of `device`. It runs with the GIL on the stream's thread.
void launch(const py::object& function, const std::vector<at::Tensor>& reads, const std::vector<at::Tensor>& writes,
            int device, const std::string& name);

// Declare that this thread reads or writes the bytes of a CPU tensor now.
void host_access(const at::Tensor& tensor, bool write, const std::string& thread);

// Queue a gate; the stream stands still there until the completion is complete.
CompletionPtr hold(Stream& stream);

}  // namespace simacc
