#include "dist.h"
#include "shim.h"

#include <ATen/ATen.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/custom_function.h>
#define USE_C10D_GLOO 1
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/exception.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#ifdef DCGAN_NCCL
c10::intrusive_ptr<c10d::Backend> dcgan_nccl(c10::intrusive_ptr<c10d::Store>, int rank, int size, int device,
                                             std::chrono::milliseconds timeout);
#endif

using Backend = c10::intrusive_ptr<c10d::Backend>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct DcganGroup {
  c10::intrusive_ptr<c10d::Store> store;
  std::chrono::milliseconds timeout;
  Backend host;    // for tensors on the CPU
  Backend device;  // for those on the CUDA device, if there is one

  const Backend& backend(const at::Tensor& tensor) const {
    TORCH_CHECK_VALUE(tensor.is_cpu() || (device && tensor.is_cuda()), "ranks cannot exchange tensors on ",
                      tensor.device());
    // gloo adds up memory from the first element on: what lies in gaps would be taken in.
    TORCH_CHECK_VALUE(tensor.is_non_overlapping_and_dense(), "expected a tensor without gaps");
    return tensor.is_cuda() ? device : host;
  }
};

namespace {

char* failure(char kind, const char* message) {
  return copied((std::string(1, kind) + message).c_str());
}

template <typename Body>
char* failure_of(Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const c10d::TimeoutError& error) {
    return failure('T', error.what_without_backtrace());
  } catch (const c10::DistNetworkError& error) {
    return failure('N', error.what_without_backtrace());
  } catch (const c10::DistError& error) {
    return failure('B', error.what_without_backtrace());
  } catch (const c10::ValueError& error) {
    return failure('U', error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return failure('O', error.what_without_backtrace());
  } catch (const std::exception& error) {
    // gloo's exceptions are of no class of libtorch's.
    auto has = [&](const char* text) { return strstr(error.what(), text) != nullptr; };
    auto is_broken = has("onnection") || has("ocket") || has("peer") || has("eset");
    return failure(has("imed out") ? 'T' : is_broken ? 'N' : 'B', error.what());
  } catch (...) {
    return failure('O', "an exception of no known type");
  }
}

// What has been counted since dcgan_count_exchange(true). Backward passes on CUDA run on a thread of their own.
std::atomic<bool> is_counted{false};
std::atomic<int64_t> exchange_ns{0};
std::atomic<int64_t> exchange_bytes{0};

// Waits for `work`, which exchanges `tensor`. On CUDA that only makes the device's queue wait.
void finish(c10d::Work& work, const at::Tensor& tensor, std::chrono::steady_clock::time_point start) {
  work.wait();
  if (!is_counted) return;
  if (tensor.is_cuda())
    c10::impl::VirtualGuardImpl(tensor.device().type()).synchronizeDevice(tensor.device().index());
  exchange_ns += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  exchange_bytes += tensor.nbytes();
}

// The time at which an exchange of `tensor` begins. Where exchanges are counted, what was asked of the device before is
// done by then.
std::chrono::steady_clock::time_point begin(const at::Tensor& tensor) {
  if (is_counted && tensor.is_cuda())
    c10::impl::VirtualGuardImpl(tensor.device().type()).synchronizeDevice(tensor.device().index());
  return std::chrono::steady_clock::now();
}

void sum_in_place(const Backend& backend, at::Tensor& tensor) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> list{tensor};
  auto start = begin(tensor);
  finish(*backend->allreduce(list), tensor, start);
}

at::Tensor gathered(const Backend& backend, const at::Tensor& own) {
  at::NoGradGuard no_grad;
  std::vector<int64_t> size{backend->getSize()};
  size.insert(size.end(), own.sizes().begin(), own.sizes().end());
  auto all = at::empty(size, own.options());
  // gloo wants as many dimensions as the output has.
  auto row = own.contiguous().unsqueeze(0);
  auto start = begin(row);
  finish(*backend->_allgather_base(all, row), row, start);
  return all;
}

