#include "shim.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/record_function.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

// Each thread counts its own calls: of operators that call no other, or are convolutions, whose insides differ from
// device to device.
thread_local std::map<std::string, uint64_t> counts;
thread_local at::CallbackHandle counting = at::INVALID_CALLBACK_HANDLE;
// Of each call that has not ended: whether it has called an operator.
thread_local std::vector<bool> calls;
// The number of those that are convolutions.
thread_local int convolutions = 0;

bool is_convolution(const at::RecordFunction& call) {
  return std::string_view(call.name()).substr(0, 10) == "aten::conv";
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& call) {
  if (!calls.empty()) {
    calls.back() = true;
  }
  calls.push_back(false);
  if (is_convolution(call) && convolutions++ == 0) {
    ++counts[call.name()];
  }
  return nullptr;
}

void end(const at::RecordFunction& call, at::ObserverContext*) {
  if (calls.empty()) {  // It began before counting did.
    return;
  }
  const bool calls_others = calls.back();
  calls.pop_back();
  if (is_convolution(call)) {
    --convolutions;
  } else if (!calls_others && convolutions == 0) {
    ++counts[call.name()];
  }
}

}  // namespace

struct DcganMark {
  c10::Event event;
};

extern "C" {

void dcgan_free_message(char* message) {
  free_message(message);
}

char* dcgan_allow_tf32(bool allow) {
  return message_of([&] {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  });
}

char* dcgan_deterministic(bool on) {
  return message_of([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on, /*warn_only=*/false);
    context.setDeterministicCuDNN(on);
    // Filling new memory would only show reads of values that nobody wrote.
    context.setDeterministicFillUninitializedMemory(false);
    if (on) {
      context.setBenchmarkCuDNN(false);
    }
  });
}

char* dcgan_is_grad_enabled(bool* is_enabled) {
  return message_of([&] { *is_enabled = at::GradMode::is_enabled(); });
}

char* dcgan_start_counting() {
  return message_of([&] {
    TORCH_CHECK(counting == at::INVALID_CALLBACK_HANDLE, "operators are being counted already");
    counts.clear();
    calls.clear();
    convolutions = 0;
    auto callback = at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION});
    counting = at::addThreadLocalCallback(callback);
  });
}

char* dcgan_stop_counting(char** lines) {
  return message_of([&] {
    TORCH_CHECK(counting != at::INVALID_CALLBACK_HANDLE, "operators are not being counted");
    at::removeCallback(counting);
    counting = at::INVALID_CALLBACK_HANDLE;
    std::ostringstream text;
    for (const auto& [name, count] : counts) {
      text << name << ' ' << count << '\n';
    }
    *lines = strdup(text.str().c_str());
    TORCH_CHECK(*lines, "out of memory");
  });
}

char* dcgan_fused_adam(at::Tensor* theta, at::Tensor* gradient, at::Tensor* m, at::Tensor* v, at::Tensor* many_steps,
                       at::Tensor* alpha, at::Tensor* found_inf, double beta1, double beta2, double epsilon) {
  return message_of([&] {
    at::NoGradGuard no_grad;
    // PyTorch's Adam divides the square root of v by that of its bias correction, before it adds epsilon.
    // After very many steps both corrections are 1, and `alpha` holds those of TensorFlow's Adam.
    at::_fused_adam_({*theta}, {*gradient}, {*m}, {*v}, {}, {*many_steps}, *alpha, beta1, beta2,
                     /*weight_decay=*/0.0, epsilon, /*amsgrad=*/false, /*maximize=*/false, std::nullopt, *found_inf);
  });
}

char* dcgan_mark(int device, DcganMark** mark) {
  return message_of([&] {
    const auto on = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    auto made = std::make_unique<DcganMark>(
        DcganMark{c10::Event(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT)});
    made->event.record(c10::impl::VirtualGuardImpl(on.type()).getStream(on));
    *mark = made.release();
  });
}

void dcgan_free_mark(DcganMark* mark) {
  delete mark;
}

char* dcgan_milliseconds_between(DcganMark* from, DcganMark* to, double* milliseconds) {
  return message_of([&] {
    from->event.synchronize();
    to->event.synchronize();
    *milliseconds = from->event.elapsedTime(to->event);
  });
}
}
