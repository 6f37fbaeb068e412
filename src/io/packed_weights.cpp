// Computes keys of models, finds their entries, and writes entries while groups are packed.
#include "src/io/packed_weights.hpp"

#include "kernels/threads.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

/// To be raised when packing writes other bytes for the same tensors.
constexpr std::uint64_t packing_version = 1;
constexpr std::chrono::seconds between_looks_at_cache{1};

} // namespace

packed_key key_of_packed_weights(const llama_layout& layout, std::span<const std::filesystem::path> files) {
  packed_key_hash hash;
  hash.add(packing_version);
  for (const auto& path : files)
    hash.add_file(path);
  if (!layout.share.is_whole()) // ranks with as many rows have other rows
    for (const auto* bounds :
         {&layout.share.kv_heads, &layout.share.ffn, &layout.share.width, &layout.share.vocabulary}) {
      hash.add(static_cast<std::uint64_t>(layout.share.of(*bounds).first));
      hash.add(static_cast<std::uint64_t>(layout.share.of(*bounds).count));
    }
  for (std::size_t s = 0; s < layout.sections.size(); ++s) {
    hash.add(layout.sections[s].name);
    hash.add(layout.sections[s].bytes);
    for (const auto& group : layout.groups) {
      if (group.section != s || group.section_offset != 0)
        continue; // tiles of one matrix have its type: how it is cut, and where among the groups, must not matter
      for (const auto& t : group.tensors) {
        hash.add(t.source.name);
        hash.add(static_cast<std::uint64_t>(t.source.type));
        hash.add(static_cast<std::uint64_t>(t.source.columns));
        hash.add(static_cast<std::uint64_t>(t.offset));
      }
    }
  }
  return hash.key();
}

std::vector<packed_section> sections_of_packed_weights(const llama_layout& layout) {
  std::vector<packed_section> out;
  for (const auto& s : layout.sections) {
    packed_section section{s.name, s.bytes};
    if (s.unit_bytes > 0) // so that every tile is some blocks
      section.block_bytes = s.unit_bytes;
    out.push_back(std::move(section));
  }
  return out;
}

std::optional<packed_file> find_packed_weights(const std::filesystem::path& folder, const llama_layout& layout,
                                               std::span<const std::filesystem::path> files) {
  return packed_cache::open(folder, key_of_packed_weights(layout, files), sections_of_packed_weights(layout));
}

packed_weights::packed_weights(std::filesystem::path folder, const llama_layout& layout,
                               std::span<const std::filesystem::path> files, notice_callback notice, logger log,
                               std::shared_ptr<std::atomic<bool>> damage_told)
    : folder_(std::move(folder)), layout_(layout), sections_(sections_of_packed_weights(layout)),
      key_(key_of_packed_weights(layout, files)), notice_(std::move(notice)), log_(std::move(log)),
      damage_told_(damage_told ? std::move(damage_told) : std::make_shared<std::atomic<bool>>(false)) {
  open_or_build();
}

packed_weights::~packed_weights() = default;

void packed_weights::open_or_build() {
  busy_ = false;
  looked_ = std::chrono::steady_clock::now();
  if (auto entry = packed_cache::open(folder_, key_, sections_))
    return found(std::move(*entry));
  auto result = packed_cache::build(folder_, key_, layout_.config.name, sections_);
  if (auto* builder = std::get_if<packed_builder>(&result)) {
    log_.info("{} has no packed weights of this model: they are written while it loads", folder_.string());
    builder_.emplace(std::move(*builder));
    stored_.assign(layout_.groups.size(), false);
    missing_ = 0;
    for (std::size_t g = 0; g < layout_.groups.size(); ++g) {
      stored_[g] = layout_.groups[g].bytes == 0;
      missing_ += !stored_[g];
    }
    return;
  }
  const auto& refused = std::get<packed_refusal>(result);
  if (refused.why == packed_refusal::kind::failed) {
    if (notice_)
      notice_(fmt::format("weights are not kept packed for the next start: {}", refused.sentence));
    return;
  }
  log_.debug("packed weights are not written: {}", refused.sentence);
  busy_ = true; // or completed between the two calls: the next look finds it
}