// `x` normalized with `mean` and `variance`, times `weight`, plus `bias`.
at::Tensor normalized(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& mean,
                      const at::Tensor& variance, double epsilon) {
  if (x.numel() == 0) return at::empty_like(x);
  return std::get<0>(at::native_batch_norm(x, weight, bias, mean, variance, false, 0., epsilon));
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const at::Tensor& bias, at::Tensor* moving_mean, at::Tensor* moving_variance,
                            double momentum, double epsilon, const Backend& backend) {
    auto x = input.to(weight.scalar_type());
    auto channels = x.size(1);
    auto count = x.numel() / channels;
    // Each rank's own mean and sum of centred squares, then Chan's rule: as exact as two passes, and one collective.
    auto own = at::zeros({3, channels}, weight.options());
    if (count > 0) {
      auto [mean, variance] = at::batch_norm_update_stats(x, {}, {}, 0.);
      own.select(0, 0).copy_(mean);
      own.select(0, 1).copy_(variance).mul_(count);
      own.select(0, 2).fill_(count);
    }
    auto all = gathered(backend, own);
    auto means = all.select(1, 0), squares = all.select(1, 1), counts = all.select(1, 2);
    auto total = counts.sum(0);
    auto mean = (means * counts).sum(0) / total;
    auto sum_of_squares = (squares + counts * (means - mean).square()).sum(0);
    auto variance = sum_of_squares / total;
    if (moving_mean) {
      moving_mean->mul_(1. - momentum).add_(mean, momentum);
      moving_variance->mul_(1. - momentum).add_(sum_of_squares / (total - 1), momentum);
    }
    context->save_for_backward({x, weight, mean, variance, total});
    context->saved_data["epsilon"] = epsilon;
    c10::intrusive_ptr<torch::CustomClassHolder> holder = backend;
    context->saved_data["group"] = c10::IValue::make_capsule(holder);
    return normalized(x, weight, bias, mean, variance, epsilon).to(input.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    auto &x = saved[0], &weight = saved[1], &mean = saved[2], &variance = saved[3], &total = saved[4];
    auto epsilon = context->saved_data["epsilon"].toDouble();
    auto backend = c10::static_intrusive_pointer_cast<c10d::Backend>(context->saved_data["group"].toCapsule());
    auto dy = gradients[0].to(weight.scalar_type());
    at::Tensor dx, d_weight, d_bias;
    if (x.numel() > 0) {
      // As if the statistics were constants. On CUDA, tensors that are not there are an error; of empty ones it does not
      // expect what it has saved of a forward pass.
      auto none = at::empty({0}, mean.options());
      std::tie(dx, d_weight, d_bias) = at::native_batch_norm_backward(dy, x, weight, mean, variance, none, none, false,
                                                                      epsilon, {true, true, true});
    } else {
      dx = at::empty_like(x);
      d_weight = at::zeros_like(weight);
      d_bias = at::zeros_like(weight);
    }
    auto sums = at::stack({d_weight, d_bias});
    sum_in_place(backend, sums);
    if (x.numel() > 0) {
      // What flows back through the statistics is the same for all rows, but for the factor of the normalized x.
      auto scale = weight * (variance + epsilon).rsqrt() / total;
      dx = dx.sub_(normalized(x, scale * sums[0], scale * sums[1], mean, variance, epsilon));
    }
    auto none = at::Tensor();
    return {dx.to(gradients[0].scalar_type()), d_weight, d_bias, none, none, none, none, none};
  }
};

std::string claim(c10d::Store& store, const std::string& key, const std::string& value) {
  auto found = store.compareSet(key, {}, std::vector<uint8_t>(value.begin(), value.end()));
  return {found.begin(), found.end()};
}

// Every process says who it is before anything is built on it, so that what is wrong with the launch is told at once.
void greet(DcganGroup& group, const DcganGroupConfig& config) {
  auto& store = *group.store;
  auto size = std::to_string(config.world_size);
  std::string identity = config.identity;
  auto told = claim(store, "world_size", size);
  TORCH_CHECK_VALUE(told == size, "this process was told of ", size, " ranks, and another one of ", told);
  auto version = claim(store, "version", config.version);
  TORCH_CHECK_VALUE(version == config.version, "all ranks need the same program: this one is ", config.version,
                    ", and another one ", version);
  auto own = claim(store, "rank/" + std::to_string(config.rank), identity);
  TORCH_CHECK_VALUE(own == identity, "two processes were told to be rank ", config.rank, ": ", own, " and ", identity);
  auto end = std::chrono::steady_clock::now() + group.timeout;
  std::string missing;
  do {
    missing.clear();
    for (int rank = 0; rank < config.world_size; rank++)
      if (!store.check({"rank/" + std::to_string(rank)}))
        missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
    if (missing.empty()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  } while (std::chrono::steady_clock::now() < end);
  throw c10d::TimeoutError({__func__, __FILE__, __LINE__}, "rank " + missing + " did not come");
}

}  // namespace

