// Makes a host device: its reservation, its team, its compute stream.
#include "kernels/host/host_device.hpp"

#include "kernels/host/cpu_features.hpp"
#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>
#include <utility>

namespace tropilla::host {
namespace {

/// Steps of a reply follow each other within about this time; waking a parked thread takes 5 to 50 us.
constexpr std::chrono::microseconds spin_between_steps{50};
constexpr std::size_t max_threads = 1024;

std::size_t threads_of(const host_options& options, const topology& cpus) {
  if (options.threads > max_threads)
    throw error(errc::invalid_argument, fmt::format("{} is asked to use {} threads; it can use 1 to {}", options.name,
                                                    options.threads, max_threads));
  return options.threads == 0 ? usable_cores(cpus) : options.threads;
}

} // namespace

host_device::host_device(const host_options& options, const topology& cpus)
    : name_(options.name), isa_(choose_isa(options.isa)), kernels_(kernels_of(isa_)), precise_(options.precise),
      team_(threads_of(options, cpus), options.name, cpus), compute_(options.name + " compute", spin_between_steps) {
  compute_.enqueue([this] { team_.pin_caller(); });
}

host_device::~host_device() {
  compute_.synchronize();
  if (reserved_ != nullptr)
    munmap(reserved_, reserved_bytes_);
}

std::byte* host_device::reserve(std::size_t bytes) {
  if (reserved_ != nullptr)
    throw error(errc::internal, fmt::format("{} was asked to reserve memory twice", name_));
  if (bytes == 0)
    throw error(errc::invalid_argument, fmt::format("{} can't reserve 0 bytes", name_));
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw error(errc::io_error,
                fmt::format("the system refused {} to reserve {} of address space: {}; raise the limit (ulimit "
                            "-v) or lower the budget",
                            name_, format_bytes(bytes), std::strerror(errno)));
  madvise(memory, bytes, MADV_HUGEPAGE); // a refusal costs speed only
  reserved_ = static_cast<std::byte*>(memory);
  reserved_bytes_ = bytes;
  return reserved_;
}

void host_device::prefault(std::byte* begin, std::size_t bytes) noexcept {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;
#endif
  (void)madvise(begin, bytes, MADV_POPULATE_WRITE); // a refusal (Linux before 5.14) costs speed only
}

void host_device::trim(std::byte* begin, std::size_t bytes) noexcept {
  constexpr std::uintptr_t page = 4096;
  const auto first = round_up(reinterpret_cast<std::uintptr_t>(begin), page);
  const auto last = round_down(reinterpret_cast<std::uintptr_t>(begin) + bytes, page);
  if (first < last)
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::unique_ptr<stream> host_device::make_stream(std::string name) {
  return std::make_unique<thread_stream>(std::move(name));
}

void host_device::enqueue(compute_job job) {
  compute_.enqueue([this, job = std::move(job)] {
    team_.run([&](worker_context& worker) {
      host_ops o(worker, kernels_, scratch_, precise_);
      job(o);
    });
  });
}

std::size_t host_device::activation_bytes(activation_kind kind, std::size_t rows, std::size_t width) const noexcept {
  return activation_buffer_bytes(precise_ ? activation_kind::full : kind, rows, width);
}

std::size_t host_device::scratch_bytes(std::size_t, std::size_t, std::size_t) const noexcept {
  return host_scratch::bytes(team_.workers());
}

void host_device::set_scratch(std::byte* scratch, std::size_t bytes) {
  const std::size_t least = host_scratch::bytes(team_.workers());
  if (bytes < least)
    throw error(errc::internal, fmt::format("{} got {} bytes of scratch and needs {} or more", name_, bytes, least));
  scratch_ = host_scratch::divide(scratch, bytes, team_.workers());
}

} // namespace tropilla::host

namespace tropilla {

std::unique_ptr<device> make_host_device(const host_options& options) {
  return std::make_unique<host::host_device>(options);
}

} // namespace tropilla
