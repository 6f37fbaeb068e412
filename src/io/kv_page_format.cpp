// Fills in and checks the headers of a file of KV pages.
#include "src/io/kv_page_format.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <fmt/format.h>
#include <xxhash.h>

namespace tropilla {
namespace {

constexpr char magic[8] = {'T', 'R', 'O', 'P', 'K', 'V', 'P', 'G'};
constexpr std::uint32_t version = 1;

std::uint64_t checksum_of(kv_file_header h) {
  h.checksum = 0;
  return XXH64(&h, sizeof h, 0);
}

std::uint64_t checksum_of(kv_slot_header h, std::uint64_t seed) {
  h.checksum = 0;
  return XXH64(&h, sizeof h, seed);
}

} // namespace

kv_slot_header make_kv_slot_header(const page_key& before, const page_key& key,
                                   std::span<const token_id> tokens) noexcept {
  assert(tokens.size() == kv_page_tokens);
  kv_slot_header h{};
  h.key_high = key.high;
  h.key_low = key.low;
  h.before_high = before.high;
  h.before_low = before.low;
  std::ranges::copy(tokens, h.tokens.begin());
  return h;
}

bool is_page(const kv_slot_header& h, const page_key& before, const page_key& key,
             std::span<const token_id> tokens) noexcept {
  return h.key() == key && h.before() == before && std::ranges::equal(h.tokens, tokens);
}

std::uint64_t kv_page_checksum(std::span<const std::byte> page) noexcept {
  return XXH3_64bits(page.data(), page.size());
}

void seal(kv_slot_header& h, std::uint64_t seed) noexcept {
  h.checksum = checksum_of(h, seed);
}

bool is_sound(const kv_slot_header& h, std::uint64_t seed) noexcept {
  return h.checksum == checksum_of(h, seed) && h.used < max_kv_uses;
}

kv_file_header make_kv_file_header(const packed_key& identity, std::size_t page_bytes, std::uint64_t seed) noexcept {
  kv_file_header h{};
  std::memcpy(h.magic, magic, sizeof magic);
  h.version = version;
  h.page_tokens = kv_page_tokens;
  h.identity_high = identity.high;
  h.identity_low = identity.low;
  h.page_bytes = page_bytes;
  h.slot_bytes = kv_slot_bytes(page_bytes);
  h.seed = seed;
  h.checksum = checksum_of(h);
  return h;
}

std::string mismatch(const kv_file_header& h, const packed_key& identity, std::size_t page_bytes) {
  if (std::memcmp(h.magic, magic, sizeof magic) != 0)
    return "it is no file of KV pages";
  if (h.version != version)
    return fmt::format("it is of version {}, and this program has version {}", h.version, version);
  if (h.checksum != checksum_of(h))
    return "the checksum of its header differs";
  if (h.identity_high != identity.high || h.identity_low != identity.low)
    return "it is another model's";
  if (h.page_tokens != kv_page_tokens || h.page_bytes != page_bytes || h.slot_bytes != kv_slot_bytes(page_bytes))
    return fmt::format("its pages have {} bytes, not {}", h.page_bytes, page_bytes);
  return "";
}

bool has_kv_magic(std::span<const std::byte> first_bytes) noexcept {
  return first_bytes.size() >= sizeof magic && std::memcmp(first_bytes.data(), magic, sizeof magic) == 0;
}

} // namespace tropilla
