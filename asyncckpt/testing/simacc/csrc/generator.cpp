#include "generator.h"

namespace simacc {

namespace {

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(int device) {
    device_ = {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)};
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }

 private:
  at::CPUGeneratorImpl* clone_impl() const override {
    auto* copy = new Generator(device_.index());
    copy->set_state(*get_state());
    return copy;
  }
};

}  // namespace

const at::Generator& default_generator(int device) {
  static auto* generators = [] {
    auto* made = new std::vector<at::Generator>();
    for (int index = 0; index < device_count(); index++) made->push_back(at::make_generator<Generator>(index));
    return made;
  }();
  return generators->at(device < 0 ? current_device() : device);
}

at::Generator new_generator(int device) {
  return at::make_generator<Generator>(device < 0 ? current_device() : device);
}

at::Generator generator_for_kernel(at::Generator source) {
  TORCH_CHECK(source.device().is_privateuseone(), "Expected a 'sim' device type for generator but found '",
              source.device().type(), "'");
  std::scoped_lock lock(source.mutex());
  auto seed = source.get<at::CPUGeneratorImpl>()->random64();
  return at::detail::createCPUGenerator(seed);
}

}  // namespace simacc
