// CUDA graphs. This file is compiled where the libtorch in use was built with CUDA and CUDA's headers are found.
#include "shim.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>

struct DcganGraph {
  // A graph cannot be captured on the default queue.
  c10::cuda::CUDAStream before;
  c10::cuda::CUDAStream own;
  // Of the memory that the graph uses.
  c10::cuda::MempoolId_t pool;
  at::cuda::CUDAGraph graph;

  explicit DcganGraph(c10::DeviceIndex device)
      : before(c10::cuda::getCurrentCUDAStream(device)), own(c10::cuda::getStreamFromPool(false, device)),
        pool(at::cuda::graph_pool_handle()) {}
};

namespace {

// Makes the device the current one as long as the result lives. c10::cuda::CUDAGuard would ask for CUDA's own library,
// which only libtorch is linked to.
c10::DeviceGuard current(c10::DeviceIndex device) {
  return c10::DeviceGuard(c10::Device(c10::DeviceType::CUDA, device));
}

}  // namespace

extern "C" {

char* dcgan_graph(int device, DcganGraph** graph) {
  return message_of([&] {
    // A queue is current for its device, and a capture asks for that of the current device.
    const auto guard = current(static_cast<c10::DeviceIndex>(device));
    auto made = std::make_unique<DcganGraph>(static_cast<c10::DeviceIndex>(device));
    made->before.synchronize();
    c10::cuda::setCurrentCUDAStream(made->own);
    *graph = made.release();
  });
}

void dcgan_free_graph(DcganGraph* graph) {
  // Errors are of no use any more: the device has failed, or the program ends.
  free_message(message_of([&] {
    const auto guard = current(graph->own.device_index());
    std::unique_ptr<DcganGraph> owned(graph);
    owned->own.synchronize();
    c10::cuda::setCurrentCUDAStream(owned->before);
  }));
}

char* dcgan_begin_capture(DcganGraph* graph) {
  return message_of([&] {
    const auto guard = current(graph->own.device_index());
    graph->own.synchronize();
    // What earlier iterations have used and freed: the graph has memory of its own, and a capture frees none.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // Another thread makes batches meanwhile, and may ask for pinned memory.
    graph->graph.capture_begin(graph->pool, cudaStreamCaptureModeThreadLocal);
  });
}

char* dcgan_end_capture(DcganGraph* graph) {
  return message_of([&] {
    const auto device = graph->own.device_index();
    const auto guard = current(device);
    try {
      graph->graph.capture_end();
    } catch (...) {
      // Otherwise memory would go to the graph's pool for good, and none would be given back to the device.
      free_message(message_of([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(device, graph->pool); }));
      free_message(message_of([&] { c10::cuda::CUDACachingAllocator::releasePool(device, graph->pool); }));
      throw;
    }
  });
}

char* dcgan_replay(DcganGraph* graph) {
  return message_of([&] { graph->graph.replay(); });
}
}
