/// A loader over a device and an arbiter that nobody else uses.
#pragma once

#include "actors/loader.hpp"
#include "actors/memory_manager.hpp"
#include "runtime/prepared_model.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <sys/mman.h>
#include <type_traits>
#include <utility>
#include <vector>

namespace tropilla::testing {

class lone_loader {
  std::shared_ptr<device> dev_; ///< outlives the arbiter

public:
  static constexpr std::size_t everything = std::size_t{64} << 20; ///< the budget

  explicit lone_loader(const runtime_hooks& hooks = {}) : hooks_(hooks) {
    auto prepared = prepared_model::open(tiny_config());
    dev_ = std::move(prepared.shards.front().dev);
    weights_ = std::move(prepared.shards.front().placement);
    files_ = prepared.shards.front().input.files;
    device_setup setup;
    setup.name = "host:0";
    setup.base = base_ = dev_->reserve(everything);
    setup.reservation_bytes = setup.budget = everything;
    setup.alignment = group_alignment;
    setup.host_memory = true;
    arbiter->add_device(setup);
    memory = cast::spawn_memory_manager(system_.get(), arbiter);
  }
  ~lone_loader() { (void)end(); }
  lone_loader(const lone_loader&) = delete;
  lone_loader& operator=(const lone_loader&) = delete;

  void spawn() {
    weight_loader_setup loading;
    loading.dev = dev_.get();
    loading.files = files_;
    loading.make_reader = hooks_.make_reader;
    loader_ = cast::spawn_loader(system_.get(),
                                 {weights_, memory, weights_->loading.staging_bytes(), std::move(loading), {}, {}});
  }

  [[nodiscard]] lease take(std::size_t bytes, purpose used_for) {
    return std::get<lease>(arbiter->try_acquire({"host:0", bytes, used_for}));
  }
  /// The block of a group.
  [[nodiscard]] lease block(std::size_t group) { return take(weights_->block_bytes(group), purpose::weights); }

  /// Pages of the reservation that the system has given.
  [[nodiscard]] std::size_t resident_pages() const {
    constexpr std::size_t page = 4096;
    std::vector<unsigned char> resident(everything / page);
    REQUIRE(::mincore(base_, everything, resident.data()) == 0);
    return static_cast<std::size_t>(std::ranges::count_if(resident, [](auto r) { return (r & 1) != 0; }));
  }
  void trim_staging() { cast::tell_from_outside(loader_, cast::trim_staging{}); }

  /// Nobody but the loader holds the bytes that it writes to. Returns what `failure_of` takes.
  auto load(std::size_t group, lease destination) {
    return cast::ask(client_.ptr(), loader_, cast::load_group{group, std::move(destination)});
  }
  auto load(std::size_t group) { return load(group, block(group)); }
  /// Waits for the answer, once; empty when the group was loaded.
  template <class Pending>
  [[nodiscard]] static std::optional<caf::error> failure_of(Pending&& pending) {
    std::optional<caf::error> out;
    // CAF 1.x receives from a handle that is moved.
    static_cast<std::remove_reference_t<Pending>&&>(pending).receive([](cast::group_loaded&) {},
                                                                     [&](caf::error& e) { out = e; });
    return out;
  }

  /// Ends the loader, and the memory manager, which may be about the answer to it; the bytes that are in use then.
  std::size_t end() {
    cast::end_and_wait(system_.get(), loader_);
    end_memory();
    return in_use();
  }
  void end_memory() { cast::end_and_wait(system_.get(), memory); }
  [[nodiscard]] std::size_t in_use() const { return arbiter->usage("host:0").in_use; }
  [[nodiscard]] std::size_t groups() const { return weights_->layout.groups.size(); }

  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();
  cast::memory_manager_actor memory;

private:
  runtime_hooks hooks_;
  std::byte* base_ = nullptr;
  std::shared_ptr<const weight_placement> weights_;
  std::vector<std::filesystem::path> files_;
  cast::system system_;
  caf::scoped_actor client_{system_.get()};
  cast::loader_actor loader_;
};

} // namespace tropilla::testing
