/// Host memory for KV pages: slots of one size, in slabs that are allocated as they are needed. Inside of src/io.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace tropilla {

/// Not thread-safe: its owner locks. Allocation and release are in two halves, because they take their time and happen
/// without the owner's lock; the budget counts both as memory that is held.
class kv_slabs {
public:
  /// `max_slots`: of all slabs together.
  kv_slabs(std::size_t slot_bytes, std::size_t max_slots) : slot_bytes_(slot_bytes), max_slots_(max_slots) {}

  [[nodiscard]] std::size_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] std::size_t max_slots() const noexcept { return max_slots_; }
  /// Bytes of the slabs, and of those that are being allocated or released.
  [[nodiscard]] std::size_t bytes() const noexcept { return held_ * slot_bytes_; }

  /// A free slot, in the slab with the lowest address, so that the others become empty; null: all are taken.
  [[nodiscard]] std::byte* take();
  void give_back(std::byte* slot);

  /// Slots of a slab that may be allocated now, which count as held from here on; 0: none.
  [[nodiscard]] std::size_t begin_growth() noexcept;
  /// Adds the slab of these slots. Null: it could not be allocated, and no more is tried.
  void end_growth(std::size_t slots, std::shared_ptr<std::byte> memory);

  /// Takes the slabs without slots in use.
  [[nodiscard]] std::vector<std::shared_ptr<std::byte>> begin_release();
  /// After the memory of those was released.
  void end_release();

private:
  struct slab {
    std::shared_ptr<std::byte> memory;
    std::size_t slots = 0;
    std::vector<std::byte*> free;
  };
  [[nodiscard]] slab& slab_of(std::byte* slot);

  std::size_t slot_bytes_;
  std::size_t max_slots_;
  std::size_t held_ = 0;                          ///< slots
  std::size_t releasing_ = 0;                     ///< of `held_`
  std::map<std::byte*, slab, std::less<>> slabs_; ///< by the first byte
  std::set<std::byte*, std::less<>> with_room_;   ///< slabs that have a free slot
};

} // namespace tropilla
