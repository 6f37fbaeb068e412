/// A lease is a handle to bytes of a device. Its last copy gives them back, on every path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace tropilla {
namespace detail {
class arbiter_device;
}

/// The purpose of leased bytes. The arbiter and the plan count by purpose.
enum class purpose : std::uint8_t { weights, ring, kv, activations, workspace, staging, requests };
inline constexpr std::size_t purpose_count = 7;

/// "weights", "streaming ring", "KV pages", "activations", "workspace", "staging", "requests".
[[nodiscard]] std::string_view to_string(purpose p) noexcept;

/// Shared ownership of one block. Copying is cheap and thread-safe; an empty lease has no bytes.
class lease {
public:
  lease() = default;

  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(block_); }
  /// Start of the block; null for an empty lease or a device without a base address.
  [[nodiscard]] std::byte* data() const noexcept;
  /// Bytes asked for.
  [[nodiscard]] std::size_t bytes() const noexcept;
  [[nodiscard]] purpose used_for() const noexcept;
  /// The device's name; valid while the lease is.
  [[nodiscard]] std::string_view device() const noexcept;
  /// Gives this copy up.
  void reset() noexcept { block_.reset(); }

private:
  friend class memory_arbiter;
  friend class detail::arbiter_device;
  struct block;
  explicit lease(std::shared_ptr<block> b) : block_(std::move(b)) {}
  std::shared_ptr<block> block_;
};

} // namespace tropilla
