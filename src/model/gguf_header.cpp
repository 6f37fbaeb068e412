// Parses a GGUF header: metadata, then tensor infos.
#include "src/model/gguf_header.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <fmt/format.h>
#include <limits>
#include <numeric>
#include <optional>
#include <system_error>
#include <unistd.h>

namespace tropilla {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are copied as they lie in the file");

constexpr std::uint64_t default_alignment = 32;
/// Sixteen times the largest vocabulary in use. Widening an array to 64 bits costs at most 128 MiB.
constexpr std::uint64_t max_elements = std::uint64_t{1} << 22;
constexpr std::uint64_t longest_key = 65535;
constexpr std::uint32_t max_dimensions = 4;

enum class value_type : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

/// The next 1 to 8 bytes, widened.
template <class Stored, class Wide>
Wide read_wide(header_cursor& in) {
  return static_cast<Wide>(in.number<Stored>("a value"));
}

bool read_flag(header_cursor& in) {
  const auto byte = in.number<std::uint8_t>("a flag");
  if (byte > 1)
    in.fail(errc::malformed_file, fmt::format("has {} where a flag is 0 or 1", byte));
  return byte == 1;
}

template <class Wide, class Read>
gguf_array read_elements(header_cursor& in, std::uint64_t min_bytes, Read read) {
  const std::uint64_t count = in.count(min_bytes, "array elements");
  if (count > max_elements)
    in.fail(errc::unsupported,
            fmt::format("is an array of {} elements; tropilla reads up to {}, so the file is damaged or no model",
                        count, max_elements));
  std::vector<Wide> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i)
    values.push_back(read(in));
  return {std::move(values)};
}

gguf_array read_array(header_cursor& in) {
  const auto type = in.number<std::uint32_t>("the type of an array's elements");
  const auto elements = [&]<class Stored, class Wide>() {
    return read_elements<Wide>(in, sizeof(Stored), read_wide<Stored, Wide>);
  };
  switch (static_cast<value_type>(type)) {
  case value_type::uint8:
    return elements.operator()<std::uint8_t, std::uint64_t>();
  case value_type::int8:
    return elements.operator()<std::int8_t, std::int64_t>();
  case value_type::uint16:
    return elements.operator()<std::uint16_t, std::uint64_t>();
  case value_type::int16:
    return elements.operator()<std::int16_t, std::int64_t>();
  case value_type::uint32:
    return elements.operator()<std::uint32_t, std::uint64_t>();
  case value_type::int32:
    return elements.operator()<std::int32_t, std::int64_t>();
  case value_type::uint64:
    return elements.operator()<std::uint64_t, std::uint64_t>();
  case value_type::int64:
    return elements.operator()<std::int64_t, std::int64_t>();
  case value_type::float32:
    return elements.operator()<float, double>();
  case value_type::float64:
    return elements.operator()<double, double>();
  case value_type::boolean:
    return read_elements<bool>(in, 1, read_flag);
  case value_type::string:
    return read_elements<std::string>(in, sizeof(std::uint64_t),
                                      [](header_cursor& c) { return c.text("an array's string"); });
  case value_type::array:
    in.fail(errc::unsupported, "is an array of arrays, which no Llama model has");
  }
  in.fail(errc::malformed_file, fmt::format("is an array of elements of the unknown type {}", type));
}

gguf_value read_value(header_cursor& in) {
  const auto type = in.number<std::uint32_t>("a value's type");
  switch (static_cast<value_type>(type)) {
  case value_type::uint8:
    return read_wide<std::uint8_t, std::uint64_t>(in);
  case value_type::int8:
    return read_wide<std::int8_t, std::int64_t>(in);
  case value_type::uint16:
    return read_wide<std::uint16_t, std::uint64_t>(in);
  case value_type::int16:
    return read_wide<std::int16_t, std::int64_t>(in);
  case value_type::uint32:
    return read_wide<std::uint32_t, std::uint64_t>(in);
  case value_type::int32:
    return read_wide<std::int32_t, std::int64_t>(in);
  case value_type::uint64:
    return read_wide<std::uint64_t, std::uint64_t>(in);
  case value_type::int64:
    return read_wide<std::int64_t, std::int64_t>(in);
  case value_type::float32:
    return read_wide<float, double>(in);
  case value_type::float64:
    return read_wide<double, double>(in);
  case value_type::boolean:
    return read_flag(in);
  case value_type::string:
    return in.text("a string");
  case value_type::array:
    return read_array(in);
  }
  in.fail(errc::malformed_file, fmt::format("has a value of the unknown type {}", type));
}

