// Layers whose CPU operator has another name or a hidden source of random numbers than a device's.
#include "kernel.h"

namespace simacc {

namespace {

using torch::jit::Stack;

const c10::OperatorHandle& operator_named(const char* name) {
  static auto* known = new std::map<std::string, c10::OperatorHandle>();
  WorldLock lock(world());
  auto found = known->find(name);
  if (found == known->end()) {
    found = known->emplace(name, c10::Dispatcher::singleton().findSchemaOrThrow(name, "")).first;
  }
  return found->second;
}

Values take_arguments(const c10::OperatorHandle& op, Stack* stack) {
  auto count = op.schema().arguments().size();
  Values arguments(stack->end() - count, stack->end());
  torch::jit::drop(*stack, count);
  return arguments;
}

void convolution(const c10::OperatorHandle& op, Stack* stack) {
  auto results = run_kernel(operator_named("aten::convolution"), take_arguments(op, stack));
  stack->insert(stack->end(), results.begin(), results.end());
}

// convolution_backward wants the bias' size third, and the device's variant does not have it: one output channel each.
void convolution_backward(const c10::OperatorHandle& op, Stack* stack) {
  auto arguments = take_arguments(op, stack);
  auto& weight = arguments[2].toTensor();
  bool is_transposed = arguments[6].toBool();
  auto groups = arguments[8].toInt();
  auto channels = is_transposed ? weight.size(1) * groups : weight.size(0);
  arguments.insert(arguments.begin() + 3, c10::IValue(std::vector<int64_t>{channels}));
  auto results = run_kernel(operator_named("aten::convolution_backward"), std::move(arguments));
  stack->insert(stack->end(), results.begin(), results.end());
}

// The CPU's native_dropout draws from the host's default generator.
std::tuple<at::Tensor, at::Tensor> native_dropout(const at::Tensor& input, double p, std::optional<bool> train) {
  auto options = input.options().dtype(at::kBool);
  if (p == 0 || !train.value_or(true)) return {input.clone(), at::ones(input.sizes(), options)};
  auto mask = at::empty(input.sizes(), options).bernoulli_(1 - p);
  return {input.mul(mask).mul_(p == 1 ? 0 : 1 / (1 - p)), mask};
}

// Fused attention has no kernel here: the one made of plain operators is as good to test with.
int64_t fused_sdp_choice(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                         double, bool, std::optional<double>, bool) {
  return 0;  // at::SDPBackend::math
}

}  // namespace

}  // namespace simacc

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&simacc::convolution>());
  library.impl("convolution_backward_overrideable",
               torch::CppFunction::makeFromBoxedFunction<&simacc::convolution_backward>());
  library.impl("native_dropout", &simacc::native_dropout);
  library.impl("_fused_sdp_choice", &simacc::fused_sdp_choice);
}
