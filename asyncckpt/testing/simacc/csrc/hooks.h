// Hooks: what else PyTorch asks a backend for: pinned memory, generators, the resizing of storages.
#pragma once

namespace simacc {

void register_hooks();

}  // namespace simacc
