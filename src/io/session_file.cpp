// Writes session files, and reads them as if somebody had damaged them.
#include "src/io/session_file.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <fmt/format.h>
#include <xxhash.h>

namespace tropilla {
namespace {

constexpr char magic[8] = {'T', 'R', 'O', 'P', 'T', 'A', 'L', 'K'};
constexpr std::uint32_t version = 1;
constexpr std::uint32_t max_dimension = 1 << 16; ///< layers, heads and their sizes: products stay below 2^64
constexpr std::array types{kv_type::f16, kv_type::bf16, kv_type::q8_0};

std::uint64_t checksum_of(session_header header) {
  header.checksum = 0;
  return XXH64(&header, sizeof header, 0);
}

std::uint64_t checksum_of_texts(std::span<const std::byte> texts) {
  return XXH64(texts.data(), texts.size(), 1);
}

std::uint64_t checksum_of_page(std::span<const std::byte> page, std::uint64_t number) {
  return XXH64(page.data(), page.size(), number);
}

[[noreturn]] void damaged(std::string_view name, const std::string& how) {
  throw error(errc::malformed_file, fmt::format("{} is damaged: {}", name, how));
}

std::vector<std::byte> joined(std::span<const token_id> tokens, std::string_view model_name, std::string_view note) {
  std::vector<std::byte> out;
  for (const auto part : {std::as_bytes(tokens), std::as_bytes(std::span(model_name)), std::as_bytes(std::span(note))})
    out.insert(out.end(), part.begin(), part.end());
  return out;
}

session_shape shape_in(const session_header& h, std::string_view name) {
  session_shape shape;
  shape.model = {h.model_high, h.model_low};
  if (h.kv_type >= types.size() || h.precise > 1 || h.page_tokens != kv_page_tokens)
    throw error(errc::unsupported,
                fmt::format("{} holds keys and values in a way that this version does not know", name));
  shape.type = types[h.kv_type];
  shape.precise = h.precise == 1;
  for (const auto number : {h.layers, h.kv_heads, h.key_size, h.value_size})
    if (number < 1 || number > max_dimension)
      damaged(name, fmt::format("its layers can't have a size of {}", number));
  shape.layers = h.layers;
  shape.kv_heads = h.kv_heads;
  shape.key_size = h.key_size;
  shape.value_size = h.value_size;
  if (h.page_bytes != shape.page_bytes())
    damaged(name, fmt::format("a page has {} bytes, not {}", shape.page_bytes(), h.page_bytes));
  return shape;
}

} // namespace

session_facts parse_session_header(std::span<const std::byte> bytes, std::uint64_t file_bytes, std::string_view name) {
  session_header h{};
  if (bytes.size() < sizeof h || std::memcmp(bytes.data(), magic, sizeof magic) != 0)
    throw error(errc::malformed_file, fmt::format("{} is no saved session", name));
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.version != version)
    throw error(errc::unsupported,
                fmt::format("{} has version {} of the format, and this program reads {}", name, h.version, version));
  if (h.checksum != checksum_of(h))
    damaged(name, "the checksum of its header differs");
  session_facts facts;
  facts.shape = shape_in(h, name);
  // Each length alone first, so that their sum can't overflow.
  if (h.tokens > file_bytes / sizeof(token_id) || h.name_bytes > file_bytes || h.note_bytes > file_bytes)
    damaged(name, fmt::format("it is too short with {} bytes", file_bytes));
  if (const auto texts = h.tokens * sizeof(token_id) + h.name_bytes + h.note_bytes; texts > max_session_texts)
    throw error(errc::unsupported, fmt::format("{} has {} bytes of tokens and texts, and at most {} are read", name,
                                               texts, max_session_texts));
  facts.tokens = h.tokens;
  facts.name_bytes = h.name_bytes;
  facts.note_bytes = h.note_bytes;
  facts.text_checksum = h.text_checksum;
  if (facts.pages() > file_bytes / facts.shape.page_bytes() || h.file_bytes != facts.page_offset(facts.pages()))
    damaged(name, "its lengths contradict each other");
  if (h.file_bytes != file_bytes)
    damaged(name, fmt::format("it has {} bytes, and was saved with {}", file_bytes, h.file_bytes));
  return facts;
}

