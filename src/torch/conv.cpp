// Convolutions of kernel 5 and stride 2 and their transposes, each as one matrix product.
//
// Both join a coarse grid (h × w, a channels) to a fine one (2h × 2w, c channels): tap (row, column) of the kernel joins
// position (i, j) to pixel (2i − 2 + row, 2j − 2 + column). The *columns* of a fine grid are the matrix whose row (i, j)
// holds the 25·c values around that position. Everything is one of three operations:
//
//   coarse from fine       columns(fine) · Wᵀ              convolution; gradient of a transposed convolution's input
//   fine from coarse       overlapping sums of coarse · W  transposed convolution; gradient of a convolution's input
//   gradient of W          coarseᵀ · columns(fine)         both
//
// All tensors lie in channels-last order. Weights [a, c, 5, 5] are then the matrix W [a, 25·c] as they lie, and so are
// their gradients. Weights and inputs in other orders are copied first.
//
// Every sum is made by one thread in a fixed order, so the number of threads changes nothing but what libtorch's own
// matrix products make of it.
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

namespace {

using at::Tensor;

constexpr int64_t KERNEL = 5;
constexpr int64_t TAPS = KERNEL * KERNEL;
constexpr int64_t BEFORE = 2;  // zeros before the first row and the first column
// A thread gets at least so many values to copy or to add.
constexpr int64_t LEAST_WORK = 1 << 15;

struct Sizes {
  int64_t h, w;  // of the coarse grid
  int64_t c;     // channels of the fine grid

  int64_t area() const { return h * w; }
  int64_t columns() const { return TAPS * c; }
};

// ---- Elements. bfloat16 is handled as its bits, so that compilers use vector registers. ---------------------------

struct Bits16 {
  uint16_t bits;
};

inline double wide(double value) { return value; }
inline float wide(float value) { return value; }
inline float wide(Bits16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void narrow(double value, double& to) { to = value; }
inline void narrow(float value, float& to) { to = value; }
inline void narrow(float value, Bits16& to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
  to.bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
}

// Calls `body` with a pointer of the elements' type, which is null.
template <typename Body>
void with_element(const Tensor& x, Body&& body) {
  switch (x.scalar_type()) {
    case at::kBFloat16:
      return body(static_cast<Bits16*>(nullptr));
    case at::kFloat:
      return body(static_cast<float*>(nullptr));
    case at::kDouble:
      return body(static_cast<double*>(nullptr));
    default:
      TORCH_CHECK(false, "expected bfloat16, float32 or float64, found ", x.scalar_type());
  }
}

// ---- Columns -------------------------------------------------------------------------------------------------------

// Fills `columns` [images·h·w, 25·c] from `fine` [images, 2h, 2w, c]. The five taps of a kernel's row lie side by side
// in `fine`, so each is one copy.
template <typename T>
void fill_columns(const T* fine, T* columns, int64_t images, Sizes sizes) {
  const int64_t h = sizes.h, w = sizes.w, c = sizes.c;
  const int64_t rows = 2 * h, row_length = 2 * w, line_values = w * sizes.columns();
  const int64_t grain = std::max<int64_t>(1, LEAST_WORK / line_values);
  at::parallel_for(0, images * h, grain, [&](int64_t begin, int64_t end) {
    T* to = columns + begin * line_values;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t image = line / h, i = line % h;
      for (int64_t j = 0; j < w; ++j) {
        for (int64_t tap = 0; tap < KERNEL; ++tap, to += KERNEL * c) {
          const int64_t y = 2 * i - BEFORE + tap, x = 2 * j - BEFORE;
          if (y < 0 || y >= rows) {
            std::memset(to, 0, KERNEL * c * sizeof(T));
            continue;
          }
          const int64_t first = std::max<int64_t>(0, -x), last = std::min(KERNEL, row_length - x);
          const T* from = fine + ((image * rows + y) * row_length + x + first) * c;
          std::memset(to, 0, first * c * sizeof(T));
          std::memcpy(to + first * c, from, (last - first) * c * sizeof(T));
          std::memset(to + last * c, 0, (KERNEL - last) * c * sizeof(T));
        }
      }
    }
  });
}

#if defined(__GNUC__)
#define DCGAN_INLINE inline __attribute__((always_inline))
#else
#define DCGAN_INLINE inline
#endif

// to[k] = the sum of the COUNT rows' values k, rounded once.
template <int COUNT, typename T>
DCGAN_INLINE void add_rows(const T* const* rows, T* __restrict to, int64_t c) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (int64_t k = 0; k < c; ++k) {
    auto sum = wide(rows[0][k]);
    for (int row = 1; row < COUNT; ++row) {
      sum += wide(rows[row][k]);
    }
    narrow(sum, to[k]);
  }
}

