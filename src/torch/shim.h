// What Rust needs of libtorch and `tch` lacks. src/torch/mod.rs declares the same functions.
//
// Every function returns NULL, or a message that the caller frees with dcgan_free_message. No exception leaves a
// function. Tensors are those of `tch`: pointers to at::Tensor, which stay the caller's.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>

namespace at {
class Tensor;
}

// What is said where there is no memory for saying anything else. It is never freed.
inline char* out_of_memory() {
  static char text[] = "out of memory";
  return text;
}

inline char* copied(const char* message) {
  char* const copy = strdup(message);
  return copy ? copy : out_of_memory();
}

inline void free_message(char* message) {
  if (message != out_of_memory()) {
    free(message);
  }
}

// The message of whatever `body` throws, NULL if it throws nothing.
template <typename Body>
char* message_of(Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return copied(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return copied(error.what());
  } catch (...) {
    return copied("an exception of no known type");
  }
}

extern "C" {

// ---- shim.cpp, in every build ----------------------------------------------------------------------

void dcgan_free_message(char* message);

// Whether matrix products and convolutions of float32 on CUDA may round their factors to TensorFloat-32.
char* dcgan_allow_tf32(bool allow);

// Whether operations may only use algorithms that give the same bits each time.
char* dcgan_deterministic(bool on);

// Whether this thread records what gradients need.
char* dcgan_is_grad_enabled(bool* is_enabled);

// Counts this thread's calls of operators that call no other, by name, until dcgan_stop_counting, which gives them as
// lines "name count". A convolution counts as one call, whatever it calls.
char* dcgan_start_counting();
char* dcgan_stop_counting(char** counts);

// One step of Adam on float32 tensors that are dense and equally long. It does nothing if `found_inf`, a float32
// scalar, is 1. `alpha`, a float32 scalar, is the step size with the bias correction in it.
char* dcgan_fused_adam(at::Tensor* theta, at::Tensor* gradient, at::Tensor* m, at::Tensor* v, at::Tensor* many_steps,
                       at::Tensor* alpha, at::Tensor* found_inf, double beta1, double beta2, double epsilon);

// A point in the queue of work of CUDA device number `device`.
struct DcganMark;
char* dcgan_mark(int device, DcganMark** mark);
void dcgan_free_mark(DcganMark* mark);
// Waits for both, and tells how long the device took from one to the other.
char* dcgan_milliseconds_between(DcganMark* from, DcganMark* to, double* milliseconds);

// ---- conv.cpp, in every build ----------------------------------------------------------------------

// A convolution with kernel 5, stride 2 and padding 2 as a matrix product on the CPU: `x` [n, c, 2h, 2w], `weight`
// [a, c, 5, 5] and `bias` [a] give `y` [n, a, h, w], a new tensor that is the caller's. If `transposed`, `x` is
// [n, a, h, w], `bias` [c] and `y` [n, c, 2h, 2w]. Columns are made of `at_once` images at a time. Gradients are recorded,
// second ones are not there.
char* dcgan_conv_by_product(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, bool transposed,
                            int64_t at_once, at::Tensor** y);

// Whether the processor multiplies matrices of bfloat16 in tiles (AMX), and the system permits it.
char* dcgan_has_amx_bf16(bool* has);

// ---- graph.cpp, only in builds with CUDA -----------------------------------------------------------

// A graph of work on CUDA device number `device`. From then on this thread's work goes to a queue of its own,
// until the graph is freed.
struct DcganGraph;
char* dcgan_graph(int device, DcganGraph** graph);
void dcgan_free_graph(DcganGraph* graph);
// What this thread asks of the device between these two is not done, but becomes the graph.
char* dcgan_begin_capture(DcganGraph* graph);
char* dcgan_end_capture(DcganGraph* graph);
// Asks for the work of the graph to be done.
char* dcgan_replay(DcganGraph* graph);
}
