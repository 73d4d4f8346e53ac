// Groups of processes, on libtorch's c10d. src/torch/group.rs declares the same functions.
//
// The rules are those of shim.h, but that a message begins with a letter that says what has failed: T a time limit,
// N the network, B the library below (gloo, NCCL), U what the processes were told does not fit together, O other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {

struct DcganGroup;

struct DcganGroupConfig {
  const char* host;      // where the store is served
  uint16_t port;
  int serve;             // whether this process serves it
  int listen_fd;         // on this bound and listening socket
  const char* prefix;    // of all keys in the store: a job that starts anew takes another
  const char* identity;  // of this process, unlike that of any other
  const char* version;   // of the program: all must have the same
  int rank, world_size;
  int64_t timeout_ms;    // for the rendezvous and for every collective
  const char* address;   // the local address on which gloo listens
};

// Meets the other processes: returns when all are there.
char* dcgan_group(const DcganGroupConfig* config, DcganGroup** group);
void dcgan_free_group(DcganGroup* group);

// From now on tensors on this CUDA device go through NCCL.
char* dcgan_group_use_cuda(DcganGroup* group, int device);

// The sum over all ranks, in place. The tensor must be dense.
char* dcgan_all_reduce(DcganGroup* group, at::Tensor* tensor);
char* dcgan_broadcast(DcganGroup* group, at::Tensor* tensor, int from);
// `output` is [ranks, ...input].
char* dcgan_all_gather(DcganGroup* group, at::Tensor* input, at::Tensor* output);
char* dcgan_barrier(DcganGroup* group);

// Texts that all ranks share. `value` is NULL if the key has none yet.
char* dcgan_store_set(DcganGroup* group, const char* key, const char* value);
char* dcgan_store_get(DcganGroup* group, const char* key, char** value);

// Counts from now on the time that this process spends in sums and gathers, waiting for other ranks included, and the
// bytes of its tensors in them. On CUDA it waits for the device before and after each.
void dcgan_count_exchange(bool on);
void dcgan_exchange(int64_t* nanoseconds, int64_t* bytes);

// Batch norm of `x` [N, C, H, W] with the statistics of all ranks' rows: one collective forward, one back. Gradients
// are those of this rank's rows; their sum over all ranks is the gradient. A rank may have no rows. `moving_mean` and
// `moving_variance` are updated, unless they are NULL. There are no second derivatives.
char* dcgan_group_batch_norm(DcganGroup* group, at::Tensor* x, at::Tensor* weight, at::Tensor* bias,
                             at::Tensor* moving_mean, at::Tensor* moving_variance, double momentum, double epsilon,
                             at::Tensor** y);
}
