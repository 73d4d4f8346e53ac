// CUDA graphs. This file is compiled where the libtorch in use was built with CUDA and CUDA's headers are found.
#include "shim.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>

struct DcganGraph {
  // A graph cannot be captured on the default queue.
  c10::cuda::CUDAStream before;
  c10::cuda::CUDAStream own;
  at::cuda::CUDAGraph graph;

  explicit DcganGraph(c10::DeviceIndex device)
      : before(c10::cuda::getCurrentCUDAStream(device)), own(c10::cuda::getStreamFromPool(false, device)) {}
};

extern "C" {

char* dcgan_graph(int device, DcganGraph** graph) {
  return message_of([&] {
    auto made = std::make_unique<DcganGraph>(static_cast<c10::DeviceIndex>(device));
    made->before.synchronize();
    c10::cuda::setCurrentCUDAStream(made->own);
    *graph = made.release();
  });
}

void dcgan_free_graph(DcganGraph* graph) {
  // Errors are of no use any more: the device has failed, or the program ends.
  free(message_of([&] {
    std::unique_ptr<DcganGraph> owned(graph);
    owned->own.synchronize();
    c10::cuda::setCurrentCUDAStream(owned->before);
  }));
}

char* dcgan_begin_capture(DcganGraph* graph) {
  return message_of([&] {
    graph->own.synchronize();
    // Another thread makes batches meanwhile, and may ask for pinned memory.
    graph->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  });
}

char* dcgan_end_capture(DcganGraph* graph) {
  return message_of([&] { graph->graph.capture_end(); });
}

char* dcgan_replay(DcganGraph* graph) {
  return message_of([&] { graph->graph.replay(); });
}
}
