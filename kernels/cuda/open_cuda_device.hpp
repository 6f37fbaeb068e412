/// Opens a GPU as a device of a run, or says why it can't compute the model or hold the budget.
#pragma once

#include "kernels/open_device.hpp"

namespace tropilla::cuda {

/// As `open_devices`, for the GPU of this index.
[[nodiscard]] opened_device open_cuda_device(const device_budget& wanted, int index, const device_demands& demands);

} // namespace tropilla::cuda