void read_metadata(header_cursor& in, std::uint64_t count, gguf_header& header) {
  for (std::uint64_t i = 0; i < count; ++i) {
    in.enter(fmt::format("metadata entry {} of {}", i + 1, count));
    std::string key = in.text("its key");
    if (key.empty() || key.size() > longest_key)
      in.fail(errc::malformed_file, fmt::format("has a key of {} bytes; keys have 1 to {}", key.size(), longest_key));
    in.enter("the metadata's " + in_quotes(key));
    gguf_value value = read_value(in);
    if (!header.metadata.emplace(std::move(key), std::move(value)).second)
      in.fail(errc::malformed_file, "is there twice");
  }
}

/// Why a type is not run: types that exist in ggml, that were ggml's once, and others.
std::string foreign_type_sentence(std::uint32_t number) {
  using named = std::pair<std::uint32_t, std::string_view>;
  constexpr std::array<named, 14> present{{
      {9, "Q8_1"},
      {15, "Q8_K"},
      {16, "IQ2_XXS"},
      {17, "IQ2_XS"},
      {18, "IQ3_XXS"},
      {19, "IQ1_S"},
      {21, "IQ3_S"},
      {22, "IQ2_S"},
      {23, "IQ4_XS"},
      {29, "IQ1_M"},
      {34, "TQ1_0"},
      {35, "TQ2_0"},
      {39, "MXFP4"},
      {40, "NVFP4"},
  }};
  constexpr std::array<named, 8> removed{{
      {4, "Q4_2"},
      {5, "Q4_3"},
      {31, "Q4_0_4_4"},
      {32, "Q4_0_4_8"},
      {33, "Q4_0_8_8"},
      {36, "IQ4_NL_4_4"},
      {37, "IQ4_NL_4_8"},
      {38, "IQ4_NL_8_8"},
  }};
  constexpr std::array<named, 5> numbers{{{24, "I8"}, {25, "I16"}, {26, "I32"}, {27, "I64"}, {28, "F64"}}};
  constexpr std::string_view remedy = "F16, Q8_0, Q4_K or another type of tropilla's";
  const auto name_in = [&](const auto& names) {
    const auto* found = std::find_if(names.begin(), names.end(), [&](const named& n) { return n.first == number; });
    return found == names.end() ? std::string_view() : found->second;
  };
  if (const auto name = name_in(removed); !name.empty())
    return fmt::format("has type {} ({}), which was ggml's once and was removed from it; quantise the model again from "
                       "its F16 or BF16 file, to Q4_0 for example",
                       number, name);
  if (const auto name = name_in(present); !name.empty())
    return fmt::format("has type {} ({}), which tropilla does not run; quantise the model to {}", number, name, remedy);
  if (const auto name = name_in(numbers); !name.empty())
    return fmt::format("has type {} ({}), which is no type of weights; convert the model to {}", number, name, remedy);
  return fmt::format("has type {}, which is none that tropilla knows of ggml; convert the model to {}", number, remedy);
}

/// Bytes of a tensor, or empty where they do not fit 64 bits.
std::optional<std::uint64_t> tensor_bytes(const gguf_tensor& t) {
  std::uint64_t values = 1;
  for (const std::uint64_t dimension : t.shape)
    if (__builtin_mul_overflow(values, dimension, &values))
      return std::nullopt;
  const auto& type = info(t.type);
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(values / type.block_values, std::uint64_t{type.block_bytes}, &bytes))
    return std::nullopt;
  return bytes;
}

