#include "kernel.h"

#include "config.h"
#include "generator.h"
#include "stats.h"

namespace simacc {

namespace {

using c10::IValue;
using torch::jit::Stack;

// -- one call of an operator --

struct Call {
  const c10::OperatorHandle& op;
  const c10::FunctionSchema& schema;
  std::string name;
  Values arguments;
  c10::Device device;
  std::vector<Range> ranges;
};

template <class Function>
IValue map_tensors(const IValue& value, const Function& function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    std::vector<at::Tensor> mapped;
    for (auto& tensor : value.toTensorVector()) mapped.push_back(function(tensor));
    return mapped;
  }
  if (!value.isList() || value.isIntList() || value.isDoubleList() || value.isBoolList()) return value;
  auto list = value.toList();
  c10::impl::GenericList mapped(list.elementType());
  for (const IValue& element : list.vec()) mapped.push_back(map_tensors(element, function));
  return mapped;
}

IValue move_device(const IValue& value, c10::DeviceType to) {
  return value.isDevice() && value.toDevice().is_privateuseone() ? IValue(c10::Device(to)) : value;
}

std::optional<c10::Device> find_device(const Values& arguments) {
  std::optional<c10::Device> device;
  for (auto& argument : arguments) {
    if (argument.isDevice() && argument.toDevice().is_privateuseone() && !device) device = argument.toDevice();
    map_tensors(argument, [&](const at::Tensor& tensor) {
      if (is_on_device(tensor)) device = tensor.device();
      return tensor;
    });
  }
  return device;
}

bool is_written(const Call& call, size_t index) {
  auto& argument = call.schema.arguments()[index];
  if (argument.alias_info() && argument.alias_info()->isWrite()) return true;
  // native_batch_norm changes its running statistics, and its schema does not say so.
  return call.name.starts_with("native_batch_norm") && argument.name().starts_with("running_");
}

// Indices may be on the host, as for CUDA, and so may numbers. Anything else there is a mistake, here as there.
void check_host_tensor(const Call& call, const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0) return;
  TORCH_CHECK(call.name.find("index") != std::string::npos,
              "Expected all tensors to be on the same device, but found at least two devices, ", call.device,
              " and cpu! (when running ", call.name, ")");
}

Call make_call(const c10::OperatorHandle& op, Values arguments) {
  auto& schema = op.schema();
  auto name = schema.name().substr(schema.name().find("::") + 2);
  auto device = find_device(arguments);
  TORCH_CHECK(device, "simacc: nothing tells the device on which ", name, " is to run");
  if (!device->has_index()) device->set_index(static_cast<c10::DeviceIndex>(current_device()));
  Call call{op, schema, std::move(name), std::move(arguments), *device, {}};
  for (size_t index = 0; index < call.arguments.size(); index++) {
    map_tensors(call.arguments[index], [&](const at::Tensor& tensor) {
      check_host_tensor(call, tensor);
      add_range(call.ranges, tensor, is_written(call, index));
      return tensor;
    });
  }
  return call;
}

// A random kernel gets a generator of its own: drawing from the device's happens now, in the order of the program.
void draw_seed(Call& call) {
  if (!call.op.hasTag(at::Tag::nondeterministic_seeded)) return;
  auto& expected = call.schema.arguments();
  for (size_t index = 0; index < expected.size(); index++) {
    auto type = expected[index].type();
    if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
    if (type->kind() != c10::TypeKind::GeneratorType) continue;
    auto& argument = call.arguments[index];
    auto source = argument.isGenerator() ? argument.toGenerator() : default_generator(call.device.index());
    argument = generator_for_kernel(source);
    return;
  }
  // On the CPU it would take its numbers from the host's default generator, at any time.
  TORCH_CHECK_NOT_IMPLEMENTED(false, "simacc has no random kernel for ", call.name);
}

// -- results --

at::Tensor empty_like_layout(const at::Tensor& model, c10::Device device) {
  return at::empty_strided(model.sizes(), model.strides(), model.options().device(device).pinned_memory(false));
}

// The argument that an in-place or out= operator returns.
std::optional<size_t> returned_argument(const Call& call, size_t result) {
  auto* alias = call.schema.returns()[result].alias_info();
  if (!alias) return std::nullopt;
  auto& expected = call.schema.arguments();
  for (size_t index = 0; index < expected.size(); index++) {
    if (expected[index].alias_info() && *expected[index].alias_info() == *alias) return index;
  }
  return std::nullopt;
}

// What a run on tensors without data returns, and what it made of the arguments.
struct Shapes {
  Stack arguments;
  Stack results;
};

std::optional<Shapes> infer_shapes(const Call& call) {
  auto to_meta = [](const at::Tensor& tensor) {
    bool is_number = !tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0);
    return is_number ? tensor : empty_like_layout(tensor, at::kMeta);
  };
  Shapes shapes;
  for (auto& argument : call.arguments) {
    shapes.arguments.push_back(argument.isGenerator() ? IValue()
                                                      : move_device(map_tensors(argument, to_meta), at::kMeta));
  }
  shapes.results = shapes.arguments;
  try {
    call.op.callBoxed(&shapes.results);
  } catch (const std::exception&) {
    return std::nullopt;  // it has no shape function, or the arguments are wrong: the real run will tell
  }
  return shapes;
}

// Whether the CPU's kernel returns other shapes than its shape function says, and than it later wants back.
bool has_shapes_of_its_own(const std::string& name) {
  return name.starts_with("_embedding_bag") && name.find("backward") == std::string::npos;
}

