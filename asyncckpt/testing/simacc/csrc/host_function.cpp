#include "host_function.h"

namespace simacc {

namespace {

// The last copy may go on a thread of a stream, which does not hold the GIL.
std::shared_ptr<py::object> shared(const py::object& object) {
  return {new py::object(object), [](py::object* held) {
            py::gil_scoped_acquire gil;
            delete held;
          }};
}

void call(const py::object& function, const std::vector<at::Tensor>& views) {
  py::gil_scoped_acquire gil;
  py::tuple arguments(views.size());
  for (size_t index = 0; index < views.size(); index++) arguments[index] = py::cast(views[index]);
  try {
    function(*arguments);
  } catch (py::error_already_set& error) {
    throw std::runtime_error(error.what());  // the Python error may not outlive the GIL
  }
}

}  // namespace

void launch(const py::object& function, const std::vector<at::Tensor>& reads, const std::vector<at::Tensor>& writes,
            int device, const std::string& name) {
  std::vector<Range> ranges;
  std::vector<at::Tensor> views;
  for (auto& tensor : reads) {
    add_range(ranges, tensor, false);
    views.push_back(raw_view(tensor));
  }
  for (auto& tensor : writes) {
    add_range(ranges, tensor, true);
    views.push_back(raw_view(tensor));
  }
  auto run = [held = shared(function), views] { call(*held, views); };
  enqueue(current_stream(device), {.kind = "kernel", .name = name, .ranges = ranges, .run = std::move(run)});
}

void host_access(const at::Tensor& tensor, bool write, const std::string& thread) {
  TORCH_CHECK_VALUE(tensor.is_cpu(), "the host can only access host memory; this tensor is on ", tensor.device());
  std::vector<Range> ranges;
  add_range(ranges, tensor, write);
  WorldLock lock(world());
  auto& self = this_host_thread();
  record_accesses(self.id, self.clock, ranges, thread);
}

CompletionPtr hold(Stream& stream) {
  auto gate = std::make_shared<Completion>();
  wait_on_stream(stream, gate, "gate");
  return gate;
}

}  // namespace simacc
