/// Lists the NVIDIA GPUs of this machine, and what tropilla can use of them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tropilla::cuda {

struct gpu {
  int index = 0; ///< as in "cuda:0"
  std::string name;
  std::string architecture; ///< "sm_90"
  std::size_t memory_bytes = 0;
  std::size_t free_bytes = 0; ///< now; others may hold the rest
  double bandwidth = 0;       ///< of its memory, bytes per second, by clock and width; 0: the driver does not say
  std::size_t processors = 0; ///< multiprocessors
  std::vector<int> peers;     ///< GPUs whose memory it can read directly
  std::string problem;        ///< why tropilla has no kernels for it, or can't ask it; empty: it has
};

struct gpu_list {
  std::vector<gpu> gpus;
  std::string none_because; ///< a sentence; empty where there are some
};

struct gpu_count {
  int gpus = 0;
  std::string none_because; ///< as of `gpu_list`
};

/// Counts the GPUs without making a context on any.
[[nodiscard]] gpu_count count_gpus();
/// Describes one of `count` GPUs. Makes its context, and makes it the calling thread's GPU. @pre 0 <= index < count
[[nodiscard]] gpu describe_gpu(int index, int count);

/// Asks the driver. A machine without one, or with one that is too old, has an empty list and a reason: no error. Makes
/// a context on each GPU while it asks for its free memory. Any thread.
[[nodiscard]] gpu_list list_gpus();

} // namespace tropilla::cuda