// Makes the lines `begin` to `end` of `fine` from the columns: each pixel is the sum of 1 to 9 of their values.
template <typename T>
DCGAN_INLINE void sum_lines(const T* columns, T* fine, int64_t begin, int64_t end, Sizes sizes) {
  const int64_t h = sizes.h, w = sizes.w, c = sizes.c;
  const int64_t rows = 2 * h, row_length = 2 * w;
  for (int64_t line = begin; line < end; ++line) {
    const int64_t image = line / rows, y = line % rows;
    for (int64_t x = 0; x < row_length; ++x) {
      const T* parts[9];
      int count = 0;
      for (int64_t row = y % 2; row < KERNEL; row += 2) {
        const int64_t i = (y + BEFORE - row) / 2;
        if (y + BEFORE < row || i >= h) {
          continue;
        }
        for (int64_t column = x % 2; column < KERNEL; column += 2) {
          const int64_t j = (x + BEFORE - column) / 2;
          if (x + BEFORE < column || j >= w) {
            continue;
          }
          parts[count++] = columns + ((image * h + i) * w + j) * sizes.columns() + (row * KERNEL + column) * c;
        }
      }
      T* const to = fine + (line * row_length + x) * c;
      switch (count) {  // 1, 2 or 3 rows times 1, 2 or 3 columns
        case 1: add_rows<1>(parts, to, c); break;
        case 2: add_rows<2>(parts, to, c); break;
        case 3: add_rows<3>(parts, to, c); break;
        case 4: add_rows<4>(parts, to, c); break;
        case 6: add_rows<6>(parts, to, c); break;
        case 9: add_rows<9>(parts, to, c); break;
      }
    }
  }
}

// Where compilers can, each is compiled three times, and the loader takes the one for the processor. All give the same
// bits, because nothing is multiplied.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define DCGAN_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define DCGAN_CLONES
#endif
DCGAN_CLONES void sum_some(const Bits16* columns, Bits16* fine, int64_t begin, int64_t end, Sizes sizes) {
  sum_lines(columns, fine, begin, end, sizes);
}
DCGAN_CLONES void sum_some(const float* columns, float* fine, int64_t begin, int64_t end, Sizes sizes) {
  sum_lines(columns, fine, begin, end, sizes);
}
DCGAN_CLONES void sum_some(const double* columns, double* fine, int64_t begin, int64_t end, Sizes sizes) {
  sum_lines(columns, fine, begin, end, sizes);
}

// Makes `fine` [images, 2h, 2w, c] from `columns` [images·h·w, 25·c], adding where they overlap.
template <typename T>
void sum_columns(const T* columns, T* fine, int64_t images, Sizes sizes) {
  const int64_t grain = std::max<int64_t>(1, LEAST_WORK / (2 * sizes.w * sizes.c));
  at::parallel_for(0, images * 2 * sizes.h, grain,
                   [&](int64_t begin, int64_t end) { sum_some(columns, fine, begin, end, sizes); });
}

// ---- Tensors -------------------------------------------------------------------------------------------------------

// Memory for columns, one buffer a thread that computes convolutions, as large as was ever needed. It is kept, because
// new memory comes from the system page by page, which takes as long as filling it. It belongs to the caller until that
// asks again.
Tensor scratch(int64_t rows, int64_t columns, const at::TensorOptions& options) {
  static thread_local c10::DataPtr kept;
  static thread_local size_t size = 0;
  const size_t needed = static_cast<size_t>(rows * columns) * options.dtype().itemsize();
  if (size < needed) {
    kept.clear();
    size = 0;
    kept = c10::GetCPUAllocator()->allocate(needed);
    size = needed;
  }
  return at::from_blob(kept.get(), {rows, columns}, options);
}

// [n, channels, h, w] → [n, h, w, channels], and a copy only if it does not lie so.
Tensor channels_last(const Tensor& x) {
  return x.permute({0, 2, 3, 1}).contiguous();
}

