// Manages a GPU's memory by the granule, its copies, and the order of its compute jobs.
#include "kernels/cuda/cuda_device.hpp"

#include "memory/rounding.hpp"

#include <chrono>
#include <fmt/format.h>
#include <utility>

namespace tropilla::cuda {

/// Runs jobs on a thread of its own; a recorded event is done when the GPU is, too.
class cuda_device::compute_order final : public stream {
public:
  explicit compute_order(cuda_device& of) : device_(of), jobs_(of.name_ + " compute", spin_between_steps) {}

  void enqueue(std::function<void()> job) override { jobs_.enqueue(std::move(job)); }
  event record() override {
    jobs_.enqueue([this] {
      try {
        device_.gpu_->synchronize(device_.stream_);
      } catch (const error& e) {
        device_.fail(e);
      }
    });
    return jobs_.record();
  }
  void wait(event e) override { jobs_.wait(std::move(e)); }
  void synchronize() override { record().wait(); }
  [[nodiscard]] std::string_view name() const noexcept override { return jobs_.name(); }

private:
  static constexpr std::chrono::microseconds spin_between_steps{50};

  cuda_device& device_;
  thread_stream jobs_;
};

cuda_device::cuda_device(std::string name, std::unique_ptr<gpu_api> gpu)
    : name_(std::move(name)), gpu_(std::move(gpu)), isa_(gpu_->architecture()), stream_(gpu_->make_stream()),
      graphs_(*gpu_), compute_(std::make_unique<compute_order>(*this)) {}

cuda_device::~cuda_device() {
  compute_->synchronize();
  compute_.reset();
  gpu_->end_stream(stream_);
  for (void* s : idle_streams_)
    gpu_->end_stream(s);
  for (std::size_t i = 0; i < mapped_.size(); ++i)
    if (mapped_[i])
      gpu_->unmap(reserved_ + i * gpu_->granule());
  if (reserved_ != nullptr)
    gpu_->release(reserved_, reserved_bytes_);
}

std::optional<error> cuda_device::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

/// Keeps the first failure as the reason.
void cuda_device::fail(const error& why) noexcept {
  const std::lock_guard lock(mutex_);
  if (!failure_)
    failure_.emplace(why);
}

// -- copies ----------------------------------------------------------------------------------------------------------

void cuda_device::copy(const std::function<void(void* stream)>& enqueue_on) {
  void* s = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_streams_.empty()) {
      s = idle_streams_.back();
      idle_streams_.pop_back();
    }
  }
  const auto give_back = [&] {
    const std::lock_guard lock(mutex_);
    if (s != nullptr)
      idle_streams_.push_back(s);
  };
  try {
    if (s == nullptr)
      s = gpu_->make_stream();
    enqueue_on(s);
    gpu_->synchronize(s);
  } catch (const error& e) {
    give_back();
    fail(e);
    throw;
  }
  give_back();
}

void cuda_device::upload(const std::byte* from, std::byte* to, std::size_t bytes) {
  copy([&](void* on) { gpu_->copy(on, from, to, bytes); });
}

void cuda_device::download(const std::byte* from, std::byte* to, std::size_t bytes) {
  copy([&](void* on) { gpu_->copy(on, from, to, bytes); });
}

bool cuda_device::takes_from(const device& other) const noexcept {
  return dynamic_cast<const cuda_device*>(&other) != nullptr;
}

void cuda_device::copy_from(const device& other, const std::byte* from, std::byte* to, std::size_t bytes) {
  const auto& source = dynamic_cast<const cuda_device&>(other);
  copy([&](void* on) { gpu_->copy_from(*source.gpu_, on, from, to, bytes); });
}

std::shared_ptr<std::byte> cuda_device::make_host_buffer(std::size_t bytes) {
  return {gpu_->allocate_host(bytes), [gpu = gpu_](std::byte* p) { gpu->free_host(p); }};
}

// -- memory ----------------------------------------------------------------------------------------------------------

std::byte* cuda_device::reserve(std::size_t bytes) {
  if (reserved_ != nullptr)
    throw error(errc::internal, fmt::format("{} was asked to reserve memory twice", name_));
  if (bytes == 0)
    throw error(errc::invalid_argument, fmt::format("{} can't reserve 0 bytes", name_));
  const std::size_t granules = divide_up(bytes, gpu_->granule());
  reserved_bytes_ = granules * gpu_->granule();
  reserved_ = gpu_->reserve(reserved_bytes_);
  mapped_.assign(granules, false);
  return reserved_;
}

bool cuda_device::commit(std::byte* begin, std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  const std::size_t granule = gpu_->granule();
  const auto offset = static_cast<std::size_t>(begin - reserved_);
  for (std::size_t i = offset / granule; i * granule < offset + bytes; ++i) {
    if (mapped_[i])
      continue;
    try {
      gpu_->map(reserved_ + i * granule);
    } catch (const error&) { // others have the memory; what was mapped here stays for the next commit
      return false;
    }
    mapped_[i] = true;
  }
  return true;
}

/// Unmaps the granules that lie in the range as a whole; the rest of the others is in use.
void cuda_device::trim(std::byte* begin, std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  const std::size_t granule = gpu_->granule();
  const auto offset = static_cast<std::size_t>(begin - reserved_);
  for (std::size_t i = divide_up(offset, granule); (i + 1) * granule <= offset + bytes; ++i)
    if (mapped_[i]) {
      gpu_->unmap(reserved_ + i * granule);
      mapped_[i] = false;
    }
}

// -- computing -------------------------------------------------------------------------------------------------------

std::unique_ptr<stream> cuda_device::make_stream(std::string name) {
  return std::make_unique<thread_stream>(std::move(name));
}

stream& cuda_device::compute_stream() noexcept {
  return *compute_;
}

void cuda_device::enqueue(compute_job job) {
  compute_->enqueue([this, job = std::move(job)] {
    if (failure())
      return; // nothing that counts would come of it
    try {
      gpu_->enter();
      run_job(job, *gpu_, stream_, scratch_, job_, graphs_);
    } catch (const error& e) {
      fail(e);
    }
  });
}

std::size_t cuda_device::activation_bytes(activation_kind kind, std::size_t rows, std::size_t width) const noexcept {
  return activation_buffer_bytes(kind, rows, width);
}

std::size_t cuda_device::scratch_bytes(std::size_t rows, std::size_t width, std::size_t pages) const noexcept {
  return cuda::scratch_bytes(*gpu_, rows, width, pages);
}

void cuda_device::set_scratch(std::byte* scratch, std::size_t bytes) {
  scratch_ = {scratch, bytes};
}

} // namespace tropilla::cuda