/// Reads one tensor info; its offset is still from the start of the data.
gguf_tensor read_tensor(header_cursor& in, std::size_t file) {
  gguf_tensor t;
  t.file = file;
  t.name = in.text("its name");
  in.enter("tensor " + in_quotes(t.name));
  const auto dimensions = in.number<std::uint32_t>("the number of its dimensions");
  if (dimensions > max_dimensions)
    in.fail(errc::malformed_file,
            fmt::format("has {} dimensions; at most {} are possible", dimensions, max_dimensions));
  for (std::uint32_t i = 0; i < dimensions; ++i)
    t.shape.push_back(in.number<std::uint64_t>("its shape"));
  if (std::find(t.shape.begin(), t.shape.end(), 0U) != t.shape.end())
    in.fail(errc::malformed_file, fmt::format("has the shape {}: a dimension of zero", t.shape_text()));
  const auto number = in.number<std::uint32_t>("its type");
  const auto type = tensor_type_from_number(number);
  if (!type)
    in.fail(errc::unsupported, foreign_type_sentence(number));
  t.type = *type;
  t.offset = in.number<std::uint64_t>("its offset");
  const auto& facts = info(t.type);
  if (t.columns() % facts.block_values != 0)
    in.fail(errc::malformed_file, fmt::format("has rows of {} values, no multiple of {}'s block of {}", t.columns(),
                                              facts.name, facts.block_values));
  const auto bytes = tensor_bytes(t);
  if (!bytes)
    in.fail(errc::malformed_file, fmt::format("has the shape {}, too large for any file", t.shape_text()));
  t.bytes = *bytes;
  return t;
}

std::uint64_t alignment_of(const header_cursor& in, const gguf_header& header) {
  const auto found = header.metadata.find("general.alignment");
  if (found == header.metadata.end())
    return default_alignment;
  const auto* value = std::get_if<std::uint64_t>(&found->second);
  if (!value || !std::has_single_bit(*value) || *value > std::numeric_limits<std::uint32_t>::max())
    in.fail(errc::malformed_file, value ? fmt::format("general.alignment is {}; it must be a power of two", *value)
                                        : "general.alignment must be an unsigned integer");
  return *value;
}

/// Makes offsets count from the file's start and checks that every tensor lies in the file by itself.
void place_tensors(header_cursor& in, gguf_header& header, std::uint64_t file_bytes) {
  in.enter("the data");
  const std::uint64_t alignment = alignment_of(in, header);
  const std::uint64_t data = round_up(in.position(), alignment);
  const std::uint64_t room = file_bytes > data ? file_bytes - data : 0;
  for (auto& t : header.tensors) {
    in.enter("tensor " + in_quotes(t.name));
    if (t.offset % alignment != 0)
      in.fail(errc::malformed_file,
              fmt::format("begins at offset {}, no multiple of the alignment {}", t.offset, alignment));
    if (t.offset > room || t.bytes > room - t.offset)
      in.fail(errc::malformed_file,
              fmt::format("has {} at offset {} of the data, {} more than the file has there ({} in all); it is "
                          "truncated or damaged: obtain it again",
                          format_bytes(t.bytes), t.offset,
                          format_bytes(t.bytes - (room > t.offset ? room - t.offset : 0)), format_bytes(file_bytes)));
    t.offset += data;
  }
  std::vector<std::size_t> order(header.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return header.tensors[a].offset < header.tensors[b].offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto& before = header.tensors[order[i - 1]];
    const auto& after = header.tensors[order[i]];
    in.enter("tensor " + in_quotes(after.name));
    if (after.offset < before.offset + before.bytes)
      in.fail(errc::malformed_file, fmt::format("overlaps tensor {}", in_quotes(before.name)));
  }
}

void check_magic(header_cursor& in) {
  constexpr std::string_view expected = "GGUF";
  constexpr std::string_view pointer = "vers"; // git-lfs: "version https://git-lfs.github.com/spec/v1"
  std::array<char, 4> magic{};
  for (char& c : magic)
    c = in.number<char>("the four bytes \"GGUF\"");
  const std::string_view found(magic.data(), magic.size());
  if (found == expected)
    return;
  in.fail(errc::malformed_file,
          found == pointer ? "is no GGUF file but text, perhaps a git-lfs pointer: fetch the file that it stands for"
                           : fmt::format("is no GGUF file: it begins with {} instead of \"GGUF\"", in_quotes(found)));
}

