// Opens models, one GGUF file or all parts of a split one, and looks metadata up by type.
#include "src/model/gguf.hpp"

#include "src/model/gguf_header.hpp"
#include "tropilla/error.hpp"

#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tropilla {
namespace {

class descriptor {
public:
  /// Not blocking: a named pipe must give an error, not a wait.
  explicit descriptor(const std::filesystem::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd_ < 0)
      throw error(errc::io_error,
                  fmt::format("{} can't be opened: {}", path.string(), std::generic_category().message(errno)));
  }
  ~descriptor() { ::close(fd_); }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  [[nodiscard]] int get() const noexcept { return fd_; }

private:
  int fd_;
};

struct opened_part {
  gguf_header header;
  std::uint64_t bytes = 0;
};

opened_part open_part(const std::filesystem::path& path, std::size_t file) {
  const descriptor fd(path);
  struct stat facts {};
  if (::fstat(fd.get(), &facts) != 0)
    throw error(errc::io_error,
                fmt::format("{} can't be examined: {}", path.string(), std::generic_category().message(errno)));
  if (!S_ISREG(facts.st_mode))
    throw error(errc::io_error, fmt::format("{} is {}, not a file", path.string(),
                                            S_ISDIR(facts.st_mode) ? "a folder" : "a device or a pipe"));
  const auto bytes = static_cast<std::uint64_t>(facts.st_size);
  header_cursor in(fd.get(), bytes, path.string());
  return {read_header(in, bytes, file), bytes};
}

/// The parts of a name like `NAME-00002-of-00003.gguf`.
struct split_name {
  std::string prefix;
  std::uint64_t number = 0; ///< from 1
  std::uint64_t count = 0;

  [[nodiscard]] std::filesystem::path part(std::uint64_t n, const std::filesystem::path& folder) const {
    return folder / fmt::format("{}-{:05}-of-{:05}.gguf", prefix, n, count);
  }
};

std::optional<std::uint64_t> five_digits(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc{} && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

std::optional<split_name> parse_split_name(const std::string& file) {
  constexpr std::string_view pattern = "-00000-of-00000.gguf";
  if (file.size() <= pattern.size())
    return std::nullopt;
  const std::string_view tail = std::string_view{file}.substr(file.size() - pattern.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf")
    return std::nullopt;
  const auto number = five_digits(tail.substr(1, 5));
  const auto count = five_digits(tail.substr(10, 5));
  if (!number || !count || *number == 0 || *number > *count)
    return std::nullopt;
  return split_name{file.substr(0, file.size() - pattern.size()), *number, *count};
}

/// An unsigned entry of a header, or `otherwise` where it is missing or something else.
std::uint64_t entry_or(const gguf_header& header, std::string_view key, std::uint64_t otherwise) {
  const auto found = header.metadata.find(key);
  if (found == header.metadata.end())
    return otherwise;
  if (const auto* value = std::get_if<std::uint64_t>(&found->second))
    return *value;
  if (const auto* value = std::get_if<std::int64_t>(&found->second); value && *value >= 0)
    return static_cast<std::uint64_t>(*value);
  return otherwise;
}

std::unordered_map<std::string, std::size_t> index_tensors(const std::vector<gguf_tensor>& tensors,
                                                           const std::string& name) {
  std::unordered_map<std::string, std::size_t> index;
  index.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (!index.emplace(tensors[i].name, i).second)
      throw error(errc::malformed_file, fmt::format("{}: tensor {} is there twice", name, in_quotes(tensors[i].name)));
  return index;
}

std::string display_name(const gguf_file& file) {
  return file.files.empty() ? std::string("the model") : file.files.front().string();
}

[[noreturn]] void wrong_type(const gguf_file& file, std::string_view key, std::string_view expected) {
  throw error(errc::malformed_file, fmt::format("{}: {} must be {}", display_name(file), key, expected));
}

[[noreturn]] void missing(const gguf_file& file, std::string_view key) {
  throw error(errc::malformed_file, fmt::format("{}: the metadata lacks {}", display_name(file), key));
}

const gguf_value* find_value(const gguf_file& file, std::string_view key) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? nullptr : &found->second;
}

/// The path of the first part when `path` is any part of a split model.
std::filesystem::path first_part(const std::filesystem::path& path) {
  const auto split = parse_split_name(path.filename().string());
  return split && split->number != 1 ? split->part(1, path.parent_path()) : path;
}

/// The other parts of a split model, in order, each checked to be the one that its name says.
std::vector<std::filesystem::path> other_parts(const std::filesystem::path& first, const gguf_header& header) {
  const std::uint64_t count = entry_or(header, "split.count", 1);
  if (count <= 1)
    return {};
  const auto split = parse_split_name(first.filename().string());
  if (!split || split->number != 1 || split->count != count)
    throw error(errc::malformed_file,
                fmt::format("{} is one of {} parts of a split model, and its name does not say so; "
                            "name the parts MODEL-00001-of-{:05}.gguf and so on",
                            first.string(), count, count));
  std::vector<std::filesystem::path> out;
  for (std::uint64_t n = 2; n <= count; ++n)
    out.push_back(split->part(n, first.parent_path()));
  return out;
}

} // namespace

