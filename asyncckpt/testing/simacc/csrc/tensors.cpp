// Tensors of the device: how they are made and viewed.
#include "tensors.h"

namespace simacc {

namespace {

at::Tensor view_at(void* first, const at::Tensor& tensor) {
  auto options = tensor.options().device(at::kCPU).requires_grad(false).pinned_memory(false);
  auto view = at::from_blob(first, tensor.sizes(), tensor.strides(), options);
  if (tensor.is_conj()) view._set_conj(true);
  if (tensor.is_neg()) view._set_neg(true);
  return view;
}

const char* first_byte(const at::Tensor& tensor) {
  auto* start = static_cast<const char*>(tensor.unsafeGetTensorImpl()->storage().data());
  return start ? start + tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize()) : nullptr;
}

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(size, &device_allocator(), kKeys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(size, stride, &device_allocator(), kKeys, c10::dtype_or_default(dtype));
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size,
                        at::IntArrayRef stride) {
  return at::cpu::set_(self, std::move(source), offset, size, stride);
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  device_allocator().recordStream(self.storage().data_ptr(), stream);
}

}  // namespace

bool is_on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.is_privateuseone(); }

at::Tensor kernel_view(const at::Tensor& tensor) { return is_on_device(tensor) ? raw_view(tensor) : tensor; }

at::Tensor raw_view(const at::Tensor& tensor) {
  if (!is_on_device(tensor)) return view_at(tensor.data_ptr(), tensor);
  return view_at(tensor.numel() ? kernel_address(first_byte(tensor)) : nullptr, tensor);
}

void add_range(std::vector<Range>& ranges, const at::Tensor& tensor, bool write) {
  if (!tensor.defined() || tensor.numel() == 0 || !tensor.has_storage()) return;
  if (!tensor.is_privateuseone() && !tensor.is_cpu()) return;
  auto low = reinterpret_cast<uintptr_t>(first_byte(tensor));
  if (!low) return;
  int64_t last = 0;
  for (int64_t dim = 0; dim < tensor.dim(); dim++) last += (tensor.size(dim) - 1) * tensor.stride(dim);
  ranges.push_back({low, low + (last + 1) * tensor.itemsize(), write});
}

}  // namespace simacc

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &simacc::empty);
  library.impl("empty_strided", &simacc::empty_strided);
  library.impl("as_strided", &simacc::as_strided);
  library.impl("view", &at::native::view);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("unfold", &at::native::unfold);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("resize_", &at::native::resize_);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
  library.impl("set_.source_Storage", &at::native::set_);
  library.impl("set_.source_Storage_storage_offset", &simacc::set_storage);
  library.impl("record_stream", &simacc::record_stream);
}