std::uint32_t read_version(header_cursor& in) {
  const auto version = in.number<std::uint32_t>("the version");
  if (version == 2 || version == 3)
    return version;
  if (version == 1)
    in.fail(errc::unsupported, "is a GGUF file of version 1; tropilla reads 2 and 3: convert the model again");
  if ((version & 0xFFFFU) == 0 && version != 0)
    in.fail(errc::unsupported, "is a big-endian GGUF file; tropilla reads little-endian ones: convert the model for "
                               "little-endian machines");
  in.fail(errc::unsupported, fmt::format("is a GGUF file of version {}; tropilla reads 2 and 3", version));
}

} // namespace

std::string in_quotes(std::string_view text) {
  constexpr std::size_t max_shown = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, max_shown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F && c != '"' && c != '\\')
      out += c;
    else
      out += fmt::format("\\x{:02x}", byte);
  }
  return out + (text.size() > max_shown ? "...\"" : "\"");
}

std::string header_cursor::text(std::string_view what) {
  const auto length = number<std::uint64_t>(what);
  if (length > remaining())
    fail(errc::malformed_file, fmt::format("says that {} has {}, and the file has {} left; it is truncated or damaged: "
                                           "obtain it again",
                                           what, format_bytes(length), format_bytes(remaining())));
  std::string out;
  if (length <= window_.size() - used_) {
    out.assign(reinterpret_cast<const char*>(window_.data() + used_), length);
    used_ += length;
    return out;
  }
  out.resize(length);
  for (std::size_t done = 0; done < length;) {
    if (used_ == window_.size())
      refill(1, what);
    const std::size_t part = std::min<std::size_t>(length - done, window_.size() - used_);
    std::memcpy(out.data() + done, window_.data() + used_, part);
    used_ += part;
    done += part;
  }
  return out;
}

std::uint64_t header_cursor::count(std::uint64_t min_bytes, std::string_view what) {
  const auto n = number<std::uint64_t>(what);
  if (n > remaining() / min_bytes)
    fail(errc::malformed_file, fmt::format("says that there are {} {}, which {} can't hold; the file is truncated or "
                                           "damaged: obtain it again",
                                           n, what, format_bytes(remaining())));
  return n;
}

void header_cursor::fail(errc code, std::string_view sentence) const {
  throw error(code, part_ == name_ ? fmt::format("{} {}", name_, sentence)
                                   : fmt::format("{}: {} {}", name_, part_, sentence));
}

void header_cursor::refill(std::size_t wanted, std::string_view what) {
  constexpr std::size_t window_bytes = std::size_t{256} << 10;
  const std::uint64_t at = position();
  if (wanted > end_ - at)
    fail(errc::malformed_file,
         fmt::format("ends inside {}, at byte {}; the file is truncated: obtain it again", what, end_));
  buffer_.resize(window_bytes);
  const std::size_t goal = std::min<std::uint64_t>(window_bytes, end_ - at);
  std::size_t got = 0;
  while (got < wanted) {
    const ssize_t n = ::pread(descriptor_, buffer_.data() + got, goal - got, static_cast<off_t>(at + got));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      throw error(errc::io_error, fmt::format("{} can't be read: {}", name_, std::generic_category().message(errno)));
    if (n == 0)
      throw error(errc::io_error, fmt::format("{} became shorter while it was read", name_));
    got += static_cast<std::size_t>(n);
  }
  window_ = std::span(buffer_).first(got);
  window_start_ = at;
  used_ = 0;
}

gguf_header read_header(header_cursor& in, std::uint64_t file_bytes, std::size_t file) {
  gguf_header header;
  in.enter(in.name());
  if (in.remaining() == 0)
    in.fail(errc::malformed_file, "is empty");
  check_magic(in);
  header.version = read_version(in);
  // The fewest bytes that an entry takes: a name's length; a type and one byte; dimensions, type and offset.
  constexpr std::uint64_t min_entry = 8 + 4 + 1;
  constexpr std::uint64_t min_tensor = 8 + 4 + 4 + 8;
  in.enter("the header");
  const auto tensors = in.count(min_tensor, "tensors");
  const auto entries = in.count(min_entry, "metadata entries");
  read_metadata(in, entries, header);
  for (std::uint64_t i = 0; i < tensors; ++i) {
    in.enter(fmt::format("tensor {} of {}", i + 1, tensors));
    header.tensors.push_back(read_tensor(in, file));
  }
  place_tensors(in, header, file_bytes);
  return header;
}

} // namespace tropilla
