// Generator: where a device's random numbers come from. It lives on the host; each random kernel gets a seed from it.
#pragma once

#include "stream.h"

namespace simacc {

const at::Generator& default_generator(int device);
at::Generator new_generator(int device);

// A generator for one kernel, with a seed drawn now: so the kernel can run later, and gives the same numbers whenever.
at::Generator generator_for_kernel(at::Generator source);

}  // namespace simacc