// The tensors to return, made before the kernel has run; nothing where it has to run first.
std::optional<std::vector<at::Tensor>> make_results(Call& call) {
  auto& returns = call.schema.returns();
  for (auto& result : returns) {
    if (result.type()->kind() != c10::TypeKind::TensorType) return std::nullopt;
  }
  if (has_shapes_of_its_own(call.name)) return std::nullopt;
  auto shapes = infer_shapes(call);
  if (!shapes) return std::nullopt;
  std::vector<at::Tensor> results;
  for (size_t index = 0; index < returns.size(); index++) {
    if (auto argument = returned_argument(call, index)) {
      auto tensor = call.arguments[*argument].toTensor();
      auto& shape = shapes->arguments[*argument].toTensor();
      if (shape.sizes() != tensor.sizes()) tensor.resize_(shape.sizes());
      results.push_back(tensor);
    } else {
      auto shape = shapes->results[index].toTensor();
      results.push_back(shape.defined() ? empty_like_layout(shape, call.device) : shape);
    }
    add_range(call.ranges, results.back(), true);
  }
  return results;
}

// -- running --

Stack kernel_arguments(const Call& call) {
  auto to_kernel = [](const at::Tensor& tensor) {
    bool is_on_host = tensor.defined() && tensor.is_cpu();
    return is_on_host ? tensor.clone() : kernel_view(tensor);  // the host may change its own before the kernel runs
  };
  Stack arguments;
  for (auto& argument : call.arguments) {
    arguments.push_back(move_device(map_tensors(argument, to_kernel), at::kCPU));
  }
  return arguments;
}

void fill_results(const std::vector<at::Tensor>& places, const Stack& values) {
  for (size_t index = 0; index < places.size(); index++) {
    if (!places[index].defined()) continue;
    // batch_norm's saved statistics are empty in eval mode on the CPU, and their shape function says otherwise.
    auto& value = values[index].toTensor();
    if (value.numel() || !places[index].numel()) places[index].copy_(value);
  }
}

void queue(const Call& call, const std::vector<at::Tensor>& results) {
  std::vector<at::Tensor> places;
  for (size_t index = 0; index < results.size(); index++) {
    places.push_back(returned_argument(call, index) ? at::Tensor() : kernel_view(results[index]));
  }
  count("async_ops");
  enqueue(current_stream(call.device.index()),
          {.kind = "kernel",
           .name = call.name,
           .ranges = call.ranges,
           .run = [op = call.op, stack = kernel_arguments(call), places = std::move(places),
                   latency = config().kernel_latency.load()]() mutable {
             pause(latency);
             op.callBoxed(&stack);
             fill_results(places, stack);
           }});
}

at::Tensor to_device(const Call& call, const at::Tensor& value) {
  if (!value.defined()) return value;
  auto result = empty_like_layout(value, call.device);
  std::vector<Range> ranges;
  add_range(ranges, result, true);
  enqueue(current_stream(call.device.index()),
          {.kind = "", .name = call.name, .ranges = ranges, .run = [place = kernel_view(result), value] {
             place.copy_(value);
           }});
  return result;
}

Values run_and_wait(const Call& call) {
  bool depends_on_data =
      call.op.hasTag(at::Tag::dynamic_output_shape) || call.op.hasTag(at::Tag::data_dependent_output);
  // First: once the task is queued, this must not return before it has run.
  if (depends_on_data) refuse_while_capturing(call.name.c_str());
  auto stack = kernel_arguments(call);
  std::exception_ptr failure;
  count("sync_ops");
  auto run = [&] {
    pause(config().kernel_latency);
    try {
      call.op.callBoxed(&stack);
    } catch (...) {
      failure = std::current_exception();
    }
  };
  auto done = enqueue(current_stream(call.device.index()),
                      {.kind = "kernel", .name = call.name, .ranges = call.ranges, .run = run});
  if (depends_on_data) {
    count("host_syncs");
    host_wait(done);
  } else {
    // Real devices do not wait here. The simulator has to, but nobody may rely on it.
    WithoutGil without_gil;
    done->wait();
  }
  if (failure) std::rethrow_exception(failure);
  throw_asynchronous_error();
  Values results;
  for (size_t index = 0; index < call.schema.returns().size(); index++) {
    auto argument = returned_argument(call, index);
    auto bring = [&](const at::Tensor& value) { return to_device(call, value); };
    results.push_back(argument ? call.arguments[*argument] : map_tensors(stack[index], bring));
  }
  return results;
}

bool returns_view(const c10::FunctionSchema& schema) {
  return std::ranges::any_of(schema.returns(),
                             [](auto& result) { return result.alias_info() && !result.alias_info()->isWrite(); });
}

void boxed_fallback(const c10::OperatorHandle& op, Stack* stack) {
  auto count = op.schema().arguments().size();
  Values arguments(stack->end() - count, stack->end());
  torch::jit::drop(*stack, count);
  for (auto& result : run_kernel(op, std::move(arguments))) stack->push_back(std::move(result));
}

}  // namespace

Values run_kernel(const c10::OperatorHandle& op, Values arguments) {
  at::AutoDispatchBelowAutograd below_autograd;
  TORCH_CHECK_NOT_IMPLEMENTED(!returns_view(op.schema()), "simacc has no view ", op.schema().name(),
                              "; it belongs beside the others in tensors.cpp");
  TORCH_CHECK_NOT_IMPLEMENTED(op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU), "simacc has no kernel for ",
                              op.schema().name(), ", and the CPU has none either");
  auto call = make_call(op, std::move(arguments));
  c10::DeviceGuard guard(call.device);
  draw_seed(call);
  auto results = make_results(call);
  if (!results) return run_and_wait(call);
  queue(call, *results);
  return Values(results->begin(), results->end());
}

}  // namespace simacc

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&simacc::boxed_fallback>());
}