std::size_t gguf_array::size() const {
  return std::visit([](const auto& v) { return v.size(); }, values);
}

std::uint64_t gguf_tensor::rows() const {
  std::uint64_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i)
    product *= shape[i];
  return product;
}

std::string gguf_tensor::shape_text() const {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

gguf_file gguf_file::open(const std::filesystem::path& path) {
  gguf_file out;
  const std::filesystem::path first = first_part(path);
  opened_part part = open_part(first, 0);
  out.files = {first};
  out.file_bytes = {part.bytes};
  const auto others = other_parts(first, part.header);
  const std::uint64_t tensors_in_all = entry_or(part.header, "split.tensors.count", 0);
  out.version = part.header.version;
  out.metadata = std::move(part.header.metadata);
  out.tensors = std::move(part.header.tensors);
  for (const auto& other : others) {
    const std::size_t number = out.files.size();
    opened_part next = open_part(other, number);
    if (entry_or(next.header, "split.no", number) != number ||
        entry_or(next.header, "split.count", others.size() + 1) != others.size() + 1)
      throw error(errc::malformed_file, fmt::format("{} says that it is part {} of {}, not what its name says",
                                                    other.string(), entry_or(next.header, "split.no", number) + 1,
                                                    entry_or(next.header, "split.count", others.size() + 1)));
    out.files.push_back(other);
    out.file_bytes.push_back(next.bytes);
    std::move(next.header.tensors.begin(), next.header.tensors.end(), std::back_inserter(out.tensors));
  }
  if (!others.empty() && tensors_in_all != 0 && tensors_in_all != out.tensors.size())
    throw error(errc::malformed_file, fmt::format("{}: the parts have {} tensors in all and should have {}",
                                                  first.string(), out.tensors.size(), tensors_in_all));
  out.tensor_index_ = index_tensors(out.tensors, first.string());
  return out;
}

gguf_file gguf_file::parse(std::span<const std::byte> header, std::uint64_t file_bytes, const std::string& name) {
  header_cursor in(header, name);
  gguf_header parsed = read_header(in, file_bytes, 0);
  gguf_file out;
  out.version = parsed.version;
  out.files = {name};
  out.file_bytes = {file_bytes};
  out.metadata = std::move(parsed.metadata);
  out.tensors = std::move(parsed.tensors);
  out.tensor_index_ = index_tensors(out.tensors, name);
  return out;
}

const gguf_tensor* gguf_file::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &tensors[found->second];
}

std::optional<std::uint64_t> gguf_file::find_integer(std::string_view key) const {
  const gguf_value* value = find_value(*this, key);
  if (!value)
    return std::nullopt;
  if (const auto* number = std::get_if<std::uint64_t>(value))
    return *number;
  const auto* number = std::get_if<std::int64_t>(value);
  if (!number)
    wrong_type(*this, key, "an integer");
  if (*number < 0)
    wrong_type(*this, key, fmt::format("zero or more, not {}", *number));
  return static_cast<std::uint64_t>(*number);
}

std::optional<double> gguf_file::find_number(std::string_view key) const {
  const gguf_value* value = find_value(*this, key);
  if (!value)
    return std::nullopt;
  if (const auto* number = std::get_if<double>(value))
    return *number;
  if (const auto* number = std::get_if<std::uint64_t>(value))
    return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(value))
    return static_cast<double>(*number);
  wrong_type(*this, key, "a number");
}

std::optional<bool> gguf_file::find_flag(std::string_view key) const {
  const gguf_value* value = find_value(*this, key);
  if (!value)
    return std::nullopt;
  const auto* flag = std::get_if<bool>(value);
  if (!flag)
    wrong_type(*this, key, "a flag (true or false)");
  return *flag;
}

const std::string* gguf_file::find_text(std::string_view key) const {
  const gguf_value* value = find_value(*this, key);
  if (!value)
    return nullptr;
  const auto* text = std::get_if<std::string>(value);
  if (!text)
    wrong_type(*this, key, "text");
  return text;
}

const gguf_array* gguf_file::find_array(std::string_view key) const {
  const gguf_value* value = find_value(*this, key);
  if (!value)
    return nullptr;
  const auto* array = std::get_if<gguf_array>(value);
  if (!array)
    wrong_type(*this, key, "an array");
  return array;
}

std::uint64_t gguf_file::require_integer(std::string_view key) const {
  const auto value = find_integer(key);
  if (!value)
    missing(*this, key);
  return *value;
}

const std::string& gguf_file::require_text(std::string_view key) const {
  const std::string* value = find_text(key);
  if (!value)
    missing(*this, key);
  return *value;
}

} // namespace tropilla