void packed_weights::found(packed_file entry) {
  log_.info("packed weights are there: {}, {}", entry.path().string(), human_bytes{entry.file_bytes()});
  file_ = std::make_shared<packed_file>(std::move(entry));
}

std::shared_ptr<const packed_file> packed_weights::file() {
  const std::lock_guard lock(mutex_);
  if (!file_ && busy_ && std::chrono::steady_clock::now() - looked_ > between_looks_at_cache) {
    looked_ = std::chrono::steady_clock::now();
    if (auto entry = packed_cache::open(folder_, key_, sections_)) {
      found(std::move(*entry));
      busy_ = false;
    }
  }
  return file_;
}

void packed_weights::store(std::size_t index, const std::byte* memory) {
  std::shared_ptr<const packed_file> to_mend;
  {
    const std::lock_guard lock(mutex_);
    if (file_ && damaged_.erase(index) > 0)
      to_mend = file_;
  }
  if (to_mend)
    return mend(*to_mend, index, memory);
  {
    const std::lock_guard lock(mutex_);
    if (!builder_ || stored_[index])
      return;
    stored_[index] = true;
  }
  const auto& g = layout_.groups[index];
  (void)builder_->write(g.section, g.section_offset, {memory, g.bytes}); // a failure is kept, and told by `commit`
  {
    const std::lock_guard lock(mutex_);
    if (--missing_ > 0)
      return;
  }
  try {
    committer_ = start_thread("writing packed weights", [this] { commit(); });
  } catch (const error&) {
    commit(); // packing waits meanwhile
  }
}

void packed_weights::commit() {
  // Loaders that read around the page cache do not want the entry in it; those that map it read it once more from the
  // disk only when memory is short.
  const auto failure = builder_->commit(layout_.tile_rows > 0);
  if (!failure.empty() && notice_)
    notice_(fmt::format("weights are not kept packed for the next start: {}", failure));
  auto entry = failure.empty() ? packed_cache::open(folder_, key_, sections_) : std::nullopt;
  const std::lock_guard lock(mutex_);
  builder_.reset();
  if (entry)
    found(std::move(*entry));
}

void packed_weights::damaged(std::size_t index, std::string_view why) {
  std::shared_ptr<const packed_file> entry;
  bool again = false;
  {
    const std::lock_guard lock(mutex_);
    if (!file_)
      return;
    entry = file_;
    again = mended_.contains(index);
    damaged_.insert(index);
  }
  const auto& name = layout_.groups[index].name;
  log_.warning("{} of {} is read from the model's files: {}", name, entry->path().string(), why);
  if (again)
    return give_up(*entry, fmt::format("{} is damaged again after it was mended", name));
  if (notice_ && !damage_told_->exchange(true))
    notice_(
        fmt::format("the packed weights {} are damaged ({}: {}): what is damaged is read from the model's files and "
                    "written over again",
                    entry->path().string(), name, why));
}

void packed_weights::mend(const packed_file& entry, std::size_t index, const std::byte* memory) {
  const auto& g = layout_.groups[index];
  if (const auto failure = entry.mend(g.section, g.section_offset, {memory, g.bytes}); !failure.empty())
    return give_up(entry, failure);
  log_.info("{} of {} is written over again", g.name, entry.path().string());
  const std::lock_guard lock(mutex_);
  mended_.insert(index);
}

void packed_weights::give_up(const packed_file& entry, std::string_view why) {
  {
    const std::lock_guard lock(mutex_);
    if (file_.get() != &entry)
      return; // it was reported already
    file_.reset();
  }
  const auto failure = entry.remove();
  if (notice_)
    notice_(fmt::format("the model's files are read instead of packed weights: {}; {}", why,
                        failure.empty() ? "the next run packs them again" : failure));
}

void packed_weights::drop() {
  const std::lock_guard lock(mutex_);
  if (file_)
    log_.warning("{} can't be read: the model's own files are read instead", file_->path().string());
  file_.reset();
  busy_ = false;
}

} // namespace tropilla
