/// Finds the packed weights of one model in a cache folder, or writes them there while the model loads for the first
/// time.
#pragma once

#include "src/io/packed_cache.hpp"
#include "src/log/log.hpp"
#include "src/model/llama_layout.hpp"

#include <chrono>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

namespace tropilla {

/// The key of a model's entry: a hash of its files, how its tensors are typed and laid out, and the packing's version.
/// Throws `error` (io_error) when a file is gone.
[[nodiscard]] packed_key key_of_packed_weights(const llama_layout& layout,
                                               std::span<const std::filesystem::path> files);

/// The layout's sections as the cache wants them.
[[nodiscard]] std::vector<packed_section> sections_of_packed_weights(const llama_layout& layout);

/// The entry, if it is there. Throws as `key_of_packed_weights`.
[[nodiscard]] std::optional<packed_file> find_packed_weights(const std::filesystem::path& folder,
                                                             const llama_layout& layout,
                                                             std::span<const std::filesystem::path> files);

/// The packed weights of one model. Any thread. A failure is reported once and costs the entry, nothing else.
///
/// A group that can't be read from the entry, or that is not what was written there, is damaged: the loader that found
/// it reads it from the model's files, and storing it mends the entry in place. An entry that can't be mended, or that
/// is damaged where it was mended, is removed: the next run builds it anew.
class packed_weights {
public:
  using notice_callback = std::function<void(std::string_view)>;

  /// Opens the entry, or begins to build it. The layout outlives this. `damage_told`: as in `weight_loader_setup`.
  /// Throws as `key_of_packed_weights`.
  packed_weights(std::filesystem::path folder, const llama_layout& layout, std::span<const std::filesystem::path> files,
                 notice_callback notice, logger log = {}, std::shared_ptr<std::atomic<bool>> damage_told = nullptr);
  /// Waits for an entry that is being completed; one that lacks groups is given up.
  ~packed_weights();
  packed_weights(const packed_weights&) = delete;
  packed_weights& operator=(const packed_weights&) = delete;

  /// The complete entry, or null. While another process builds it, looks again once a second.
  [[nodiscard]] std::shared_ptr<const packed_file> file();
  /// Writes a group that was just packed, if it is damaged in the entry, or missing from an entry that is being built.
  /// The last group completes the entry, on a thread of its own.
  void store(std::size_t group, const std::byte* memory);
  /// Notes that the group in the entry is not what it should be; `why` is a sentence.
  void damaged(std::size_t group, std::string_view why);
  /// Gives up an entry that can't be opened: it counts as absent from now on.
  void drop();

private:
  void open_or_build();
  void found(packed_file entry);
  void commit();
  void mend(const packed_file& entry, std::size_t group, const std::byte* memory);
  void give_up(const packed_file& entry, std::string_view why);

  const std::filesystem::path folder_;
  const llama_layout& layout_;
  const std::vector<packed_section> sections_;
  const packed_key key_;
  const notice_callback notice_;
  const logger log_;
  const std::shared_ptr<std::atomic<bool>> damage_told_;

  std::mutex mutex_;
  std::shared_ptr<const packed_file> file_;
  std::optional<packed_builder> builder_;
  std::set<std::size_t> damaged_, mended_; ///< groups of `file_`
  std::vector<bool> stored_;               ///< by group: written, or being written
  std::size_t missing_ = 0;                ///< groups that are not written
  bool busy_ = false;                      ///< another process builds it
  std::chrono::steady_clock::time_point looked_{};
  std::jthread committer_; ///< last: it uses the others
};

} // namespace tropilla