// Weights [a, c, 5, 5] → W [a, 25·c].
Tensor matrix(const Tensor& weight) {
  return channels_last(weight).view({weight.size(0), TAPS * weight.size(1)});
}

// A new tensor [n, channels, h, w] in channels-last order.
Tensor new_like(const Tensor& x, at::IntArrayRef size) {
  return at::empty(size, x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

// The same memory as [n·h·w, channels].
Tensor as_rows(const Tensor& x) {
  return x.permute({0, 2, 3, 1}).view({x.size(0) * x.size(2) * x.size(3), x.size(1)});
}

// Calls `body` with the first image and the number of images of each part of the batch.
template <typename Body>
void in_parts(int64_t images, int64_t at_once, Body&& body) {
  for (int64_t first = 0; first < images; first += at_once) {
    body(first, std::min(at_once, images - first));
  }
}

// The columns of `some` images of `fine` [n, 2h, 2w, c] from the `first` on.
Tensor columns_of(const Tensor& fine, int64_t first, int64_t some) {
  const Sizes sizes{fine.size(1) / 2, fine.size(2) / 2, fine.size(3)};
  const Tensor images = fine.narrow(0, first, some);
  Tensor columns = scratch(some * sizes.area(), sizes.columns(), fine.options());
  with_element(fine, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    fill_columns(static_cast<const T*>(images.const_data_ptr()), static_cast<T*>(columns.data_ptr()), some, sizes);
  });
  return columns;
}

// `coarse` [n, a, h, w] and W → [n, c, 2h, 2w].
Tensor fine_from_coarse(const Tensor& coarse, const Tensor& weight, int64_t at_once) {
  const int64_t n = coarse.size(0);
  const Sizes sizes{coarse.size(2), coarse.size(3), weight.size(1)};
  const Tensor W = matrix(weight), rows = as_rows(coarse.contiguous(at::MemoryFormat::ChannelsLast));
  Tensor fine = new_like(coarse, {n, sizes.c, 2 * sizes.h, 2 * sizes.w});
  const Tensor lying = fine.permute({0, 2, 3, 1});
  in_parts(n, at_once, [&](int64_t first, int64_t some) {
    Tensor columns = scratch(some * sizes.area(), sizes.columns(), coarse.options());
    at::mm_out(columns, rows.narrow(0, first * sizes.area(), some * sizes.area()), W);
    const Tensor images = lying.narrow(0, first, some);
    with_element(fine, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      sum_columns(static_cast<const T*>(columns.const_data_ptr()), static_cast<T*>(images.data_ptr()), some, sizes);
    });
  });
  return fine;
}

// What is made of the columns of `fine` [n, c, 2h, 2w], which are made once for both:
// - with `weight` [a, c, 5, 5]: the coarse grid [n, a, h, w];
// - with `coarse` [n, a, h, w]: the gradient of the weights [a, c, 5, 5], of which `coarse` or `fine` is a gradient.
std::pair<Tensor, Tensor> from_columns(const Tensor& fine, const Tensor& weight, const Tensor& coarse,
                                       int64_t at_once) {
  const int64_t n = fine.size(0), h = fine.size(2) / 2, w = fine.size(3) / 2, area = h * w, c = fine.size(1);
  Tensor to_coarse, W, of_coarse, of_weight, sum;
  if (weight.defined()) {
    W = matrix(weight).t();
    to_coarse = new_like(fine, {n, weight.size(0), h, w});
  }
  if (coarse.defined()) {
    of_coarse = as_rows(coarse.contiguous(at::MemoryFormat::ChannelsLast));
    of_weight = new_like(fine, {coarse.size(1), c, KERNEL, KERNEL});
  }
  if (!weight.defined() && !coarse.defined()) {
    return {};
  }
  const Tensor lying = channels_last(fine);
  in_parts(n, at_once, [&](int64_t first, int64_t some) {
    const Tensor columns = columns_of(lying, first, some);
    if (weight.defined()) {
      Tensor rows = as_rows(to_coarse).narrow(0, first * area, some * area);
      at::mm_out(rows, columns, W);
    }
    if (coarse.defined()) {
      const Tensor rows = of_coarse.narrow(0, first * area, some * area).t();
      Tensor gradient = matrix(of_weight);  // the same memory
      at::mm_out(gradient, rows, columns);
      if (some < n) {
        // Sums of bfloat16 parts are made in float32.
        const Tensor part = fine.scalar_type() == at::kBFloat16 ? gradient.to(at::kFloat) : gradient.clone();
        sum = sum.defined() ? sum.add_(part) : part;
      }
    }
  });
  if (sum.defined()) {
    matrix(of_weight).copy_(sum);
  } else if (n == 0 && coarse.defined()) {
    of_weight.zero_();
  }
  return {to_coarse, of_weight};
}

