// NCCL, for tensors on CUDA devices. This file is compiled where the libtorch in use was built with CUDA and the headers
// of CUDA and of NCCL are found.
#define USE_C10D_NCCL 1
#include <torch/csrc/distributed/c10d/NCCLUtils.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

c10::intrusive_ptr<c10d::Backend> dcgan_nccl(c10::intrusive_ptr<c10d::Store> store, int rank, int size, int device,
                                             std::chrono::milliseconds timeout) {
  // The options hold a struct of NCCL's, whose size grows from version to version.
  TORCH_CHECK(c10d::getNcclVersionNumber() / 100 == NCCL_VERSION_CODE / 100, "compiled with the headers of NCCL ",
              NCCL_VERSION_CODE, " and run with NCCL ", c10d::getNcclVersionNumber());
  auto index = static_cast<c10::DeviceIndex>(device);
  c10::cuda::set_device(index);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(store), rank, size, std::move(options));
  group->setBoundDeviceId(at::Device(at::kCUDA, index));
  return group;
}