session_writer::session_writer(const std::filesystem::path& path, const session_shape& shape,
                               std::span<const token_id> tokens, std::string_view model_name, std::string_view note)
    : file_(path) {
  const auto texts = joined(tokens, model_name, note);
  if (texts.size() > max_session_texts)
    throw error(errc::invalid_argument, fmt::format("a session has at most {} bytes of tokens and texts, not {}",
                                                    max_session_texts, texts.size()));
  session_facts facts;
  facts.shape = shape;
  facts.tokens = tokens.size();
  facts.name_bytes = model_name.size();
  facts.note_bytes = note.size();
  session_header h{};
  std::memcpy(h.magic, magic, sizeof magic);
  h.version = version;
  h.kv_type = static_cast<std::uint32_t>(std::ranges::find(types, shape.type) - types.begin());
  h.model_high = shape.model.high;
  h.model_low = shape.model.low;
  h.precise = shape.precise ? 1 : 0;
  h.page_tokens = kv_page_tokens;
  h.layers = shape.layers;
  h.kv_heads = shape.kv_heads;
  h.key_size = shape.key_size;
  h.value_size = shape.value_size;
  h.tokens = tokens.size();
  h.name_bytes = model_name.size();
  h.note_bytes = note.size();
  h.page_bytes = shape.page_bytes();
  h.file_bytes = facts.page_offset(facts.pages());
  h.text_checksum = checksum_of_texts(texts);
  h.checksum = checksum_of(h);
  file_.write(std::as_bytes(std::span(&h, 1)));
  file_.write(texts);
}

void session_writer::add_page(std::span<const std::byte> bytes) {
  const std::uint64_t sum = checksum_of_page(bytes, pages_++);
  file_.write(bytes);
  file_.write(std::as_bytes(std::span(&sum, 1)));
}

void session_writer::commit() {
  file_.commit();
}

session_reader::session_reader(const std::filesystem::path& path)
    : name_(path.string()), file_(whole_file::to_read(path)) {
  std::array<std::byte, sizeof(session_header)> header{};
  const auto begin = std::span(header).first(std::min<std::uint64_t>(header.size(), file_.bytes()));
  file_.read(0, begin);
  facts_ = parse_session_header(begin, file_.bytes(), name_);
  std::vector<std::byte> texts(facts_.page_offset(0) - header.size());
  file_.read(header.size(), texts);
  if (checksum_of_texts(texts) != facts_.text_checksum)
    damaged(name_, "the checksum of its tokens differs");
  tokens_.resize(facts_.tokens);
  const auto* at = texts.data();
  if (!tokens_.empty())
    std::memcpy(tokens_.data(), at, facts_.tokens * sizeof(token_id));
  const auto* text = reinterpret_cast<const char*>(at + facts_.tokens * sizeof(token_id));
  model_name_.assign(text, facts_.name_bytes);
  note_.assign(text + facts_.name_bytes, facts_.note_bytes);
}

void session_reader::require(const session_shape& shape, std::string_view model_name) const {
  const auto& mine = facts_.shape;
  const auto refuse = [&](const std::string& why, remedy change = remedy::none) {
    throw error(errc::invalid_argument, fmt::format("the session {} {}", name_, why), change);
  };
  if (mine.model != shape.model)
    refuse(model_name == model_name_
               ? fmt::format("was saved with other weights or hyper-parameters of \"{}\"", model_name)
               : fmt::format("was saved with the model \"{}\", not with \"{}\"", model_name_, model_name));
  if (mine.type != shape.type)
    refuse(fmt::format("holds keys and values as {}, and the model was opened for {}; open it for {}",
                       to_string(mine.type), to_string(shape.type), to_string(mine.type)),
           remedy::kv_type);
  if (mine.precise != shape.precise)
    refuse(fmt::format("was computed {} float32 activations, unlike what it should go on with",
                       mine.precise ? "with" : "without"),
           remedy::precise);
  if (mine.page_bytes() != shape.page_bytes() || mine.layers != shape.layers)
    refuse("has layers of another size than the model");
}

void session_reader::read_page(std::size_t page, std::span<std::byte> into) const {
  assert(page < facts_.pages() && into.size() == facts_.shape.page_bytes());
  std::uint64_t sum = 0;
  file_.read(facts_.page_offset(page), into);
  file_.read(facts_.page_offset(page) + into.size(), std::as_writable_bytes(std::span(&sum, 1)));
  if (sum != checksum_of_page(into, page))
    damaged(name_, fmt::format("the checksum of page {} differs", page + 1));
}

} // namespace tropilla