extern "C" {

char* dcgan_group(const DcganGroupConfig* config, DcganGroup** group) {
  return failure_of([&] {
    // c10d logs broken connections, with stacks, beside the errors that it throws.
    setenv("TORCH_CPP_LOG_LEVEL", "FATAL", 0);
    c10::initLogging();
    auto timeout = std::chrono::milliseconds(config->timeout_ms);
    c10d::TCPStoreOptions options;
    options.port = config->port;
    options.isServer = config->serve;
    options.numWorkers = config->world_size;
    options.waitWorkers = false;
    options.timeout = timeout;
    if (config->serve) options.masterListenFd = config->listen_fd;
    auto made = std::make_unique<DcganGroup>();
    made->timeout = timeout;
    auto store = c10::make_intrusive<c10d::TCPStore>(config->host, options);
    made->store = c10::make_intrusive<c10d::PrefixStore>(config->prefix, store);
    greet(*made, *config);
    auto gloo = c10d::ProcessGroupGloo::Options::create(timeout);
    // Python's bindings read this variable, libtorch does not.
    const char* interface = getenv("GLOO_SOCKET_IFNAME");
    gloo->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                      : c10d::ProcessGroupGloo::createDeviceForHostname(config->address));
    auto own = c10::make_intrusive<c10d::PrefixStore>("gloo", made->store);
    made->host = c10::make_intrusive<c10d::ProcessGroupGloo>(own, config->rank, config->world_size, gloo);
    *group = made.release();
  });
}

char* dcgan_group_use_cuda(DcganGroup* group, int device) {
  return failure_of([&] {
#ifdef DCGAN_NCCL
    auto& host = *group->host;
    auto own = c10::make_intrusive<c10d::PrefixStore>("nccl", group->store);
    group->device = dcgan_nccl(own, host.getRank(), host.getSize(), device, group->timeout);
#else
    (void)group;
    TORCH_CHECK_VALUE(false, "this build has no NCCL, so that ranks cannot compute on CUDA device ", device);
#endif
  });
}

void dcgan_free_group(DcganGroup* group) {
  // Errors are of no use any more: the others are gone, or the program ends.
  free(failure_of([&] { delete group; }));
}

char* dcgan_all_reduce(DcganGroup* group, at::Tensor* tensor) {
  return failure_of([&] { sum_in_place(group->backend(*tensor), *tensor); });
}

char* dcgan_broadcast(DcganGroup* group, at::Tensor* tensor, int from) {
  return failure_of([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> list{tensor->detach()};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    group->backend(*tensor)->broadcast(list, options)->wait();
  });
}

char* dcgan_all_gather(DcganGroup* group, at::Tensor* input, at::Tensor* output) {
  return failure_of([&] { output->copy_(gathered(group->backend(*input), *input)); });
}

char* dcgan_barrier(DcganGroup* group) {
  return failure_of([&] { group->host->barrier()->wait(); });
}

char* dcgan_store_set(DcganGroup* group, const char* key, const char* value) {
  return failure_of([&] { group->store->set(key, std::string(value)); });
}

char* dcgan_store_get(DcganGroup* group, const char* key, char** value) {
  return failure_of([&] { *value = group->store->check({key}) ? copied(group->store->get_to_str(key).c_str()) : nullptr; });
}

void dcgan_count_exchange(bool on) {
  is_counted = on;
  exchange_ns = 0;
  exchange_bytes = 0;
}

void dcgan_exchange(int64_t* nanoseconds, int64_t* bytes) {
  *nanoseconds = exchange_ns;
  *bytes = exchange_bytes;
}

char* dcgan_group_batch_norm(DcganGroup* group, at::Tensor* x, at::Tensor* weight, at::Tensor* bias,
                             at::Tensor* moving_mean, at::Tensor* moving_variance, double momentum, double epsilon,
                             at::Tensor** y) {
  return failure_of([&] {
    auto result = BatchNorm::apply(*x, *weight, *bias, moving_mean, moving_variance, momentum, epsilon,
                                   group->backend(*weight));
    *y = new at::Tensor(result);
  });
}
}