// ---- Gradients -----------------------------------------------------------------------------------------------------

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x [n, c, 2h, 2w], weight [a, c, 5, 5], bias [a] → [n, a, h, w]; transposed: x [n, a, h, w], bias [c] → [n, c, 2h, 2w]
struct Convolution : torch::autograd::Function<Convolution> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        bool transposed, int64_t at_once) {
    context->save_for_backward({x, weight});
    context->saved_data["transposed"] = transposed;
    context->saved_data["at_once"] = at_once;
    Tensor y = transposed ? fine_from_coarse(x, weight, at_once) : from_columns(x, weight, Tensor(), at_once).first;
    return y.add_(bias.view({1, -1, 1, 1}));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "convolutions as matrix products have no second derivatives: no graph can be made of their gradients");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &of_y = gradients[0];
    const bool transposed = context->saved_data["transposed"].toBool();
    const int64_t at_once = context->saved_data["at_once"].toInt();
    const bool needs_x = context->needs_input_grad(0), needs_weight = context->needs_input_grad(1);
    Tensor of_x, of_weight, of_bias;
    if (transposed) {
      // The columns of the same tensor serve both.
      std::tie(of_x, of_weight) =
          from_columns(of_y, needs_x ? weight : Tensor(), needs_weight ? x : Tensor(), at_once);
    } else {
      if (needs_x) {
        of_x = fine_from_coarse(of_y, weight, at_once);
      }
      if (needs_weight) {
        of_weight = from_columns(x, Tensor(), of_y, at_once).second;
      }
    }
    if (context->needs_input_grad(2)) {
      of_bias = of_y.sum({0, 2, 3});
    }
    return {of_x, of_weight, of_bias, Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" {

char* dcgan_conv_by_product(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, bool transposed,
                            int64_t at_once, at::Tensor** y) {
  return message_of([&] {
    const int64_t inputs = transposed ? 0 : 1;
    TORCH_CHECK(x->dim() == 4 && weight->dim() == 4 && bias->dim() == 1 && weight->size(2) == KERNEL &&
                    weight->size(3) == KERNEL && weight->size(inputs) == x->size(1) &&
                    weight->size(1 - inputs) == bias->size(0),
                "an input ", x->sizes(), ", a kernel ", weight->sizes(), " and a bias ", bias->sizes(),
                " do not go together");
    for (const Tensor* tensor : {x, weight, bias}) {
      TORCH_CHECK(tensor->device().is_cpu() && tensor->scalar_type() == x->scalar_type(),
                  "expected tensors of one kind on the CPU, found ", x->toString(), " and ", tensor->toString());
    }
    with_element(*x, [](auto*) {});  // refuses other kinds
    for (const int64_t size : {x->size(1), x->size(2), x->size(3), bias->size(0)}) {
      TORCH_CHECK(size > 0, "expected at least one pixel and one channel, found an input ", x->sizes(), " and a kernel ",
                  weight->sizes());
    }
    TORCH_CHECK(transposed || (x->size(2) % 2 == 0 && x->size(3) % 2 == 0), "expected even sides, found ", x->sizes());
    TORCH_CHECK(at_once > 0, "expected at least one image at once, found ", at_once);
    *y = new Tensor(Convolution::apply(*x, *weight, *bias, transposed, at_once));
  });
}

char* dcgan_has_amx_bf16(bool* has) {
  return message_of([&] {
    // libtorch asks the processor, and the system for the permission to use its tiles. It lists no feature that this
    // processor's architecture does not have.
    const auto features = at::cpu::get_cpu_capabilities();
    const auto found = features.find("amx_bf16");
    *has = found != features.end() && found->second.isBool() && found->second.toBool() && at::cpu::init_amx();
  });
}
}
